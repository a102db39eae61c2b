"""Environments that tell the agent its task: for oracles, whose return bounds what can be learned within a task."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_ldm.envs.tasks import BatchedStep, BatchedTaskEnv, TaskDistribution, check_task_env


def with_task_space(state_space: spaces.Box, task_dim: int) -> spaces.Box:
    """
    :param state_space: of an environment, flat
    :param task_dim: length of its tasks
    :return: the space of its states followed by the task
    """
    unknown = np.full(task_dim, np.inf, dtype=state_space.dtype)
    low, high = (np.concatenate(parts) for parts in ((state_space.low, -unknown), (state_space.high, unknown)))
    return spaces.Box(low, high, dtype=state_space.dtype.type)  # type: ignore[union-attr, arg-type]


class ObserveTask(gym.ObservationWrapper):
    """
    Append the task to the state.

    :param env: an environment that hosts tasks, with a flat ``Box`` of states
    :raises ValueError: if it hosts none
    """

    observes_task = True  #: tells algorithms for which it makes no sense

    def __init__(self, env: gym.Env):
        super().__init__(env)
        check_task_env(env)
        if not isinstance(env.observation_space, spaces.Box) or len(env.observation_space.shape) != 1:
            raise ValueError(
                f"observation_space={env.observation_space} must be a Box with one dimension: wrap the environment in "
                "gymnasium.wrappers.FlattenObservation"
            )
        self.observation_space = with_task_space(env.observation_space, env.get_wrapper_attr("task_distribution").task_dim)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self.get_wrapper_attr("task")]).astype(self.observation_space.dtype)


class BatchedObserveTask:
    """
    Append the tasks to the states of a :class:`~sb3_ldm.envs.tasks.BatchedTaskEnv`; it is one itself.

    :param backend: environments without it
    """

    observes_task = True  #: tells algorithms for which it makes no sense

    def __init__(self, backend: BatchedTaskEnv):
        self.backend = backend
        self.num_envs = backend.num_envs
        self.action_space = backend.action_space
        self.max_episode_steps = backend.max_episode_steps
        self.observation_space = with_task_space(backend.observation_space, backend.task_distribution.task_dim)
        self._tasks = np.zeros((backend.num_envs, backend.task_distribution.task_dim), dtype=np.float32)

    def __getattr__(self, name: str) -> Any:
        # What some backends have and others lack.
        if name in ("positions", "draw", "close", "task_probes", "engine"):
            return getattr(self.backend, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def task_distribution(self) -> TaskDistribution:
        """Where tasks come from."""
        return self.backend.task_distribution

    def seed(self, seeds: Sequence[int | None]) -> None:
        """See :meth:`BatchedTaskEnv.seed`."""
        self.backend.seed(seeds)

    def reset(self, indices: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """See :meth:`BatchedTaskEnv.reset`."""
        self._tasks[indices] = tasks
        return np.concatenate([self.backend.reset(indices, tasks), self._tasks[indices]], axis=1)

    def step(self, actions: np.ndarray) -> BatchedStep:
        """See :meth:`BatchedTaskEnv.step`."""
        step = self.backend.step(actions)
        return step._replace(states=np.concatenate([step.states, self._tasks], axis=1))

    def get_state(self) -> dict[str, Any] | None:
        """:return: where the environments are; None where these do not tell"""
        get_state = getattr(self.backend, "get_state", None)
        below = None if get_state is None else get_state()
        return None if below is None else {"backend": below, "tasks": self._tasks.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        self.backend.set_state(state["backend"])  # type: ignore[attr-defined]
        self._tasks = state["tasks"].copy()
