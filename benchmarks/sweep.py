"""
A table of many runs, one row each, with what their hyperparameters have that the defaults have not:
``python -m benchmarks.sweep gridworld dropout``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiment import class_defaults, differences, flat
from benchmarks.tables import RESULTS, kept_metadata, load_results
from sb3_ldm.command import run_command
from sb3_ldm.results import RunResult
from sb3_ldm.results.statistics import n_reached_in_second_half
from sb3_ldm.results.summary import format_timesteps, markdown_table
from sb3_ldm.zoo.configs import read_preset

_COLUMNS = "run, seed, frames, other than the default, train, unseen, unseen solved, second half, imagined unseen".split(", ")


def changes(run: RunResult) -> dict[str, Any]:
    """:return: what its hyperparameters have that those of its algorithm in its environment have not"""
    otherwise = class_defaults(run.algo) if is_complete(run) else {}
    found = differences(run.hyperparameters, read_preset(run.algo, run.env), otherwise)
    return {**found, **flat(run.env_kwargs, "env_kwargs.")}


def is_complete(run: RunResult) -> bool:
    """:return: whether all of its hyperparameters were written down, so that what is missing is the algorithm's default"""
    return "n_envs" in run.hyperparameters


def row(run: RunResult, name: str) -> list[str]:
    """:return: its row of the table; returns are those of the last episode, actions sampled"""
    changed = ", ".join(f"{key}: {value}" for key, value in changes(run).items())
    shown = (f"`{changed}`" if changed else "-") + ("" if is_complete(run) else " (others were not recorded)")
    cells = [name, str(run.seed), format_timesteps(run.timesteps), shown]
    table = run.last_evaluation
    if table is None:
        return [*cells, *["-"] * (len(_COLUMNS) - len(cells))]
    sampled = table.select(deterministic=False, episode=run.episodes_per_task)
    split = next(split for split in sampled.splits if split != "train")
    unseen, second_half = sampled.select(split), n_reached_in_second_half(run, split)
    shares = run.logged("imagination/share_unseen")[1]
    return [
        *cells,
        f"{run.metadata['returned']['train']:.2f}",
        f"{run.metadata['returned'][split]:.2f}",
        f"{unseen.n_reached:.1f} of {unseen.n_tasks}" if unseen.has_successes else "-",
        "-" if second_half is None else f"{second_half:.1f}",
        # The last quarter of the looks: single ones are noisy.
        f"{np.mean(shares[-max(1, len(shares) // 4) :]):.2f}" if len(shares) else "-",
    ]


def sweep_table(experiments: Sequence[str], results: Path = RESULTS) -> str:
    """
    :return: a markdown table, one row each
    :raises ValueError: if an experiment has no results
    """
    if unknown := [name for name in experiments if not kept_metadata(results / name)]:
        raise ValueError(f"no results of {', '.join(unknown)} in {results}")
    rows = [row(run, f"{one}/{name}") for one in experiments for name, run in load_results(results / one).items()]
    return markdown_table(_COLUMNS, rows, "llrlrrrrr")


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: the command line, that of the process by default"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names of folders in the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are")
    options = parser.parse_args(arguments)
    print(sweep_table(options.experiments, options.results), end="")


if __name__ == "__main__":
    sys.exit(run_command(main))
