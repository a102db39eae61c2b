"""Make the algorithms known to rl_zoo3, which has no plugins: its tables are filled in place."""

from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ldm.ldm import LDM
from sb3_ldm.mixreg import Mixreg
from sb3_ldm.registration import register_envs
from sb3_ldm.rl2 import RL2
from sb3_ldm.varibad import VariBAD

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"rl2": RL2, "ldm": LDM, "varibad": VariBAD, "mixreg": Mixreg}


def register() -> None:
    """Register the algorithms with rl_zoo3 and the environments with gymnasium; calling it again changes nothing."""
    ALGOS.update(ALGORITHMS)
    register_envs()
