"""The locomotion domains on EnvPool, which steps the physics of many environments in C++ threads."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ldm.envs.locomotion import HORIZON, Domain, state_space
from sb3_ldm.envs.tasks import BatchedStep, TaskDistribution

INSTALL_ENVPOOL = "EnvPool: pip install -e '.[envpool]'"


def has_envpool() -> bool:
    """:return: whether EnvPool is installed"""
    return importlib.util.find_spec("envpool") is not None


def fills_machine(num_threads: int) -> bool:
    """
    :param num_threads: threads that step the physics
    :return: whether they are enough to keep every core busy, all of which the process may use
    """
    if not hasattr(os, "sched_getaffinity"):  # other systems than Linux
        return False
    # EnvPool takes cores by their numbers, from 0 on.
    usable = os.sched_getaffinity(0)
    return num_threads >= len(usable) and usable == set(range(os.cpu_count() or 0))


@contextlib.contextmanager
def batch_scheduling() -> Iterator[None]:
    """
    Threads that are started until the end of the ``with`` do not interrupt the one that wakes them (``SCHED_BATCH``).

    Else the first thread that is woken takes the core of the one that has yet to wake the others. Where the system does not
    allow it, they are started as ever.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, *before)


class BatchedLocomotion:
    """
    ``num_envs`` environments of a domain stepped at once; a :class:`~sb3_ldm.envs.tasks.BatchedTaskEnv`.

    The same seeds give the same results with any number of threads. Start states are drawn by EnvPool: they have the
    distribution of gymnasium's, not the same values. EnvPool brings its own MuJoCo: a half-cheetah's
    steps equal gymnasium's to the last digits, an ant's first step to 1e-6 in the reward and 5e-6 in the state. An ant's later
    steps depend on the last solution for its contacts, in which both differ, so that trajectories drift apart.

    :param num_envs: number of sub-environments
    :param domain: the domain
    :param max_episode_steps: length of an episode
    :param num_threads: threads that step the physics, at most one for each environment
    :param validation_tasks: training tasks to hold out as the split ``validation``
    :raises ValueError: if a number is not positive
    :raises ImportError: if EnvPool is not installed
    """

    def __init__(
        self, num_envs: int, domain: Domain, max_episode_steps: int = HORIZON, num_threads: int = 1, validation_tasks: int = 0
    ) -> None:
        for name, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps), ("num_threads", num_threads)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not has_envpool():
            raise ImportError(f"backend='batched' of the locomotion environments needs {INSTALL_ENVPOOL}")
        self.num_envs = num_envs
        self.domain = domain
        self.max_episode_steps = max_episode_steps
        self.num_threads = min(num_threads, num_envs)
        self.observation_space = state_space(domain)
        self.action_space: spaces.Space = spaces.Box(-1.0, 1.0, (domain.action_dim,), dtype=np.float32)
        self._distribution = domain.make_tasks().hold_out(validation_tasks)
        self._pool: Any = None
        self._tasks = np.zeros((num_envs, self._distribution.task_dim))
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._raw = np.empty((num_envs, 0))

    @property
    def task_distribution(self) -> TaskDistribution:
        """Where tasks come from."""
        return self._distribution

    @property
    def positions(self) -> np.ndarray:
        """Where the robots are, ``(num_envs, position_dim)``."""
        return self.domain.positions(self._raw)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """
        :param seeds: one for each sub-environment, from which its start states are drawn; None for any
        """
        entropy = np.random.default_rng()
        self._make_pool([int(entropy.integers(2**31)) if seed is None else seed % 2**31 for seed in seeds])

    def _make_pool(self, seeds: list[int]) -> None:
        import envpool

        options = {"terminate_when_unhealthy": self.domain.terminates} if self.domain.base_id == "Ant-v5" else {}
        one_per_core = fills_machine(self.num_threads)
        with batch_scheduling() if one_per_core else contextlib.nullcontext():
            self._pool = envpool.make(
                self.domain.base_id,
                env_type="gymnasium",
                num_envs=self.num_envs,
                num_threads=self.num_threads,
                thread_affinity_offset=0 if one_per_core else -1,
                env_seed=seeds,
                # The time limit is applied here: EnvPool would reset an environment in the step after it.
                max_episode_steps=self.max_episode_steps + 1,
                exclude_current_positions_from_observation=False,
                **options,
            )
        self._raw = np.zeros((self.num_envs, self._pool.observation_space.shape[0]))

    def reset(self, indices: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        if self._pool is None:
            self.seed([None] * self.num_envs)
        raw, info = self._pool.reset(indices.astype(np.int32))
        # EnvPool answers in the order in which its threads are done.
        self._raw[info["env_id"]] = raw
        self._tasks[indices] = tasks
        self._elapsed[indices] = 0
        return self.domain.states(self._raw[indices]).astype(np.float32)

    def step(self, actions: np.ndarray) -> BatchedStep:
        before = self._raw
        raw, _, terminated, _, info = self._pool.step(actions.astype(np.float64))
        order = info["env_id"]
        after, ended = np.empty_like(before), np.empty(self.num_envs, dtype=bool)
        after[order], ended[order] = raw, terminated
        self._raw = after
        self._elapsed += 1
        return BatchedStep(
            states=self.domain.states(after).astype(np.float32),
            rewards=self.domain.rewards(before, actions, after, self._tasks),
            terminated=ended,
            truncated=self._elapsed >= self.max_episode_steps,
            successes=None,
        )

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
