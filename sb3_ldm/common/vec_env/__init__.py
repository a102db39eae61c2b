"""Vectorised environments of meta-episodes."""

from sb3_ldm.common.vec_env.batched_meta_vec_env import BatchedMetaVecEnv
from sb3_ldm.common.vec_env.factory import BACKENDS, backend_of, make_meta_vec_env, register_batched_backend

__all__ = ["BACKENDS", "BatchedMetaVecEnv", "backend_of", "make_meta_vec_env", "register_batched_backend"]
