"""
Put an agent into the package: ``python -m benchmarks.pretrained RUN RUN RUN``, with the folders of the finished runs of all
seeds, of which the median one is taken.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ldm.command import run_command
from sb3_ldm.results import RunResult, load_run
from sb3_ldm.results.evaluation_table import EvaluationTable
from sb3_ldm.zoo.pretrained import save_pretrained
from sb3_ldm.zoo.trained import find_trained

#: What runs of one experiment agree in, of ``run.json``.
_SHARED = ("algo", "env", "env_kwargs", "frames", "n_envs", "hyperparameters")


def main(arguments: list[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    :raises ValueError: if a run has not ended, or runs differ in more than their seeds
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, such as logs/ldm/GridNavi-v0_1")
    options = parser.parse_args(arguments)
    runs = [load_run(folder) for folder in options.runs]
    _check(runs)
    chosen = median_run(runs)
    agent = find_trained(chosen.path.name, chosen.env, str(chosen.path.parent), -1)  # -1: the folder itself, as in rl_zoo3
    path = save_pretrained(agent, told(chosen, runs))
    print(f"Saved the agent of seed {chosen.seed}, the median one, to {path} ({path.stat().st_size / 1000:.0f} kB)")


def _check(runs: Sequence[RunResult]) -> None:
    for run in runs:
        if not run.metadata.get("finished") or run.final_evaluation is None:
            raise ValueError(f"{run.path} has not come to its end: wait for it, or leave it and all others of its kind out.")
        for name in _SHARED:
            if run.metadata.get(name) != runs[0].metadata.get(name):
                raise ValueError(f"{run.path} has another {name} than {runs[0].path}: give runs of several seeds alone.")
    if len({run.seed for run in runs}) < len(runs):
        raise ValueError(f"runs have the seeds {[run.seed for run in runs]}: give each seed once.")


def median_run(runs: Sequence[RunResult]) -> RunResult:
    """
    :param runs: that differ in their seeds alone
    :return: the median one by :func:`score`; of an even number the worse one of both
    """
    return sorted(runs, key=score)[(len(runs) - 1) // 2]


def score(run: RunResult) -> float:
    """
    :param run: a finished run
    :return: mean return on unseen tasks in the last episode, actions sampled
    """
    assert run.final_evaluation is not None
    unseen = run.final_evaluation.splits[1]
    return float(run.final_evaluation.select(unseen, deterministic=False).last_returns()[1][-1])


def told(run: RunResult, runs: Sequence[RunResult]) -> dict[str, Any]:
    """
    :param run: the chosen run
    :param runs: those that it was chosen from
    :return: what is told of it, see :func:`sb3_ldm.zoo.pretrained.about_pretrained`
    """
    table = run.final_evaluation
    assert table is not None
    kinds = {"sampled actions": False, "most likely actions": True}
    seeds = {str(one.seed): round(score(one), 2) for one in sorted(runs, key=lambda one: one.seed)}
    return {
        "algo": run.algo,
        "env": run.env,
        "seed": run.seed,
        "timesteps": run.timesteps,
        "chosen_from": {"what": "return on unseen tasks in the last episode, of which the median", "seeds": seeds},
        "results": {
            split: {kind: _results(table.select(split, deterministic)) for kind, deterministic in kinds.items()}
            for split in table.splits
        },
        **{name: run.metadata.get(name) for name in ("version", "commit", "n_envs", "hyperparameters")},
    }


def _results(table: EvaluationTable) -> dict[str, Any]:
    """Mean return in each episode and, where the environment tells, tasks reached in the last one."""
    episodes = [table.select(episode=int(k)) for k in np.unique(table.episode)]
    results: dict[str, Any] = {"returns": [round(float(one.returns.mean()), 2) for one in episodes], "tasks": table.n_tasks}
    if table.has_successes:
        results["reached"] = round(episodes[-1].n_reached, 1)
    return results


if __name__ == "__main__":
    sys.exit(run_command(main))
