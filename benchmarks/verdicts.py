"""What results say of an expectation: whether they show it, show the opposite, or leave it open."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

from benchmarks.experiment import Expectation
from sb3_ldm.results import RunResult
from sb3_ldm.results.statistics import Interval, failed_seeds, iqm_interval, last_episode, n_reached, task_scores

#: With fewer seeds intervals say little: two of two that do not overlap come about by chance in a third of the cases.
FEW_SEEDS = 3

Variants = Mapping[str, Sequence[RunResult]]


class Outcome(Enum):
    """What became of an expectation."""

    HOLDS = "hold"
    FAILS = "do not hold"
    OPEN = "undecided"
    NOT_RUN = "not run yet"


class Verdict(NamedTuple):
    """An outcome and what it rests on."""

    outcome: Outcome
    text: str


def judge(
    expectation: Expectation, variants: Variants, learned: float | None = None, label: Callable[[str], str] = str
) -> Verdict:
    """:return: whether they do"""
    lacking = [name for name in expectation.variants if name not in variants]
    if lacking:
        return Verdict(Outcome.NOT_RUN, f"not run yet: {', '.join(lacking)}")
    names = [label(name) for name in expectation.variants]
    found = [iqm_interval(_scores(expectation, variants[name])) for name in expectation.variants]
    if expectation.variant is not None:
        return _judge_threshold(expectation, found[0])
    failed = [len(failed_seeds(variants[name], learned)) for name in expectation.variants]
    texts = [interval.text() if expectation.result is None else f"{interval.text(0)}%" for interval in found]
    numbers = " against ".join(f"{text} ({name})" for text, name in zip(texts, names, strict=True))
    if all(n_failed == interval.n_seeds for n_failed, interval in zip(failed, found, strict=True)):
        return Verdict(Outcome.OPEN, f"not to be judged, for neither has learned the training tasks: {numbers}")
    if any(failed):
        counts = zip(failed, found, names, strict=True)
        told = " and ".join(f"{n_failed} of {interval.n_seeds} ({name})" for n_failed, interval, name in counts)
        numbers += f"; {told} seeds had not learned the training tasks"
    better, worse = found
    if min(better.n_seeds, worse.n_seeds) == 1:  # by chance alone it lies outside of two or three others in half of the cases
        several = f"{better.n_seeds} against {worse.n_seeds} seeds"
        which = "one seed each" if better.n_seeds == worse.n_seeds else several
        return Verdict(Outcome.OPEN, f"undecided, {which}: {numbers}")
    n_seeds = min(better.n_seeds, worse.n_seeds)
    return _decide(expectation, better.above(worse), worse.above(better), n_seeds, "the intervals overlap", numbers)


def _judge_threshold(expectation: Expectation, found: Interval) -> Verdict:
    least = expectation.returned if expectation.reached is None else expectation.reached
    assert least is not None, f"{expectation.claim}: give returned or reached"
    numbers = f"{found.text()}, at least {least:g} expected"
    if found.n_seeds == 1:
        done = "done so" if found.point >= least else "not done so"
        return Verdict(Outcome.OPEN, f"undecided, one seed, which has {done}: {numbers}")
    return _decide(expectation, found.low >= least, found.high < least, found.n_seeds, "seeds differ", numbers)


def _decide(expectation: Expectation, holds: bool, fails: bool, n_seeds: int, doubt: str, numbers: str) -> Verdict:
    few = f", but {n_seeds} seeds tell little" if n_seeds < FEW_SEEDS else ""
    if holds:
        return Verdict(Outcome.HOLDS, f"{'agrees with the paper' if expectation.paper else 'as expected'}{few}: {numbers}")
    if fails:
        disagrees = "DISAGREES with the paper" if expectation.paper else "NOT as expected"
        return Verdict(Outcome.FAILS, f"{disagrees}{few}: {numbers}")
    return Verdict(Outcome.OPEN, f"undecided, {doubt}: {numbers}")


def found_by_studies(studies: Sequence[RunResult], name: str) -> np.ndarray:
    """:return: that number of studies of imagination, which differ in their seed, shape ``(n_seeds, 1)``"""
    return np.array([[study.metadata["result"][name]] for study in studies])


def _scores(expectation: Expectation, runs: Sequence[RunResult]) -> np.ndarray:
    """What an expectation is about, of each seed, ``(n_seeds, n_tasks or 1)``; of studies in percent."""
    if expectation.result is not None:
        return 100 * found_by_studies(runs, expectation.result)
    assert expectation.split is not None
    if expectation.reached is None:
        return task_scores(runs, expectation.split, last_episode(runs))
    reached = n_reached(runs, expectation.split)
    assert reached is not None, f"{expectation.claim}: the environment does not tell success"
    return np.array(reached)[:, None]
