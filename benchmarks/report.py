"""
Write the results of all experiments: ``python -m benchmarks.report`` draws their figures and makes ``benchmarks/RESULTS.md``
of the files in ``benchmarks/results``.
"""

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.experiment import RESULTS, Experiment, Run
from benchmarks.experiment_file import available_experiments, load_experiment
from benchmarks.figures import FIGURES, draw_experiment, load_variants, remove_figures
from benchmarks.imagination import IMAGINATION
from benchmarks.statistics import (
    failed_seeds,
    found_by_studies,
    iqm_interval,
    last_episode,
    n_reached,
    n_reached_in_second_half,
    task_scores,
)
from benchmarks.verdicts import Outcome, Variants, Verdict, judge
from sb3_ldm.results import RunResult
from sb3_ldm.summary import format_frames, markdown_table, mean_and_std, ordered_splits, split_name

PAGE = Path(__file__).parent / "RESULTS.md"
#: Shown on the page where an experiment has them, in this order.
_SHOWN_FIGURES = (
    "comparison*.png",
    "learning_curves.png",
    "return_map.png",
    "reward_maps*.png",
    "imagination.png",
    "paths*.png",
)

INTRODUCTION = """# Results

Made by `python -m benchmarks.report` from the files in `benchmarks/results`. Most runs have the settings of this package's
presets and a fifth of the paper's frames or less: what is said to agree with the paper has the same direction, not the same
numbers.

Returns are those of the last episode of a meta-episode, and in the last columns (paper, Appendix F) of the first one, actions
sampled: means over tasks, then interquartile means over seeds (of fewer than four, means) with 95% bootstrap intervals, for
which whole seeds are resampled (a bootstrap that is stratified by task would draw seeds for each task anew, as if the tasks of
a seed had nothing to do with each other). Of two, three or four seeds such an interval is little else than their range: it
holds the true median in about 50, 75 or 88% of the cases, not in 95%. An expectation holds, or does not, if two intervals do
not overlap; where there is no difference at all, that happens between two and two seeds in 33% of the cases, between two and
three in 20, three and three in 10 and four and four in 3%. A single run decides nothing. Expectations that the paper does not
have are our own.

Maps and paths are those of a variant's first seed. Shares of mixtures are of all that are drawn: LDM rejects some before it
trains on them (`n_candidates`, `require_goal`). Agents that were trained on all tasks have trained on those that are called
unseen, too.

Numbers of solved tasks: mean and standard deviation over seeds, at the end of training and on average over the evaluations of
its second half. Core minutes are of the runs that counted them, wall minutes depend on what else the machine did. Seeds differ
in their networks and actions, but share most sequences of training tasks: as in Stable-Baselines3, worker i of seed s is
seeded with s + i.
"""

#: What is told of studies of imagination, where they have it.
_STUDIED = {
    "in_test": "imagined on unseen goals",
    "in_test1": "between the training goals",
    "in_test2": "outside",
    "no_goal": "nowhere",
    "own_task_right": "training tasks known",
    "unseen_task_right": "unseen tasks known",
}

N_CORES = 2  #: runs side by side that the budget is told for
SUITE_HOURS = 6  #: what a reader may have for all experiments


def core_hours(metadata: Mapping[str, Any]) -> float | None:
    """
    :param metadata: of a run
    :return: what it took of a processor core; of runs that did not count it, the wall time of their threads; None if not told
    """
    if "cpu_time_s" in metadata:
        return metadata["cpu_time_s"] / 3600
    if "wall_time_s" in metadata:
        return metadata["wall_time_s"] * metadata.get("threads", 1) / 3600
    return None


class Column(NamedTuple):
    """A column of a table of variants."""

    title: str
    cell: Callable[[Sequence[RunResult]], str]  #: of a variant's runs, which differ in their seed


def columns(splits: Sequence[str], learned: float | None) -> list[Column]:
    """
    :param splits: that runs were evaluated on, training tasks first
    :param learned: training return of an agent that has learned
    :return: what is told of a variant; actions sampled, last episode and, behind it, the first one
    """
    told = [
        Column("seeds", lambda runs: _seeds(runs, learned)),
        Column("frames", lambda runs: format_frames(max(run.frames for run in runs))),
        Column("core minutes", lambda runs: _minutes(runs, "cpu_time_s")),
        Column("wall minutes", lambda runs: _minutes(runs, "wall_time_s")),
    ]
    told += [Column(f"{split_name(split)} return", partial(_return_in, split, None)) for split in splits]
    told += [Column(f"{split_name(split)} tasks solved", partial(_solved, split)) for split in splits]
    told += [
        Column(f"{split_name(split)} tasks solved, second half of training", partial(_solved_in_second_half, split))
        for split in splits[1:]
    ]
    told += [Column(f"first episode, {split_name(split)} return", partial(_return_in, split, 1)) for split in splits]
    return told


def _seeds(runs: Sequence[RunResult], learned: float | None) -> str:
    failed = failed_seeds(runs, learned)
    return str(len(runs)) + (f" (training return below {learned:g}: {', '.join(map(str, failed))})" if failed else "")


def _minutes(runs: Sequence[RunResult], time: str) -> str:
    minutes = [run.metadata[time] / 60 for run in runs if time in run.metadata]
    return mean_and_std(minutes, 0) if minutes else "-"


def _return_in(split: str, episode: int | None, runs: Sequence[RunResult]) -> str:
    return iqm_interval(task_scores(runs, split, episode or last_episode(runs))).text()


def _solved(split: str, runs: Sequence[RunResult]) -> str:
    reached = n_reached(runs, split)
    return "-" if reached is None else mean_and_std(reached, 1)


def _solved_in_second_half(split: str, runs: Sequence[RunResult]) -> str:
    numbers = [number for run in runs if (number := n_reached_in_second_half(run, split)) is not None]
    return mean_and_std(numbers, 1) if len(numbers) == len(runs) else "-"


def variants_table(experiment: Experiment, variants: Variants) -> str:
    """
    :param experiment: an experiment
    :param variants: its finished runs by variant
    :return: one row each, as Markdown, without columns that nothing is known of
    """
    runs = [run for members in variants.values() for run in members]
    cells = [
        (column.title, [column.cell(members) for members in variants.values()])
        for column in columns(ordered_splits(runs), experiment.learned)
    ]
    told = [("", [experiment.label(variant) for variant in variants]), *(one for one in cells if set(one[1]) != {"-"})]
    titles, by_column = zip(*told, strict=True)
    return markdown_table(titles, list(zip(*by_column, strict=True)), "l" + "r" * (len(told) - 1))


def studies_table(experiment: Experiment, variants: Variants) -> str:
    """
    :param experiment: an experiment on imagination
    :param variants: its finished studies by variant
    :return: one row each, as Markdown: the share of mixtures whose largest reward is on the goal of an unseen task, and how
        often the decoder knows the goal of the task at hand
    """
    found = [run.metadata["result"] for runs in variants.values() for run in runs]
    told = [(name, title) for name, title in _STUDIED.items() if all(name in result for result in found)]
    rows = []
    for variant, runs in variants.items():
        shares = [_in_percent(found_by_studies(runs, name)) for name, _ in told]
        rows.append([experiment.label(variant), str(len(runs)), f"{runs[0].hyperparameters['updates']:,}", *shares])
    header = ["", "seeds", "updates", *(title for _, title in told)]
    return markdown_table(header, rows, "l" + "r" * (len(header) - 1))


def _in_percent(shares: np.ndarray) -> str:
    return mean_and_std((100 * shares[:, 0]).tolist(), 0) + "%"


def has_own_results(experiment: Experiment, variants: Variants) -> bool:
    """
    :param experiment: an experiment
    :param variants: its finished runs by variant
    :return: whether there are others than those of another experiment
    """
    own = {run.variant for run in experiment.own_runs}
    return bool(own & set(variants))


def judged(experiment: Experiment, variants: Variants) -> list[Verdict]:
    """
    :param experiment: an experiment
    :param variants: its finished runs by variant
    :return: what became of its expectations
    """
    return [judge(one, variants, experiment.learned, experiment.label) for one in experiment.expectations]


def section(
    experiment: Experiment,
    variants: Variants,
    verdicts: Sequence[Verdict],
    figures: Path,
    page: Path,
    results: Path = RESULTS,
) -> str:
    """
    :param experiment: an experiment
    :param variants: its finished runs by variant
    :param verdicts: what became of its expectations
    :param figures: folder of its figures
    :param page: the page that they are shown on
    :param results: where all results are
    :return: its part of the page, as Markdown
    """
    lines = [f"## {experiment.title}", f"({experiment.source})", experiment.about]
    if not has_own_results(experiment, variants):
        changed = _changed(experiment.own_runs, results)
        lines += changed or [f"Not run yet: `python -m benchmarks.run {experiment.name}`."]
        return "\n\n".join(line for line in lines if line) + "\n"
    table = studies_table if experiment.is_study else variants_table
    lines.append(table(experiment, variants).rstrip())
    claims = [one.claim for one in experiment.expectations]
    lines.append("\n".join(f"- {claim}: {verdict.text}" for claim, verdict in zip(claims, verdicts, strict=True)))
    for figure in [path for pattern in _SHOWN_FIGURES for path in sorted(figures.glob(pattern))]:
        path = Path(os.path.relpath(figure, page.parent)).as_posix()
        lines.append(f"![{figure.stem.replace('_', ' ')}]({path})")
    links = [
        f"[{what}]({Path(os.path.relpath(figures / name, page.parent)).as_posix()})"
        for name, what in (("summary.md", "both kinds of actions and every episode"), ("per_task.md", "every task"))
        if (figures / name).is_file()
    ]
    if links:
        folder = Path(os.path.relpath(figures, page.parent)).as_posix()
        lines.append(f"More numbers: {', '.join(links)}; [all figures]({folder}).")
    lines += _uncommitted(variants)
    lines += _left_out(experiment, variants, results)
    lines.append(f"```bash\npython -m benchmarks.run {experiment.name}\npython -m benchmarks.figures {experiment.name}\n```")
    return "\n\n".join(line for line in lines if line) + "\n"


def _uncommitted(variants: Variants) -> list[str]:
    """A paragraph on the runs whose code cannot be restored from the commit that they name."""
    runs = [run for members in variants.values() for run in members if any(one.endswith("-dirty") for one in _commits(run))]
    return [f"Trained with changes that were not committed: {', '.join(run.path.name for run in runs)}."] if runs else []


def _commits(run: RunResult) -> list[str]:
    """The code that trained it, several where it was continued."""
    return [*run.metadata.get("commits_before", []), run.metadata.get("commit") or ""]


def _left_out(experiment: Experiment, variants: Variants, results: Path) -> list[str]:
    """Paragraphs on the runs that are not among the finished ones."""
    done = {(variant, run.seed) for variant, members in variants.items() for run in members}
    missing = [run for run in experiment.runs if (run.variant, run.seed) not in done]
    lines = _changed(missing, results)
    if missing:
        names = ", ".join(run.name for run in missing)
        lines.append(f"Without results so far (not run, or not to the end): {names}.")
    return lines


def _changed(runs: Sequence[Run], results: Path) -> list[str]:
    """Paragraphs on the runs whose results are of other settings."""
    changed = [(run.name, run.changed_settings(run.results(results))) for run in runs]
    return [
        f"Left out: results of {name}, which had other settings than it has now ({', '.join(settings)})."
        for name, settings in changed
        if settings
    ]


def results_page(results: Path = RESULTS, figures: Path = FIGURES, page: Path = PAGE, draw: bool = True) -> str:
    """
    :param results: where all results are
    :param figures: where all figures are
    :param page: where the page will be
    :param draw: whether to draw the figures again
    :return: the page, as Markdown
    """
    experiments = [load_experiment(name) for name in available_experiments()]
    found = {experiment.name: load_variants(experiment, results) for experiment in experiments}
    verdicts = {experiment.name: judged(experiment, found[experiment.name]) for experiment in experiments}
    parts = [INTRODUCTION, overview(experiments, found, verdicts)]
    for experiment in experiments:
        variants = found[experiment.name]
        if draw and has_own_results(experiment, variants):
            draw_experiment(experiment, results, figures)
        elif draw:
            remove_figures(figures / experiment.name)
        parts.append(section(experiment, variants, verdicts[experiment.name], figures / experiment.name, page, results))
    parts.append(budget_section(budgets(experiments, found)))
    return "\n".join(part for part in parts if part)


def overview(
    experiments: Sequence[Experiment], found: Mapping[str, Variants], verdicts: Mapping[str, Sequence[Verdict]]
) -> str:
    """
    :param experiments: all experiments, the most valuable ones first
    :param found: their finished runs by variant, by their names
    :param verdicts: what became of their expectations, by their names
    :return: how far each is and how many of its expectations hold, as Markdown
    """
    decided = [one for one in Outcome if one is not Outcome.NOT_RUN]
    rows = []
    for one in experiments:
        became = list(zip(one.expectations, verdicts[one.name], strict=True))
        n_runs = sum(len(members) for members in found[one.name].values())
        counts = [
            sum(claim.paper is paper and verdict.outcome is outcome for claim, verdict in became)
            for paper in (True, False)
            for outcome in decided
        ]
        counts.append(sum(verdict.outcome is Outcome.NOT_RUN for _, verdict in became))
        rows.append([f"[{one.title}](#{_anchor(one.title)})", f"{n_runs} of {len(one.runs)}", *map(str, counts)])
    header = ["experiment", "runs finished"]
    for whose in ("the paper's claims", "ours"):
        header += [f"{whose}: {decided[0].value}", *(outcome.value for outcome in decided[1:])]
    header.append(Outcome.NOT_RUN.value)
    return markdown_table(header, rows, "l" + "r" * (len(header) - 1))


def _anchor(title: str) -> str:
    """What GitHub links a heading by."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


class Budget(NamedTuple):
    """What an experiment's own runs take, in hours of a core."""

    title: str
    n_done: int
    n_runs: int
    spent: float
    left: float  #: estimated; NaN where no such run has ended
    first_seed: float  #: what seed 0 alone takes or took; NaN as well


def budgets(experiments: Sequence[Experiment], found: Mapping[str, Variants]) -> list[Budget]:
    """
    :param experiments: all experiments
    :param found: their finished runs by variant, by their names
    :return: what each takes
    """
    paces: dict[tuple[str, str], list[float]] = {}
    hours: dict[tuple[str, str], float] = {}  # of the runs that counted them, by experiment and name
    waiting: set[tuple[str, str]] = set()
    for experiment in experiments:
        done = {(name, run.seed): run for name, members in found[experiment.name].items() for run in members}
        for run in experiment.own_runs:
            ended = done.get((run.variant, run.seed))
            spent = None if ended is None else core_hours(ended.metadata)
            if ended is None:
                waiting.add((experiment.name, run.name))
            elif spent is not None:
                hours[experiment.name, run.name] = spent
                paces.setdefault((run.algo, run.env), []).append(spent / ended.frames)

    def left(run: Run) -> float:
        return run.n_timesteps * _pace(run, paces)

    def budget(one: Experiment) -> Budget:
        to_go = [run for run in one.own_runs if (one.name, run.name) in waiting]
        first = [hours.get((one.name, run.name), left(run)) for run in one.own_runs if run.seed == 0]
        spent = sum(hours.get((one.name, run.name), 0.0) for run in one.own_runs)
        n_runs = len(one.own_runs)
        return Budget(one.title, n_runs - len(to_go), n_runs, spent, sum(map(left, to_go)), sum(first))

    return [budget(one) for one in experiments]


def budget_section(all_budgets: Sequence[Budget]) -> str:
    """
    :param all_budgets: of all experiments, the most valuable ones first
    :return: what they took so far and would still take, as Markdown
    """
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
        f"two cores need {'at least ' if n_unknown else ''}{total[-1]:.0f} hours for all; in {SUITE_HOURS} hours they "
        f"train {_within(all_budgets, total)}, and of seed 0 alone (`--seeds 0`) {_within(all_budgets, first)}. More would "
        "first add seeds (`seeds` in an experiment's file, eight in the paper's main results) and the paper's budgets of 50 "
        "to 200 million frames."
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


def _pace(run: Run, paces: Mapping[tuple[str, str], Sequence[float]]) -> float:
    """Hours a frame: of the same algorithm and environment, else of all that train in the environment or its kin, else NaN."""
    kin = "Grid" if run.env.startswith("Grid") else run.env  # all gridworlds are equally fast

    def known(algos: Callable[[str], bool]) -> list[float]:
        return [pace for (algo, env), some in paces.items() if env.startswith(kin) and algos(algo) for pace in some]

    same = known(lambda algo: algo == run.algo) or known(lambda algo: algo != IMAGINATION)
    return float(np.mean(same)) if same else float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where all figures are")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    parser.add_argument("--no-figures", action="store_true", help="leave the figures as they are")
    options = parser.parse_args(arguments)
    text = results_page(options.results, options.figures, options.out, not options.no_figures)
    options.out.write_text(text, encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
