"""
A corridor of nine doors, one of which hides a prize: the smallest family in which an agent that knows its training tasks alone
does not look where a test task needs it.

The agent begins in front of the first door, walks left and right and opens doors. Opening the right one gives 1, again and
again, everything else -0.1. The prize of a training task is behind one of the outer doors, 1 to 3 or 7 to 9, that of a test
task behind one of those between. Walking past a door does not open it, so what was never worth opening stays closed unless an
agent was made to expect that other tasks come.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from sb3_ldm.envs.gridworld import draw
from sb3_ldm.envs.tasks import BatchedStep, FiniteTaskDistribution, Task, TaskEnvMixin, TaskProbes

N_DOORS = 9  #: they stand at the positions 1 to 9; the agent starts at 0, and does not go beyond the ends
HORIZON = 20  #: steps of one episode
PRIZE_REWARD = 1.0
STEP_REWARD = -0.1
ACTIONS = ("left", "right", "open")

_OPEN = ACTIONS.index("open")
_MOVES = np.array([-1, 1, 0])
_STATE_SPACE: spaces.Box = spaces.Box(0.0, float(N_DOORS), (1,), dtype=np.float32)


def walk(positions: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """
    :param positions: where agents are, ``(...)``
    :param actions: indices into :data:`ACTIONS`, ``(...)``
    :return: where they are then, ``(...)``
    """
    return np.clip(positions + _MOVES[actions], 0, N_DOORS)


def opens(positions: np.ndarray, actions: np.ndarray, doors: np.ndarray) -> np.ndarray:
    """
    :param positions: where agents are, ``(...)``
    :param actions: indices into :data:`ACTIONS`, ``(...)``
    :param doors: that hide the prize, ``(...)``
    :return: whether the door is opened, ``(...)``
    """
    return (actions == _OPEN) & (positions == doors)


class DoorsTasks(FiniteTaskDistribution):
    """The door that hides the prize, ``[number]``: 1 to 3 and 7 to 9 are training tasks, 4 to 6 test tasks."""

    def __init__(self) -> None:
        doors = np.arange(1, N_DOORS + 1)[:, None]
        is_test = (doors[:, 0] > 3) & (doors[:, 0] < 7)
        super().__init__({"train": doors[~is_test], "test": doors[is_test]})

    def reference_returns(self, tasks: np.ndarray, horizon: int | None = None) -> dict[str, np.ndarray]:
        """Those of an agent that knows the door and goes straight there, and of one that never opens it."""
        steps, way = HORIZON if horizon is None else horizon, np.asarray(tasks)[..., 0]
        best = PRIZE_REWARD * (steps - way) + STEP_REWARD * way
        return {"best possible": best, "never found": np.full(way.shape, STEP_REWARD * steps)}

    def validate_task(self, task: Any) -> Task:
        door = super().validate_task(task)
        if not 1 <= door[0] <= N_DOORS:
            raise ValueError(f"task={task!r} is no door, expected [number] with a number in 1..{N_DOORS}")
        return door


def doors_probes() -> TaskProbes:
    """
    :return: opening each of the doors
    """
    doors = np.arange(1, N_DOORS + 1)[:, None]
    states = doors.astype(np.float32)
    return TaskProbes(tasks=doors, states=states, actions=np.full(N_DOORS, _OPEN), next_states=states)


def _picture(position: int, door: int, tasks: FiniteTaskDistribution) -> np.ndarray:
    """The corridor, the doors of the training and of the test tasks shaded, ``(height, width, 3)``, uint8."""
    return draw(np.array([[position, 0]]), np.array([door, 0]), tasks, (N_DOORS + 1, 1))


class Doors(TaskEnvMixin, gym.Env[np.ndarray, np.integer]):
    """
    One corridor without a time limit; ``Doors-v0`` adds it and strings episodes into meta-episodes.

    ``info["is_success"]`` of each step says whether the door has been opened in this episode.

    :param task_split: the split that ``reset()`` samples doors from
    :param task_distribution: where doors come from, :class:`DoorsTasks` by default
    :param render_mode: None or ``"rgb_array"``
    :raises ValueError: if an argument names something that does not exist
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(
        self,
        task_split: str = "train",
        task_distribution: DoorsTasks | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r} does not exist, use None or 'rgb_array'")
        self.set_tasks(DoorsTasks() if task_distribution is None else task_distribution, task_split)
        self.render_mode = render_mode
        self.observation_space = _STATE_SPACE
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.task_probes = doors_probes()
        self._door: int | None = None
        self._position = 0
        self._found = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        task = self.select_task(options)
        self._door, self._position, self._found = int(task[0]), 0, False
        return self._state(), {"task": task}

    def step(self, action: np.integer | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._door is None:
            raise ResetNeeded("Cannot call step() before reset()")
        if not 0 <= action < len(ACTIONS):
            raise ValueError(f"action={action!r} does not exist, use 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)})")
        position, door = np.array(self._position), np.array(self._door)
        opened = bool(opens(position, np.array(action), door))
        self._position, self._found = int(walk(position, np.array(action))), self._found or opened
        return self._state(), PRIZE_REWARD if opened else STEP_REWARD, False, False, {"is_success": self._found}

    def _state(self) -> np.ndarray:
        return np.array([self._position], dtype=np.float32)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode, make the environment with render_mode='rgb_array'")
            return None
        if self._door is None:
            raise ResetNeeded("Cannot call render() before reset()")
        return _picture(self._position, self._door, self.task_distribution)  # type: ignore[arg-type]


class BatchedDoors:
    """
    ``num_envs`` corridors stepped at once; a :class:`~sb3_ldm.envs.tasks.BatchedTaskEnv`.

    :param num_envs: number of sub-environments
    :param task_distribution: where doors come from, :class:`DoorsTasks` by default
    :param max_episode_steps: length of an episode
    :raises ValueError: if a number is not positive
    """

    def __init__(self, num_envs: int, task_distribution: DoorsTasks | None = None, max_episode_steps: int = HORIZON) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs} must be at least 1")
        if max_episode_steps < 1:
            raise ValueError(f"max_episode_steps={max_episode_steps} must be at least 1")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.task_distribution = DoorsTasks() if task_distribution is None else task_distribution
        self.observation_space = _STATE_SPACE
        self.action_space: spaces.Space = spaces.Discrete(len(ACTIONS))
        self.task_probes = doors_probes()
        self._positions = np.zeros(num_envs, dtype=np.int64)
        self._doors = np.zeros(num_envs, dtype=np.int64)
        self._found = np.zeros(num_envs, dtype=bool)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Nothing but the doors is random."""

    def reset(self, indices: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        self._positions[indices] = 0
        self._doors[indices] = tasks[:, 0]
        self._found[indices] = False
        self._elapsed[indices] = 0
        return np.zeros((len(indices), 1), dtype=np.float32)

    def step(self, actions: np.ndarray) -> BatchedStep:
        if actions.min() < 0 or actions.max() >= len(ACTIONS):
            raise ValueError(f"actions={actions!r} has some outside 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)})")
        opened = opens(self._positions, actions, self._doors)
        self._positions = walk(self._positions, actions)
        self._found |= opened
        self._elapsed += 1
        return BatchedStep(
            states=self._positions[:, None].astype(np.float32),
            rewards=np.where(opened, PRIZE_REWARD, STEP_REWARD),
            terminated=np.zeros(self.num_envs, dtype=bool),
            truncated=self._elapsed >= self.max_episode_steps,
            successes=self._found.copy(),
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """:return: where every environment is, ``(num_envs,)`` each"""
        return {name: getattr(self, f"_{name}").copy() for name in ("positions", "doors", "found", "elapsed")}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        for name, array in state.items():
            setattr(self, f"_{name}", array.copy())

    def draw(self, index: int) -> np.ndarray:
        """
        :param index: a sub-environment
        :return: its picture, ``(height, width, 3)``, uint8
        """
        return _picture(int(self._positions[index]), int(self._doors[index]), self.task_distribution)
