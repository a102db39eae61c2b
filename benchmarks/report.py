"""
Write the results of all experiments: ``python -m benchmarks.report`` draws their figures and makes ``benchmarks/RESULTS.md``
of the files in ``benchmarks/results``.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiment import RESULTS, Expectation, Experiment, Run, available_experiments, load_experiment
from benchmarks.figures import FIGURES, draw_experiment, load_variants
from benchmarks.imagination import IMAGINATION
from benchmarks.statistics import iqm_interval, n_reached_in_second_half, task_scores
from sb3_ldm.results import RUN_FILE, RunResult, load_metadata
from sb3_ldm.summary import display_name, format_frames, markdown_table, mean_and_std, ordered_splits, split_name

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

#: With fewer seeds intervals say little: two of two that do not overlap come about by chance in a third of the cases.
FEW_SEEDS = 3

N_CORES = 2  #: runs side by side that the budget is told for
SUITE_HOURS = 6  #: what a reader may have for all experiments

Variants = Mapping[str, Sequence[RunResult]]


def failed_seeds(runs: Sequence[RunResult], least_train_return: float | None) -> list[int]:
    """
    :param runs: runs that differ in their seed
    :param least_train_return: in the last episode, of an agent that has learned
    :return: the seeds whose agents have not
    """
    if least_train_return is None:
        return []
    means = task_scores(runs, "train", _last_episode(runs)).mean(axis=1)
    return [run.seed for run, mean in zip(runs, means, strict=True) if mean < least_train_return]


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


def _last_episode(runs: Sequence[RunResult]) -> int:
    return max(run.episodes_per_task for run in runs)


def _n_reached(runs: Sequence[RunResult], split: str) -> list[float] | None:
    tables = [
        run.final_evaluation.select(split, False, _last_episode(runs)) for run in runs if run.final_evaluation is not None
    ]
    return [table.n_reached for table in tables] if all(table.has_successes for table in tables) else None


def variant_row(variant: str, runs: Sequence[RunResult], splits: Sequence[str], learned: float | None) -> list[str]:
    """
    :param variant: name of a variant
    :param runs: its finished runs
    :param splits: the splits of the columns
    :param learned: training return of an agent that has learned
    :return: its row of the table
    """
    failed = failed_seeds(runs, learned)
    minutes = [hours * 60 for hours in map(core_hours, (run.metadata for run in runs)) if hours is not None]
    cells = [
        display_name(variant),
        str(len(runs)) + (f" (training return below {learned:g}: {', '.join(map(str, failed))})" if failed else ""),
        format_frames(max(run.frames for run in runs)),
        mean_and_std(minutes, 0) if minutes else "-",
    ]
    for split in splits:
        cells.append(iqm_interval(task_scores(runs, split, _last_episode(runs))).text())
    for split in splits:
        reached = _n_reached(runs, split)
        cells.append("-" if reached is None else mean_and_std(reached, 1))
    for split in splits[1:]:
        told = [n_reached_in_second_half(run, split) for run in runs]
        numbers = [number for number in told if number is not None]
        cells.append(mean_and_std(numbers, 1) if len(numbers) == len(runs) else "-")
    for split in splits:
        cells.append(iqm_interval(task_scores(runs, split, 1)).text())
    return cells


def variants_table(variants: Variants, learned: float | None) -> str:
    """
    :param variants: finished runs by variant
    :param learned: training return of an agent that has learned
    :return: one row each, as Markdown; actions sampled, last episode and, behind it, the first one
    """
    runs = [run for members in variants.values() for run in members]
    splits = ordered_splits(runs)
    header = ["", "seeds", "frames", "minutes"]
    header += [f"{split_name(split)} return" for split in splits] + [f"{split_name(split)} tasks solved" for split in splits]
    header += [f"{split_name(split)} tasks solved, second half of training" for split in splits[1:]]
    header += [f"first episode, {split_name(split)} return" for split in splits]
    rows = [variant_row(variant, members, splits, learned) for variant, members in variants.items()]
    told = [i for i in range(len(header)) if any(row[i] != "-" for row in rows)]
    return markdown_table([header[i] for i in told], [[row[i] for i in told] for row in rows], "l" + "r" * (len(told) - 1))


def studies_table(variants: Variants) -> str:
    """
    :param variants: finished studies of imagination by variant
    :return: one row each, as Markdown: the share of mixtures whose largest reward is on a cell where no training task has its
        goal, and how often the decoder knows the goal of the task at hand
    """
    rows = []
    for variant, runs in variants.items():
        shares = [_in_percent(_found(runs, name)) for name in ("in_test", "own_task_right", "unseen_task_right")]
        rows.append(
            [display_name(variant).replace("_", " "), str(len(runs)), f"{runs[0].hyperparameters['updates']:,}", *shares]
        )
    header = ["", "seeds", "updates", "imagined on unseen cells", "training tasks known", "unseen tasks known"]
    return markdown_table(header, rows, "lrrrrr")


def _found(studies: Sequence[RunResult], name: str) -> np.ndarray:
    """What the studies found, shape ``(n_seeds, 1)``."""
    return np.array([[study.metadata["result"][name]] for study in studies])


def _in_percent(shares: np.ndarray) -> str:
    return mean_and_std((100 * shares[:, 0]).tolist(), 0) + "%"


def judge(expectation: Expectation, variants: Variants, learned: float | None = None) -> str:
    """
    :param expectation: what results should show
    :param variants: finished runs by variant
    :param learned: training return of an agent that has learned; two that have not are not compared
    :return: whether they do, in words
    """
    lacking = [name for name in expectation.variants if name not in variants]
    if lacking:
        return f"not run yet: {', '.join(lacking)}"
    found = [iqm_interval(_scores(expectation, variants[name])) for name in expectation.variants]
    numbers = " against ".join(interval.text() for interval in found)
    least = expectation.returned if expectation.reached is None else expectation.reached
    if expectation.variant is None:
        if all(len(failed_seeds(variants[name], learned)) == len(variants[name]) for name in expectation.variants):
            return f"not to be judged, for neither has learned the training tasks: {numbers}"
        holds, fails = found[0].above(found[1]), found[1].above(found[0])
    else:
        assert least is not None, f"{expectation.claim}: give returned or reached"
        holds, fails = found[0].low >= least, found[0].high < least
        numbers += f", at least {least:g} expected"
    n_seeds = min(interval.n_seeds for interval in found)
    few = f", but {n_seeds} seed{'s tell' if n_seeds > 1 else ' tells'} little" if n_seeds < FEW_SEEDS else ""
    if holds:
        return f"{'agrees with the paper' if expectation.paper else 'as expected'}{few}: {numbers}"
    if fails:
        return f"{'DISAGREES with the paper' if expectation.paper else 'NOT as expected'}{few}: {numbers}"
    return f"undecided, {'the intervals overlap' if expectation.variant is None else 'seeds differ'}: {numbers}"


def _scores(expectation: Expectation, runs: Sequence[RunResult]) -> np.ndarray:
    """What an expectation is about, of each seed, ``(n_seeds, n_tasks or 1)``."""
    if expectation.result is not None:
        return _found(runs, expectation.result)
    assert expectation.split is not None
    if expectation.reached is None:
        return task_scores(runs, expectation.split, _last_episode(runs))
    reached = _n_reached(runs, expectation.split)
    assert reached is not None, f"{expectation.claim}: the environment does not tell success"
    return np.array(reached)[:, None]


def has_own_results(experiment: Experiment, variants: Variants) -> bool:
    """
    :param experiment: an experiment
    :param variants: its finished runs by variant
    :return: whether there are others than those of another experiment
    """
    own = {run.variant for run in experiment.own_runs}
    return bool(own & set(variants))


def section(experiment: Experiment, variants: Variants, figures: Path, page: Path, results: Path = RESULTS) -> str:
    """
    :param experiment: an experiment
    :param variants: its finished runs by variant
    :param figures: folder of its figures
    :param page: the page that they are shown on
    :param results: where all results are
    :return: its part of the page, as Markdown
    """
    lines = [f"## {experiment.title}", f"({experiment.source})", experiment.about]
    if not has_own_results(experiment, variants):
        lines.append(f"Not run yet: `python -m benchmarks.run {experiment.name}`.")
        return "\n\n".join(line for line in lines if line) + "\n"
    table = studies_table(variants) if experiment.is_study else variants_table(variants, experiment.learned)
    lines.append(table.rstrip())
    verdicts = [f"- {one.claim}: {judge(one, variants, experiment.learned)}" for one in experiment.expectations]
    lines.append("\n".join(verdicts))
    for figure in [path for pattern in _SHOWN_FIGURES for path in sorted(figures.glob(pattern))]:
        path = Path(os.path.relpath(figure, page.parent)).as_posix()
        lines.append(f"![{figure.stem.replace('_', ' ')}]({path})")
    tables = [figures / name for name in ("summary.md", "per_task.md") if (figures / name).is_file()]
    links = [f"[{path.stem.replace('_', ' ')}]({Path(os.path.relpath(path, page.parent)).as_posix()})" for path in tables]
    if links:
        folder = Path(os.path.relpath(figures, page.parent)).as_posix()
        lines.append(f"Both kinds of actions, every episode and task: {', '.join(links)}; [all figures]({folder}).")
    done = {
        (run.variant, run.seed) for run in experiment.runs if run.seed in [one.seed for one in variants.get(run.variant, ())]
    }
    missing = [run.name for run in experiment.runs if (run.variant, run.seed) not in done]
    for run in experiment.runs:
        changed = run.changed_settings(run.results(results))
        if changed:
            lines.append(f"Left out: results of {run.name}, which had other settings than it has now ({', '.join(changed)}).")
    if missing:
        lines.append(f"Without results so far (not run, or not to the end): {', '.join(missing)}.")
    lines.append(f"```bash\npython -m benchmarks.run {experiment.name}\npython -m benchmarks.figures {experiment.name}\n```")
    return "\n\n".join(line for line in lines if line) + "\n"


def results_page(results: Path = RESULTS, figures: Path = FIGURES, page: Path = PAGE, draw: bool = True) -> str:
    """
    :param results: where all results are
    :param figures: where all figures are
    :param page: where the page will be
    :param draw: whether to draw the figures again
    :return: the page, as Markdown
    """
    parts = [
        "# Results\n",
        "Made by `python -m benchmarks.report` from the files in `benchmarks/results`. Returns are those of the last episode "
        "of a meta-episode, and in the last columns (paper, Appendix F) of the first one, actions sampled: means over tasks, "
        "then interquartile means over seeds (of fewer than four, means) with 95% bootstrap intervals, for which whole seeds "
        "are resampled. Of two, three or four seeds such an interval is little else than their range: it holds the true "
        "median in about 50, 75 or 88% of the cases, not in 95%, and two of them do not overlap, though there is no "
        "difference, in about 33, 10 or 3%. What is said of an expectation rests on such intervals; expectations that the "
        "paper does not have are our own. Numbers of solved tasks: mean and "
        "standard deviation over seeds, at the end of training and on average over the evaluations of its second half. "
        "Minutes are of one core; of older runs, which did not count them, they are wall time.\n",
    ]
    experiments = [load_experiment(name) for name in available_experiments()]
    parts.append(budget_section(experiments, results))
    for experiment in experiments:
        name, variants = experiment.name, load_variants(experiment, results)
        if draw and has_own_results(experiment, variants):
            draw_experiment(experiment, results, figures)
        parts.append(section(experiment, variants, figures / name, page, results))
    return "\n".join(part for part in parts if part)


def budget_section(experiments: Sequence[Experiment], results: Path = RESULTS) -> str:
    """
    :param experiments: all experiments, the most valuable ones first
    :param results: where all results are
    :return: what they took so far and would still take, as Markdown
    """
    paces: dict[tuple[str, str], list[float]] = {}
    spent: dict[str, float] = {}
    for experiment in experiments:
        for run in [run for run in experiment.finished(results) if run in experiment.own_runs]:
            state = load_metadata(run.results(results) / RUN_FILE)
            hours = core_hours(state)
            if hours is not None:
                spent[experiment.name] = spent.get(experiment.name, 0.0) + hours
                paces.setdefault((run.algo, run.env), []).append(hours / state["frames"])
    rows = []
    total = cumulative = 0.0
    within: list[str] = []
    all_known = True
    for experiment in experiments:
        done = experiment.finished(results)
        waiting = [run for run in experiment.own_runs if run not in done]
        left = sum(run.n_timesteps * _pace(run, paces) for run in waiting)
        known = not np.isnan(left)
        left = left if known else 0.0
        total += left
        own_spent = spent.get(experiment.name, 0.0)
        cumulative += (own_spent + left) / N_CORES
        all_known = all_known and known
        if cumulative <= SUITE_HOURS and all_known:
            within.append(experiment.title)
        n_own = len(experiment.own_runs)
        cells = [experiment.title, f"{n_own - len(waiting)} of {n_own}", f"{own_spent:.1f}"]
        rows.append([*cells, f"{left:.1f}" if known else "-", f"{cumulative:.1f}"])
    text = (
        "In the order in which `python -m benchmarks.run all` trains them, the most valuable ones first. Hours to go are "
        "estimated from the runs that have ended, of the same algorithm where there are any; of environments without a run "
        f"they are not known (-). What is known takes about {total / N_CORES:.0f} more hours of two cores. From nothing two "
        f"cores need {'' if all_known else 'at least '}{cumulative:.0f} hours for all; in {SUITE_HOURS} hours they train "
        f"{', '.join(within) or 'less than the first experiment'}. More would first add "
        "seeds (`seeds` in an experiment's file, eight in the paper's main results) and the paper's budgets of 50 to 200 "
        "million frames."
    )
    header = ["experiment", "runs finished", "core hours so far", "core hours to go", "two cores, from nothing, hours"]
    return "\n\n".join(["## Budget", text, markdown_table(header, rows, "lrrrr")])


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
