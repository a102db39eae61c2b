"""Looking at imagination: which tasks do mixtures of beliefs make? (paper section 5.1.1, Figure 4 and 8a)"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.algorithms.ldm.imagination import Imagination
from sb3_ldm.algorithms.ldm.mixture_vec_env import MixtureVecEnv
from sb3_ldm.data.probes import get_probes, has_probes
from sb3_ldm.envs.tasks import TaskProbes, unseen_split
from sb3_ldm.evaluation import task_distribution_of
from sb3_ldm.files import save_arrays
from sb3_ldm.inference.belief_maps import belief_maps as belief_maps
from sb3_ldm.results import REWARD_MAPS_FILE


@dataclass(frozen=True)
class RewardMaps:
    """
    Imaginary tasks as maps: the reward that each mixture promises for typical transitions of every possible task.

    :param weights: mixture weights summed over the workers with the same task, ``(n_maps, n_train_tasks)``; those of
        latent dimensions are averaged, where they differ
    :param tasks: the training tasks that the weights belong to, ``(n_train_tasks, task_dim)``
    :param maps: imaginary reward of each probed transition, ``(n_maps, n_probes)``
    :param probed_tasks: the task that each transition is typical of, ``(n_probes, task_dim)``
    """

    weights: np.ndarray
    tasks: np.ndarray
    maps: np.ndarray
    probed_tasks: np.ndarray

    def peaks(self) -> np.ndarray:
        """:return: the task that each map promises most for, ``(n_maps, task_dim)``"""
        return self.probed_tasks[self.maps.argmax(axis=1)]


def sample_reward_maps(env: MixtureVecEnv, n_maps: int = 64, seed: int = 0) -> RewardMaps:
    """
    Mix the beliefs at the ends of the normal workers' last meta-episodes, and decode the mixtures.

    These are mixtures as they are drawn; what ``n_candidates`` and ``require_goal`` choose of them for workers is unseen more
    often.

    :param env: the mixture workers' environments, after a rollout at least
    :param n_maps: number of mixtures
    :param seed: of the mixtures; training's random streams are left alone
    :return: the maps
    :raises ValueError: if no meta-episode has ended yet
    """
    if not env.has_final_beliefs:
        raise ValueError("There are no final beliefs to mix: train for at least one meta-episode first.")
    generator = th.Generator(env.imagination.device).manual_seed(seed)
    return decode_mixtures(env.imagination, env.final_tasks, get_probes(env), n_maps, generator)


def decode_mixtures(
    imagination: Imagination, worker_tasks: Sequence[np.ndarray], probes: TaskProbes, n_maps: int, generator: th.Generator
) -> RewardMaps:
    """
    :param imagination: with the final beliefs of meta-episodes
    :param worker_tasks: the task of each normal worker's meta-episode
    :param probes: typical transitions of the tasks
    :param n_maps: number of mixtures
    :param generator: source of randomness
    :return: the maps
    """
    weights, latents = imagination.sample_final_mixtures(n_maps, generator)
    features = imagination.vae.layout.encode_actions(probes.actions)
    maps = imagination.expected_rewards(latents, probes.states, features, probes.next_states, generator)
    tasks, index = np.unique(np.array(worker_tasks), axis=0, return_inverse=True)
    per_task = np.zeros((n_maps, len(tasks)))
    np.add.at(per_task.T, index.reshape(-1), weights.mean(-1).cpu().numpy().T)
    return RewardMaps(per_task, tasks, maps, probes.tasks)


def imaginary_contrast(env: MixtureVecEnv, n_mixtures: int = 64, n_transitions: int = 256, seed: int = 0) -> float:
    """
    Do imaginary tasks ask for something? Where mixtures fall between what the decoder knows, it may promise about the same for
    whatever is done, and nothing can be learned from it.

    :param env: the mixture workers' environments, after a meta-episode of every normal worker
    :param n_mixtures: number of mixtures
    :param n_transitions: transitions of the buffer that they are asked about
    :param seed: of the mixtures and transitions; training's random streams are left alone
    :return: standard deviation of a mixture's rewards over transitions, by that of the beliefs that are mixed; near 1 if
        imaginary tasks are as demanding as true ones
    :raises ValueError: if no meta-episode has ended yet
    """
    if not env.has_final_beliefs:
        raise ValueError("There are no final beliefs to mix: train for at least one meta-episode first.")
    generator = th.Generator(env.imagination.device).manual_seed(seed)
    known = env.buffer.sample_transitions(n_transitions, np.random.default_rng(seed))
    _, mixtures = env.imagination.sample_final_mixtures(n_mixtures, generator)
    steps = (known.states, known.actions, known.next_states)
    mixed, own = (
        env.imagination.expected_rewards(latents, *steps, generator).std(axis=1).mean()
        for latents in (mixtures, env.imagination.final_means)
    )
    return float(mixed / max(own, 1e-8))


def record_reward_maps(model: Any, env: VecEnv, folder: Path, split: str, seed: int, n_maps: int = 12) -> None:
    """
    Save reward maps of sampled mixtures (Figure 4) beside a run, if it has beliefs to look at: without mixture workers, or
    where nothing was left to train, it has none.

    :param model: LDM, after its training in this process
    :param env: the evaluation's environments
    :param folder: of the run, which gets ``reward_maps.npz``
    :param split: of unseen tasks, which is not looked at
    :param seed: of the mixtures
    :param n_maps: number of mixtures
    """
    if has_probes(env) and model.mixture_env is not None and model.mixture_env.has_final_beliefs:
        write_reward_maps(sample_reward_maps(model.mixture_env, n_maps, seed), folder / REWARD_MAPS_FILE)


def write_reward_maps(maps: RewardMaps, path: Path) -> None:
    """
    :param maps: reward maps of mixtures
    :param path: the npz file: ``weights``, ``tasks``, ``maps``, ``probed_tasks``
    """
    arrays = {"weights": maps.weights.astype(np.float32), "tasks": maps.tasks, "maps": maps.maps.astype(np.float32)}
    save_arrays(path, **arrays, probed_tasks=maps.probed_tasks)


class RewardMapCallback(BaseCallback):
    """
    Log what is imagined: ``imagination/contrast``, see :func:`imaginary_contrast`. Where the tasks can be probed also
    ``imagination/peak_reward``, the mean height of sampled reward maps' peaks, and where the unseen ones can be listed
    ``imagination/share_unseen``, the share of maps that peak on one, and ``imagination/distinct_unseen``, on how many
    different ones. LDM adds it by itself.

    :param freq: time steps (of all sub-environments together) between looks
    :param n_maps: mixtures per look
    """

    def __init__(self, freq: int = 100_000, n_maps: int = 256):
        super().__init__()
        self.freq = freq
        self.n_maps = n_maps
        self._last = 0

    def _on_training_start(self) -> None:
        self._last = min(self._last, self.num_timesteps)  # the model may count from 0 again

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self._last < self.freq:
            return
        self._last = self.num_timesteps
        env = self.model.mixture_env  # type: ignore[attr-defined]
        if not env.has_final_beliefs or len(env.buffer) == 0:
            return
        self.logger.record("imagination/contrast", imaginary_contrast(env, seed=self.num_timesteps))
        if has_probes(self.training_env):
            self._log_maps(sample_reward_maps(env, self.n_maps, seed=self.num_timesteps))

    def _log_maps(self, maps: RewardMaps) -> None:
        self.logger.record("imagination/peak_reward", maps.maps.max(1).mean())
        distribution = task_distribution_of(self.training_env)
        unseen = unseen_split(distribution)
        if not distribution.is_finite(unseen):
            return
        hits = (maps.peaks()[:, None] == distribution.tasks(unseen)[None]).all(-1)
        self.logger.record("imagination/share_unseen", hits.any(1).mean())
        self.logger.record("imagination/distinct_unseen", int(hits.any(0).sum()))
