"""The environment's own transitions, read back from a vectorised step of meta-episodes, and what agents see of them."""

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_ldm.envs.meta_episode import MetaEpisodeLayout


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


def normalizes_observations(env: VecEnv) -> bool:
    """
    :param env: environments, with or without a ``VecNormalize``
    :return: whether agents see normalised observations
    """
    normalizer = unwrap_vec_normalize(env)
    return normalizer is not None and normalizer.norm_obs


def has_statistics(normalizer: VecNormalize) -> bool:
    """
    :param normalizer: of environments
    :return: whether it has seen observations, or need not
    """
    rms = getattr(normalizer, "obs_rms", None)
    return not normalizer.norm_obs or not isinstance(rms, RunningMeanStd) or rms.count >= 1.0


def normalization_problem(trained_normalized: bool, env: VecEnv, needs_statistics: bool = True) -> str | None:
    """
    :param trained_normalized: whether an agent was trained with normalised observations
    :param env: environments that it is to act in
    :param needs_statistics: whether theirs are those that it will see observations by
    :return: why it would see something else than in its training; None if it would not
    """
    normalizer = unwrap_vec_normalize(env)
    if trained_normalized:
        wrap = "wrap it in the same way, with VecNormalize.load(path, venv) for the statistics of the training."
        if normalizer is None:
            return f"env={env} has no VecNormalize, but the model was trained with one: {wrap}"
        if not normalizer.norm_obs:
            return f"env={env} has a VecNormalize with norm_obs=False, but the model was trained with norm_obs=True: {wrap}"
        if needs_statistics and not has_statistics(normalizer):
            return f"env={env} has a VecNormalize that has seen no observations, but the model was trained with one: {wrap}"
    elif normalizer is not None and normalizer.norm_obs:
        return (
            f"env={env} has a VecNormalize, but the model was trained on observations as they are: leave it out, or give it "
            "norm_obs=False."
        )
    return None
