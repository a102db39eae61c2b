"""Modules that have moved: the names of earlier versions, which saved models and users' scripts still have."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ALGORITHMS = ("ldm", "mixreg", "rl2", "varibad")
_MODULES = (
    *(f"{name}.{module}" for name in _ALGORITHMS for module in (name, "policies")),
    *("ldm.imagination", "ldm.mixture", "ldm.mixture_vec_env", "ldm.reward_maps", "mixreg.mixture"),
)
#: Where the names of a module are now; packages whose names have gone to several rooms have several.
MOVED: dict[str, tuple[str, ...]] = {
    "sb3_ldm.common": (),
    "sb3_ldm.common.callbacks": ("sb3_ldm.evaluation.callbacks",),
    "sb3_ldm.common.embedding": ("sb3_ldm.nets.embedding",),
    "sb3_ldm.common.evaluation": ("sb3_ldm.evaluation", "sb3_ldm.results"),
    "sb3_ldm.common.evaluation_table": ("sb3_ldm.results.evaluation_table",),
    "sb3_ldm.common.latent_dynamics": ("sb3_ldm.data", "sb3_ldm.inference", "sb3_ldm.on_policy"),
    "sb3_ldm.common.latent_dynamics.buffer": ("sb3_ldm.data.meta_episodes",),
    "sb3_ldm.common.latent_dynamics.elbo": ("sb3_ldm.inference.elbo",),
    "sb3_ldm.common.latent_dynamics.latent_dynamics": ("sb3_ldm.inference.vae",),
    "sb3_ldm.common.latent_dynamics.networks": ("sb3_ldm.inference.networks",),
    "sb3_ldm.common.latent_dynamics.ppo": ("sb3_ldm.on_policy.vae_ppo",),
    "sb3_ldm.common.latent_dynamics.recording_vec_env": ("sb3_ldm.on_policy.recording_vec_env",),
    "sb3_ldm.common.meta_episode": ("sb3_ldm.envs.meta_episode",),
    "sb3_ldm.common.probes": ("sb3_ldm.data.probes",),
    "sb3_ldm.common.recurrent": ("sb3_ldm.on_policy", "sb3_ldm.data", "sb3_ldm.nets.sequences"),
    "sb3_ldm.common.recurrent.actions": ("sb3_ldm.nets.distributions",),
    "sb3_ldm.common.recurrent.buffers": ("sb3_ldm.data.rollouts",),
    "sb3_ldm.common.recurrent.policies": ("sb3_ldm.on_policy.policies",),
    "sb3_ldm.common.recurrent.ppo_loss": ("sb3_ldm.on_policy.ppo_loss",),
    "sb3_ldm.common.recurrent.sequence_ppo": ("sb3_ldm.on_policy.sequence_ppo",),
    "sb3_ldm.common.recurrent.sequences": ("sb3_ldm.nets.sequences",),
    "sb3_ldm.common.sharding": ("sb3_ldm.nets.sharding",),
    "sb3_ldm.common.vec_env": ("sb3_ldm.envs",),
    "sb3_ldm.common.vec_env.batched_meta_vec_env": ("sb3_ldm.envs.batched_meta_vec_env",),
    "sb3_ldm.common.vec_env.factory": ("sb3_ldm.envs.factory",),
    "sb3_ldm.common.vec_env.transitions": ("sb3_ldm.envs.steps",),
    "sb3_ldm.inference.latent_dynamics": ("sb3_ldm.inference.vae",),
    "sb3_ldm.on_policy.latent_dynamics_ppo": ("sb3_ldm.on_policy.vae_ppo",),
    "sb3_ldm.registration": ("sb3_ldm.envs.registration",),
    "sb3_ldm.summary": ("sb3_ldm.results.summary",),
    "sb3_ldm.zoo.cluster": ("sb3_ldm.cluster",),
    **{f"sb3_ldm.{name}": (f"sb3_ldm.algorithms.{name}",) for name in _ALGORITHMS},
    **{f"sb3_ldm.{name}": (f"sb3_ldm.algorithms.{name}",) for name in _MODULES},
}


#: What is called otherwise now in modules that have moved.
RENAMED = {"LatentDynamics": "RewardVAE", "LatentDynamicsPPO": "VAEPPO"}


class _MovedModules(MetaPathFinder, Loader):
    """Finds a module by its former name and hands out the present one's names."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        for name in reversed(MOVED[module.__name__]):
            present = importlib.import_module(name)
            module.__dict__.update({key: value for key, value in vars(present).items() if not key.startswith("__")})
        held = vars(module)
        held.update({former: held[name] for former, name in RENAMED.items() if name in held})
        if MOVED[module.__name__]:
            warnings.warn(
                f"{module.__name__} has moved to {' and '.join(MOVED[module.__name__])}.", DeprecationWarning, stacklevel=2
            )


def find_moved_modules() -> None:
    """Let the names of earlier versions be imported; calling it again changes nothing."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
