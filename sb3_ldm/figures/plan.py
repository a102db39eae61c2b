"""What figures are drawn from, and how they look."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sb3_ldm.envs.tasks import SPLITS, VALIDATION, TaskDistribution
from sb3_ldm.registry import colours, display_name
from sb3_ldm.results import RunResult
from sb3_ldm.results.evaluation_table import EvaluationTable

#: Of groups that have no colour in the registry; told apart with any kind of colour vision.
_OTHER_COLOURS = (
    *("#c98b1b", "#4fb3bf", "#7a5c3e", "#b0457b", "#6b7fd7", "#8a9a3b", "#f29e9e"),
    *("#1b4d5c", "#c5b0d5", "#5c8001", "#a63d1f", "#9edae5", "#d6a5c9", "#404e7c"),
)

INK = "#2b2b2b"
MUTED = "#8c8c8c"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 110,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
}


class NothingToDraw(ValueError):
    """The runs lack the files that a figure is drawn from."""


class Plan(NamedTuple):
    """What all figures of one environment are drawn from."""

    groups: Mapping[str, list[RunResult]]  #: runs that differ in their seed, by label
    tasks: TaskDistribution | None  #: of the environment, None where they are not known
    deterministic: bool  #: which evaluations to draw
    window: int  #: of the moving average, in evaluations
    names: Mapping[str, str]  #: of groups, for people; those without one have their labels

    @property
    def runs(self) -> list[RunResult]:
        """All runs."""
        return [run for members in self.groups.values() for run in members]

    def name(self, label: str) -> str:
        """
        :param label: a group
        :return: its name for people
        """
        return self.names.get(label) or display_name(label)

    def colour(self, label: str) -> str:
        """
        :param label: a group
        :return: its colour, that of its algorithm if this is the only such group
        """
        known = colours()
        if label in known:
            return known[label]
        algos = {name: members[0].label for name, members in self.groups.items()}
        shared = {algo for algo in algos.values() if algo not in known or list(algos.values()).count(algo) > 1}
        if algos[label] not in shared:
            return known[algos[label]]
        others = [name for name in self.groups if name not in known and algos[name] in shared]
        return _OTHER_COLOURS[others.index(label) % len(_OTHER_COLOURS)]


Drawing = Iterator[tuple[str, Figure]]  #: stems of file names, and figures


def slug(text: str) -> str:
    """
    :param text: any
    :return: what of it may stand in a file's name
    """
    return re.sub(r"[^a-zA-Z0-9.=-]+", "_", text).strip("_")


def stem(name: str, label: str, chosen: Mapping[str, RunResult]) -> str:
    """
    :param name: of a kind of figure
    :param label: of a group
    :param chosen: a run of each group that has such a figure
    :return: the stem of the file's name, with the group where there are several
    """
    return name if len(chosen) == 1 else f"{name}_{slug(label)}"


def first_runs_with(plan: Plan, read: Callable[[RunResult], object], file: str) -> dict[str, RunResult]:
    """
    :param plan: what to draw
    :param read: what is read of a run, None if it has none
    :param file: where that stands, for the message
    :return: each group's first seed that has it
    :raises NothingToDraw: if no run has it
    """
    chosen = {label: run for label, members in plan.groups.items() for run in members[::-1] if read(run) is not None}
    if not chosen:
        raise NothingToDraw(f"no {file} in {folders(plan.runs)}")
    return chosen


def evaluated_groups(plan: Plan, read: Callable[[RunResult], EvaluationTable | None], file: str) -> dict[str, list[RunResult]]:
    """
    :param plan: what to draw
    :param read: what is read of a run
    :param file: where that stands, for the message
    :return: the groups, without runs that were not evaluated with the kind of actions that is drawn
    :raises NothingToDraw: if no run is left
    """
    groups: dict[str, list[RunResult]] = {}
    for label, members in plan.groups.items():
        for run in members:
            table = read(run)
            if table is not None and len(table.select(deterministic=plan.deterministic)):
                groups.setdefault(label, []).append(run)
    if not groups:
        raise NothingToDraw(f"no evaluations with {actions_name(plan)} in {file} of {folders(plan.runs)}")
    return groups


def evaluations_of(run: RunResult, split: str, plan: Plan, episode: int | None = None) -> EvaluationTable:
    """
    :param run: with evaluations
    :param split: of the tasks; of a part of the test tasks that was not evaluated apart, its rows of ``test``
    :param plan: which says what kind of actions is drawn
    :param episode: of a meta-episode, the last one by default
    :return: the evaluations in that episode
    """
    assert run.evaluations is not None
    whole = "test" if split in parts_of_test(plan) and split not in run.evaluations.splits else split
    table = run.evaluations.select(whole, plan.deterministic, run.episodes_per_task if episode is None else episode)
    if whole == split:
        return table
    assert plan.tasks is not None
    return table.where((table.tasks[:, None] == plan.tasks.tasks(split)[None]).all(-1).any(1))


def parts_of_test(plan: Plan) -> list[str]:
    """:return: names of the splits that the test tasks consist of (Fig. 6), none if they are one"""
    if plan.tasks is None or not plan.tasks.is_finite("test"):
        return []
    others = [split for split in plan.tasks.splits if split not in (*SPLITS, VALIDATION) and plan.tasks.is_finite(split)]
    told = {tuple(task) for split in others for task in plan.tasks.tasks(split)}
    return others if told == {tuple(task) for task in plan.tasks.tasks("test")} else []


def has_successes(run: RunResult, split: str, plan: Plan) -> bool:
    """:return: whether the evaluations tell of successes; parameters as of :func:`evaluations_of`"""
    return evaluations_of(run, split, plan).has_successes


def actions_name(plan: Plan) -> str:
    """:return: what kind of actions is drawn, for people"""
    return "the most likely actions" if plan.deterministic else "sampled actions"


def folders(runs: Sequence[RunResult]) -> str:
    """:return: the runs' folders, for a message"""
    return ", ".join(str(run.path) for run in runs)


def number(value: float) -> str:
    """:return: with one digit and a typographic minus"""
    return f"{value:.1f}".replace("-", "\N{MINUS SIGN}")


def references_of(run: RunResult, tasks: np.ndarray, distribution: TaskDistribution | None) -> dict[str, float]:
    """
    :param run: of an environment
    :param tasks: some of its tasks, repeated or not, ``(n, task_dim)``
    :param distribution: where they are from, None if it is not known
    :return: mean returns that an agent's may be compared with, the highest first
    """
    if distribution is None or len(tasks) == 0:
        return {}
    # Not the longest episode that was seen: an ant may always fall before the end.
    returns = distribution.reference_returns(np.unique(tasks, axis=0), run.env_kwargs.get("horizon"))
    return {name: float(values.mean()) for name, values in returns.items()}


def horizon_of(plan: Plan) -> int:
    """:return: steps of an episode; in the gridworld no episode is shorter"""
    tables = [run.last_evaluation for run in plan.runs]
    lengths = [table.lengths.max() for table in tables if table is not None]
    return int(max(lengths))
