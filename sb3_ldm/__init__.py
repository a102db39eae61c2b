"""Meta-reinforcement learning that generalises to tasks outside of the training distribution, on Stable-Baselines3."""

from sb3_ldm.algorithms.ldm import LDM
from sb3_ldm.algorithms.mixreg import Mixreg
from sb3_ldm.algorithms.rl2 import RL2
from sb3_ldm.algorithms.varibad import VariBAD
from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.envs.registration import register_envs
from sb3_ldm.version import __version__

__all__ = ["LDM", "RL2", "Mixreg", "VariBAD", "__version__", "make_meta_vec_env"]

register_envs()
