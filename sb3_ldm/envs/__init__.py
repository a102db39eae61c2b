"""Task families: what a task is, how it is sampled, its splits, and the environments that host it."""

from sb3_ldm.envs.gridworld import BatchedGridNavi, GridNavi, grid_navi_extrapolation_tasks, grid_navi_tasks
from sb3_ldm.envs.locomotion import DOMAINS, AntDirection, AntGoal, Domain, HalfCheetahVelocity, LocomotionEnv
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
    "DOMAINS",
    "SPLITS",
    "AntDirection",
    "AntGoal",
    "BatchedGridNavi",
    "BatchedStep",
    "BatchedTaskEnv",
    "Domain",
    "FiniteTaskDistribution",
    "GridNavi",
    "HalfCheetahVelocity",
    "LocomotionEnv",
    "Task",
    "TaskDistribution",
    "TaskEnv",
    "TaskEnvMixin",
    "check_task_env",
    "grid_navi_extrapolation_tasks",
    "grid_navi_tasks",
]
