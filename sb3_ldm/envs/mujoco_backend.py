"""The locomotion domains stepped many at once, on threads, by MuJoCo's own package."""

import contextlib
import copy
import importlib.util
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random

from sb3_ldm.checks import check_integer
from sb3_ldm.envs.locomotion import HORIZON, Domain, LocomotionEnv, give_body, instabilities, start_seed, state_space, unstable
from sb3_ldm.envs.tasks import BatchedStep, Task, TaskDistribution

INSTALL_MUJOCO = "MuJoCo: pip install -e '.[mujoco]'"


def has_mujoco() -> bool:
    """:return: whether MuJoCo is installed"""
    return importlib.util.find_spec("mujoco") is not None


def has_batch() -> bool:
    """:return: whether this MuJoCo, 4.0 or later, steps many simulations in one call"""
    return importlib.util.find_spec("mujoco.batch") is not None


class Simulations:
    """
    ``n`` simulations of one robot, each a row of all that its next step depends on (``mjSTATE_INTEGRATION``).

    A step of all of them equals that of gymnasium's environment bit for bit, in whatever order and on whatever thread.
    Where contact forces are not asked for, one call of ``mujoco.batch`` steps them all, if this MuJoCo has it; else each
    thread takes one row after the other. Threads that have nothing to do sleep.

    :param env: gymnasium's environment, whose model and time step they have
    :param n: how many they are
    :param num_threads: threads that step them, the caller's included
    :param domain: what says how tasks change the model, and whether to compute contact forces after each step
    """

    def __init__(self, env: Any, n: int, num_threads: int, domain: Domain) -> None:
        import mujoco

        self.env = env
        self.domain = domain
        self.num_threads = num_threads
        self._mujoco = mujoco
        self._parts = mujoco.mjtState
        self._spec = int(self._parts.mjSTATE_INTEGRATION)
        self._batch: Any = None
        if has_batch() and not domain.has_contact_forces:
            from mujoco.batch import Batch

            self._batch = Batch(env.model, n, num_threads)
        size = mujoco.mj_stateSize(env.model, self._spec)
        #: What they are continued from, ``(n, size)``.
        self.rows: np.ndarray = np.zeros((n, size)) if self._batch is None else self._batch.state
        #: External forces on each body but the world's, ``(n, 6 (bodies - 1))``; zero where they are not asked for.
        self.forces = np.zeros((n, 6 * (env.model.nbody - 1)))
        self._original = env.model
        self._models = [copy.copy(env.model) if domain.changes_model else env.model for _ in range(n)]
        self._have_changed = domain.changes_model
        self._data: list[Any] = []
        self._executor: ThreadPoolExecutor | None = None

    def _columns(self, part: Any) -> slice:
        """Where a part of the state is in a row: parts are in the order of their bits."""
        size, model = self._mujoco.mj_stateSize, self.env.model
        start = size(model, self._spec & (int(part) - 1))
        return slice(start, start + size(model, int(part)))

    @property
    def coordinates(self) -> np.ndarray:
        """Positions and velocities, ``(n, nq + nv)``; a view of the rows."""
        positions, velocities = self._columns(self._parts.mjSTATE_QPOS), self._columns(self._parts.mjSTATE_QVEL)
        return self.rows[:, positions.start : velocities.stop]

    def give_body(self, index: int, task: Task) -> None:
        """
        :param index: a simulation
        :param task: whose body it gets, ``(task_dim,)``
        """
        if self.domain.changes_model:
            give_body(self.domain, self._models[index], self.env.data, self._original, task)
            self._have_changed = True

    def reset(self, index: int, task: Task, rng: np.random.Generator) -> np.ndarray:
        """
        :param index: a simulation, which gymnasium's environment puts at a start
        :param task: whose body it gets, ``(task_dim,)``
        :param rng: what the start is drawn from
        :return: gymnasium's observation, ``(raw_dim,)``
        """
        env = self.env
        self.give_body(index, task)
        env.model = self._models[index]
        env.np_random = rng
        raw, _ = env.reset()
        self._mujoco.mj_getState(env.model, env.data, self.rows[index], self._spec)
        return raw

    def step(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: ``(n, action_dim)``
        :return: counts of what made each simulation unstable, which there were in this step, ``(n, kinds)``
        """
        self.rows[:, self._columns(self._parts.mjSTATE_CTRL)] = actions
        if self._batch is None:
            return self._step_rows()
        if self._have_changed:
            self._batch.set_models(self._models)
            self._have_changed = False
        self._batch.warning[:] = 0
        self._batch.step(nstep=self.env.frame_skip)
        return instabilities(self._batch.warning[..., 1])  # the other is the last one's detail

    def _step_rows(self) -> np.ndarray:
        if not self._data:
            self._data = [self._mujoco.MjData(self.env.model) for _ in range(self.num_threads)]
            if self.num_threads > 1:
                self._executor = ThreadPoolExecutor(self.num_threads - 1, "physics")
        n = len(self.rows)
        counts = np.zeros((n, len(self._data[0].warning.number)), dtype=np.int64)
        rows, forces, left = list(self.rows), list(self.forces), deque(range(n))
        others = [] if self._executor is None else self._data[1:]
        jobs = [self._executor.submit(self._work, data, left, rows, forces, counts) for data in others]  # type: ignore[union-attr]
        try:
            self._work(self._data[0], left, rows, forces, counts)
        finally:  # an interrupt leaves no thread at work
            for job in jobs:
                job.result()
        return instabilities(counts)

    def _work(self, data: Any, left: deque[int], rows: list[np.ndarray], forces: list[np.ndarray], counts: np.ndarray) -> None:
        """Step rows until none is left."""
        mujoco, spec, n_steps = self._mujoco, self._spec, self.env.frame_skip
        own_forces, warnings = data.cfrc_ext[1:].ravel(), data.warning.number
        none = bytes(warnings.nbytes)  # to compare bytes takes a tenth of the time that `any` takes
        for index in _drawn(left):
            model, row = self._models[index], rows[index]
            mujoco.mj_setState(model, data, row, spec)
            mujoco.mj_step(model, data, n_steps)
            if self.domain.has_contact_forces:
                mujoco.mj_rnePostConstraint(model, data)
                forces[index][:] = own_forces
            mujoco.mj_getState(model, data, row, spec)
            if warnings.tobytes() != none:
                counts[index] = warnings
                warnings[:] = 0

    def draw(self, index: int) -> np.ndarray:
        """
        :param index: a simulation
        :return: gymnasium's picture of it, ``(height, width, 3)``, uint8
        """
        env = self.env
        env.model = self._models[index]
        self._mujoco.mj_setState(env.model, env.data, self.rows[index], self._spec)
        self._mujoco.mj_forward(env.model, env.data)
        return env.render()

    def close(self) -> None:
        """End the threads."""
        if self._executor is not None:
            self._executor.shutdown()
        self._executor, self._data, self._batch = None, [], None


def _drawn(left: deque[int]) -> Iterator[int]:
    """What is left, each for one of several threads."""
    with contextlib.suppress(IndexError):
        while True:
            yield left.popleft()


class BatchedLocomotion:
    """
    ``num_envs`` environments of a domain stepped at once; a :class:`~sb3_ldm.envs.tasks.BatchedTaskEnv`.

    Each equals a :class:`~sb3_ldm.envs.locomotion.LocomotionEnv` with the same seed bit for bit, with any number of threads:
    model, start states and what is observed are those of gymnasium's environment.

    :param num_envs: number of sub-environments
    :param domain: the domain
    :param max_episode_steps: length of an episode
    :param num_threads: threads that step the physics, at most one for each environment
    :param validation_tasks: training tasks to hold out as the split ``validation``
    :param integrator: see :class:`~sb3_ldm.envs.locomotion.LocomotionEnv`
    :param render_mode: None, or ``"rgb_array"`` to draw pictures
    :param kwargs: of the gymnasium environment
    :raises ValueError: if a number is not positive, or ``kwargs`` has what the domain itself says
    :raises ImportError: if MuJoCo is not installed
    """

    def __init__(
        self,
        num_envs: int,
        domain: Domain,
        max_episode_steps: int = HORIZON,
        num_threads: int = 1,
        validation_tasks: int = 0,
        integrator: str | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps), ("num_threads", num_threads)):
            check_integer(name, value, 1)
        if not has_mujoco():
            raise ImportError(f"backend='batched' of the locomotion environments needs {INSTALL_MUJOCO}")
        one = LocomotionEnv(domain, "train", render_mode, validation_tasks, integrator, **kwargs)
        self.num_envs = num_envs
        self.domain = domain
        self.max_episode_steps = max_episode_steps
        self._options = {"integrator": integrator, **kwargs}
        self.observation_space = state_space(domain)
        self.action_space: spaces.Space = one.action_space
        self._base: Any = one.unwrapped
        self._distribution = one.task_distribution
        self._simulations = Simulations(self._base, num_envs, min(num_threads, num_envs), domain)
        self._rngs: list[np.random.Generator] = []
        self._tasks = np.zeros((num_envs, self._distribution.task_dim), dtype=self._distribution.task_dtype)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._raw = np.zeros((num_envs, self._observed().shape[1]))
        self._in_step = False

    @property
    def num_threads(self) -> int:
        """Threads that step the physics."""
        return self._simulations.num_threads

    @property
    def engine(self) -> str:
        """What the states are of: the version, which may hold them in another form, and options of the physics."""
        told = "".join(f", {name}={value}" for name, value in sorted(self._options.items()) if value is not None)
        return f"MuJoCo {self._simulations._mujoco.__version__}{told}"

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
        :param seeds: one for each sub-environment, from which its start states are drawn; None to go on, or for any at first
        """
        fresh = not self._rngs
        self._rngs = self._rngs or [np_random()[0] for _ in seeds]
        for index, seed in enumerate(seeds):
            if seed is not None or fresh:
                self._rngs[index], _ = np_random(None if seed is None else start_seed(seed))

    def reset(self, indices: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        if not self._rngs:
            self.seed([None] * self.num_envs)
        self._tasks[indices] = tasks
        self._elapsed[indices] = 0
        raw = self._raw.copy()
        for index in indices:
            raw[index] = self._simulations.reset(index, self._tasks[index], self._rngs[index])
        self._raw = raw
        return self.domain.states(raw[indices]).astype(np.float32)

    def step(self, actions: np.ndarray) -> BatchedStep:
        before, self._in_step = self._raw, True
        counts = self._simulations.step(actions)
        self._elapsed += 1
        self._refuse_unstable(counts)
        self._raw = self._observed()
        self._in_step = False
        rewards = self.domain.rewards(before, np.ascontiguousarray(actions), self._raw, self._tasks)
        healthy = self.domain.healthy(self._simulations.coordinates, self._base)
        if self.domain.healthy_reward:
            rewards = rewards + self.domain.healthy_reward * healthy
        return BatchedStep(
            states=self.domain.states(self._raw).astype(np.float32),
            rewards=rewards,
            terminated=~healthy & self.domain.terminates,
            truncated=self._elapsed >= self.max_episode_steps,
            successes=None,
        )

    def _observed(self) -> np.ndarray:
        coordinates, n_positions, limit = self._simulations.coordinates, self._base.model.nq, self.domain.max_velocity
        parts = [coordinates[:, :n_positions], np.clip(coordinates[:, n_positions:], -limit, limit)]
        if self.domain.has_contact_forces:
            parts.append(np.clip(self._simulations.forces, *self._base._contact_force_range))
        return np.concatenate(parts, axis=1)

    def _refuse_unstable(self, counts: np.ndarray) -> None:
        for index in np.flatnonzero(counts.any(-1)):
            raise unstable(self.domain, self._tasks[index], f"worker {index}", int(self._elapsed[index]), counts[index])

    def draw(self, index: int) -> np.ndarray:
        """
        :param index: a sub-environment
        :return: its picture, ``(height, width, 3)``, uint8
        """
        return self._simulations.draw(index)

    def get_state(self) -> dict[str, Any] | None:
        """:return: where every environment is, with its random stream; None after a step that was interrupted"""
        if self._in_step:
            return None
        return {
            "rows": self._simulations.rows.copy(),
            "raw": self._raw.copy(),
            "tasks": self._tasks.copy(),
            "elapsed": self._elapsed.copy(),
            "rngs": [rng.bit_generator.state for rng in self._rngs],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        self._simulations.rows[:] = state["rows"]
        self._raw, self._tasks, self._elapsed = (state[name].copy() for name in ("raw", "tasks", "elapsed"))
        for index, task in enumerate(self._tasks):
            self._simulations.give_body(index, task)
        for rng, saved in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved

    def close(self) -> None:
        """End the threads."""
        self._simulations.close()
        self._base.close()
