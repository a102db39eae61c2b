"""Maps of the gridworld (paper, Figure 4, 6 and 8a)."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sb3_ldm.envs import gridworld
from sb3_ldm.envs.gridworld import GridNaviTasks
from sb3_ldm.envs.tasks import SPLITS, VALIDATION
from sb3_ldm.figures.plan import (
    INK,
    MUTED,
    Drawing,
    NothingToDraw,
    Plan,
    evaluated_groups,
    first_runs_with,
    horizon_of,
    number,
    stem,
)
from sb3_ldm.results import FINAL_FILE, REWARD_MAPS_FILE, TRAJECTORIES_FILE, RunResult, SavedRewardMaps, SavedTrajectories
from sb3_ldm.results.evaluation_table import EVALUATIONS_FILE
from sb3_ldm.results.summary import split_name

_EMPTY_CELL = "#f1f1f1"
_GRID_LINE = "#ffffff"
_ROW_NAME = 22  # letters of a row's name that its height has room for
_PATH = ("#86b3e6", "#3c74b4", "#12325c")
_PATH_MAP = LinearSegmentedColormap.from_list("path", _PATH)
#: Tasks whose trajectories are drawn, for each group.
MAX_TRAJECTORIES = 4


# Figure 6


def return_map(plan: Plan) -> Drawing:
    """
    Mean return for each goal cell in the final evaluation (or the last one), for each group and each episode (Fig. 6).

    :param plan: what to draw
    :return: one figure
    """
    tasks = _require_grid(plan)
    groups = evaluated_groups(plan, lambda run: run.last_evaluation, f"{FINAL_FILE} or {EVALUATIONS_FILE}")
    episodes = max(run.episodes_per_task for members in groups.values() for run in members)
    horizon, goals = horizon_of(plan), tasks.tasks("all")
    nearest = goals[[goals.sum(axis=1).argmin()]]
    best, worst = tasks.reference_returns(nearest, horizon).values()
    norm = Normalize(worst[0], best[0])
    cmap = "YlGnBu"
    figure = Figure(figsize=(1.75 * episodes + 1.1, 2.0 * len(groups) + 0.5), layout="constrained")
    axes = figure.subplots(len(groups), episodes, squeeze=False)
    for first, row, (label, members) in zip([True] + [False] * len(groups), axes, groups.items(), strict=False):
        name = "\n".join(wrap(plan.name(label), _ROW_NAME))
        row[0].set_ylabel(name, fontsize=10, color=plan.colour(label), fontweight="bold")
        for episode, axis in enumerate(row, start=1):
            returns, reached = _cell_means(members, episode, plan)
            _draw_cells(axis, returns, cmap, norm)
            _outline(axis, tasks.tasks("train"))
            _mark_reached(axis, reached, norm(np.nan_to_num(returns)) > 0.55)
            axis.set_title(_reached_counts(reached, tasks), fontsize=7, loc="center", pad=3)
            if first:
                axis.annotate(f"episode {episode}", (0.5, 1.0), (0, 15), "axes fraction", "offset points", ha="center")
    _colour_bar(figure, list(axes.flat), cmap, norm, "mean return")
    never = Line2D([], [], color=INK, marker="x", linestyle="", markersize=4, label="never reached")
    sometimes = Line2D([], [], color=INK, marker="$33$", linestyle="", markersize=7, label="reached in % of the meta-episodes")
    sometimes.set_markeredgewidth(0)
    figure.legend(handles=[_training_outline_handle(), never, sometimes], loc="outside lower left", ncols=3, fontsize=8)
    yield "return_map", figure


def _cell_means(runs: Sequence[RunResult], episode: int, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Mean return and share of successes of each goal cell over seeds and repetitions, NaN for a cell that was no task."""
    sums = np.zeros((3, gridworld.SIZE, gridworld.SIZE))
    for run in runs:
        assert run.last_evaluation is not None
        table = run.last_evaluation.select(deterministic=plan.deterministic, episode=episode)
        table = table.where(np.isin(table.split, (*SPLITS, VALIDATION)))  # parts of them are evaluated once more
        x, y = table.tasks.astype(int).T
        for total, column in zip(sums, (np.ones(len(table)), table.returns, table.successes), strict=True):
            np.add.at(total, (x, y), column)
    counts = np.where(sums[0] > 0, sums[0], np.nan)
    return sums[1] / counts, sums[2] / counts


def _mark_reached(axis: Axes, reached: np.ndarray, is_dark: np.ndarray) -> None:
    """A cross where the goal was never reached, the share in percent where it was reached by some."""
    for x, y in np.argwhere(reached < 1.0):
        if reached[x, y] == 0.0:
            axis.plot(x, y, "x", color=INK, markersize=3.5, markeredgewidth=0.9, zorder=4)
        else:
            text, colour = f"{100 * reached[x, y]:.0f}", "white" if is_dark[x, y] else INK
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


# Figure 4


def reward_maps(plan: Plan) -> Drawing:
    """
    Some imaginary tasks: the mixture weights of the training tasks, and the reward map that they make (Fig. 4).

    :param plan: what to draw
    :return: a figure for each group that has reward maps, of its first seed
    """
    tasks = _require_grid(plan)
    chosen = first_runs_with(plan, lambda run: run.reward_maps, REWARD_MAPS_FILE)
    for label, run in chosen.items():
        assert run.reward_maps is not None
        yield (
            stem("reward_maps", label, chosen),
            _reward_maps_figure(run.reward_maps, tasks, f"{plan.name(label)} (seed {run.seed})"),
        )


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
    # One or two maps are too narrow for one line.
    title = f"{name}:{' ' if n_maps > 2 else chr(10)}{unseen.sum()} of {len(unseen)} mixtures peak on an unseen goal"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    cross = Line2D([], [], color=INK, marker="x", linestyle="", markersize=5, markeredgewidth=1.4, label="largest reward")
    figure.legend(handles=[_training_outline_handle(), cross], loc="outside lower left", ncols=3, fontsize=8)
    return figure


# Figure 8a


def trajectories(plan: Plan) -> Drawing:
    """
    The path of the trained agent through the episodes of one task, over what the decoder believes (Fig. 8a).

    :param plan: what to draw
    :return: figures of up to :data:`MAX_TRAJECTORIES` of the saved tasks, evenly chosen, for each group's first seed
    """
    tasks = _require_grid(plan)
    chosen = first_runs_with(plan, lambda run: run.trajectories, TRAJECTORIES_FILE)
    for label, run in chosen.items():
        assert run.trajectories is not None
        for i in spread_evenly(len(run.trajectories.tasks), MAX_TRAJECTORIES):
            figure = _trajectory_figure(run.trajectories, i, tasks, f"{plan.name(label)} (seed {run.seed})")
            yield f"{stem('trajectory', label, chosen)}_{i}", figure


def spread_evenly(count: int, limit: int) -> list[int]:
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
        _outline(axis, tasks.tasks("train"), MUTED, 0.9)
        _draw_path(axis, positions[episode])
        _draw_cross(axis, goal, 7)
        total = gridworld.reward(positions[episode][1:], goal).sum()
        axis.set_title(f"episode {episode + 1}, return {number(total)}", fontsize=8.5, loc="center")
    if beliefs is not None:
        _colour_bar(figure, list(axes), "Reds", norm, "expected reward")
    split = split_name(str(saved.splits[index]))
    figure.suptitle(f"{name}: {split} goal ({goal[0]}, {goal[1]})", x=0.01, ha="left", fontsize=10)
    handles: list[Any] = [
        Line2D([], [], color=INK, marker="o", markerfacecolor="white", linestyle="", markersize=5, label="start"),
        Line2D([], [], color=_PATH[-1], marker="o", linestyle="", markersize=5, label="end"),
        Line2D([], [], color=INK, marker="x", linestyle="", markersize=6, markeredgewidth=1.8, label="goal"),
        Patch(facecolor="none", edgecolor=MUTED, linewidth=1.1, label="training goals"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=8)
    return figure


def _draw_path(axis: Axes, positions: np.ndarray) -> None:
    """The path from light to dark, on the right-hand side of its direction so that ways back stay visible."""
    points = _keep_right(positions)
    segments = list(np.stack([points[:-1], points[1:]], axis=1))
    time = np.arange(len(segments))
    axis.add_collection(LineCollection(segments, cmap=_PATH_MAP, array=time, linewidths=1.6, capstyle="round", zorder=4))
    axis.plot(*positions[0], "o", color=INK, markerfacecolor="white", markersize=5, zorder=5)
    axis.plot(*positions[-1], "o", color=_PATH[-1], markersize=6, zorder=5)


def _keep_right(positions: np.ndarray, distance: float = 0.1) -> np.ndarray:
    """
    Shift a path to the right-hand side of its direction.

    :param positions: visited cells, ``(n, 2)``; waiting is left out
    :param distance: how far, in cells
    :return: corners of the shifted path, ``(m, 2)``
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


# What they share


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


def _outline(axis: Axes, cells: np.ndarray, colour: str = INK, width: float = 1.1) -> None:
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
    for colour, extra in (("white", 1.6), (INK, 0.0)):
        axis.plot(*cell, "x", color=colour, markersize=size + extra, markeredgewidth=1.6 + extra, zorder=6)


def _training_outline_handle() -> Patch:
    return Patch(facecolor="none", edgecolor=INK, linewidth=1.1, label="training goals")


def _require_grid(plan: Plan) -> GridNaviTasks:
    if not isinstance(plan.tasks, GridNaviTasks):
        raise NothingToDraw(f"{plan.runs[0].env} is not the gridworld")
    return plan.tasks


def _colour_bar(figure: Figure, axes: Sequence[Axes], cmap: str, norm: Normalize, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=list(axes), pad=0.015, aspect=16, fraction=0.05)
    bar.set_label(label)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=2)
