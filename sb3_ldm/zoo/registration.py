"""Make the algorithms known to rl_zoo3, which has no plugins: its tables are filled in place."""

from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ldm.envs.registration import register_envs
from sb3_ldm.registry import meta_learners

#: Classes by name, as of this module's import.
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {name: spec.load() for name, spec in meta_learners().items()}


def register() -> None:
    """Register the algorithms with rl_zoo3 and the environments with gymnasium; calling it again changes nothing else."""
    ALGOS.update({name: spec.load() for name, spec in meta_learners().items()})
    register_envs()
