"""Figures of finished runs, drawn from their result files only.

``python -m sb3_ldm.figures RUN_DIR [RUN_DIR ...] --out DIR`` draws whatever the folders allow. The files that it reads are
described in :mod:`sb3_ldm.results`, the figure numbers are those of the LDM paper.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sb3_ldm.envs import gridworld
from sb3_ldm.envs.gridworld import GridNaviTasks
from sb3_ldm.envs.locomotion import DOMAINS, HORIZON, domain_of
from sb3_ldm.locomotion_figures import paths_figure
from sb3_ldm.results import (
    EVALUATIONS_FILE,
    FINAL_FILE,
    PATHS_FILE,
    PROGRESS_FILE,
    REWARD_MAPS_FILE,
    TRAJECTORIES_FILE,
    EvaluationTable,
    RunResult,
    SavedRewardMaps,
    SavedTrajectories,
    group_runs,
    load_run,
)
from sb3_ldm.summary import display_name, format_frames, ordered_splits, split_name, summary_table

#: One colour an algorithm in every figure; told apart with any kind of colour vision.
COLOURS = {"ldm": "#d1495b", "rl2": "#2e6f9e", "varibad": "#3a8f6b", "mixreg": "#8d5fa8", "rl2 oracle": "#555555"}
COLOURS |= {"oracle": "#555555", "goal_oracle": "#9a9a9a"}
COLOURS |= {"ldm-paper": "#e08a3c", "ldm-release": "#b58900"}
_OTHER_COLOURS = ("#c98b1b", "#4fb3bf", "#7a5c3e", "#b0457b", "#6b7fd7", "#8a9a3b")

_INK = "#2b2b2b"
_MUTED = "#8c8c8c"
_EMPTY_CELL = "#f1f1f1"
_GRID_LINE = "#ffffff"
_PATH = ("#86b3e6", "#3c74b4", "#12325c")
_PATH_MAP = LinearSegmentedColormap.from_list("path", _PATH)
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
}
#: Tasks whose trajectories are drawn, for each group.
MAX_TRAJECTORIES = 4
#: Evaluations from which on a curve is smoothed; short runs are shown as they are.
_SMOOTH_FROM = 20


class NothingToDraw(ValueError):
    """The runs lack the files that a figure is drawn from."""


class Curve(NamedTuple):
    """A quantity over training, over the seeds of a group."""

    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray  #: zero for a single seed


class Plan(NamedTuple):
    """What all figures of one environment are drawn from."""

    groups: Mapping[str, list[RunResult]]  #: runs that differ in their seed, by label
    tasks: GridNaviTasks | None  #: of the gridworld, None for other environments
    deterministic: bool  #: which evaluations to draw
    window: int  #: of the moving average

    @property
    def runs(self) -> list[RunResult]:
        """All runs."""
        return [run for members in self.groups.values() for run in members]

    def colour(self, label: str) -> str:
        """
        :param label: a group
        :return: its colour, that of its algorithm if this is the only such group
        """
        if label in COLOURS:
            return COLOURS[label]
        algos = {name: members[0].label for name, members in self.groups.items()}
        algo = algos[label]
        if algo in COLOURS and list(algos.values()).count(algo) == 1:
            return COLOURS[algo]
        others = [name for name in self.groups if algos[name] not in COLOURS or list(algos.values()).count(algos[name]) > 1]
        return _OTHER_COLOURS[others.index(label) % len(_OTHER_COLOURS)]


Drawing = Iterator[tuple[str, Figure]]  #: stems of file names, and figures


def draw_figures(
    run_dirs: Sequence[str | Path],
    out: str | Path,
    only: Sequence[str] | None = None,
    label_by: Sequence[str] = ("algo",),
    actions: str | None = None,
    window: int = 5,
    file_format: str = "png",
) -> list[Path]:
    """
    Draw what the run folders allow, and write ``summary.md``.

    :param run_dirs: folders of runs; those that differ only in their seed become one line
    :param out: folder to write to; with several environments, one folder inside it for each
    :param only: names of figures (``"learning_curves"`` or ``"fig3"``, ...); None for all that can be drawn
    :param label_by: what tells groups of runs apart, see :func:`~sb3_ldm.results.group_runs`
    :param actions: draw evaluations with ``"sampled"`` or with ``"deterministic"`` actions; None for those that most runs have
    :param window: evaluations in the moving average of learning curves (the paper's 5); curves of fewer than 20
        evaluations are not smoothed
    :param file_format: ``"png"``, ``"svg"`` or ``"pdf"``
    :return: the files that were written
    :raises ValueError: if a wanted figure cannot be drawn or nothing can, naming what is missing
    """
    wanted = list(FIGURES) if only is None else list(dict.fromkeys(_figure_name(name) for name in only))
    if window < 1:
        raise ValueError(f"window={window}: average over at least 1 evaluation")
    runs = [load_run(path) for path in run_dirs]
    envs = list(dict.fromkeys(run.env for run in runs))
    written: list[Path] = []
    missing: list[str] = []
    for env in envs:
        members = [run for run in runs if run.env == env]
        folder = Path(out) / _slug(env) if len(envs) > 1 else Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        plan = Plan(group_runs(members, label_by), _grid_tasks(env), _choose_actions(members, actions), window)
        for name in wanted:
            try:
                written += _write(name, plan, folder, file_format)
            except NothingToDraw as error:
                missing.append(f"{name} of {env} ({error})")
    if missing and (only is not None or not written):
        raise ValueError(f"Cannot draw {'; '.join(missing)}")
    if any(run.last_evaluation is not None for run in runs):
        path = Path(out) / "summary.md"
        path.write_text(summary_table(runs, label_by), encoding="utf-8")
        written.append(path)
    return written


def _write(name: str, plan: Plan, folder: Path, file_format: str) -> list[Path]:
    written = []
    with mpl.rc_context(STYLE):
        for stem, figure in FIGURES[name](plan):
            written.append(folder / f"{stem}.{file_format}")
            figure.savefig(written[-1])
    return written


def _figure_name(name: str) -> str:
    resolved = ALIASES.get(name, name)
    if resolved not in FIGURES:
        raise ValueError(f"{name!r} is not a figure, choose of {', '.join([*FIGURES, *ALIASES])}")
    return resolved


def _slug(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9.=-]+", "_", text).strip("_")


def _grid_tasks(env: str) -> GridNaviTasks | None:
    """The gridworld's task distribution, None for any other environment, installed or not."""
    try:
        tasks = gym.make(env).get_wrapper_attr("task_distribution")
    except (gym.error.Error, AttributeError):
        return None
    return tasks if isinstance(tasks, GridNaviTasks) else None


def _choose_actions(runs: Sequence[RunResult], actions: str | None) -> bool:
    """Whether to draw the evaluations with deterministic actions."""
    if actions is not None:
        return actions == "deterministic"
    tables = [table.deterministic for run in runs for table in (run.evaluations or run.last_evaluation,) if table is not None]
    sampled, deterministic = ((sum((t == d).any() for t in tables), sum((t == d).sum() for t in tables)) for d in (0, 1))
    return bool(deterministic > sampled)


# Fig. 3 and 7


def learning_curves(plan: Plan) -> Drawing:
    """
    Returns in the last episode of the meta-episode over training, in the locomotion domains also in the first (dotted), and
    the unseen goals that it does not reach (Fig. 3, 7).

    :param plan: what to draw
    :return: one figure
    """
    groups = _having(plan, lambda run: run.evaluations, EVALUATIONS_FILE)
    runs = [run for members in groups.values() for run in members]
    splits = [split for split in ordered_splits(runs) if any(len(_table(run, split, plan)) for run in runs)]
    missed = [split for split in splits if split != "train" and all(_has_successes(run, split, plan) for run in runs)][:1]
    figure, axes = _panels(len(splits) + len(missed))
    last_episode = max(run.episodes_per_task for run in runs)
    for axis, split in zip(axes, splits, strict=False):
        axis.set_title(f"{split_name(split).capitalize()} tasks")
        axis.set_ylabel(f"return in episode {last_episode}")
    for axis, split in zip(axes[len(splits) :], missed, strict=True):
        axis.set_title(f"{split_name(split).capitalize()} goals not reached")
        n_tasks = max(_table(run, split, plan).n_tasks for run in runs)
        axis.set_ylabel(f"of {n_tasks}, in episode {last_episode}")
        axis.set_ylim(-0.02 * n_tasks, 1.05 * n_tasks)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    for label, members in groups.items():
        for axis, split in zip(axes, splits, strict=False):
            tables = [_table(run, split, plan) for run in members]
            _draw_curve(axis, [t.over_time(t.returns) for t in tables if len(t)], plan, label)
            if runs[0].env in DOMAINS:
                tables = [_table(run, split, plan, episode=1) for run in members]
                _draw_curve(axis, [t.over_time(t.returns) for t in tables if len(t)], plan, label, style=":")
        for axis, split in zip(axes[len(splits) :], missed, strict=True):
            tables = [_table(run, split, plan) for run in members]
            _draw_curve(axis, [t.over_time((1.0 - t.successes) * t.n_tasks) for t in tables if len(t)], plan, label)
    _draw_references(axes, splits, plan)
    first: list[Any] = []
    if runs[0].env in DOMAINS:
        _draw_do_nothing(axes, splits, runs, plan)
        first = [Line2D([], [], color=_MUTED, linestyle=":", label="episode 1")]
    _draw_legend(figure, groups, plan, first)
    yield "learning_curves", figure


def _having(plan: Plan, read: Callable[[RunResult], EvaluationTable | None], file: str) -> dict[str, list[RunResult]]:
    """The groups, without runs that were not evaluated with the kind of actions that is drawn."""
    groups: dict[str, list[RunResult]] = {}
    for label, members in plan.groups.items():
        for run in members:
            table = read(run)
            if table is not None and len(table.select(deterministic=plan.deterministic)):
                groups.setdefault(label, []).append(run)
    if not groups:
        raise NothingToDraw(f"no evaluations with {_actions_name(plan)} in {file} of {_folders(plan.runs)}")
    return groups


def _table(run: RunResult, split: str, plan: Plan, episode: int | None = None) -> EvaluationTable:
    """The evaluations in an episode of a meta-episode, the last one by default."""
    assert run.evaluations is not None
    return run.evaluations.select(split, plan.deterministic, run.episodes_per_task if episode is None else episode)


def _has_successes(run: RunResult, split: str, plan: Plan) -> bool:
    return _table(run, split, plan).has_successes


def _actions_name(plan: Plan) -> str:
    return "the most likely actions" if plan.deterministic else "sampled actions"


def _folders(runs: Sequence[RunResult]) -> str:
    return ", ".join(str(run.path) for run in runs)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A row of panels with the training steps below each."""
    figure = Figure(figsize=(3.2 * count, 2.8), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for axis in axes:
        axis.set_xlabel("frames")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_frames(value)))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.margins(x=0.02)
    return figure, axes


def _draw_curve(axis: Axes, seeds: Sequence[tuple[np.ndarray, np.ndarray]], plan: Plan, label: str, style: str = "-") -> None:
    seeds = [seed for seed in seeds if len(seed[0])]
    if not seeds:
        return
    curve, colour = average_curves(seeds, plan.window), plan.colour(label)
    marker = "o" if len(curve.steps) < 6 else None
    axis.plot(curve.steps, curve.mean, style, color=colour, marker=marker, markersize=3)
    axis.fill_between(curve.steps, curve.mean - curve.std, curve.mean + curve.std, color=colour, alpha=0.18, linewidth=0)
    axis.set_xlim(left=0.0)


def average_curves(seeds: Sequence[tuple[np.ndarray, np.ndarray]], window: int = 1) -> Curve:
    """
    Average curves over seeds, where all of them have values.

    :param seeds: training steps and values of each seed, at least one point each
    :param window: points in the (trailing) moving average of curves with at least 20 points
    :return: mean and standard deviation over the seeds
    """
    start = max(steps[0] for steps, _ in seeds)
    end = min(steps[-1] for steps, _ in seeds)
    grid = np.unique(np.concatenate([steps for steps, _ in seeds]))
    grid = grid[(grid >= start) & (grid <= end)]
    values = np.stack([np.interp(grid, steps, _smooth(values, window)) for steps, values in seeds])
    std = values.std(axis=0, ddof=1) if len(seeds) > 1 else np.zeros(len(grid))
    return Curve(grid, values.mean(axis=0), std)


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    if len(values) < _SMOOTH_FROM:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def best_return(tasks: np.ndarray, horizon: int = gridworld.HORIZON) -> float:
    """
    Return of an agent that knows the goal and goes straight there, averaged over tasks.

    :param tasks: goal cells, shape [n, 2]
    :param horizon: steps of an episode
    :return: the best possible mean return of one episode
    """
    way = np.asarray(tasks).sum(axis=1)
    return float((gridworld.GOAL_REWARD * (horizon - way + 1) + gridworld.STEP_REWARD * (way - 1)).mean())


def _draw_references(axes: Sequence[Axes], splits: Sequence[str], plan: Plan) -> None:
    """Dashed lines for the best possible and for never finding the goal, and the same limits for all splits."""
    if plan.tasks is None or any(split not in plan.tasks.splits for split in splits):
        return
    horizon = _horizon(plan)
    worst = gridworld.STEP_REWARD * horizon
    best = [best_return(plan.tasks.tasks(split), horizon) for split in splits]
    room = 0.13 * (max(best) - worst)
    for axis, value in zip(axes, best, strict=False):
        _draw_reference(axis, value, "best possible", above=True)
        _draw_reference(axis, worst, "never found", above=False)
        axis.set_ylim(worst - room, max(best) + room)


def _draw_do_nothing(axes: Sequence[Axes], splits: Sequence[str], runs: Sequence[RunResult], plan: Plan) -> None:
    """The return of a robot that stands still, on the tasks of each split that were evaluated."""
    domain = domain_of(runs[0].env)
    for axis, split in zip(axes, splits, strict=False):
        tasks = np.concatenate([_table(run, split, plan).tasks for run in runs])
        # Not the longest episode that was seen: the ant may always fall before the end.
        horizon = (runs[0].metadata.get("env_kwargs") or {}).get("horizon", HORIZON)
        value = float(domain.do_nothing_returns(np.unique(tasks, axis=0), horizon).mean())
        _draw_reference(axis, value, "doing nothing", above=True)


def _draw_reference(axis: Axes, value: float, name: str, above: bool) -> None:
    axis.axhline(value, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axis.annotate(
        f"{name} {_number(value)}",
        (1.0, value),
        xycoords=axis.get_yaxis_transform(),
        xytext=(0, 2 if above else -2),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        fontsize=7,
        color=_MUTED,
    )


def _number(value: float) -> str:
    return f"{value:.1f}".replace("-", "\N{MINUS SIGN}")


def _horizon(plan: Plan) -> int:
    """Steps of an episode; in the gridworld no episode is shorter."""
    tables = [run.last_evaluation for run in plan.runs]
    lengths = [table.lengths.max() for table in tables if table is not None]
    return int(max(lengths))


def _draw_legend(figure: Figure, groups: Mapping[str, Sequence[RunResult]], plan: Plan, extra: Sequence[Any] = ()) -> None:
    handles: list[Any] = []
    for label, members in groups.items():
        seeds = f"{len(members)} seed{'s' if len(members) > 1 else ''}"
        handles.append(Line2D([], [], color=plan.colour(label), linewidth=2.5, label=f"{display_name(label)} ({seeds})"))
    handles += extra
    # As many columns as fit: about 0.07 inch a letter, and the line before it.
    width = 0.5 + 0.07 * max(len(handle.get_label()) for handle in handles)
    ncols = max(1, int(figure.get_figwidth() / width))
    figure.legend(handles=handles, loc="outside upper left", ncols=ncols, handlelength=1.4, columnspacing=1.6)


# What is imagined over training


def imagination(plan: Plan) -> Drawing:
    """
    What mixture workers imagine over training: share of imaginary tasks that peak on unseen tasks, how high they peak, and
    the policy's return on them.

    :param plan: what to draw
    :return: one figure, with a panel for each of these that was logged
    """
    last = max(run.episodes_per_task for run in plan.runs)
    returns: dict[str, Any] = {f"imagination/return_{last}": "-", **({"imagination/return_1": ":"} if last > 1 else {})}
    panels: list[tuple[str, str, dict[str, str]]] = [
        ("Imagined tasks that are unseen", "share of reward maps", {"imagination/share_unseen": "-"}),
        ("Peak of the reward maps", "imaginary reward", {"imagination/peak_reward": "-"}),
        ("Return on imaginary tasks", "imaginary return", returns),
    ]
    panels = [panel for panel in panels if any(_has_logged(run, panel[2]) for run in plan.runs)]
    if not panels:
        raise NothingToDraw(f"no columns imagination/... in {PROGRESS_FILE} of {_folders(plan.runs)}")
    columns = {name: style for _, _, names in panels for name, style in names.items()}
    groups = {
        label: [run for run in members if _has_logged(run, columns)]
        for label, members in plan.groups.items()
        if any(_has_logged(run, columns) for run in members)
    }
    figure, axes = _panels(len(panels))
    for axis, (title, quantity, names) in zip(axes, panels, strict=True):
        axis.set(title=title, ylabel=quantity)
        if "imagination/share_unseen" in names:
            axis.set_ylim(-0.03, 1.03)
        for label, members in groups.items():
            for name, style in names.items():
                _draw_curve(axis, [run.logged(name) for run in members], plan, label, style)
    episodes = [
        Line2D([], [], color=_MUTED, linestyle=style, label=f"episode {name.rpartition('_')[2]}")
        for name, style in returns.items()
        if name in columns and len(returns) > 1
    ]
    _draw_legend(figure, groups, plan, episodes)
    yield "imagination", figure


def _has_logged(run: RunResult, names: Iterable[str]) -> bool:
    return any(len(run.logged(name)[0]) > 0 for name in names)


# Maps of the gridworld


def _draw_cells(axis: Axes, values: np.ndarray, cmap: str, norm: Normalize) -> None:
    """
    :param axis: where to draw
    :param values: a number for each cell, indexed [x, y], NaN for an empty cell
    :param cmap: colours
    :param norm: of the numbers
    """
    size = gridworld.SIZE
    edges = np.arange(size + 1) - 0.5
    axis.set_facecolor(_EMPTY_CELL)
    axis.pcolormesh(
        edges, edges, np.ma.masked_invalid(values.T), cmap=cmap, norm=norm, edgecolors=_GRID_LINE, linewidth=0.7, zorder=1
    )
    lines = [((e, -0.5), (e, size - 0.5)) for e in edges] + [((-0.5, e), (size - 0.5, e)) for e in edges]
    axis.add_collection(LineCollection(lines, colors=_GRID_LINE, linewidths=0.7, zorder=2))
    axis.set(aspect="equal", xlim=(-0.56, size - 0.44), ylim=(-0.56, size - 0.44), xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _outline(axis: Axes, cells: np.ndarray, colour: str = _INK, width: float = 1.1) -> None:
    """Draw the border between some cells and all others."""
    inside = {(int(x), int(y)) for x, y in cells}
    lines = []
    for x, y in inside:
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if (x + dx, y + dy) not in inside:
                # The side shared with that neighbour: from its middle, half a cell to both directions across.
                mx, my = x + dx / 2, y + dy / 2
                lines.append(((mx - dy / 2, my - dx / 2), (mx + dy / 2, my + dx / 2)))
    axis.add_collection(LineCollection(lines, colors=colour, linewidths=width, capstyle="projecting", zorder=3))


def _draw_cross(axis: Axes, cell: np.ndarray, size: float) -> None:
    """A cross that is seen on any colour."""
    for colour, extra in (("white", 1.6), (_INK, 0.0)):
        axis.plot(*cell, "x", color=colour, markersize=size + extra, markeredgewidth=1.6 + extra, zorder=6)


def _training_outline_handle() -> Patch:
    return Patch(facecolor="none", edgecolor=_INK, linewidth=1.1, label="training goals")


def _require_grid(plan: Plan) -> GridNaviTasks:
    if plan.tasks is None:
        raise NothingToDraw(f"{plan.runs[0].env} is not the gridworld")
    return plan.tasks


def _colour_bar(figure: Figure, axes: Sequence[Axes], cmap: str, norm: Normalize, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=list(axes), pad=0.015, aspect=16, fraction=0.05)
    bar.set_label(label)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=2)


# Fig. 6


def return_map(plan: Plan) -> Drawing:
    """
    Mean return for each goal cell in the final evaluation (or the last one), for each group and each episode (Fig. 6).

    :param plan: what to draw
    :return: one figure
    """
    tasks = _require_grid(plan)
    groups = _having(plan, lambda run: run.last_evaluation, f"{FINAL_FILE} or {EVALUATIONS_FILE}")
    episodes = max(run.episodes_per_task for members in groups.values() for run in members)
    horizon, goals = _horizon(plan), tasks.tasks("all")
    nearest = goals[[goals.sum(axis=1).argmin()]]
    norm = Normalize(gridworld.STEP_REWARD * horizon, best_return(nearest, horizon))
    cmap = "YlGnBu"
    figure = Figure(figsize=(1.75 * episodes + 1.1, 2.0 * len(groups) + 0.5), layout="constrained")
    axes = figure.subplots(len(groups), episodes, squeeze=False)
    for first, row, (label, members) in zip([True] + [False] * len(groups), axes, groups.items(), strict=False):
        row[0].set_ylabel(display_name(label), fontsize=10, color=plan.colour(label), fontweight="bold")
        for episode, axis in enumerate(row, start=1):
            returns, reached = _cell_means(members, episode, plan)
            _draw_cells(axis, returns, cmap, norm)
            _outline(axis, tasks.tasks("train"))
            _mark_reached(axis, reached, norm(np.nan_to_num(returns)) > 0.55)
            axis.set_title(_reached_counts(reached, tasks), fontsize=7, loc="center", pad=3)
            if first:
                axis.annotate(f"episode {episode}", (0.5, 1.0), (0, 15), "axes fraction", "offset points", ha="center")
    _colour_bar(figure, list(axes.flat), cmap, norm, "mean return")
    never = Line2D([], [], color=_INK, marker="x", linestyle="", markersize=4, label="never reached")
    sometimes = Line2D(
        [], [], color=_INK, marker="$33$", linestyle="", markersize=7, label="reached in % of the meta-episodes"
    )
    sometimes.set_markeredgewidth(0)
    figure.legend(handles=[_training_outline_handle(), never, sometimes], loc="outside lower left", ncols=3, fontsize=8)
    yield "return_map", figure


def _cell_means(runs: Sequence[RunResult], episode: int, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Mean return and share of successes of each goal cell over seeds and repetitions, NaN for a cell that was no task."""
    sums = np.zeros((3, gridworld.SIZE, gridworld.SIZE))
    for run in runs:
        assert run.last_evaluation is not None
        table = run.last_evaluation.select(deterministic=plan.deterministic, episode=episode)
        x, y = table.tasks.astype(int).T
        for total, column in zip(sums, (np.ones(len(table)), table.returns, table.successes), strict=True):
            np.add.at(total, (x, y), column)
    counts = np.where(sums[0] > 0, sums[0], np.nan)
    return sums[1] / counts, sums[2] / counts


def _mark_reached(axis: Axes, reached: np.ndarray, is_dark: np.ndarray) -> None:
    """A cross where the goal was never reached, the share in percent where it was reached by some."""
    for x, y in np.argwhere(reached < 1.0):
        if reached[x, y] == 0.0:
            axis.plot(x, y, "x", color=_INK, markersize=3.5, markeredgewidth=0.9, zorder=4)
        else:
            text, colour = f"{100 * reached[x, y]:.0f}", "white" if is_dark[x, y] else _INK
            axis.text(x, y, text, fontsize=5, ha="center", va="center_baseline", color=colour, zorder=4)


def _reached_counts(reached: np.ndarray, tasks: GridNaviTasks) -> str:
    parts = []
    for split in ("train", "test"):
        x, y = tasks.tasks(split).T
        shares = reached[x, y]
        if not np.isnan(shares).all():
            count = f"{np.nansum(shares):.1f}".removesuffix(".0")
            parts.append(f"{split_name(split)} {count}/{(~np.isnan(shares)).sum()}")
    return "  ".join(parts)


# Fig. 4


def reward_maps(plan: Plan) -> Drawing:
    """
    Some imaginary tasks: the mixture weights of the training tasks, and the reward map that they make (Fig. 4).

    :param plan: what to draw
    :return: a figure for each group that has reward maps, of its first seed
    """
    tasks = _require_grid(plan)
    chosen = {label: run for label, members in plan.groups.items() for run in members[::-1] if run.reward_maps is not None}
    if not chosen:
        raise NothingToDraw(f"no {REWARD_MAPS_FILE} in {_folders(plan.runs)}")
    for label, run in chosen.items():
        assert run.reward_maps is not None
        yield _stem("reward_maps", label, chosen), _reward_maps_figure(run.reward_maps, tasks, display_name(label))


def _stem(name: str, label: str, chosen: Mapping[str, RunResult]) -> str:
    return name if len(chosen) == 1 else f"{name}_{_slug(label)}"


def _reward_maps_figure(saved: SavedRewardMaps, tasks: GridNaviTasks, name: str, n_maps: int = 6) -> Figure:
    n_maps = min(n_maps, len(saved.maps))
    weights = np.full((n_maps, gridworld.SIZE, gridworld.SIZE), np.nan)
    x, y = saved.tasks.astype(int).T
    weights[:, x, y] = saved.weights[:n_maps]
    extrapolates = saved.weights.min() < 0.0
    top = float(np.abs(saved.weights[:n_maps]).max())
    weight_cmap, weight_norm = ("PuOr", Normalize(-top, top)) if extrapolates else ("Blues", Normalize(0.0, top))
    # Where nothing is promised yet, differences are noise and should look like it.
    shown = saved.maps[:n_maps]
    map_norm = Normalize(min(gridworld.STEP_REWARD, float(shown.min())), max(0.0, float(shown.max())))
    peaks = saved.peaks()

    figure = Figure(figsize=(1.45 * n_maps + 1.1, 3.6), layout="constrained")
    axes = figure.subplots(2, n_maps, squeeze=False)
    for i in range(n_maps):
        _draw_cells(axes[0, i], weights[i], weight_cmap, weight_norm)
        _draw_cells(axes[1, i], saved.maps[i], "Reds", map_norm)
        _draw_cross(axes[1, i], peaks[i], 6)
        for axis in axes[:, i]:
            _outline(axis, tasks.tasks("train"))
    axes[0, 0].set_ylabel("mixture weights")
    axes[1, 0].set_ylabel("reward map")
    _colour_bar(figure, axes[0], weight_cmap, weight_norm, "weight")
    _colour_bar(figure, axes[1], "Reds", map_norm, "reward")
    unseen = (peaks[:, None] == tasks.tasks("test")[None]).all(-1).any(1)
    # A single map is too narrow for one line.
    title = f"{name}:{' ' if n_maps > 2 else chr(10)}{unseen.sum()} of {len(unseen)} imagined tasks peak on an unseen goal"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    cross = Line2D([], [], color=_INK, marker="x", linestyle="", markersize=5, markeredgewidth=1.4, label="largest reward")
    figure.legend(handles=[_training_outline_handle(), cross], loc="outside lower left", ncols=3, fontsize=8)
    return figure


# Fig. 8a


def trajectories(plan: Plan) -> Drawing:
    """
    The path of the trained agent through the episodes of one task, over what the decoder believes (Fig. 8a).

    :param plan: what to draw
    :return: figures of up to :data:`MAX_TRAJECTORIES` of the saved tasks, evenly chosen, for each group's first seed
    """
    tasks = _require_grid(plan)
    chosen = {label: run for label, members in plan.groups.items() for run in members[::-1] if run.trajectories is not None}
    if not chosen:
        raise NothingToDraw(f"no {TRAJECTORIES_FILE} in {_folders(plan.runs)}")
    for label, run in chosen.items():
        assert run.trajectories is not None
        for i in _spread(len(run.trajectories.tasks), MAX_TRAJECTORIES):
            figure = _trajectory_figure(run.trajectories, i, tasks, display_name(label))
            yield f"{_stem('trajectory', label, chosen)}_{i}", figure


def _spread(count: int, limit: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, limit)).round().astype(int).tolist()))


def _trajectory_figure(saved: SavedTrajectories, index: int, tasks: GridNaviTasks, name: str) -> Figure:
    goal, positions = saved.tasks[index].astype(int), saved.positions[index]
    n_episodes = len(positions)
    beliefs = None if saved.beliefs is None else saved.beliefs[index]
    # Beliefs spread over many cells are small: the root makes them visible beside the certainty of later episodes.
    norm = PowerNorm(0.5, gridworld.STEP_REWARD, max(gridworld.GOAL_REWARD, 0.0 if beliefs is None else float(beliefs.max())))
    figure = Figure(figsize=(1.95 * n_episodes + (0.9 if beliefs is not None else 0.0), 2.75), layout="constrained")
    axes = figure.subplots(1, n_episodes, squeeze=False)[0]
    for episode, axis in enumerate(axes):
        empty = np.full((gridworld.SIZE, gridworld.SIZE), np.nan)
        _draw_cells(axis, empty if beliefs is None else np.maximum(beliefs[episode], gridworld.STEP_REWARD), "Reds", norm)
        _outline(axis, tasks.tasks("train"), _MUTED, 0.9)
        _draw_path(axis, positions[episode])
        _draw_cross(axis, goal, 7)
        total = gridworld.reward(positions[episode][1:], goal).sum()
        axis.set_title(f"episode {episode + 1}, return {_number(total)}", fontsize=8.5, loc="center")
    if beliefs is not None:
        _colour_bar(figure, list(axes), "Reds", norm, "expected reward")
    split = split_name(str(saved.splits[index]))
    figure.suptitle(f"{name}: {split} goal ({goal[0]}, {goal[1]})", x=0.01, ha="left", fontsize=10)
    handles: list[Any] = [
        Line2D([], [], color=_INK, marker="o", markerfacecolor="white", linestyle="", markersize=5, label="start"),
        Line2D([], [], color=_PATH[-1], marker="o", linestyle="", markersize=5, label="end"),
        Line2D([], [], color=_INK, marker="x", linestyle="", markersize=6, markeredgewidth=1.8, label="goal"),
        Patch(facecolor="none", edgecolor=_MUTED, linewidth=1.1, label="training goals"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=8)
    return figure


def _draw_path(axis: Axes, positions: np.ndarray) -> None:
    """The path from light to dark, on the right-hand side of its direction so that ways back stay visible."""
    points = _keep_right(positions)
    segments = list(np.stack([points[:-1], points[1:]], axis=1))
    time = np.arange(len(segments))
    axis.add_collection(LineCollection(segments, cmap=_PATH_MAP, array=time, linewidths=1.6, capstyle="round", zorder=4))
    axis.plot(*positions[0], "o", color=_INK, markerfacecolor="white", markersize=5, zorder=5)
    axis.plot(*positions[-1], "o", color=_PATH[-1], markersize=6, zorder=5)


def _keep_right(positions: np.ndarray, distance: float = 0.1) -> np.ndarray:
    """
    Shift a path to the right-hand side of its direction.

    :param positions: visited cells, shape [n, 2]; waiting is left out
    :param distance: how far, in cells
    :return: corners of the shifted path, shape [m, 2]
    """
    moves = np.diff(positions, axis=0)
    moving = moves.any(axis=1)
    joints, moves = positions[1:][moving], moves[moving]
    asides = distance * np.stack([moves[:, 1], -moves[:, 0]], axis=-1)
    if len(moves) == 0:
        return positions[[0, 0]].astype(float)
    points = [positions[0], positions[0] + asides[0]]
    for joint, move, turn, aside, next_aside in zip(joints, moves, moves[1:], asides, asides[1:], strict=False):
        if np.array_equal(move, -turn):
            points += [joint + aside, joint + next_aside]
        else:
            points.append(joint + (aside if np.array_equal(move, turn) else aside + next_aside))
    return np.array([*points, positions[-1] + asides[-1], positions[-1]])


# Fig. 8b to d


def paths(plan: Plan) -> Drawing:
    """
    Where the trained agent goes in the locomotion domains (Fig. 8b to d).

    :param plan: what to draw
    :return: a figure of each group's first seed
    """
    chosen = {label: run for label, members in plan.groups.items() for run in members[::-1] if run.paths is not None}
    if not chosen:
        raise NothingToDraw(f"no {PATHS_FILE} in {_folders(plan.runs)}")
    for label, run in chosen.items():
        assert run.paths is not None
        yield _stem("paths", label, chosen), paths_figure(run.paths, domain_of(run.env), display_name(label))


#: The figures by name; learning curves first, as most runs allow them.
FIGURES: dict[str, Callable[[Plan], Drawing]] = {
    "learning_curves": learning_curves,
    "return_map": return_map,
    "reward_maps": reward_maps,
    "trajectories": trajectories,
    "paths": paths,
    "imagination": imagination,
}
#: Numbers of the paper's figures.
ALIASES = {
    "fig3": "learning_curves",
    "fig4": "reward_maps",
    "fig6": "return_map",
    "fig7": "learning_curves",
    "fig8": "trajectories",
    "fig8a": "trajectories",
    "fig8b": "paths",
    "fig8c": "paths",
    "fig8d": "paths",
}


def main(argv: Sequence[str] | None = None) -> None:
    """
    The command ``python -m sb3_ldm.figures``.

    :param argv: its arguments, None for those of the process
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_ldm.figures", description="Draw figures of finished runs.")
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--out", default="figures", metavar="DIR", help="folder to write to (default: %(default)s)")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join([*FIGURES, *ALIASES])}")
    parser.add_argument(
        "--label-by", default="algo", metavar="KEY,...", help="what tells groups of runs apart: algo, path, a hyperparameter"
    )
    parser.add_argument("--actions", choices=("sampled", "deterministic"), help="which evaluations to draw")
    parser.add_argument(
        "--window", type=int, default=5, help="of the moving average of learning curves (default: %(default)s)"
    )
    parser.add_argument("--format", default="png", choices=("png", "svg", "pdf"), help="of the files (default: %(default)s)")
    args = parser.parse_args(argv)
    only = None if args.only is None else args.only.split(",")
    try:
        written = draw_figures(args.run_dirs, args.out, only, args.label_by.split(","), args.actions, args.window, args.format)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(path)
    for path in written:
        if path.name == "summary.md":
            print(f"\n{path.read_text(encoding='utf-8')}", end="")


if __name__ == "__main__":
    main()
