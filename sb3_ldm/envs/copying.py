"""Copies of models with their environments (``copy.deepcopy`` and ``pickle``), which SB3's wrappers do not support."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import cloudpickle
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_ldm.checks import warn_user
from sb3_ldm.envs import env_state

_NO_COPY = "The copy of the model has no environment, since that cannot be copied ({reason}): give it one with set_env."
#: What wrappers cannot copy, or have from what they wrap.
_NOT_COPIED = ("venv", "class_attributes")


def is_copied_as_it_runs(env: VecEnv) -> bool:
    """
    :param env: vectorised environments
    :return: whether a copy of them goes on in the midst of an episode
    """
    return all(env_state.is_copied_as_it_runs(one) for one in getattr(env.unwrapped, "envs", []))


class CopiedEnv:
    """
    Vectorised environments inside of a model that is copied. Wrappers are copied with all that they hold (SB3's
    ``VecNormalize`` leaves out the environments and its returns); what cannot be copied is None in the copy, with a warning.

    :param env: the environments
    """

    def __init__(self, env: VecEnv | None):
        self.env = env

    def __deepcopy__(self, memo: dict[int, Any]) -> "CopiedEnv":
        return CopiedEnv(_copied(self.env, copy.deepcopy))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (_copied(self.env, cloudpickle.dumps, rebuilt=False),)


def _unpickled(layers: Any) -> CopiedEnv:
    return CopiedEnv(None if layers is None else _rebuilt(cloudpickle.loads(layers)))


def _copied(env: VecEnv | None, duplicate: Callable[[Any], Any], rebuilt: bool = True) -> Any:
    if env is None:
        return None
    if hasattr(env.unwrapped, "processes"):
        # Not even to be tried: half a copy closes the connections of the original.
        warn_user(_NO_COPY.format(reason="it runs in other processes"))
        return None
    try:
        layers = duplicate(_layers(env))
        return _rebuilt(layers) if rebuilt else layers
    except Exception as error:  # of whatever kind: libraries of physics raise their own
        warn_user(_NO_COPY.format(reason=f"{type(error).__name__}: {error}"))
        return None


def _layers(env: VecEnv) -> list[Any]:
    """The environments, and then what each wrapper around them holds, from the inside outwards."""
    layers: list[Any] = []
    while isinstance(env, VecEnvWrapper):
        own = getattr(type(env), "__getstate__", vars)(env)  # of VecNormalize without its returns
        held = {name: value for name, value in (vars(env) | own).items() if name not in _NOT_COPIED}
        layers.append((type(env), held))
        env = env.venv
    return [env, *reversed(layers)]


def _rebuilt(layers: list[Any]) -> VecEnv:
    env, *wrappers = layers
    for cls, held in wrappers:
        wrapper = cls.__new__(cls)
        vars(wrapper).update(held, venv=env, class_attributes=dict(inspect.getmembers(cls)))
        env = wrapper
    return env
