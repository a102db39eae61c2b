"""The gridworld of the LDM paper (section 5.1): find a hidden goal cell, then go there again.

A 7x7 grid, start (0, 0) in the lower left corner, y upwards. Reward 1 on the goal (reaching it or staying on it),
-0.1 elsewhere. With the Chebyshev ring ``max(x, y)``, training goals are the rings 2 and 6 and test goals the rings
3, 4 and 5 between them (``GridNaviExtrapolation``, section 5.1.2: train 2 and 5, test 3, 4 and 6).

The dynamics are the pure functions :func:`move` and :func:`reward`; both environments step through tables of them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from sb3_ldm.envs.tasks import BatchedStep, FiniteTaskDistribution, Task, TaskDistribution, TaskEnvMixin, TaskProbes

SIZE = 7  #: cells along one side
N_CELLS = SIZE * SIZE
HORIZON = 30  #: steps of one episode, H in the paper
GOAL_REWARD = 1.0
STEP_REWARD = -0.1
ACTIONS = ("stay", "up", "right", "down", "left")

GridObservation = Literal["xy", "scaled", "one_hot"]
OBSERVATIONS: tuple[GridObservation, ...] = ("xy", "scaled", "one_hot")

MOVES = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
_MIN_RING = 2  # the start and its three neighbours are never goals


def move(positions: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """
    :param positions: cells, ``(..., 2)``
    :param actions: indices into :data:`ACTIONS`, ``(...)``
    :return: the cells that the actions lead to, clipped at the borders, ``(..., 2)``
    """
    return np.clip(positions + MOVES[actions], 0, SIZE - 1)


def reward(positions: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """
    :param positions: cells that a step led to, ``(..., 2)``
    :param goals: goal cells, ``(..., 2)``
    :return: 1 on the goal, else -0.1, ``(...)``
    """
    return np.where(np.all(positions == goals, axis=-1), GOAL_REWARD, STEP_REWARD)


def cells() -> np.ndarray:
    """
    :return: all cells ``[x, y]``, sorted by :func:`cell_index`, ``(49, 2)``, int64
    """
    return np.stack(np.divmod(np.arange(N_CELLS), SIZE), axis=-1)


def cell_index(positions: np.ndarray) -> np.ndarray:
    """
    :param positions: cells, ``(..., 2)``
    :return: their row in :func:`cells`, ``(...)``
    """
    return positions[..., 0] * SIZE + positions[..., 1]


def cell_states(positions: np.ndarray, observation: GridObservation = "xy") -> np.ndarray:
    """
    :param positions: cells, ``(..., 2)``
    :param observation: ``"xy"`` the coordinates 0..6, ``"scaled"`` to [-1, 1], ``"one_hot"`` over the 49 cells
    :return: what the environment observes in these cells, ``(..., 2)`` or ``(..., 49)``, float32
    :raises ValueError: if there is no such observation
    """
    if observation == "xy":
        return np.asarray(positions, dtype=np.float32)
    if observation == "scaled":
        return np.asarray(np.asarray(positions) / (SIZE - 1) * 2 - 1, dtype=np.float32)
    if observation == "one_hot":
        return np.eye(N_CELLS, dtype=np.float32)[cell_index(np.asarray(positions))]
    raise ValueError(f"observation={observation!r} does not exist, use one of {', '.join(OBSERVATIONS)}")


def state_space(observation: GridObservation = "xy") -> spaces.Box:
    """
    :param observation: see :func:`cell_states`
    :return: the space of one environment's states
    :raises ValueError: if there is no such observation
    """
    states = cell_states(cells(), observation)
    return spaces.Box(states.min(axis=0), states.max(axis=0), dtype=np.float32)


def grid_probes(observation: GridObservation = "xy") -> TaskProbes:
    """
    :param observation: see :func:`cell_states`
    :return: staying on each of the 49 cells
    """
    states = cell_states(cells(), observation)
    return TaskProbes(tasks=cells(), states=states, actions=np.zeros(N_CELLS, dtype=np.int64), next_states=states)


class GridNaviTasks(FiniteTaskDistribution):
    """
    Goal cells, split by Chebyshev ring ``max(x, y)``.

    :param rings: the rings of each split; ``train`` and ``test`` are required
    """

    def __init__(self, **rings: tuple[int, ...]) -> None:
        ring = cells().max(axis=-1)
        super().__init__({split: cells()[np.isin(ring, wanted)] for split, wanted in rings.items()})

    def reference_returns(self, tasks: np.ndarray, horizon: int | None = None) -> dict[str, np.ndarray]:
        """Those of an agent that knows the goal and goes straight there, and of one that never finds it."""
        steps, way = HORIZON if horizon is None else horizon, np.asarray(tasks).sum(axis=-1)
        best = GOAL_REWARD * (steps - way + 1) + STEP_REWARD * (way - 1)
        return {"best possible": best, "never found": np.full(way.shape, STEP_REWARD * steps)}

    def validate_task(self, task: Any) -> Task:
        goal = super().validate_task(task)
        if goal.min() < 0 or not _MIN_RING <= goal.max() < SIZE:
            raise ValueError(
                f"task={task!r} cannot be a goal, expected [x, y] in 0..{SIZE - 1} with max(x, y) >= {_MIN_RING}: "
                "the start and its neighbours are never goals"
            )
        return goal


def grid_navi_tasks() -> GridNaviTasks:
    """
    :return: 18 training goals around 27 test goals (section 5.1)
    """
    return GridNaviTasks(train=(2, 6), test=(3, 4, 5))


def grid_navi_extrapolation_tasks() -> GridNaviTasks:
    """
    :return: 16 training goals and 29 test goals: 16 between the training rings (``test1``) and 13 outside (``test2``);
        section 5.1.2, whose exact cells are not published
    """
    return GridNaviTasks(train=(2, 5), test=(3, 4, 6), test1=(3, 4), test2=(6,))


# Tables over cell indices, so that a step is a look-up: next cell [49, 5] and reward [49 cells, 49 goals].
_NEXT_CELL = cell_index(move(cells()[:, None], np.arange(len(ACTIONS))[None]))
_REWARD = reward(cells()[:, None], cells()[None])


class GridNavi(TaskEnvMixin, gym.Env[np.ndarray, np.integer]):
    """
    One gridworld without a time limit; ``GridNavi-v0`` adds it and strings episodes into meta-episodes.

    ``info["is_success"]`` of each step says whether the goal has been visited in this episode.

    :param task_split: the split that ``reset()`` samples goals from
    :param observation: see :func:`cell_states`
    :param task_distribution: where goals come from, :func:`grid_navi_tasks` by default
    :param render_mode: None or ``"rgb_array"``
    :raises ValueError: if an argument names something that does not exist
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(
        self,
        task_split: str = "train",
        observation: GridObservation = "xy",
        task_distribution: GridNaviTasks | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r} does not exist, use None or 'rgb_array'")
        self.set_tasks(grid_navi_tasks() if task_distribution is None else task_distribution, task_split)
        self.render_mode = render_mode
        self.observation_space = state_space(observation)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.task_probes = grid_probes(observation)
        self._states = cell_states(cells(), observation)
        self._goal = -1
        self._path: list[int] = []
        self._found = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        goal = self.select_task(options)
        self._goal = int(cell_index(goal))
        self._path = [0]
        self._found = False
        return self._states[0].copy(), {"task": goal}

    def step(self, action: np.integer | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self._path:
            raise ResetNeeded("Cannot call step() before reset()")
        if not 0 <= action < len(ACTIONS):
            raise ValueError(f"action={action!r} does not exist, use 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)})")
        cell = int(_NEXT_CELL[self._path[-1], action])
        self._path.append(cell)
        self._found = self._found or cell == self._goal
        return self._states[cell].copy(), float(_REWARD[cell, self._goal]), False, False, {"is_success": self._found}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode, make the environment with render_mode='rgb_array'")
            return None
        if not self._path:
            raise ResetNeeded("Cannot call render() before reset()")
        return draw(cells()[self._path], cells()[self._goal], self.task_distribution)


class BatchedGridNavi:
    """
    ``num_envs`` gridworlds stepped at once with array look-ups; a :class:`~sb3_ldm.envs.tasks.BatchedTaskEnv`.

    :param num_envs: number of sub-environments
    :param observation: see :func:`cell_states`
    :param task_distribution: where goals come from, :func:`grid_navi_tasks` by default
    :param max_episode_steps: length of an episode
    :raises ValueError: if a number is not positive or there is no such observation
    """

    def __init__(
        self,
        num_envs: int,
        observation: GridObservation = "xy",
        task_distribution: GridNaviTasks | None = None,
        max_episode_steps: int = HORIZON,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs} must be at least 1")
        if max_episode_steps < 1:
            raise ValueError(f"max_episode_steps={max_episode_steps} must be at least 1")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.task_distribution = grid_navi_tasks() if task_distribution is None else task_distribution
        self.observation_space = state_space(observation)
        self.action_space: spaces.Space = spaces.Discrete(len(ACTIONS))
        self.task_probes = grid_probes(observation)
        self._states = cell_states(cells(), observation)
        self._next_cell = _NEXT_CELL.ravel()
        self._cells = np.zeros(num_envs, dtype=np.int64)
        self._goals = np.zeros(num_envs, dtype=np.int64)
        self._found = np.zeros(num_envs, dtype=bool)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Nothing but the goals is random."""

    def reset(self, indices: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        self._cells[indices] = 0
        self._goals[indices] = cell_index(tasks)
        self._found[indices] = False
        self._elapsed[indices] = 0
        return self._states[np.zeros(len(indices), dtype=np.int64)]

    def step(self, actions: np.ndarray) -> BatchedStep:
        if actions.min() < 0 or actions.max() >= len(ACTIONS):
            raise ValueError(f"actions={actions!r} has some outside 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)})")
        self._cells = self._next_cell.take(self._cells * len(ACTIONS) + actions)
        on_goal = self._cells == self._goals
        self._found |= on_goal
        self._elapsed += 1
        return BatchedStep(
            states=self._states.take(self._cells, axis=0),
            rewards=_REWARD.ravel().take(self._cells * N_CELLS + self._goals),
            terminated=np.zeros(self.num_envs, dtype=bool),
            truncated=self._elapsed >= self.max_episode_steps,
            successes=self._found.copy(),
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """:return: where every environment is, ``(num_envs,)`` each"""
        return {name: getattr(self, f"_{name}").copy() for name in ("cells", "goals", "found", "elapsed")}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        for name, array in state.items():
            setattr(self, f"_{name}", array.copy())

    def draw(self, index: int) -> np.ndarray:
        """
        :param index: a sub-environment
        :return: its picture, without the path that led there, ``(height, width, 3)``, uint8
        """
        return draw(cells()[self._cells[index]][None], cells()[self._goals[index]], self.task_distribution)


_CELL_PIXELS = 32
_COLOURS = {
    "cell": (255, 255, 255),
    "line": (200, 200, 200),
    "train": (222, 235, 247),
    "test": (253, 238, 220),
    "goal": (116, 196, 118),
    "path": (140, 140, 140),
    "agent": (49, 87, 161),
}


def draw(path: np.ndarray, goal: np.ndarray, tasks: TaskDistribution, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """
    Draw the grid with training cells (blue), test cells (orange), the goal (green), the path and the agent at its end.

    :param path: cells visited in this episode, the last one is the agent's, ``(n > 0, 2)``
    :param goal: the goal cell, ``(2,)``
    :param tasks: whose training and test cells are shaded; of one dimension in a grid of one row
    :param size: of the grid, in cells
    :return: picture with y upwards, 32 pixels a cell, ``(height, width, 3)``, uint8
    """
    colours = np.full((*size, 3), _COLOURS["cell"], dtype=np.uint8)
    for split in ("train", "test"):
        shaded = tasks.tasks(split)
        colours[shaded[:, 0], shaded[:, 1] if shaded.shape[1] > 1 else 0] = _COLOURS[split]
    colours[goal[0], goal[1]] = _COLOURS["goal"]
    picture = colours.repeat(_CELL_PIXELS, axis=0).repeat(_CELL_PIXELS, axis=1)
    picture[::_CELL_PIXELS] = picture[:, ::_CELL_PIXELS] = _COLOURS["line"]

    centres = path * _CELL_PIXELS + _CELL_PIXELS // 2
    for start, end in pairwise(centres):
        (left, bottom), (right, top) = np.minimum(start, end) - 1, np.maximum(start, end) + 2
        picture[left:right, bottom:top] = _COLOURS["path"]
    pixels = np.indices(picture.shape[:2])
    distance = np.hypot(pixels[0] - centres[-1, 0], pixels[1] - centres[-1, 1])
    picture[distance < _CELL_PIXELS // 4] = _COLOURS["agent"]
    # Indexed [x, y] so far; an image is [row from the top, column].
    return np.ascontiguousarray(picture.transpose(1, 0, 2)[::-1])
