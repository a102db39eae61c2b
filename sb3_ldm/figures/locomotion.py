"""Figures of the locomotion domains: where the trained agents go (paper, Figure 8b to d)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sb3_ldm.envs.locomotion import DOMAINS, TIMESTEP, AntDirection, AntGoal, Domain, domain_of
from sb3_ldm.figures.plan import MUTED, Drawing, NothingToDraw, Plan, first_runs_with, stem
from sb3_ldm.results import PATHS_FILE, SavedPaths
from sb3_ldm.results.summary import split_name

_TASK_COLOURS = ("#d1495b", "#2e6f9e", "#3a8f6b", "#c98b1b", "#8d5fa8")
_SMOOTHING = 10  # steps over which a velocity is averaged: half a second


def paths(plan: Plan) -> Drawing:
    """
    Where the trained agent goes in the locomotion domains (Fig. 8b to d).

    :param plan: what to draw
    :return: a figure of each group's first seed
    """
    with_target = [name for name, domain in DOMAINS.items() if domain.has_target]
    if any(run.env not in with_target for run in plan.runs):
        raise NothingToDraw(f"environments {', '.join(with_target)} alone have targets to draw paths to")
    chosen = first_runs_with(plan, lambda run: run.paths, PATHS_FILE)
    for label, run in chosen.items():
        assert run.paths is not None
        yield (
            stem("paths", label, chosen),
            _paths_figure(run.paths, domain_of(run.env), f"{plan.name(label)} (seed {run.seed})"),
        )


def velocities(positions: np.ndarray, window: int = _SMOOTHING) -> np.ndarray:
    """
    :param positions: before each step, in metres, ``(horizon,)``
    :param window: steps to average over
    :return: velocities in metres a second, ``(horizon - window,)``
    """
    return (positions[window:] - positions[:-window]) / (window * TIMESTEP)


def _paths_figure(saved: SavedPaths, domain: Domain, name: str) -> Figure:
    """
    The paths of a trained agent on some tasks, a panel for each episode of the meta-episode.

    :param saved: the paths
    :param domain: the domain that they are of
    :param name: of the agent
    :return: paths on the plane with the target directions or goals, or velocities over time with the target velocities
    """
    n_episodes = saved.paths.shape[1]
    on_plane = domain.position_dim == 2
    figure = Figure(figsize=((3.1 if on_plane else 3.6) * n_episodes, 3.2), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, n_episodes, squeeze=False, sharex=True, sharey=True)[0]
    for episode, axis in enumerate(axes):
        axis.set_title(f"episode {episode + 1}")
        for task, path, colour in zip(saved.tasks, saved.paths[:, episode], _colours(len(saved.tasks)), strict=True):
            known = path[~np.isnan(path[:, 0])]
            if on_plane:
                axis.plot(*known.T, color=colour, linewidth=1.4)
                axis.plot(*known[-1], "o", color=colour, markersize=4)
                _draw_target(axis, domain, task, colour, float(np.nanmax(np.abs(saved.paths))))
            else:
                time = TIMESTEP * (np.arange(len(known) - _SMOOTHING) + _SMOOTHING / 2)
                axis.plot(time, velocities(known[:, 0]), color=colour, linewidth=1.4)
                axis.axhline(task[0], color=colour, linewidth=1.0, linestyle=(0, (4, 3)))
        if on_plane:
            axis.plot(0.0, 0.0, "o", color=MUTED, markerfacecolor="white", markersize=5)
            axis.set_aspect("equal", adjustable="box")
        axis.set_xlabel("x (m)" if on_plane else "time (s)")
    axes[0].set_ylabel("y (m)" if on_plane else "velocity (m/s)")
    targets = "dashed: target direction" if isinstance(domain, AntDirection) else "crosses: goals"
    actions = "most likely" if saved.deterministic else "sampled"
    figure.suptitle(f"{name} on {split_name(saved.splits[0])} tasks, {actions} actions", x=0.01, ha="left", fontsize=10)
    label = targets if on_plane else "dashed: target velocity"
    figure.legend(handles=[Line2D([], [], linestyle="", label=label)], loc="outside lower left", fontsize=8, handlelength=0)
    return figure


def _colours(count: int) -> list[str]:
    return [_TASK_COLOURS[i % len(_TASK_COLOURS)] for i in range(count)]


def _draw_target(axis: Axes, domain: Domain, task: np.ndarray, colour: str, extent: float) -> None:
    if isinstance(domain, AntGoal):
        axis.plot(*task, "x", color=colour, markersize=7, markeredgewidth=2)
    else:
        end = extent * np.array([np.cos(task[0]), np.sin(task[0])])
        axis.plot([0.0, end[0]], [0.0, end[1]], color=colour, linewidth=1.0, linestyle=(0, (4, 3)))
