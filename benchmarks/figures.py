"""
Draw what an experiment has so far: ``python -m benchmarks.figures <experiment>``. Figures and tables go to
``benchmarks/figures/<experiment>``: those of ``sb3_ldm.figures``, the comparison of all variants with intervals, and a table
of every task.
"""

import argparse
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.experiment import Experiment
from benchmarks.experiment_file import available_experiments, load_experiment
from benchmarks.tables import RESULTS, load_results
from sb3_ldm.command import run_command
from sb3_ldm.envs.registration import TASKS
from sb3_ldm.envs.tasks import DOING_NOTHING
from sb3_ldm.figures import MUTED, STYLE, Plan, draw_figures, references_of
from sb3_ldm.figures.curves import draw_curve, show_timesteps, smoothing_window, timesteps_label
from sb3_ldm.figures.draw import save_figure
from sb3_ldm.figures.plan import evaluations_of
from sb3_ldm.results import RunResult
from sb3_ldm.results.statistics import iqm_interval, last_episode, task_scores
from sb3_ldm.results.summary import markdown_table, ordered_splits, split_name

FIGURES = Path(__file__).parent / "figures"
#: Shown by RESULTS.md where an experiment has them, in this order.
SHOWN = ("comparison*.png", "learning_curves.png", "return_map.png", "reward_maps*.png", "imagination.png", "paths*.png")
#: Of ablations, which have many variants.
SHOWN_OF_ABLATIONS = ("comparison*.png", "against_baseline.png")
_ROOT = Path(__file__).parents[1]
_PAGES = (_ROOT / "README.md", *(_ROOT / "docs").glob("*.md"), _ROOT / "benchmarks/README.md")  # which show others
_JUDGED = ("test", "eval")  # splits that the paper's curves show, the last of them that there is
_SMOOTHED = 5  # evaluations, as in the paper
_PANELS_A_ROW = 4


def load_variants(experiment: Experiment, results: Path = RESULTS) -> dict[str, list[RunResult]]:
    """:return: its finished runs by variant, seeds in order; variants without any are left out"""
    variants: dict[str, list[RunResult]] = {variant: [] for variant in experiment.variants}
    for run in experiment.finished(results):
        variants[run.variant].append(load_results(results / run.experiment)[run.name])
    return {variant: runs for variant, runs in variants.items() if runs}


def comparison(experiment: Experiment, variants: Mapping[str, list[RunResult]], deterministic: bool = False) -> Figure:
    """
    Returns in the first and in the last episode: interquartile means over seeds, with their intervals.

    :param deterministic: whether actions are the most likely ones
    :return: a panel for each split
    """
    runs = [run for members in variants.values() for run in members]
    splits, last = ordered_splits(runs), last_episode(runs)
    plan = Plan(variants, None, deterministic, 1, experiment.labels)
    dashed = ""
    with mpl.rc_context(STYLE):
        # The least height leaves room for the titles above a single variant.
        figure = Figure(figsize=(3.4 * len(splits), max(1.6, 0.7 + 0.34 * len(variants))), layout="constrained")
        for axis, split in zip(figure.subplots(1, len(splits), squeeze=False, sharey=True)[0], splits, strict=True):
            for y, (variant, members) in enumerate(variants.items()):
                colour = plan.colour(variant)
                for episode, face, alpha in ((1, "white", 0.5), (last, colour, 1.0)):
                    interval = iqm_interval(task_scores(members, split, episode, deterministic))
                    axis.plot([interval.low, interval.high], [y, y], color=colour, linewidth=3, alpha=alpha)
                    axis.plot(interval.point, y, "o", color=colour, markerfacecolor=face, markersize=5)
            if runs[0].final_evaluation is not None and runs[0].env in TASKS:
                references = references_of(runs[0], runs[0].final_evaluation.select(split).tasks, TASKS[runs[0].env]())
                if DOING_NOTHING in references:
                    axis.axvline(references[DOING_NOTHING], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
                    dashed = f"; dashed: {DOING_NOTHING}"
            axis.set(title=f"{split_name(split)} tasks", xlabel="return", ylim=(len(variants) - 0.5, -0.5))
            axis.set_yticks(range(len(variants)), [f"{plan.name(name)} ({len(variants[name])})" for name in variants])
            axis.grid(axis="y", visible=False)
        figure.suptitle(
            f"episode {last} (filled) and 1 (hollow): (interquartile) means over seeds, whose number is in brackets, and\n"
            f"bootstrap intervals, which are the range of few seeds{dashed}",
            fontsize=8,
        )
    return figure


def curves_against_baseline(experiment: Experiment, variants: Mapping[str, list[RunResult]]) -> Figure | None:
    """
    Learning curves on unseen tasks, last episode, actions sampled: a panel for each variant, over what the baseline has with
    the same seeds.

    :return: the panels, None if no run was evaluated on unseen tasks while it was trained
    """
    assert experiment.baseline is not None, f"{experiment.name} has no baseline"
    baseline = variants[experiment.baseline]
    others = {variant: members for variant, members in variants.items() if members is not baseline}
    runs = [run for members in variants.values() for run in members if run.evaluations is not None]
    splits = [one for one in ordered_splits(runs) if one in _JUDGED]
    if not splits:
        return None
    split = splits[-1]
    plan = Plan(variants, None, False, _SMOOTHED, experiment.labels)
    window = smoothing_window((np.unique(evaluations_of(run, split, plan).timesteps) for run in runs), plan.window)
    n_rows = -(-len(others) // _PANELS_A_ROW)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.6 + 1.75 * n_rows), layout="constrained")
        axes = figure.subplots(n_rows, _PANELS_A_ROW, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(others) :]:
            axis.set_axis_off()
        for axis, (variant, members) in zip(axes.flat, others.items(), strict=False):
            shared = {run.seed for run in members} & {run.seed for run in baseline}
            for runs_of, colour in ((baseline, MUTED), (members, plan.colour(variant))):
                drawn = [run for run in runs_of if run.seed in shared and run.evaluations is not None]
                tables = [evaluations_of(run, split, plan) for run in drawn]
                draw_curve(axis, [table.over_time(table.returns) for table in tables if len(table)], window, colour)
            axis.set_title("\n".join(wrap(f"{plan.name(variant)} ({len(shared)})", 32)), fontsize=8)
            show_timesteps(axis)
            axis.tick_params(labelbottom=True, labelsize=7)
        axes[0, 0].set_xlim(left=0.0)
        figure.supxlabel(timesteps_label(window), fontsize=8)
        figure.supylabel(f"{split_name(split)} return, episode {last_episode(runs)}", fontsize=8)
        figure.suptitle(
            f"grey: {plan.name(experiment.baseline)}, the same seeds; in brackets how many; shaded: standard deviation",
            fontsize=8,
        )
    return figure


def task_table(experiment: Experiment, variants: Mapping[str, Sequence[RunResult]], split: str, episode: int) -> str:
    """
    :param episode: index of the episode, from 1, in which actions are sampled
    :return: mean return over the seeds on each task, as Markdown
    """
    scores = {variant: task_scores(members, split, episode).mean(0) for variant, members in variants.items()}
    first = next(iter(variants.values()))[0]
    assert first.final_evaluation is not None
    table = first.final_evaluation.select(split, False, episode)
    tasks, _ = table.per_task(table.returns)
    names = [", ".join(f"{value:.3g}" for value in task) for task in tasks]
    rows = [[name, *(f"{values[i]:.2f}" for values in scores.values())] for i, name in enumerate(names)]
    return markdown_table(["task", *map(experiment.label, scores)], rows, "l" + "r" * len(scores))


def shown(experiment: Experiment) -> list[str]:
    """:return: patterns of its figures that the pages of the repository show"""
    pages = "".join(page.read_text(encoding="utf-8") for page in _PAGES if page.is_file())
    linked = re.findall(rf"\(\S*figures/{re.escape(experiment.name)}/([^/)]+\.png)\)", pages)
    return [*(SHOWN if experiment.baseline is None else SHOWN_OF_ABLATIONS), *linked]


def draw_experiment(experiment: Experiment, results: Path = RESULTS, out: Path = FIGURES) -> list[Path]:
    """
    :param out: where the figures of all experiments are; in the repository's folder only those stay that its pages show
    :return: the files that were written; others of earlier figures are removed
    :raises ValueError: if no run is finished
    """
    variants = load_variants(experiment, results)
    if not variants:
        raise ValueError(f"No run of {experiment.name} is finished: python -m benchmarks.run {experiment.name}")
    runs = [run for members in variants.values() for run in members]
    folder = out / experiment.name
    written = draw_figures(runs, folder, label_by=("name",), names=experiment.labels)
    if not experiment.is_study:
        written += _compare(experiment, variants, folder)
    patterns = shown(experiment) if out.resolve() == FIGURES.resolve() else ["*"]
    written = [path for path in written if any(path.match(pattern) for pattern in (*patterns, "*.md"))]
    remove_figures(folder, keep=written)
    return written


def remove_figures(folder: Path, keep: Collection[Path] = ()) -> None:
    """Remove figures and tables of results that are no more, but those that have just been made."""
    for path in {*folder.glob("*.png"), *folder.glob("*.md")} - set(keep):
        path.unlink()


def _compare(experiment: Experiment, variants: Mapping[str, list[RunResult]], folder: Path) -> list[Path]:
    runs = [run for members in variants.values() for run in members]
    figures = {"comparison": comparison(experiment, variants)}
    if experiment.baseline in variants and len(variants) > 1:
        curves = curves_against_baseline(experiment, variants)
        figures |= {} if curves is None else {"against_baseline": curves}
    written = [folder / f"{name}.png" for name in figures]
    with mpl.rc_context(STYLE):  # has the resolution
        for path, figure in zip(written, figures.values(), strict=True):
            save_figure(figure, path)
    last, splits = last_episode(runs), ordered_splits(runs)
    tables = [f"## {split_name(split)} tasks\n\n{task_table(experiment, variants, split, last)}" for split in splits]
    header = f"# {experiment.title}: return in episode {last} on each task\n\nMeans over seeds, actions sampled.\n\n"
    (folder / "per_task.md").write_text(header + "\n".join(tables), encoding="utf-8")
    return [*written, folder / "per_task.md"]


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: the command line, that of the process by default"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="+", help=f"one or more of {', '.join(available_experiments())}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are")
    parser.add_argument("--out", type=Path, default=FIGURES, help="where figures are; elsewhere than by default, all of them")
    options = parser.parse_args(arguments)
    for name in options.experiment:
        print(*draw_experiment(load_experiment(name), options.results, options.out), sep="\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
