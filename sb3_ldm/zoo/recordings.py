"""What a trained agent does and imagines, recorded as small files that figures are drawn from."""

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.common.evaluation import record_meta, task_distribution_of
from sb3_ldm.common.meta_episode import observation_layout
from sb3_ldm.common.probes import get_probes, visited_probes
from sb3_ldm.ldm import LDM
from sb3_ldm.ldm.reward_maps import belief_maps, sample_reward_maps


def save_reward_maps(model: LDM, path: Path, n_maps: int = 12, seed: int = 0) -> None:
    """
    Save reward maps of sampled mixtures with their weights (Figure 4): ``weights``, ``tasks``, ``maps``, ``probed_tasks``.

    :param model: the agent, after training in this process
    :param path: the npz file
    :param n_maps: number of mixtures
    :param seed: of the mixtures
    """
    assert model.mixture_env is not None
    maps = sample_reward_maps(model.mixture_env, n_maps, seed)
    np.savez_compressed(
        path,
        weights=maps.weights.astype(np.float32),
        tasks=maps.tasks,
        maps=maps.maps.astype(np.float32),
        probed_tasks=maps.probed_tasks,
    )


def save_trajectories(
    model: BaseAlgorithm, env: VecEnv, path: Path, split: str = "test", deterministic: bool = False, seed: int = 0
) -> None:
    """
    Save one meta-episode on every task of a split (Figure 8a): ``tasks``, ``split``, ``positions`` and, for LDM, ``beliefs``.

    ``positions`` ``(n_tasks, N, H + 1, task_dim)`` names for each state the task whose probe it is nearest to, on the
    gridworld the agent's cell; ``beliefs`` ``(n_tasks, N, n_probes)`` is the decoder's reward of each probe at the ends of the
    N episodes.

    :param model: the agent
    :param env: environments with probes and episodes of one length, to run on
    :param path: the npz file
    :param split: the tasks
    :param deterministic: whether the agent takes its most likely actions
    :param seed: of the agent's actions
    """
    layout, probes = observation_layout(env.observation_space), get_probes(env)
    tasks = task_distribution_of(env).tasks(split)
    batch = record_meta(model, env, tasks, deterministic=deterministic, seed=seed)
    arrays: dict[str, Any] = {
        "tasks": tasks,
        "split": np.full(len(tasks), split),
        "positions": probes.tasks[visited_probes(batch, layout, probes)],
    }
    if isinstance(model, LDM):
        times = np.arange(1, layout.episodes_per_task + 1) * layout.max_episode_steps
        arrays["beliefs"] = belief_maps(model.latent_dynamics, batch, probes, times).astype(np.float32)
    np.savez_compressed(path, **arrays)
