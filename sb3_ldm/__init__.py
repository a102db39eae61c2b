"""Meta-reinforcement learning that generalises to tasks outside of the training distribution, on Stable-Baselines3."""

import importlib
from typing import TYPE_CHECKING, Any

from sb3_ldm.env_ids import register_env_ids
from sb3_ldm.moved import find_moved_modules
from sb3_ldm.version import __version__

if TYPE_CHECKING:
    from sb3_ldm.algorithms.emaml import EMAML
    from sb3_ldm.algorithms.ldm import LDM
    from sb3_ldm.algorithms.maml import MAML
    from sb3_ldm.algorithms.mixreg import Mixreg
    from sb3_ldm.algorithms.promp import ProMP
    from sb3_ldm.algorithms.rl2 import RL2
    from sb3_ldm.algorithms.varibad import VariBAD
    from sb3_ldm.envs import make_meta_vec_env
    from sb3_ldm.registry import AlgorithmSpec, register_algorithm
    from sb3_ldm.zoo.pretrained import load_pretrained

__all__ = [
    "EMAML",
    "LDM",
    "MAML",
    "RL2",
    "AlgorithmSpec",
    "Mixreg",
    "ProMP",
    "VariBAD",
    "__version__",
    "load_pretrained",
    "make_meta_vec_env",
    "register_algorithm",
]

#: Where the public names are, which are imported when they are asked for: torch takes seconds that ``--help`` does not need.
_HOMES = {
    "AlgorithmSpec": "sb3_ldm.registry",
    "EMAML": "sb3_ldm.algorithms.emaml",
    "LDM": "sb3_ldm.algorithms.ldm",
    "MAML": "sb3_ldm.algorithms.maml",
    "Mixreg": "sb3_ldm.algorithms.mixreg",
    "ProMP": "sb3_ldm.algorithms.promp",
    "RL2": "sb3_ldm.algorithms.rl2",
    "VariBAD": "sb3_ldm.algorithms.varibad",
    "load_pretrained": "sb3_ldm.zoo.pretrained",
    "make_meta_vec_env": "sb3_ldm.envs",
    "register_algorithm": "sb3_ldm.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sb3_ldm' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


find_moved_modules()
register_env_ids()
