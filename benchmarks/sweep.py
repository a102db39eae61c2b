"""
A table of many runs, one row each, with what their hyperparameters have that the defaults have not:
``python -m benchmarks.sweep benchmarks/results/gridworld*/* --out benchmarks/results/gridworld_sweep.md``.
"""

import argparse
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rl_zoo3.utils import ALGOS

from sb3_ldm.common.latent_dynamics import LatentDynamics, LatentDynamicsPPO
from sb3_ldm.results import RunResult, load_run
from sb3_ldm.summary import format_frames
from sb3_ldm.zoo import register
from sb3_ldm.zoo.configs import load_preset

register()

#: Not a choice of the method.
_IGNORED = ("n_timesteps", "policy")
_COLUMNS = (
    "run",
    "seed",
    "frames",
    "other than the default",
    "train",
    "unseen",
    "unseen solved",
    "second half",
    "imagined unseen",
)


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    :param options: hyperparameters, some of them mappings
    :param prefix: what their names begin with
    :return: the same without mappings, names joined by dots
    """
    result: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = list(value) if isinstance(value, tuple) else value
    return result


def differences(options: Mapping[str, Any], defaults: Mapping[str, Any], otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param options: hyperparameters of a run
    :param defaults: those of the configuration file
    :param otherwise: values of what is not given, those of the algorithm's class
    :return: values of the run that are not the configuration's, by name
    """
    mine, theirs = ({**_with_default(flat(otherwise)), **flat(given)} for given in (options, defaults))
    names = [name for name in dict.fromkeys([*mine, *theirs]) if name not in _IGNORED]
    return {name: mine[name] for name in names if name in mine and mine[name] != theirs.get(name)}


def _with_default(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not inspect.Parameter.empty}


def defaults_for(run: RunResult) -> Mapping[str, Any]:
    """
    :param run: a run
    :return: the hyperparameters that its algorithm now has for its environment
    """
    return load_preset(run.algo, run.env)


def class_defaults(algo: str) -> dict[str, Any]:
    """
    :param algo: name of an algorithm
    :return: the hyperparameters that it has where none are given, of its latent dynamics network too
    """
    defaults = {name: one.default for name, one in inspect.signature(ALGOS[algo]).parameters.items()}
    has_network = issubclass(ALGOS[algo], LatentDynamicsPPO)
    networks = inspect.signature(LatentDynamics).parameters if has_network else {}
    defaults["vae_kwargs"] = {name: one.default for name, one in networks.items()}
    return defaults


def changes(run: RunResult) -> dict[str, Any]:
    """
    :param run: a run
    :return: what its hyperparameters have that the defaults have not
    """
    otherwise = class_defaults(run.algo) if is_complete(run) else {}
    found = differences(run.hyperparameters, defaults_for(run), otherwise)
    return {**found, **flat(run.metadata.get("env_kwargs") or {}, "env_kwargs.")}


def is_complete(run: RunResult) -> bool:
    """
    :param run: a run
    :return: whether all of its hyperparameters were written down, so that what is missing is the algorithm's default
    """
    return "n_envs" in run.hyperparameters


def row(run: RunResult, name: str) -> list[str]:
    """
    :param run: a run
    :param name: what it is called
    :return: its row of the table; returns are those of the last episode, actions sampled
    """
    table = run.last_evaluation
    changed = ", ".join(f"{key}: {value}" for key, value in changes(run).items())
    shown = (f"`{changed}`" if changed else "-") + ("" if is_complete(run) else " (others were not recorded)")
    cells = [name, str(run.seed), format_frames(run.frames), shown]
    shares = run.logged("imagination/share_unseen")[1]
    if table is None:
        return [*cells, *["-"] * (len(_COLUMNS) - len(cells))]
    sampled = table.select(deterministic=False, episode=run.episodes_per_task)
    unseen = sampled.select(split=next(split for split in sampled.splits if split != "train"))
    return [
        *cells,
        f"{sampled.select(split='train').returns.mean():.2f}",
        f"{unseen.returns.mean():.2f}",
        f"{unseen.n_reached:.1f} of {unseen.n_tasks}" if unseen.has_successes else "-",
        _reached_in_second_half(run, str(unseen.split[0])),
        # The last quarter of the looks: single ones are noisy.
        f"{np.mean(shares[-max(1, len(shares) // 4) :]):.2f}" if len(shares) else "-",
    ]


def _reached_in_second_half(run: RunResult, split: str) -> str:
    reached = n_reached_in_second_half(run, split)
    return "-" if reached is None else f"{reached:.1f}"


def n_reached_in_second_half(run: RunResult, split: str) -> float | None:
    """
    Less noisy than what the last parameters reach, and higher where it is reached sooner.

    :param run: a run
    :param split: name of a split
    :return: tasks that succeed in the last episode, actions sampled, on average over the evaluations in the second half of
        training; None if the environment or the run does not tell
    """
    if run.evaluations is None:
        return None
    table = run.evaluations.select(split, False, run.episodes_per_task)
    table = table.where(table.timesteps > run.frames / 2)
    return table.n_reached if table.has_successes else None


def sweep_table(run_dirs: Sequence[Path]) -> str:
    """
    :param run_dirs: folders of runs
    :return: a markdown table, one row each
    """
    rows = [row(load_run(path), f"{path.parent.name}/{path.name}") for path in run_dirs]
    lines = [_COLUMNS, ("---",) * 2 + ("---:",) + ("---",) + ("---:",) * 4, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, help="markdown file to write besides")
    options = parser.parse_args(arguments)
    table = sweep_table(options.runs)
    print(table)
    if options.out is not None:
        options.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
