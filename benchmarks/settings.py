"""Hyperparameters of runs, compared with each other and with defaults."""

import inspect
from collections.abc import Mapping
from typing import Any

from sb3_ldm.inference import LatentDynamics
from sb3_ldm.registry import get_algorithm

#: Not a choice of the method.
_IGNORED = ("n_timesteps", "policy")


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    :param prefix: what their names begin with
    :return: the same without mappings, names joined by dots
    """
    result: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = list(value) if isinstance(value, tuple) else value
    return result


def differences(options: Mapping[str, Any], defaults: Mapping[str, Any], otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param defaults: those of the configuration file
    :param otherwise: values of what is not given, those of the algorithm's class
    :return: values of the run that are not the configuration's, by name
    """
    known = {name: value for name, value in flat(otherwise).items() if value is not inspect.Parameter.empty}
    mine, theirs = {**known, **flat(options)}, {**known, **flat(defaults)}
    return {name: value for name, value in mine.items() if name not in _IGNORED and value != theirs.get(name)}


def class_defaults(algo: str) -> dict[str, Any]:
    """:return: the hyperparameters that it has where none are given, of its latent dynamics network too"""
    defaults = {name: one.default for name, one in inspect.signature(get_algorithm(algo).load()).parameters.items()}
    networks = inspect.signature(LatentDynamics).parameters if "vae_kwargs" in defaults else {}
    defaults["vae_kwargs"] = {name: one.default for name, one in networks.items()}
    return defaults
