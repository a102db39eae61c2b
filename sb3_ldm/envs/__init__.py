"""Task families: what a task is, how it is sampled, its splits, and the environments that host it as meta-episodes."""

from sb3_ldm.envs.batched_meta_vec_env import BatchedMetaVecEnv
from sb3_ldm.envs.doors import BatchedDoors, Doors, DoorsTasks
from sb3_ldm.envs.factory import BACKENDS, backend_of, check_env_kwargs, make_meta_vec_env, register_batched_backend
from sb3_ldm.envs.gridworld import (
    BatchedGridNavi,
    GridNavi,
    grid_navi_extrapolation_tasks,
    grid_navi_tasks,
)
from sb3_ldm.envs.locomotion import DOMAINS, AntDirection, AntGoal, Domain, HalfCheetahVelocity, LocomotionEnv
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout, MetaEpisodeWrapper, MetaObservationSpace, observation_layout
from sb3_ldm.envs.monitor import MetaMonitor, monitor_of
from sb3_ldm.envs.registration import register_envs
from sb3_ldm.envs.tasks import (
    SPLITS,
    BatchedStep,
    BatchedTaskEnv,
    FiniteTaskDistribution,
    Task,
    TaskDistribution,
    TaskEnv,
    TaskEnvMixin,
    check_task_env,
)

__all__ = [
    "BACKENDS",
    "DOMAINS",
    "SPLITS",
    "AntDirection",
    "AntGoal",
    "BatchedDoors",
    "BatchedGridNavi",
    "BatchedMetaVecEnv",
    "BatchedStep",
    "BatchedTaskEnv",
    "Domain",
    "Doors",
    "DoorsTasks",
    "FiniteTaskDistribution",
    "GridNavi",
    "HalfCheetahVelocity",
    "LocomotionEnv",
    "MetaEpisodeLayout",
    "MetaEpisodeWrapper",
    "MetaMonitor",
    "MetaObservationSpace",
    "Task",
    "TaskDistribution",
    "TaskEnv",
    "TaskEnvMixin",
    "backend_of",
    "check_env_kwargs",
    "check_task_env",
    "grid_navi_extrapolation_tasks",
    "grid_navi_tasks",
    "make_meta_vec_env",
    "monitor_of",
    "observation_layout",
    "register_batched_backend",
    "register_envs",
]

register_envs()
