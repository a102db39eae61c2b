"""Tasks told by what is visited: which tasks' typical transitions an agent has tried."""

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.data.meta_episodes import MetaEpisodeBatch
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout, observation_layout
from sb3_ldm.envs.tasks import TaskProbes


def has_probes(env: VecEnv) -> bool:
    """
    :param env: vectorised environments
    :return: whether their tasks can be probed (see :class:`~sb3_ldm.envs.tasks.TaskProbes`)
    """
    # Where states are wrapped, for instance to hold the task, probes of the states below are of no use.
    return (
        env.has_attr("task_probes") and get_probes(env).states.shape[1] == observation_layout(env.observation_space).state_dim
    )


def get_probes(env: VecEnv) -> TaskProbes:
    """
    :param env: vectorised environments whose tasks can be probed
    :return: a typical transition of every task
    """
    return env.get_attr("task_probes", 0)[0]


def has_full_length(batch: MetaEpisodeBatch, layout: MetaEpisodeLayout) -> bool:
    """
    :param batch: meta-episodes
    :param layout: their layout
    :return: whether none of their episodes ended early
    """
    return len(batch.mask) == layout.meta_episode_steps and bool(batch.mask.all())


def visited_probes(batch: MetaEpisodeBatch, layout: MetaEpisodeLayout, probes: TaskProbes) -> np.ndarray:
    """
    For each state the probe that it is nearest to; on the gridworld, its cell.

    :param batch: meta-episodes whose episodes all have the full length
    :param layout: their layout
    :param probes: typical transitions of the tasks
    :return: indices of probes, an episode's first state first, ``(batch, N, H + 1)``
    :raises ValueError: if an episode ended early
    """
    if not has_full_length(batch, layout):
        raise ValueError(
            f"batch: some meta-episodes have less than {layout.meta_episode_steps} steps, so episodes ended early."
        )
    shape = (layout.episodes_per_task, layout.max_episode_steps, -1, layout.state_dim)
    starts = batch.states.cpu().numpy().reshape(shape)[:, :1]
    visited = np.concatenate([starts, batch.next_states.cpu().numpy().reshape(shape)], axis=1)
    distance = np.abs(visited[..., None, :] - probes.next_states).sum(-1)
    return distance.argmin(-1).transpose(2, 0, 1)


def coverage(visited: np.ndarray, n_probes: int) -> np.ndarray:
    """
    How much of the task space has been searched.

    :param visited: indices of probes, ``(batch, N, steps)``
    :param n_probes: number of probes
    :return: different probes visited up to the end of each episode, averaged over meta-episodes, ``(N,)``
    """
    seen = np.zeros((*visited.shape[:2], n_probes), dtype=bool)
    np.put_along_axis(seen, visited, True, axis=2)
    return np.logical_or.accumulate(seen, axis=1).sum(-1).mean(0)
