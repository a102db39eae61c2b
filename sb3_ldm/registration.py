"""The registered environment ids; each makes meta-episodes, ready for a recurrent algorithm."""

from functools import partial

import gymnasium as gym

from sb3_ldm.common.meta_episode import MetaEpisodeWrapper
from sb3_ldm.common.vec_env import BatchedMetaVecEnv, register_batched_backend
from sb3_ldm.envs.gridworld import (
    HORIZON,
    BatchedGridNavi,
    GridNavi,
    GridNaviTasks,
    GridObservation,
    grid_navi_extrapolation_tasks,
    grid_navi_tasks,
)

EPISODES_PER_TASK = 4  #: N of the paper's gridworld

_GRID_TASKS = {"GridNavi-v0": grid_navi_tasks, "GridNaviExtrapolation-v0": grid_navi_extrapolation_tasks}


def make_grid_navi(
    task_split: str = "train",
    episodes_per_task: int = EPISODES_PER_TASK,
    observation: GridObservation = "xy",
    horizon: int = HORIZON,
    validation_tasks: int = 0,
    render_mode: str | None = None,
) -> MetaEpisodeWrapper:
    """
    Make ``GridNavi-v0``. (The ``max_episode_steps`` of ``gym.make`` would cut the meta-episode: use ``horizon``.)

    :param task_split: the split that goals are sampled from
    :param episodes_per_task: episodes in a meta-episode, N in the paper
    :param observation: see :func:`~sb3_ldm.envs.gridworld.cell_states`
    :param horizon: steps of an episode, H in the paper
    :param validation_tasks: training goals to hold out as the split ``validation``
    :param render_mode: None or ``"rgb_array"``
    :return: the environment
    """
    return _make_grid(
        grid_navi_tasks().hold_out(validation_tasks), task_split, episodes_per_task, observation, horizon, render_mode
    )


def make_grid_navi_extrapolation(
    task_split: str = "train",
    episodes_per_task: int = EPISODES_PER_TASK,
    observation: GridObservation = "xy",
    horizon: int = HORIZON,
    validation_tasks: int = 0,
    render_mode: str | None = None,
) -> MetaEpisodeWrapper:
    """
    Make ``GridNaviExtrapolation-v0``; parameters as of :func:`make_grid_navi`, splits ``test1`` and ``test2`` besides.

    :return: the environment
    """
    return _make_grid(
        grid_navi_extrapolation_tasks().hold_out(validation_tasks),
        task_split,
        episodes_per_task,
        observation,
        horizon,
        render_mode,
    )


def _make_grid(
    tasks: GridNaviTasks,
    task_split: str,
    episodes_per_task: int,
    observation: GridObservation,
    horizon: int,
    render_mode: str | None,
) -> MetaEpisodeWrapper:
    env = GridNavi(task_split, observation, tasks, render_mode)
    return MetaEpisodeWrapper(env, episodes_per_task, max_episode_steps=horizon)


def make_batched_grid(
    env_id: str,
    n_envs: int,
    task_split: str = "train",
    episodes_per_task: int = EPISODES_PER_TASK,
    observation: GridObservation = "xy",
    horizon: int = HORIZON,
    validation_tasks: int = 0,
    render_mode: str | None = None,
) -> BatchedMetaVecEnv:
    """
    Make the batched backend of a gridworld; parameters as of :func:`make_grid_navi`.

    :param env_id: ``"GridNavi-v0"`` or ``"GridNaviExtrapolation-v0"``
    :param n_envs: number of environments
    :return: the vectorised environment
    """
    tasks = _GRID_TASKS[env_id]().hold_out(validation_tasks)
    backend = BatchedGridNavi(n_envs, observation, tasks, max_episode_steps=horizon)
    return BatchedMetaVecEnv(backend, episodes_per_task, task_split, render_mode, spec=gym.spec(env_id))


_ENTRY_POINTS = {
    "GridNavi-v0": "sb3_ldm.registration:make_grid_navi",
    "GridNaviExtrapolation-v0": "sb3_ldm.registration:make_grid_navi_extrapolation",
}


def register_envs() -> None:
    """Register the environments and their batched backends; calling it again changes nothing."""
    for env_id, entry_point in _ENTRY_POINTS.items():
        if env_id not in gym.registry:
            # Both checks cost time in every step; the wrapper itself refuses a step before the reset.
            gym.register(env_id, entry_point=entry_point, disable_env_checker=True, order_enforce=False)
        register_batched_backend(env_id, partial(make_batched_grid, env_id))
