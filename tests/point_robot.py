"""A point on a plane that is to come to a goal on a circle which it does not see: the known case of gradient-based meta-RL."""

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from sb3_ldm.envs import BatchedMetaVecEnv
from sb3_ldm.envs.tasks import BatchedStep, FiniteTaskDistribution

HORIZON, SPEED = 20, 0.2
N_GOALS = 40  #: on the circle of radius 1, every second one is for training


def goals() -> FiniteTaskDistribution:
    angles = 2 * np.pi * np.arange(N_GOALS) / N_GOALS
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    return FiniteTaskDistribution({"train": circle[::2], "test": circle[1::2]})


class BatchedPointRobot:
    """All robots at once: they start in the middle, their actions are speeds, and distance to the goal costs."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs, self.max_episode_steps = num_envs, HORIZON
        self.task_distribution = goals()
        self.observation_space: spaces.Box = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float32)
        self.action_space: spaces.Space = spaces.Box(-1.0, 1.0, (2,), dtype=np.float32)
        self.positions, self.goals = np.zeros((num_envs, 2)), np.zeros((num_envs, 2))
        self.steps = np.zeros(num_envs, dtype=np.int64)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Nothing is drawn."""

    def reset(self, indices: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        self.positions[indices], self.goals[indices], self.steps[indices] = 0.0, tasks, 0
        return self.positions[indices]

    def step(self, actions: np.ndarray) -> BatchedStep:
        self.positions = self.positions + SPEED * actions / np.maximum(np.linalg.norm(actions, axis=-1, keepdims=True), 1.0)
        self.steps += 1
        rewards = -np.linalg.norm(self.positions - self.goals, axis=-1)
        never = np.zeros(self.num_envs, dtype=bool)
        return BatchedStep(self.positions.copy(), rewards, never, self.steps >= HORIZON, None)

    def get_state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name).copy() for name in ("positions", "goals", "steps")}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        for name, value in state.items():
            setattr(self, name, value.copy())


def point_robots(n_envs: int = 40, episodes: int = 40, seed: int = 0) -> BatchedMetaVecEnv:
    env = BatchedMetaVecEnv(BatchedPointRobot(n_envs), episodes)
    env.seed(seed)
    return env


#: Return of who knows where the goal is, and goes there straight.
BEST = -float(sum(max(1.0 - SPEED * step, 0.0) for step in range(1, HORIZON + 1)))
#: Return of who does not know where the goal is and stays in the middle.
NOT_KNOWING = -float(HORIZON)
