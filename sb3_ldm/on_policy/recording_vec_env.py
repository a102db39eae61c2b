"""A VecEnv whose meta-episodes are gathered for the VAE."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ldm.data.meta_episodes import MetaEpisodeBuffer
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.envs.steps import Step, StepReader


class RecordingVecEnv(VecEnvWrapper):
    """
    Puts the true transitions of the first ``buffer.n_workers`` sub-environments into the buffer.

    A ``VecNormalize`` below is looked through: the buffer gets original states and rewards.

    :param venv: vectorised meta-episode environments
    :param buffer: gathers their meta-episodes
    :param check_rewards: called with true rewards, refuses those that cannot be modelled
    :raises ValueError: in a step, if meta-episodes are cut short or rewards are changed around them
    """

    def __init__(self, venv: VecEnv, buffer: MetaEpisodeBuffer, check_rewards: Callable[[np.ndarray], None]):
        super().__init__(venv)
        self.layout = observation_layout(venv.observation_space)
        self.reader = StepReader(self.layout, self.num_envs)
        self.buffer = buffer
        self._check_rewards = check_rewards
        self.started = False

    def __getstate__(self) -> dict[str, Any]:
        """Without the environments, which :meth:`set_venv` gives back."""
        return {name: value for name, value in vars(self).items() if name not in ("venv", "class_attributes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def set_venv(self, venv: VecEnv) -> None:
        """
        :param venv: the environments of a copy
        """
        self.venv = venv
        self.class_attributes = dict(inspect.getmembers(type(self)))

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        self.start(obs)  # type: ignore[arg-type]
        return obs

    def start(self, obs: np.ndarray, episode_starts: np.ndarray | None = None) -> None:
        """
        Begin meta-episodes with all workers, where the environments have already been reset.

        :param obs: what their reset returned
        :param episode_starts: whether each worker begins a meta-episode, ``(n_envs,)``, if some are in the midst of one: the
            buffer must not take the rest of it for a whole one
        """
        self.reader.start(self.venv, obs, episode_starts)
        self._is_first_step = True
        self.started = True

    def get_state(self) -> dict[str, Any]:
        """:return: what is known of the meta-episodes that run, as arrays"""
        return {
            "reader": self.reader.get_state(),
            "is_first_step": self._is_first_step,
            "running": self.buffer.running_state(),
        }

    def fits(self, state: dict[str, Any]) -> bool:
        """
        :param state: from :meth:`get_state`, maybe of an earlier version
        :return: whether it is that of as many workers
        """
        numbers = len(self.reader.observations), self.buffer.n_workers
        return "reader" in state and (len(state["reader"]["observations"]), len(state["running"]["rewards"])) == numbers

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state` that fits, with environments that are where they were then
        """
        self.reader.set_state(state["reader"])
        self._is_first_step = state["is_first_step"]
        self.buffer.set_running_state(state["running"])
        self.started = True

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.record(obs, rewards, dones, infos)  # type: ignore[arg-type]
        return obs, rewards, dones, infos

    def record(self, obs: np.ndarray, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> Step:
        """
        :param obs: what the environments returned, and so on
        :return: the step that led there, of all sub-environments
        """
        step = self.reader.read(self.venv, self._actions, obs, rewards, dones, infos)
        recorded = step.first(self.buffer.n_workers)
        if dones.any() or self._is_first_step or len(self.buffer) == 0:
            self._check_rewards(recorded.rewards)
            self.reader.check_rewards(step)
            self._is_first_step = False
        for i in np.flatnonzero(recorded.dones):
            self._check_rewards(self.buffer.running_rewards(int(i), step.at.step[i]))
        self.buffer.add(recorded)
        return step
