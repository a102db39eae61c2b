"""Vectorised environments of meta-episodes."""

from sb3_ldm.common.vec_env.batched_meta_vec_env import BatchedMetaVecEnv
from sb3_ldm.common.vec_env.factory import (
    BACKENDS,
    backend_of,
    check_env_kwargs,
    make_meta_vec_env,
    register_batched_backend,
)
from sb3_ldm.common.vec_env.monitor import MetaMonitor, monitor_of

__all__ = [
    "BACKENDS",
    "BatchedMetaVecEnv",
    "MetaMonitor",
    "backend_of",
    "check_env_kwargs",
    "make_meta_vec_env",
    "monitor_of",
    "register_batched_backend",
]
