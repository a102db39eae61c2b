"""Do agents reach more unseen tasks where more of them are imagined? Asked of all runs of LDM on the gridworld."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

from benchmarks.experiment import Experiment
from benchmarks.statistics import n_imagined_in_second_half, n_reached
from benchmarks.verdicts import Variants
from sb3_ldm.figures import MUTED, STYLE, Plan
from sb3_ldm.results import RunResult
from sb3_ldm.summary import format_frames

ENV_ID = "GridNavi-v0"
N_UNSEEN = 27  #: unseen goals of it
FIGURE = "imagined_and_reached.png"
_MARKERS = "os^D"
_LEAST_RUNS = 5  # that a correlation is told of


class Point(NamedTuple):
    """A run of LDM."""

    run: RunResult
    title: str  #: of its experiment
    imagined: float  #: different unseen goals that mixtures promise most at a time, in the second half of training
    reached: float  #: unseen goals that the agent reaches at the end


def imagined_and_reached(experiments: Sequence[Experiment], found: Mapping[str, Variants]) -> list[Point]:
    """
    :param experiments: all experiments
    :param found: their finished runs by variant, by their names
    :return: a point for each run on the gridworld that imagined, each run once
    """
    points: dict[Path, Point] = {}
    for experiment in experiments:
        own = {run.variant for run in experiment.own_runs}
        for run in [run for variant, members in found[experiment.name].items() if variant in own for run in members]:
            if run.env != ENV_ID or run.final_evaluation is None:
                continue
            imagined, reached = n_imagined_in_second_half(run), n_reached([run], "test")
            if imagined is not None and reached is not None:
                points[run.path] = Point(run, experiment.title, imagined, reached[0])
    return list(points.values())


def by_budget(points: Sequence[Point]) -> dict[str, list[Point]]:
    """
    :param points: of runs
    :return: those of about as many frames, shorter runs first
    """
    groups: dict[float, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.run.frames):
        group = next((frames for frames in groups if point.run.frames <= 1.3 * frames), point.run.frames)
        groups.setdefault(group, []).append(point)
    return {format_frames(frames): members for frames, members in groups.items()}


def draw(points: Sequence[Point]) -> Figure:
    """
    :param points: of runs
    :return: what is imagined against what is reached, a kind of marker for each budget, a colour for each experiment
    """
    titles = list(dict.fromkeys(point.title for point in points))
    colours = Plan({title: [point.run for point in points if point.title == title] for title in titles}, None, False, 1, {})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axis = figure.subplots()
        for marker, (frames, members) in zip(_MARKERS, by_budget(points).items(), strict=False):
            axis.plot([], [], marker, color=MUTED, label=f"{frames} frames")
            for point in members:
                axis.plot(point.imagined, point.reached, marker, color=colours.colour(point.title), markersize=6, alpha=0.85)
        for title in titles:
            axis.plot([], [], color=colours.colour(title), linewidth=4, label=title)
        axis.set_xlabel(f"unseen goals imagined (of {N_UNSEEN}), second half of training")
        axis.set_ylabel(f"unseen goals reached (of {N_UNSEEN})")
        axis.set_xlim(0, N_UNSEEN)
        axis.set_ylim(0, N_UNSEEN)
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_locator(MaxNLocator(9, integer=True))
        figure.legend(loc="outside right upper", fontsize=7)
    return figure


def section(points: Sequence[Point], figure: str) -> str:
    """
    :param points: of runs
    :param figure: where the figure is, from the page
    :return: the part of the results' page, as Markdown, empty without enough runs
    """
    told = []
    for frames, members in by_budget(points).items():
        if len(members) >= _LEAST_RUNS:
            correlation = spearmanr([point.imagined for point in members], [point.reached for point in members]).statistic
            told.append(f"{correlation:.2f} over {len(members)} runs of about {frames} frames")
    if not told:
        return ""
    text = (
        "Every run of LDM on the gridworld that imagined, whatever its options: on how many different unseen goals the "
        "largest rewards of 256 mixtures are (before any are rejected; on average over the second half of training, looked at "
        "every 100,000 frames), and how many unseen goals the agent reaches in the last episode at the end, actions sampled. "
        f"Rank correlation (Spearman's): {'; '.join(told)}. This was found by looking at the runs, which share seeds and "
        "differ in options and code: it says where to look, not what causes what."
    )
    return "\n\n".join(["## What is imagined and what is reached", text, f"![imagined and reached]({figure})"]) + "\n"
