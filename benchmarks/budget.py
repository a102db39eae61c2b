"""What runs take of a processor: of those that have ended what they took, of others an estimate from these."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.experiment import Experiment, Run
from benchmarks.imagination import IMAGINATION
from benchmarks.tables import RESULTS
from benchmarks.verdicts import Variants
from sb3_ldm.results.summary import markdown_table

N_CORES = 2  #: runs side by side that the budget is told for
SUITE_HOURS = 6  #: what a reader may have for all experiments


def core_hours(metadata: Mapping[str, Any]) -> float | None:
    """
    :return: what it took of a processor core; of runs that did not count it, the wall time of their threads; None if not told
    """
    if "cpu_time_s" in metadata:
        return metadata["cpu_time_s"] / 3600
    if "wall_time_s" in metadata:
        return metadata["wall_time_s"] * metadata.get("threads", 1) / 3600
    return None


def wall_hours(metadata: Mapping[str, Any]) -> float | None:
    """:return: how long it took, beside whatever else its machine did; None if not told"""
    return metadata["wall_time_s"] / 3600 if "wall_time_s" in metadata else None


class Paces:
    """
    What a frame takes, as runs that have ended tell.

    :param cost: hours that a run took, by its metadata
    """

    def __init__(self, cost: Callable[[Mapping[str, Any]], float | None] = core_hours) -> None:
        self._cost = cost
        self._hours_a_frame: dict[tuple[str, str], list[float]] = {}  # by algorithm and environment

    def add_results(self, experiment: Experiment, results: Path = RESULTS) -> None:
        for run in experiment.finished(results):
            metadata = run.kept(results)
            if run.experiment == experiment.name and metadata is not None:
                self.add(run, metadata)

    def add(self, run: Run, metadata: Mapping[str, Any]) -> None:
        hours = self._cost(metadata)
        if hours is not None:
            self._hours_a_frame.setdefault((run.algo, run.env), []).append(hours / metadata["frames"])

    def hours(self, run: Run) -> float:
        """
        :return: hours that it will take, as those of the same algorithm and environment, else as all that train in the
            environment or its kin; NaN if there is none
        """
        kin = "Grid" if run.env.startswith("Grid") else run.env  # all gridworlds are equally fast

        def known(algos: Callable[[str], bool]) -> list[float]:
            some = self._hours_a_frame.items()
            return [pace for (algo, env), paces in some if env.startswith(kin) and algos(algo) for pace in paces]

        same = known(lambda algo: algo == run.algo) or known(lambda algo: algo != IMAGINATION)
        return run.n_timesteps * float(np.mean(same)) if same else float("nan")


class Budget(NamedTuple):
    """What an experiment's own runs take, in hours of a core."""

    title: str
    n_done: int
    n_runs: int
    spent: float
    left: float  #: estimated; NaN where no such run has ended
    first_seed: float  #: what seed 0 alone takes or took; NaN as well


def budgets(experiments: Sequence[Experiment], found: Mapping[str, Variants]) -> list[Budget]:
    """:return: what each takes"""
    paces = Paces()
    hours: dict[tuple[str, str], float] = {}  # of the runs that counted them, by experiment and name
    waiting: set[tuple[str, str]] = set()
    for experiment in experiments:
        done = {(name, run.seed): run for name, members in found[experiment.name].items() for run in members}
        for run in experiment.own_runs:
            ended = done.get((run.variant, run.seed))
            if ended is None:
                waiting.add((experiment.name, run.name))
                continue
            paces.add(run, ended.metadata)
            spent = core_hours(ended.metadata)
            if spent is not None:
                hours[experiment.name, run.name] = spent

    def budget(one: Experiment) -> Budget:
        to_go = [run for run in one.own_runs if (one.name, run.name) in waiting]
        first = [hours.get((one.name, run.name), paces.hours(run)) for run in one.own_runs if run.seed == 0]
        spent = sum(hours.get((one.name, run.name), 0.0) for run in one.own_runs)
        n_runs = len(one.own_runs)
        return Budget(one.title, n_runs - len(to_go), n_runs, spent, sum(map(paces.hours, to_go)), sum(first))

    return [budget(one) for one in experiments]


def budget_section(all_budgets: Sequence[Budget]) -> str:
    """:return: what they took so far and would still take, as Markdown"""
    total, n_unknown = _cumulative([one.spent + one.left for one in all_budgets])
    first, _ = _cumulative([one.first_seed for one in all_budgets])
    to_go = sum(one.left for one in all_budgets if not np.isnan(one.left)) / N_CORES
    rows = [
        [
            one.title,
            f"{one.n_done} of {one.n_runs}",
            f"{one.spent:.1f}",
            "-" if np.isnan(one.left) else f"{one.left:.1f}",
            f"{hours:.1f}",
            f"{hours_of_first:.1f}",
        ]
        for one, hours, hours_of_first in zip(all_budgets, total, first, strict=True)
    ]
    text = (
        "In the order in which `python -m benchmarks.run all` trains them, the most valuable ones first. Hours to go are "
        "estimated from the runs that have ended, of the same algorithm where there are any; of environments without a run "
        f"they are not known (-). What is known takes about {to_go:.0f} more hours of two cores. From nothing "
        f"two cores need {'at least ' if n_unknown else ''}{total[-1]:.0f} hours for all. Of whole experiments they end "
        f"within {SUITE_HOURS} hours {_within(all_budgets, total)}, and of seed 0 alone {_within(all_budgets, first)}; with "
        f"`--hours {SUITE_HOURS}` (and `--seeds 0`) the command starts no run that is expected to end later. More would first "
        "add seeds (`seeds` in an experiment's file, eight in the paper's main results) and the paper's budgets of 50 to 200 "
        "million frames."
    )
    header = [
        "experiment",
        "runs finished",
        "core hours so far",
        "core hours to go",
        "two cores, from nothing up to here, hours",
        "seed 0 alone, up to here",
    ]
    return "\n\n".join(["## Budget", text, markdown_table(header, rows, "lrrrrr")])


def _cumulative(core_hours_each: Sequence[float]) -> tuple[np.ndarray, int]:
    """Hours of all cores that experiments take up to each one, without unknown ones, and how many of these there are."""
    known = ~np.isnan(core_hours_each)
    return np.cumsum(np.where(known, core_hours_each, 0.0)) / N_CORES, int((~known).sum())


def _within(all_budgets: Sequence[Budget], cumulative: np.ndarray) -> str:
    """The experiments that end within the hours that a reader may have."""
    known = np.logical_and.accumulate([not np.isnan(one.left) for one in all_budgets])
    return ", ".join(one.title for one in all_budgets[: int(((cumulative <= SUITE_HOURS) & known).sum())]) or "not one"
