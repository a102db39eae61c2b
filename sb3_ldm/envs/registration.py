"""The registered environment ids; each makes meta-episodes, ready for a recurrent algorithm."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import torch as th

from sb3_ldm.checks import check_installed
from sb3_ldm.env_ids import DOORS_IDS, GRID_IDS, LOCOMOTION_IDS, register_env_ids
from sb3_ldm.envs import doors, locomotion
from sb3_ldm.envs.batched_meta_vec_env import BatchedMetaVecEnv
from sb3_ldm.envs.doors import BatchedDoors, Doors, DoorsTasks
from sb3_ldm.envs.factory import register_batched_backend
from sb3_ldm.envs.gridworld import (
    HORIZON,
    BatchedGridNavi,
    GridNavi,
    GridNaviTasks,
    GridObservation,
    grid_navi_extrapolation_tasks,
    grid_navi_tasks,
)
from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper
from sb3_ldm.envs.mujoco_backend import INSTALL_MUJOCO, BatchedLocomotion, has_mujoco
from sb3_ldm.envs.oracle import BatchedObserveTask, ObserveTask
from sb3_ldm.envs.tasks import BatchedTaskEnv, TaskDistribution

EPISODES_PER_TASK = 4  #: N of the paper's gridworld
DOORS_EPISODES_PER_TASK = 3
LOCOMOTION_EPISODES_PER_TASK = 2  #: N of the paper's MuJoCo domains

_GRID_TASKS: dict[str, Callable[[], GridNaviTasks]] = {
    "GridNavi-v0": grid_navi_tasks,
    "GridNaviExtrapolation-v0": grid_navi_extrapolation_tasks,
}

#: The tasks of the registered environments, which need not be made to know them.
TASKS: Mapping[str, Callable[[], TaskDistribution]] = {
    **_GRID_TASKS,
    **dict.fromkeys(DOORS_IDS, DoorsTasks),
    **{env_id: domain.make_tasks for env_id, domain in locomotion.DOMAINS.items()},
}


def make_grid(
    env_id: str,
    task_split: str = "train",
    episodes_per_task: int = EPISODES_PER_TASK,
    observation: GridObservation = "xy",
    horizon: int = HORIZON,
    validation_tasks: int = 0,
    observe_task: bool = False,
    render_mode: str | None = None,
) -> MetaEpisodeWrapper:
    """
    Make a gridworld. (The ``max_episode_steps`` of ``gym.make`` would cut the meta-episode: use ``horizon``.)

    :param env_id: ``"GridNavi-v0"``, or ``"GridNaviExtrapolation-v0"`` with the splits ``test1`` and ``test2`` besides
    :param task_split: the split that goals are sampled from; ``"all"`` for the paper's oracle
    :param episodes_per_task: episodes in a meta-episode, N in the paper
    :param observation: see :func:`~sb3_ldm.envs.gridworld.cell_states`
    :param horizon: steps of an episode, H in the paper
    :param validation_tasks: training goals to hold out as the split ``validation``
    :param observe_task: append the goal to the state, for an oracle that need not search
    :param render_mode: None or ``"rgb_array"``
    :return: the environment
    """
    tasks = _GRID_TASKS[env_id]().hold_out(validation_tasks)
    env: gym.Env = GridNavi(task_split, observation, tasks, render_mode)
    return MetaEpisodeWrapper(ObserveTask(env) if observe_task else env, episodes_per_task, max_episode_steps=horizon)


# gymnasium reads it to show what can only be drawn to arrays in a window.
make_grid.metadata = GridNavi.metadata  # type: ignore[attr-defined]


def make_doors(
    env_id: str,
    task_split: str = "train",
    episodes_per_task: int = DOORS_EPISODES_PER_TASK,
    horizon: int = doors.HORIZON,
    validation_tasks: int = 0,
    observe_task: bool = False,
    render_mode: str | None = None,
) -> MetaEpisodeWrapper:
    """
    Make a corridor of doors. (The ``max_episode_steps`` of ``gym.make`` would cut the meta-episode: use ``horizon``.)

    :param env_id: ``"Doors-v0"``
    :param task_split: the split that doors are sampled from; ``"all"`` for an oracle
    :param episodes_per_task: episodes in a meta-episode
    :param horizon: steps of an episode
    :param validation_tasks: training doors to hold out as the split ``validation``
    :param observe_task: append the door to the state, for an oracle that need not search
    :param render_mode: None or ``"rgb_array"``
    :return: the environment
    """
    env: gym.Env = Doors(task_split, DoorsTasks().hold_out(validation_tasks), render_mode)
    return MetaEpisodeWrapper(ObserveTask(env) if observe_task else env, episodes_per_task, max_episode_steps=horizon)


make_doors.metadata = Doors.metadata  # type: ignore[attr-defined]


def make_locomotion(
    env_id: str,
    task_split: str = "train",
    episodes_per_task: int = LOCOMOTION_EPISODES_PER_TASK,
    horizon: int = locomotion.HORIZON,
    validation_tasks: int = 0,
    observe_task: bool = False,
    integrator: str | None = None,
    render_mode: str | None = None,
    **kwargs: Any,
) -> MetaEpisodeWrapper:
    """
    Make a locomotion environment. (The ``max_episode_steps`` of ``gym.make`` would cut the meta-episode: use ``horizon``.)

    :param env_id: one of :data:`~sb3_ldm.env_ids.LOCOMOTION_IDS`
    :param task_split: the split that tasks are sampled from; ``"all"`` for the paper's oracle
    :param episodes_per_task: episodes in a meta-episode, N in the paper
    :param horizon: steps of an episode, H in the paper
    :param validation_tasks: how many tasks stand for the training tasks that are held out as the split ``validation``
    :param observe_task: append the task to the state, for an oracle that need not search
    :param integrator: ``"euler"`` or another of :data:`~sb3_ldm.envs.locomotion.INTEGRATORS`, for cheaper, other physics of
        the ants, the hopper and the walker; None for the model's own
    :param render_mode: None or one of gymnasium's
    :param kwargs: of the gymnasium environment, for instance the size of pictures
    :return: the environment
    :raises ImportError: if MuJoCo is not installed
    """
    check_installed("mujoco", "mujoco")
    domain = locomotion.domain_of(env_id)
    env: gym.Env = locomotion.LocomotionEnv(domain, task_split, render_mode, validation_tasks, integrator, **kwargs)
    return MetaEpisodeWrapper(ObserveTask(env) if observe_task else env, episodes_per_task, max_episode_steps=horizon)


def make_batched(env_id: str, n_envs: int, **env_kwargs: Any) -> BatchedMetaVecEnv:
    """
    Make the batched backend of a registered environment. A locomotion environment's physics has as many threads as torch.

    :param env_id: one of the registered ids
    :param n_envs: number of environments
    :param env_kwargs: what :func:`make_grid`, :func:`make_doors` and :func:`make_locomotion` are told
    :return: the vectorised environment
    :raises TypeError: if the environment does not take one of them
    :raises ValueError: if an option is the domain's own, or ``render_mode`` is for a window
    :raises ImportError: if MuJoCo is needed and not installed
    """
    make, make_backend = _MAKERS[env_id]
    told = inspect.signature(make).bind(env_id, **env_kwargs)
    told.apply_defaults()
    options = told.arguments
    backend = make_backend(n_envs, options)
    return BatchedMetaVecEnv(
        BatchedObserveTask(backend) if options["observe_task"] else backend,
        options["episodes_per_task"],
        options["task_split"],
        options["render_mode"],
        spec=gym.spec(env_id),
    )


def _grid_backend(n_envs: int, options: Mapping[str, Any]) -> BatchedTaskEnv:
    tasks = _GRID_TASKS[options["env_id"]]().hold_out(options["validation_tasks"])
    return BatchedGridNavi(n_envs, options["observation"], tasks, max_episode_steps=options["horizon"])


def _doors_backend(n_envs: int, options: Mapping[str, Any]) -> BatchedTaskEnv:
    return BatchedDoors(n_envs, DoorsTasks().hold_out(options["validation_tasks"]), options["horizon"])


def _locomotion_backend(n_envs: int, options: Mapping[str, Any]) -> BatchedTaskEnv:
    check_installed("mujoco", "mujoco")
    domain, held_out = locomotion.domain_of(options["env_id"]), options["validation_tasks"]
    # A window, which there is none of, is refused by the vectorised environment.
    how = {"render_mode": "rgb_array" if options["render_mode"] == "rgb_array" else None, **options.get("kwargs", {})}
    threads = th.get_num_threads()
    return BatchedLocomotion(n_envs, domain, options["horizon"], threads, held_out, options["integrator"], **how)


_Makers = tuple[Callable[..., MetaEpisodeWrapper], Callable[[int, Mapping[str, Any]], BatchedTaskEnv]]
#: What makes an environment, and what makes the batched family of it.
_MAKERS: Mapping[str, _Makers] = {
    **dict.fromkeys(GRID_IDS, (make_grid, _grid_backend)),
    **dict.fromkeys(DOORS_IDS, (make_doors, _doors_backend)),
    **dict.fromkeys(LOCOMOTION_IDS, (make_locomotion, _locomotion_backend)),
}


def register_envs() -> None:
    """Register the environments and their batched backends; calling it again changes nothing."""
    register_env_ids()
    for env_id in (*GRID_IDS, *DOORS_IDS):
        register_batched_backend(env_id, partial(make_batched, env_id))
    for env_id in LOCOMOTION_IDS:
        register_batched_backend(env_id, partial(make_batched, env_id), has_mujoco, needs=INSTALL_MUJOCO)
