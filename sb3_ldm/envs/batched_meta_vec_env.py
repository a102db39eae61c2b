"""Meta-episodes over a natively batched task family: what a ``DummyVecEnv`` of wrapped environments does, at once."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.seeding import np_random
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from sb3_ldm.envs.env_state import description
from sb3_ldm.envs.meta_episode import (
    MetaEpisodeWrapper,
    MetaObservationSpace,
    check_actions,
    checked_rewards,
    checked_states,
    end_of_episode_info,
    end_of_meta_episode_info,
    monitor_summary,
)
from sb3_ldm.envs.tasks import BatchedTaskEnv, Task

#: What is kept of each environment, besides its task and its random stream.
_PER_ENVIRONMENT = ("episode", "length", "return", "returns", "lengths", "successes")
_STANDS_FOR = (Monitor, MetaEpisodeWrapper, gym.wrappers.TimeLimit)


class BatchedMetaVecEnv(VecEnv):
    """
    SB3 ``VecEnv`` that strings episodes of one task into meta-episodes, for all sub-environments at once.

    It is interchangeable with a ``DummyVecEnv`` of ``Monitor(MetaEpisodeWrapper(TimeLimit(env)))``: the same seeds,
    tasks and actions give the same observations, rewards, dones and infos.
    See :class:`~sb3_ldm.envs.meta_episode.MetaEpisodeWrapper` for what these hold.

    :param backend: the batched task family
    :param episodes_per_task: episodes in a meta-episode, N in the paper
    :param task_split: the split that tasks are sampled from
    :param render_mode: None or ``"rgb_array"``
    :param spec: the spec that ``get_attr("spec")`` returns
    :raises ValueError: if a number is not positive, there is no such split, or the backend's spaces do not fit
    """

    observation_space: MetaObservationSpace

    def __init__(
        self,
        backend: BatchedTaskEnv,
        episodes_per_task: int,
        task_split: str = "train",
        render_mode: str | None = None,
        spec: EnvSpec | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} does not exist, use None or 'rgb_array'")
        n = backend.num_envs
        self.backend = backend
        self.task_distribution = backend.task_distribution
        self.spec = spec
        self._task_splits = [self.task_distribution.validate_split(task_split)] * n
        self._tasks: list[Task | None] = [None] * n
        self._rngs: list[np.random.Generator | None] = [None] * n
        self._render_mode = render_mode
        space = MetaObservationSpace(
            backend.observation_space, backend.action_space, episodes_per_task, backend.max_episode_steps
        )
        self.layout = space.layout
        super().__init__(n, space, backend.action_space)

        #: Resets and steps so far, as of MetaEpisodeWrapper.
        self.n_moves = 0
        self._actions: np.ndarray | None = None
        self._action_shape = (n,) if self.layout.discrete else (n, self.layout.action_dim)
        self._steps = 0
        self._started = time.time()
        self._episode = np.zeros(n, dtype=np.int64)
        self._length = np.zeros(n, dtype=np.int64)
        self._return = np.zeros(n)
        self._returns = np.zeros((n, episodes_per_task))
        self._lengths = np.zeros((n, episodes_per_task), dtype=np.int64)
        self._successes = np.zeros((n, episodes_per_task), dtype=bool)

    @property
    def episodes_per_task(self) -> int:
        """Episodes in a meta-episode."""
        return self.layout.episodes_per_task

    def reset(self) -> np.ndarray:
        self.n_moves += 1
        if any(seed is not None for seed in self._seeds):
            self.backend.seed(self._seeds)
        for index in range(self.num_envs):
            if self._seeds[index] is not None:
                self._rngs[index], _ = np_random(self._seeds[index])
            self._start_meta_episode(index, self._options[index].get("task"))
        self._reset_seeds()
        self._reset_options()
        self._steps = 0
        self._actions = None
        self._length[:] = 0
        self._return[:] = 0
        return self.layout.first_observations(self._reset_backend(np.arange(self.num_envs)))

    def step_async(self, actions: np.ndarray) -> None:
        if self._tasks[-1] is None:
            raise gym.error.ResetNeeded("Cannot call step() before reset()")
        actions = np.asarray(actions)
        if actions.ndim > 0 and len(actions) != self.num_envs:
            raise ValueError(f"actions has {len(actions)} rows, expected one for each of the {self.num_envs} environments")
        check_actions(actions, self.layout, self._action_shape)
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        assert self._actions is not None, "step_wait() was called before step_async()"
        self.n_moves += 1
        raw_states, raw_rewards, terminated, truncated, successes = self.backend.step(self._actions)
        self._steps += 1
        rewards = checked_rewards(raw_rewards, self.num_envs, self.backend, self._steps)
        when = f"at step {self._steps} after the reset"
        states = checked_states(raw_states, (self.num_envs, self.layout.state_dim), self.backend, when)
        self._length += 1
        self._return += rewards
        terminated = self._checked_flags("terminated", terminated)
        ended = terminated | self._checked_flags("truncated", truncated)
        dones = np.zeros(self.num_envs, dtype=bool)
        tasks = [task.copy() for task in self._tasks if task is not None]
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False, "task": task} for task in tasks]
        observations = self.layout.observations(states, self._actions, rewards, ended)
        if ended.any():
            if successes is not None:
                successes = self._checked_flags("successes", successes)
            for index in np.flatnonzero(ended):
                success = None if successes is None else bool(successes[index])
                infos[index].update(end_of_episode_info(states[index], bool(terminated[index]), success))
            self._finish_episodes(np.flatnonzero(ended), successes, observations, dones, infos)
        return observations, rewards.astype(np.float32), dones, infos

    def _checked_flags(self, name: str, flags: Any) -> np.ndarray:
        given = np.asarray(flags)
        if given.shape != (self.num_envs,) or given.dtype != np.bool_:
            raise ValueError(
                f"{name} of env={self.backend} has shape {given.shape} and type {given.dtype}, expected bool of "
                f"shape ({self.num_envs},)"
            )
        return given

    def _finish_episodes(
        self,
        indices: np.ndarray,
        successes: np.ndarray | None,
        observations: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Record the episodes that ended, fill in what their last step returns, and start the next ones.

        :param indices: sub-environments whose inner episode ended, ``(m,)``
        :param successes: ``(num_envs,)``, or None
        :param observations: of all sub-environments, the ended ones still with their terminal states; changed in place
        :param dones: of all sub-environments; set where a meta-episode ended
        :param infos: of all sub-environments; filled in where a meta-episode ended
        """
        episodes = self._episode[indices]
        self._returns[indices, episodes] = self._return[indices]
        self._lengths[indices, episodes] = self._length[indices]
        if successes is not None:
            self._successes[indices, episodes] = successes[indices]
        finished = indices[episodes == self.episodes_per_task - 1]
        dones[finished] = True
        self._episode[indices] += 1
        self._length[indices] = 0
        self._return[indices] = 0
        for index in finished:
            infos[index].update(self._meta_episode_info(index, with_successes=successes is not None))
            infos[index]["terminal_observation"] = observations[index].copy()
            self._start_meta_episode(index)
        observations[indices, self.layout.state] = self._reset_backend(indices)
        observations[finished, self.layout.state_dim :] = 0

    def _meta_episode_info(self, index: int, with_successes: bool) -> dict[str, Any]:
        returns, lengths = self._returns[index], self._lengths[index]
        successes = self._successes[index] if with_successes else None
        summary = monitor_summary(returns.sum(), lengths.sum(), self._started)
        return {**end_of_meta_episode_info(returns, lengths, successes), "episode": summary}

    def _start_meta_episode(self, index: int, task: Any = None) -> None:
        if task is None:
            rng = self._rngs[index]
            if rng is None:
                rng, _ = np_random()
                self._rngs[index] = rng
            task = self.task_distribution.sample(self._task_splits[index], rng)
        else:
            task = self.task_distribution.validate_task(task)
        self._tasks[index] = task
        self._episode[index] = 0
        self.reset_infos[index] = {"task": task.copy()}

    def _reset_backend(self, indices: np.ndarray) -> np.ndarray:
        states = self.backend.reset(indices, np.array([self._tasks[index] for index in indices]))
        when = f"at the reset after step {self._steps}"
        return checked_states(states, (len(indices), self.layout.state_dim), self.backend, when)

    def describe(self) -> str:
        """:return: a text that is equal for environments that were made in the same way, and sample the same splits"""
        backend = self.backend
        spec = None if self.spec is None else (self.spec.id, repr(self.spec.kwargs))
        spaces = repr(self.observation_space), repr(self.action_space)
        engine = [backend.engine] if hasattr(backend, "engine") else []
        name = type(backend).__qualname__
        made = description(name, spec, *spaces, self.layout, self.num_envs, self.task_distribution, *engine)
        return f"{made} {' '.join(self._task_splits)}"

    def get_state(self) -> dict[str, Any] | None:
        """:return: where the meta-episodes are, with all random streams, as arrays; None where the backend cannot tell"""
        get_state = getattr(self.backend, "get_state", None)
        below = None if get_state is None or self._tasks[-1] is None else get_state()
        if below is None:
            return None
        return {
            "backend": below,
            "tasks": np.array(self._tasks),
            "rngs": [None if rng is None else rng.bit_generator.state for rng in self._rngs],
            "steps": self._steps,
            **{name: getattr(self, f"_{name}").copy() for name in _PER_ENVIRONMENT},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state` of environments that were made in the same way
        """
        self.backend.set_state(state["backend"])  # type: ignore[attr-defined]
        self._tasks = [np.array(task) for task in state["tasks"]]
        self.reset_infos = [{"task": task.copy()} for task in self._tasks if task is not None]
        for rng, saved in zip(self._rngs, state["rngs"], strict=True):
            assert rng is not None, "set the state after a reset"
            rng.bit_generator.state = saved
        self._steps = state["steps"]
        for name in _PER_ENVIRONMENT:
            setattr(self, f"_{name}", state[name].copy())

    def close(self) -> None:
        close = getattr(self.backend, "close", None)
        if close is not None:
            close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [self._get(attr_name, index) for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        # On SB3's own VecEnvs it would go to the outermost wrapper, where nobody looks for it.
        raise AttributeError(f"{attr_name!r} cannot be set; for the split of the tasks, env_method('set_task_split', split)")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        methods: dict[str, Callable[..., Any]] = {
            "get_wrapper_attr": self._get_for,
            "has_wrapper_attr": self._has_for,
            "set_task_split": self._set_task_split_for,
            "render": self._draw,
        }
        if method_name not in methods:
            raise AttributeError(f"{method_name!r} is not a method of the environments, use one of {', '.join(methods)}")
        return [methods[method_name](index, *method_args, **method_kwargs) for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [any(issubclass(own, wrapper_class) for own in _STANDS_FOR) for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        return [self._draw(index) for index in range(self.num_envs)]

    def _get(self, name: str, index: int) -> Any:
        if name == "task":
            task = self._tasks[index]
            return None if task is None else task.copy()
        if name == "task_split":
            return self._task_splits[index]
        if name == "render_mode":
            return self._render_mode
        if name == "task_dim":
            return self.task_distribution.task_dim
        if name in ("task_distribution", "spec", "layout", "episodes_per_task", "observation_space", "action_space"):
            return getattr(self, name)
        if name == "position" and hasattr(self.backend, "positions"):
            return self.backend.positions[index].copy()
        if name in ("task_probes", "observes_task", "domain") and hasattr(self.backend, name):
            return getattr(self.backend, name)  # optional, so not in the protocol
        raise AttributeError(f"the batched environments have no attribute {name!r}")

    def _get_for(self, index: int, name: str) -> Any:
        return self._get(name, index)

    def _has_for(self, index: int, name: str) -> bool:
        try:
            self._get(name, index)
        except AttributeError:
            return False
        return True

    def _set_task_split_for(self, index: int, task_split: str) -> None:
        self._task_splits[index] = self.task_distribution.validate_split(task_split)

    def _draw(self, index: int) -> np.ndarray | None:
        if self._render_mode is None:
            return None
        draw = getattr(self.backend, "draw", None)
        if draw is None:
            raise NotImplementedError(f"{type(self.backend).__name__} cannot draw itself, render with backend='dummy'")
        return draw(index)
