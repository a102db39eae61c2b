"""
Aggregates over seeds, with bootstrap intervals (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264) by rliable, which is
needed for these alone.

One agent plays all tasks, so what a seed is lucky with it is lucky with on many of them. Tasks are therefore averaged first
and whole seeds are resampled: to resample seeds for each task on its own would average that luck away.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sb3_ldm.checks import check_installed
from sb3_ldm.results import RunResult

REPETITIONS = 2000  #: of the bootstrap


class Interval(NamedTuple):
    """An interquartile mean over seeds (of fewer than four, the mean) and its 95% bootstrap interval; none for one seed."""

    point: float
    low: float
    high: float
    n_seeds: int

    def text(self, digits: int = 2) -> str:
        """:return: for a table"""
        if self.n_seeds < 2:
            return f"{self.point:.{digits}f}"
        return f"{self.point:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def above(self, other: "Interval") -> bool:
        """:return: whether the whole interval is above the other one"""
        return self.low > other.high


def task_scores(runs: Sequence[RunResult], split: str, episode: int, deterministic: bool = False) -> np.ndarray:
    """
    :param runs: that differ in their seeds
    :param split: of the tasks
    :param episode: index of the episode in its meta-episode, from 1
    :param deterministic: whether actions are the most likely ones
    :return: mean return of each seed on each task, ``(n_seeds, n_tasks)``
    :raises ValueError: if runs were evaluated on different tasks, or not at all
    """
    tables = []
    for run in runs:
        if run.final_evaluation is None:
            raise ValueError(f"{run.path} has no final evaluation")
        tables.append(run.final_evaluation.select(split, deterministic, episode))
    tasks, scores = zip(*(table.per_task(table.returns) for table in tables), strict=True)
    if any(one.shape != tasks[0].shape or not np.allclose(one, tasks[0]) for one in tasks):
        raise ValueError(f"{', '.join(str(run.path) for run in runs)} were evaluated on different tasks of split {split!r}")
    return np.stack(scores)


def iqm_interval(scores: np.ndarray, repetitions: int = REPETITIONS, seed: int = 0) -> Interval:
    """
    :param scores: ``(n_seeds, n_tasks)``
    :param repetitions: of the bootstrap
    :param seed: of the bootstrap; NumPy's own random state is left as it was
    :return: the interquartile mean of the seeds' mean scores, whose interval comes from resampling seeds
    :raises ImportError: if rliable is not installed
    """
    check_installed("benchmarks", "rliable")
    from rliable import library, metrics

    by_seed = scores.mean(axis=1, keepdims=True)
    # Of fewer than four numbers none is cut off: the mean is the same, and much faster.
    aggregate = np.mean if len(scores) < 4 else metrics.aggregate_iqm
    point = float(aggregate(by_seed))
    if len(scores) < 2:
        return Interval(point, point, point, len(scores))
    state = np.random.get_state()
    np.random.seed(seed)  # what rliable resamples with
    try:
        _, intervals = library.get_interval_estimates(
            {"": by_seed}, lambda given: np.array([aggregate(given)]), reps=repetitions
        )
    finally:
        np.random.set_state(state)
    low, high = intervals[""][:, 0]
    return Interval(point, float(low), float(high), len(scores))


class Difference(NamedTuple):
    """A run beside the baseline's run with the same seed."""

    seed: int
    more: float  #: mean return of the last episode, actions sampled, minus the baseline's
    began_alike: bool  #: whether they were the same agent at first, as with the same code where a choice takes effect later


def against_baseline(runs: Sequence[RunResult], baseline: Sequence[RunResult], split: str) -> list[Difference]:
    """:return: each run beside the baseline's; seeds that the baseline lacks, or has not run yet, are left out"""
    references, episode = {run.seed: run for run in baseline}, last_episode([*runs, *baseline])
    differences = []
    for run in [run for run in runs if run.seed in references]:
        reference = references[run.seed]
        mean, other = (task_scores([one], split, episode).mean() for one in (run, reference))
        differences.append(Difference(run.seed, float(mean - other), _began_alike(run, reference)))
    return differences


def _began_alike(run: RunResult, other: RunResult) -> bool:
    """Whether two runs returned the same in all evaluations of the first tenth of training; the first one tells nothing."""
    tables = [one.evaluations for one in (run, other) if one.evaluations is not None]
    early = [table.where(table.timesteps <= 0.1 * run.timesteps) for table in tables]
    if len(early) < 2 or len(np.unique(early[0].timesteps)) < 2:
        return False
    return all(np.array_equal(getattr(early[0], name), getattr(early[1], name)) for name in ("timesteps", "returns"))


def n_reached_in_second_half(run: RunResult, split: str) -> float | None:
    """
    Less noisy than what the last parameters reach, and higher where it is reached sooner.

    :return: tasks that succeed in the last episode, actions sampled, on average over the evaluations in the second half of
        training; None if the environment or the run does not tell
    """
    if run.evaluations is None:
        return None
    table = run.evaluations.select(split, False, run.episodes_per_task)
    table = table.where(table.timesteps > run.timesteps / 2)
    return table.n_reached if table.has_successes else None


def last_episode(runs: Sequence[RunResult]) -> int:
    """:return: index of the last episode of a meta-episode, from 1"""
    return max(run.episodes_per_task for run in runs)


def failed_seeds(runs: Sequence[RunResult], least_train_return: float | None) -> list[int]:
    """
    :param least_train_return: in the last episode, of an agent that has learned
    :return: the seeds whose agents have not
    """
    if least_train_return is None:
        return []
    means = task_scores(runs, "train", last_episode(runs)).mean(axis=1)
    return [run.seed for run, mean in zip(runs, means, strict=True) if mean < least_train_return]


def n_reached(runs: Sequence[RunResult], split: str) -> list[float] | None:
    """
    :return: of each seed the tasks that succeed in the last episode, actions sampled; None if the environment does not tell
    """
    tables = [
        run.final_evaluation.select(split, False, last_episode(runs)) for run in runs if run.final_evaluation is not None
    ]
    return [table.n_reached for table in tables] if all(table.has_successes for table in tables) else None
