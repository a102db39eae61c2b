"""Make the algorithms known to rl_zoo3, which has no plugins: its tables are filled in place."""

from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ldm.algorithms.ldm import LDM
from sb3_ldm.algorithms.mixreg import Mixreg
from sb3_ldm.algorithms.rl2 import RL2
from sb3_ldm.algorithms.varibad import VariBAD
from sb3_ldm.envs.registration import register_envs

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"rl2": RL2, "ldm": LDM, "varibad": VariBAD, "mixreg": Mixreg}


def register() -> None:
    """Register the algorithms with rl_zoo3 and the environments with gymnasium; calling it again changes nothing."""
    ALGOS.update(ALGORITHMS)
    register_envs()
