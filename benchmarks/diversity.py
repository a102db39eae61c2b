"""Do agents reach more unseen tasks where more of them are imagined? Asked of the gridworld's LDM with whatever options."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

from benchmarks.experiment import Experiment, Training
from benchmarks.verdicts import Variants
from sb3_ldm.figures import MUTED, STYLE, Plan
from sb3_ldm.results import RunResult
from sb3_ldm.results.statistics import n_reached
from sb3_ldm.results.summary import format_timesteps

ENV_ID = "GridNavi-v0"
N_UNSEEN = 27  #: unseen goals of it
FIGURE = "imagined_and_reached.png"
CONFIG = "ldm"  #: the preset that runs have, but for some of its options; others have other numbers of workers
_MARKERS = "os^Dv<>ph*"
_LEAST_RUNS = 8  # that a correlation is told of


class Point(NamedTuple):
    """A run of LDM."""

    run: RunResult
    title: str  #: of its experiment
    imagined: float  #: different unseen goals that mixtures promise most at a time, in the second half of training
    reached: float  #: unseen goals that the agent reaches at the end


def imagined_and_reached(experiments: Sequence[Experiment], found: Mapping[str, Variants]) -> list[Point]:
    """:return: a point for each run of the gridworld's preset that imagined"""
    points = []
    for experiment in experiments:
        own = {run.variant for run in experiment.own_runs if isinstance(run, Training) and run.config == CONFIG}
        for run in [run for variant, members in found[experiment.name].items() if variant in own for run in members]:
            steps, imagined = run.logged("imagination/distinct_unseen")
            late = imagined[steps > run.timesteps / 2]
            reached = n_reached([run], "test") if run.env == ENV_ID and len(late) else None
            if reached:
                points.append(Point(run, experiment.title, float(late.mean()), reached[0]))
    return points


def comparable(points: Sequence[Point]) -> dict[str, list[Point]]:
    """:return: those with the same seed and number of frames, by both, shorter runs first"""
    groups: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.run.timesteps, point.run.seed)):
        groups.setdefault(f"{format_timesteps(point.run.timesteps)}, seed {point.run.seed}", []).append(point)
    return groups


def draw(points: Sequence[Point]) -> Figure:
    """:return: what is reached against what is imagined, a marker for each budget and seed, a colour for each experiment"""
    titles = list(dict.fromkeys(point.title for point in points))
    colours = Plan({title: [point.run for point in points if point.title == title] for title in titles}, None, False, 1, {})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axis = figure.subplots()
        for marker, (name, members) in zip(cycle(_MARKERS), comparable(points).items(), strict=False):
            axis.plot([], [], marker, color=MUTED, label=name)
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
    """:return: the part of the results' page, as Markdown, empty without enough runs"""
    told = []
    for name, members in comparable(points).items():
        if len(members) >= _LEAST_RUNS:
            correlation = spearmanr([one.imagined for one in members], [one.reached for one in members]).statistic
            told.append(f"{correlation:.2f} ({name}, {len(members)} runs)")
    if not told:
        return ""
    text = (
        "Every run of the experiments above that has the preset of LDM on the gridworld, but for some options: on how many "
        "different unseen goals the largest rewards of 256 mixtures are (before any are rejected; on average over the second "
        "half of training, looked at every 100,000 frames), and how many unseen goals the agent reaches in the last episode "
        "at the end, actions sampled. Rank correlation (Spearman's) among runs of as many frames and the same seed: "
        f"{'; '.join(told)}. Many of these runs are the same agent up to where their options take effect, it was looked for "
        "afterwards, and seeds differ in both numbers: it says where to look, not what causes what."
    )
    return "\n\n".join(["## What is imagined and what is reached", text, f"![imagined and reached]({figure})"]) + "\n"
