"""A markdown table of how finished runs did in the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sb3_ldm.registry import display_name
from sb3_ldm.results.evaluation_table import EvaluationTable
from sb3_ldm.results.runs import RunResult, group_runs, load_run

_SPLIT_NAMES = {"train": "training", "validation": "held-out", "test": "unseen", "eval": "evaluation"}
_SPLIT_NAMES |= {"test1": "inner unseen", "test2": "outer unseen"}
_SPLIT_ORDER = ("train", "validation", "test", "eval")


def split_name(split: str) -> str:
    """
    :param split: name of a split
    :return: its name in figures and tables
    """
    return _SPLIT_NAMES.get(split, split)


def ordered_splits(runs: Sequence[RunResult]) -> list[str]:
    """
    :param runs: some runs
    :return: the splits that any of them was evaluated on, training tasks first
    """
    tables = [table for run in runs for table in (run.evaluations, run.last_evaluation) if table is not None]
    found = dict.fromkeys(split for table in tables for split in table.splits)
    return [split for split in _SPLIT_ORDER if split in found] + [split for split in found if split not in _SPLIT_ORDER]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """
    :param header: names of the columns
    :param rows: cells
    :param align: a letter for each column, ``l`` or ``r``; columns without one are on the left
    :return: a Markdown table
    """
    rule = ["---:" if letter == "r" else "---" for letter in align.ljust(len(header), "l")]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows]) + "\n"


def mean_and_std(values: Sequence[float], digits: int) -> str:
    """
    :param values: one for each seed
    :param digits: behind the point
    :return: their mean and, of several, their standard deviation
    """
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def summary_table(
    run_dirs: Sequence[str | Path | RunResult], label_by: Sequence[str] = ("algo",), names: Mapping[str, str] | None = None
) -> str:
    """
    Summarise the final evaluations (of unfinished runs the last ones): one row for each group of runs, kind of actions and
    episode of the meta-episode.

    :param run_dirs: folders of runs, or runs that are loaded already
    :param label_by: what tells groups apart, see :func:`~sb3_ldm.results.group_runs`
    :param names: of groups, for people, by label; those without one have that of :func:`~sb3_ldm.registry.display_name`
    :return: a markdown table for each environment, with mean and standard deviation over seeds
    :raises ValueError: if no run was evaluated
    """
    runs = [run if isinstance(run, RunResult) else load_run(run) for run in run_dirs]
    evaluated = [run for run in runs if run.last_evaluation is not None]
    if not evaluated:
        raise ValueError(f"No evaluations to summarise in {', '.join(str(run.path) for run in runs) or 'no folder at all'}")
    tables = []
    for env in dict.fromkeys(run.env for run in evaluated):
        members = [run for run in evaluated if run.env == env]
        tables.append(f"**{env}**\n\n{_env_table(members, label_by, names or {})}")
    return "\n".join(tables)


def _env_table(runs: Sequence[RunResult], label_by: Sequence[str], names: Mapping[str, str]) -> str:
    splits = ordered_splits(runs)
    reached = [split for split in splits if any(_has_successes(run, split) for run in runs)]
    counts = {split: max(_n_tasks(run, split) for run in runs) for split in reached}
    header = ["algorithm", "seeds", "frames", "actions", "episode"]
    header += [f"{split_name(split)} return" for split in splits]
    header += [f"{split_name(split)} goals reached (of {counts[split]})" for split in reached]
    rows = []
    for label, members in group_runs(runs, label_by).items():
        for deterministic in (False, True):
            group = [run for run in members if len(_last(run, None, deterministic))]
            if not group:
                continue
            actions = "most likely" if deterministic else "sampled"
            first = [names.get(label) or display_name(label), str(len(group)), _timesteps(group, deterministic), actions]
            for episode in range(1, max(run.episodes_per_task for run in group) + 1):
                returns = [_over_seeds(group, split, deterministic, episode, "return", 2) for split in splits]
                goals = [_over_seeds(group, split, deterministic, episode, "reached", 1) for split in reached]
                rows.append([*first, str(episode), *returns, *goals])
    return markdown_table(header, rows, "llrl" + "r" * (len(header) - 4))


def _last(run: RunResult, split: str | None, deterministic: bool | None, episode: int | None = None) -> EvaluationTable:
    assert run.last_evaluation is not None
    return run.last_evaluation.select(split, deterministic, episode)


def _has_successes(run: RunResult, split: str) -> bool:
    return _last(run, split, None).has_successes


def _n_tasks(run: RunResult, split: str) -> int:
    return _last(run, split, None).n_tasks


def _timesteps(group: Sequence[RunResult], deterministic: bool) -> str:
    timesteps = [int(_last(run, None, deterministic).timesteps.max()) for run in group]
    low, high = format_timesteps(min(timesteps)), format_timesteps(max(timesteps))
    return low if low == high else f"{low} to {high}"


def format_timesteps(timesteps: float) -> str:
    """
    :param timesteps: a number of environment steps
    :return: the number for people, such as ``2.5M``
    """
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(timesteps) >= 0.9995 * unit:
            return f"{timesteps / unit:.3g}{name}"
    return f"{timesteps:.0f}"


def _over_seeds(group: Sequence[RunResult], split: str, deterministic: bool, episode: int, quantity: str, digits: int) -> str:
    tables = [_last(run, split, deterministic, episode) for run in group]
    if quantity == "return":
        values = [float(table.returns.mean()) for table in tables if len(table)]
    else:
        values = [table.n_reached for table in tables if table.has_successes]
    return mean_and_std(values, digits) if values else "-"
