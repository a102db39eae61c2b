"""Files of models, looked into without running what is pickled in them."""

import io
import json
import pathlib
import zipfile
from typing import Any

from stable_baselines3.common.save_util import open_path

#: Parameters that only one algorithm has. They were saved before there was a word for the algorithm itself.
TELLING = {
    "mixture_ratio": "LDM",
    "rl_loss_through_encoder": "VariBAD",
    "mixreg_alpha": "Mixreg",
    "sampling_weight": "EMAML",
    "max_kl": "MAML",
    "kl_coef": "ProMP",
    "_streams_seed": "RL2",
}
#: Parameters' names in models that were saved by earlier versions.
_FORMER_NAMES = {"latent_dynamics": "vae", "latent_dynamics.optimizer": "vae.optimizer"}
#: Packages of other algorithms, by the module of a policy.
_SHARED_POLICIES = {
    "stable_baselines3.common.policies": "stable_baselines3's PPO or A2C",
    "sb3_contrib.common.recurrent.policies": "sb3_contrib's RecurrentPPO",
    "sb3_contrib.common.maskable.policies": "sb3_contrib's MaskablePPO",
}


def check_model_file(path: str | pathlib.Path | io.BufferedIOBase, algorithm: type) -> dict[str, Any]:
    """
    :param path: file of a model, or its path
    :param algorithm: the class that is to load it
    :return: what the file says of the model, its values in the form that they are stored in
    :raises ValueError: if the file is damaged, or of another algorithm, which is named
    """
    told = _told(path)
    saved_by = next((name for key, name in TELLING.items() if key in told), None)
    wanted = next((cls.__name__ for cls in algorithm.__mro__ if cls.__name__ in TELLING.values()), None)
    other = _other_algorithm(str(told.get("policy_class", {}).get("__module__")))
    if saved_by is None and other is not None:
        raise ValueError(f"{path} holds a model of {other}: load it with that class, not with {algorithm.__name__}.")
    if None not in (saved_by, wanted) and saved_by != wanted:
        raise ValueError(f"{path} holds a model of {saved_by}: load it with {saved_by}, not with {algorithm.__name__}.")
    return told


def with_present_names(parameters: dict[str, Any]) -> dict[str, Any]:
    """
    :param parameters: of a model's networks and optimisers, by name
    :return: the same, those of earlier versions by the names that they have now
    """
    return {_FORMER_NAMES.get(name, name): value for name, value in parameters.items()}


def _told(path: str | pathlib.Path | io.BufferedIOBase) -> dict[str, Any]:
    """What the file says of the model, its values in the form that they are stored in; every part of it is looked at."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is not what was written")
            return json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{path} is no model, or a damaged one ({error}), since models are zip-files: load another checkpoint."
        ) from error
    finally:
        if file is not path:
            file.close()


def _other_algorithm(module: str) -> str | None:
    """The algorithm of another package, by the module of its policy, such as ``stable_baselines3.sac.policies``."""
    parts = module.split(".")
    if module in _SHARED_POLICIES or parts[0] not in ("stable_baselines3", "sb3_contrib"):
        return _SHARED_POLICIES.get(module)
    return f"{parts[0]}'s {parts[1].upper()}"
