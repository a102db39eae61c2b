"""A VecEnv whose meta-episodes are gathered for the latent dynamics network."""

import inspect
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ldm.data.meta_episodes import MetaEpisodeBuffer
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.envs.steps import check_whole, original_obs, original_rewards, read_next_states
from sb3_ldm.inference.latent_dynamics import LatentDynamics


class TrueStep(NamedTuple):
    """What a step of the environments was before normalisation, ``(n_envs, ...)`` each."""

    states: np.ndarray  #: s_t
    actions: np.ndarray  #: a_t, one-hot or vector
    rewards: np.ndarray  #: r_{t+1}
    next_states: np.ndarray  #: s_{t+1}, the terminal state where an episode ended
    episode_ends: np.ndarray  #: whether it ended an episode


class RecordingVecEnv(VecEnvWrapper):
    """
    Puts the true transitions of the first ``buffer.n_workers`` sub-environments into the buffer.

    A ``VecNormalize`` below is looked through: the buffer gets original states and rewards.

    :param venv: vectorised meta-episode environments
    :param buffer: gathers their meta-episodes
    :param latent_dynamics: the network that is trained on them, which refuses rewards that it cannot model
    :raises ValueError: in a step, if meta-episodes are cut short or rewards are changed around them
    """

    def __init__(self, venv: VecEnv, buffer: MetaEpisodeBuffer, latent_dynamics: LatentDynamics):
        super().__init__(venv)
        self.layout = observation_layout(venv.observation_space)
        self.buffer = buffer
        self.latent_dynamics = latent_dynamics
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
        :param episode_starts: whether each worker begins a meta-episode, if some are in the midst of one: the buffer must not
            take the rest of it for a whole one
        """
        self._states = original_obs(self.venv, obs)[:, self.layout.state]
        self._is_first_step = True
        self.buffer.discard_running(None if episode_starts is None else episode_starts[: self.buffer.n_workers])
        self.started = True

    def get_state(self) -> dict[str, Any]:
        """:return: what is known of the meta-episodes that run, as arrays"""
        return {
            "states": self._states.copy(),
            "is_first_step": self._is_first_step,
            "running": self.buffer.running_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`, with environments that are where they were then
        """
        self._states, self._is_first_step = state["states"].copy(), state["is_first_step"]
        self.buffer.set_running_state(state["running"])
        self.started = True

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.record(obs, rewards, dones, infos)  # type: ignore[arg-type]
        return obs, rewards, dones, infos

    def record(self, obs: np.ndarray, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> TrueStep:
        """
        :param obs: what the environments returned, and so on
        :return: the step that led there, of all sub-environments
        """
        true_obs, true_rewards = original_obs(self.venv, obs), original_rewards(self.venv, rewards)
        check_whole(dones, infos)
        next_states, episode_ends = read_next_states(true_obs, dones, infos, self.layout)
        actions = self._actions.reshape(self.num_envs) if self.layout.discrete else self._actions
        step = TrueStep(self._states, self.layout.encode_actions(actions), true_rewards, next_states, episode_ends)
        n = self.buffer.n_workers
        if dones.any() or self._is_first_step or len(self.buffer) == 0:
            self.latent_dynamics.check_rewards(true_rewards[:n])
            self._check_reward_slots(true_obs[~dones], true_rewards[~dones])
            self._is_first_step = False
        for i in np.flatnonzero(dones[:n]):
            self.latent_dynamics.check_rewards(self.buffer.running_rewards(int(i)))
            # Where somebody else stepped or reset the environments, the buffer has parts of two.
            self.buffer.discard_unless_long(int(i), infos[i]["episode_lengths"].sum())
        self.buffer.add(step.states[:n], actions[:n], true_rewards[:n], next_states[:n], episode_ends[:n], dones[:n])
        self._states = true_obs[:, self.layout.state]
        return step

    def _check_reward_slots(self, obs: np.ndarray, rewards: np.ndarray) -> None:
        shown = obs[:, self.layout.reward_index]
        for i in np.flatnonzero(~np.isclose(shown, rewards, rtol=1e-3, atol=1e-5)):
            raise ValueError(
                f"The agent was rewarded {rewards[i]} and shown {shown[i]}: a wrapper around the meta-episodes changes "
                "rewards. Wrap the environment inside of MetaEpisodeWrapper."
            )
