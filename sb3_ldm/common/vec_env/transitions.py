"""The environment's own transitions, read back from a vectorised step of meta-episodes."""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_ldm.common.meta_episode import MetaEpisodeLayout


def read_next_states(
    obs: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]], layout: MetaEpisodeLayout
) -> tuple[np.ndarray, np.ndarray]:
    """
    Where an episode ended, the observation already shows the next one's first state; the info holds the terminal state.

    :param obs: observations that a step returned, not normalised, ``(n_envs, layout.dim)``
    :param dones: whether the meta-episode ended, ``(n_envs,)``
    :param infos: infos of the step
    :param layout: layout of the observations
    :return: s_{t+1} ``(n_envs, state_dim)`` and whether the step ended an episode ``(n_envs,)``
    """
    states = obs[:, layout.state]
    episode_ends = (obs[:, layout.done_index] > 0.5) | dones
    if not episode_ends.any():
        return states, episode_ends
    next_states = states.copy()
    for i in np.flatnonzero(episode_ends):
        next_states[i] = infos[i]["terminal_state"]
    return next_states, episode_ends


def check_whole(dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
    """
    :param dones: whether the meta-episode ended, ``(n_envs,)``
    :param infos: infos of the step
    :raises ValueError: if something else than its last episode ended a meta-episode
    """
    for i in np.flatnonzero(dones):
        if "episode_returns" not in infos[i]:
            raise ValueError(
                "A meta-episode was cut before its last episode ended, by a time limit around it: leave max_episode_steps out "
                "of gym.register and gym.make, and give MetaEpisodeWrapper that of an episode."
            )


def original_obs(env: VecEnv, obs: np.ndarray) -> np.ndarray:
    """
    :param env: environments, with or without a ``VecNormalize``
    :param obs: what they returned last
    :return: the observations before normalisation
    """
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        return obs
    original = normalizer.get_original_obs()
    assert isinstance(original, np.ndarray)
    return original


def original_rewards(env: VecEnv, rewards: np.ndarray) -> np.ndarray:
    """
    :param env: environments, with or without a ``VecNormalize``
    :param rewards: what they returned last
    :return: the rewards before normalisation
    """
    normalizer = unwrap_vec_normalize(env)
    return rewards if normalizer is None else normalizer.get_original_reward()
