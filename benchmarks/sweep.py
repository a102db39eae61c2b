"""
A table of many runs, one row each, with what their hyperparameters have that the defaults have not:
``python -m benchmarks.sweep gridworld dropout --out FILE``.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import class_defaults, differences, flat
from benchmarks.statistics import n_reached_in_second_half
from benchmarks.tables import RESULTS, kept_metadata, load_results
from sb3_ldm.results import RunResult
from sb3_ldm.results.summary import format_frames, markdown_table
from sb3_ldm.zoo.configs import read_preset

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


def defaults_for(run: RunResult) -> Mapping[str, Any]:
    """:return: the hyperparameters that its algorithm now has for its environment"""
    return read_preset(run.algo, run.env)


def changes(run: RunResult) -> dict[str, Any]:
    """:return: what its hyperparameters have that the defaults have not"""
    otherwise = class_defaults(run.algo) if is_complete(run) else {}
    found = differences(run.hyperparameters, defaults_for(run), otherwise)
    return {**found, **flat(run.metadata.get("env_kwargs") or {}, "env_kwargs.")}


def is_complete(run: RunResult) -> bool:
    """:return: whether all of its hyperparameters were written down, so that what is missing is the algorithm's default"""
    return "n_envs" in run.hyperparameters


def row(run: RunResult, name: str) -> list[str]:
    """:return: its row of the table; returns are those of the last episode, actions sampled"""
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
        *(f"{run.metadata['returned'][split]:.2f}" for split in ("train", str(unseen.split[0]))),
        f"{unseen.n_reached:.1f} of {unseen.n_tasks}" if unseen.has_successes else "-",
        _reached_in_second_half(run, str(unseen.split[0])),
        # The last quarter of the looks: single ones are noisy.
        f"{np.mean(shares[-max(1, len(shares) // 4) :]):.2f}" if len(shares) else "-",
    ]


def _reached_in_second_half(run: RunResult, split: str) -> str:
    reached = n_reached_in_second_half(run, split)
    return "-" if reached is None else f"{reached:.1f}"


def sweep_table(experiments: Sequence[str], results: Path = RESULTS) -> str:
    """:return: a markdown table, one row each"""
    rows = [row(run, f"{one}/{name}") for one in experiments for name, run in load_results(results / one).items()]
    return markdown_table(_COLUMNS, rows, "llrlrrrrr")


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: the command line, that of the process by default"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names of folders in the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are")
    parser.add_argument("--out", type=Path, help="markdown file to write besides")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.experiments if not kept_metadata(options.results / name)]
    if unknown:
        parser.error(f"no results of {', '.join(unknown)} in {options.results}")
    table = sweep_table(options.experiments, options.results)
    print(table)
    if options.out is not None:
        options.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
