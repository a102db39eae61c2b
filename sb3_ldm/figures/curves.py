"""What happens over training (paper, Figure 3 and 7)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sb3_ldm.figures.plan import (
    MUTED,
    Drawing,
    NothingToDraw,
    Plan,
    evaluated_groups,
    evaluations_of,
    folders,
    has_successes,
    number,
    parts_of_test,
    references_of,
)
from sb3_ldm.results import PROGRESS_FILE, RunResult
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE
from sb3_ldm.results.summary import format_timesteps, ordered_splits, split_name

#: Share of the longest curve that a moving average may span; short runs are shown as they are.
_MOST_SMOOTHED = 0.25
_PANEL_HEIGHT, _LEGEND_ROW = 2.4, 0.2  # inches


SeedCurve = tuple[np.ndarray, np.ndarray]  #: training steps and values of one seed


class Curve(NamedTuple):
    """A quantity over training, over the seeds of a group."""

    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray  #: zero for a single seed


def learning_curves(plan: Plan) -> Drawing:
    """
    Returns in the last episode of the meta-episode over training, in the locomotion domains also in the first (dotted), and
    the unseen goals that it does not reach (Fig. 3, 7); those between the training tasks and outside of them apart (Fig. 6).

    :param plan: what to draw
    :return: one figure
    """
    groups = evaluated_groups(plan, lambda run: run.evaluations, EVALUATIONS_FILE)
    runs = [run for members in groups.values() for run in members]
    named = dict.fromkeys([*ordered_splits(runs), *parts_of_test(plan)])
    splits = [split for split in named if any(len(evaluations_of(run, split, plan)) for run in runs)]
    missed = [split for split in splits if split != "train" and all(has_successes(run, split, plan) for run in runs)][:1]
    if set(parts_of_test(plan)) & set(splits):
        splits = [split for split in splits if split != "test"]
    window = smoothing_window(
        (np.unique(evaluations_of(run, split, plan).timesteps) for run in runs for split in splits), plan.window
    )
    figure, axes = _panels(len(splits) + len(missed), window)
    last_episode = max(run.episodes_per_task for run in runs)
    for axis, split in zip(axes, splits, strict=False):
        axis.set_title(f"{split_name(split).capitalize()} tasks")
        axis.set_ylabel(f"return in episode {last_episode}")
    for axis, split in zip(axes[len(splits) :], missed, strict=True):
        axis.set_title(f"{split_name(split).capitalize()} goals not reached")
        n_tasks = max(evaluations_of(run, split, plan).n_tasks for run in runs)
        axis.set_ylabel(f"of {n_tasks}, in episode {last_episode}")
        axis.set_ylim(-0.02 * n_tasks, 1.05 * n_tasks)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    # Where nothing tells that a goal was found, the first episode shows what is gained by adapting.
    adapts = plan.tasks is not None and last_episode > 1 and not any(has_successes(run, splits[-1], plan) for run in runs)
    for label, members in groups.items():
        colour = plan.colour(label)
        for axis, split in zip(axes, splits, strict=False):
            tables = [evaluations_of(run, split, plan) for run in members]
            draw_curve(axis, [t.over_time(t.returns) for t in tables if len(t)], window, colour)
            if adapts:
                tables = [evaluations_of(run, split, plan, episode=1) for run in members]
                draw_curve(axis, [t.over_time(t.returns) for t in tables if len(t)], window, colour, style=":")
        for axis, split in zip(axes[len(splits) :], missed, strict=True):
            tables = [evaluations_of(run, split, plan) for run in members]
            draw_curve(axis, [t.over_time((1.0 - t.successes) * t.n_tasks) for t in tables if len(t)], window, colour)
    _begin_at_zero(axes)
    _draw_references(axes, splits, runs, plan)
    first = [Line2D([], [], color=MUTED, linestyle=":", label="episode 1")] if adapts else []
    _draw_legend(figure, groups, plan, first)
    yield "learning_curves", figure


def _panels(count: int, window: float) -> tuple[Figure, list[Axes]]:
    """A row of panels with the training steps below each, and what moving averages span; a legend makes the figure higher."""
    figure = Figure(figsize=(3.2 * count, _PANEL_HEIGHT), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for axis in axes:
        axis.set_xlabel(timesteps_label(window))
        show_timesteps(axis)
    return figure, axes


def timesteps_label(window: float) -> str:
    """
    :param window: training steps that moving averages span
    :return: what stands below an axis of training steps
    """
    return "frames" + (f" (means of the last {format_timesteps(window)})" if window else "")


def show_timesteps(axis: Axes) -> None:
    """
    Write training steps below an axis as people do.

    :param axis: whose x are training steps
    """
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_timesteps(value)))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.margins(x=0.02)


def draw_curve(axis: Axes, seeds: Sequence[SeedCurve], window: float, colour: str, style: str = "-") -> None:
    """
    Draw the mean over seeds and, around it, their standard deviation.

    :param axis: where to
    :param seeds: curves of seeds; those without a point are left out
    :param window: training steps that moving averages span
    :param colour: of the curve
    :param style: of the line
    """
    seeds = [seed for seed in seeds if len(seed[0])]
    if not seeds:
        return
    curve = average_curves(seeds, window)
    marker = "o" if len(curve.steps) < 6 else None
    axis.plot(curve.steps, curve.mean, style, color=colour, marker=marker, markersize=3)
    axis.fill_between(curve.steps, curve.mean - curve.std, curve.mean + curve.std, color=colour, alpha=0.18, linewidth=0)


def smoothing_window(curves: Iterable[np.ndarray], n_points: int) -> float:
    """
    How much of training the moving averages of a figure span: of all its curves, some of which have more points than others.

    :param curves: the training steps of each
    :param n_points: how many points of the sparsest curve
    :return: training steps, 0 for no average
    """
    drawn = [steps for steps in curves if len(steps) > 1]
    window = n_points * max((float(np.median(np.diff(steps))) for steps in drawn), default=0.0)
    return window if window <= _MOST_SMOOTHED * max((steps[-1] for steps in drawn), default=0.0) else 0.0


def average_curves(seeds: Sequence[SeedCurve], window: float = 0.0) -> Curve:
    """
    Average curves over seeds, where all of them have values.

    :param seeds: training steps and values of each seed, at least one point each
    :param window: training steps that the (trailing) moving average spans
    :return: mean and standard deviation over the seeds
    """
    start = max(steps[0] for steps, _ in seeds)
    end = min(steps[-1] for steps, _ in seeds)
    grid = np.unique(np.concatenate([steps for steps, _ in seeds]))
    grid = grid[(grid >= start) & (grid <= end)]
    values = np.stack([np.interp(grid, steps, _smooth(steps, values, window)) for steps, values in seeds])
    std = values.std(axis=0, ddof=1) if len(seeds) > 1 else np.zeros(len(grid))
    return Curve(grid, values.mean(axis=0), std)


def _smooth(steps: np.ndarray, values: np.ndarray, window: float) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.minimum(np.searchsorted(steps, steps - window, side="right"), ends - 1)
    return (total[ends] - total[starts]) / (ends - starts)


def _begin_at_zero(axes: Sequence[Axes]) -> None:
    # Not before all curves are drawn: the axes' other end would stay where it is.
    for axis in axes:
        axis.set_xlim(left=0.0)


def _draw_references(axes: Sequence[Axes], splits: Sequence[str], runs: Sequence[RunResult], plan: Plan) -> None:
    """Dashed lines for what is known of returns, and the same limits for all splits where that is the best and the worst."""
    references = []
    for axis, split in zip(axes, splits, strict=False):
        tasks = np.concatenate([evaluations_of(run, split, plan).tasks for run in runs])
        references.append(references_of(runs[0], tasks, plan.tasks))
        for place, (name, value) in enumerate(references[-1].items()):
            _draw_reference(axis, value, name, above=place == 0)
    values = [value for one in references for value in one.values()]
    if min(map(len, references)) > 1:
        room = 0.13 * (max(values) - min(values))
        for axis, _ in zip(axes, splits, strict=False):
            axis.set_ylim(min(values) - room, max(values) + room)


def _draw_reference(axis: Axes, value: float, name: str, above: bool) -> None:
    axis.axhline(value, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axis.annotate(
        f"{name} {number(value)}",
        (1.0, value),
        xycoords=axis.get_yaxis_transform(),
        xytext=(0, 2 if above else -2),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        fontsize=7,
        color=MUTED,
    )


def _draw_legend(figure: Figure, groups: Mapping[str, Sequence[RunResult]], plan: Plan, extra: Sequence[Any] = ()) -> None:
    handles: list[Any] = []
    for label, members in groups.items():
        seeds = f"{len(members)} seed{'s' if len(members) > 1 else ''}"
        handles.append(Line2D([], [], color=plan.colour(label), linewidth=2.5, label=f"{plan.name(label)} ({seeds})"))
    handles += extra
    # As many columns as fit: about 0.07 inch a letter, and the line before it.
    width = 0.5 + 0.07 * max(len(handle.get_label()) for handle in handles)
    ncols = max(1, int(figure.get_figwidth() / width))
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * -(-len(handles) // ncols))
    figure.legend(handles=handles, loc="outside upper left", ncols=ncols, handlelength=1.4, columnspacing=1.6)


def imagination(plan: Plan) -> Drawing:
    """
    Imagination over training: share of mixtures (before any are rejected) that peak on unseen tasks, how high they peak, and
    the policy's return on the imaginary tasks that workers got.

    :param plan: what to draw
    :return: one figure, with a panel for each of these that was logged
    """
    last = max(run.episodes_per_task for run in plan.runs)
    returns: dict[str, Any] = {f"imagination/return_{last}": "-", **({"imagination/return_1": ":"} if last > 1 else {})}
    panels: list[tuple[str, str, dict[str, str]]] = [
        ("Mixtures that peak on unseen tasks", "share (rejected ones too)", {"imagination/share_unseen": "-"}),
        ("Peak of the reward maps", "imaginary reward", {"imagination/peak_reward": "-"}),
        ("Return on imaginary tasks", "imaginary return", returns),
    ]
    panels = [panel for panel in panels if any(_has_logged(run, panel[2]) for run in plan.runs)]
    if not panels:
        raise NothingToDraw(f"no columns imagination/... in {PROGRESS_FILE} of {folders(plan.runs)}")
    columns = {name: style for _, _, names in panels for name, style in names.items()}
    groups = {
        label: [run for run in members if _has_logged(run, columns)]
        for label, members in plan.groups.items()
        if any(_has_logged(run, columns) for run in members)
    }
    window = smoothing_window((_imagined(run, name)[0] for run in plan.runs for name in columns), plan.window)
    figure, axes = _panels(len(panels), window)
    for axis, (title, quantity, names) in zip(axes, panels, strict=True):
        axis.set(title=title, ylabel=quantity)
        if "imagination/share_unseen" in names:
            axis.set_ylim(-0.03, 1.03)
        for label, members in groups.items():
            for name, style in names.items():
                draw_curve(axis, [_imagined(run, name) for run in members], window, plan.colour(label), style)
    _begin_at_zero(axes)
    episodes = [
        Line2D([], [], color=MUTED, linestyle=style, label=f"episode {name.rpartition('_')[2]}")
        for name, style in returns.items()
        if name in columns and len(returns) > 1
    ]
    _draw_legend(figure, groups, plan, episodes)
    yield "imagination", figure


def _imagined(run: RunResult, name: str) -> SeedCurve:
    """What was logged while workers imagined: returns that were logged without are those of the tasks that they had before."""
    steps, values = run.logged(name)
    if "/return_" not in name:
        return steps, values
    all_steps, shares = run.logged("imagination/share_imagining")
    known = ~np.isin(steps, all_steps[shares == 0.0])
    return steps[known], values[known]


def _has_logged(run: RunResult, names: Iterable[str]) -> bool:
    return any(len(run.logged(name)[0]) > 0 for name in names)
