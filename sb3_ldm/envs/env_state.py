"""Where environments are in their episodes, random streams included, to go on there in others that are made alike."""

import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle


def layers_of(env: gym.Env) -> Iterator[gym.Env]:
    """:return: an environment's wrappers, from the outside inwards, and the environment itself"""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def is_copied_as_it_runs(env: gym.Env) -> bool:
    """
    :param env: an environment
    :return: whether a copy of it goes on in the midst of an episode: not where environments are made anew to be copied, as
        those of MuJoCo and Box2D are (``gymnasium.utils.EzPickle``)
    """
    return not any(isinstance(layer, EzPickle) for layer in layers_of(env))


def get_state(env: gym.Env) -> bytes | None:
    """
    :param env: an environment, wrapped or not
    :return: all that it holds, pickled; None where that is not all of it, or cannot be pickled
    """
    if not is_copied_as_it_runs(env):
        return None
    try:
        return cloudpickle.dumps(env)
    except Exception:  # of whatever kind: what environments hold is theirs
        return None


def set_state(env: gym.Env, state: bytes) -> None:
    """
    :param env: made in the same way as the one that the state is of
    :param state: from :func:`get_state`
    """
    for mine, other in zip(layers_of(env), layers_of(pickle.loads(state)), strict=True):
        vars(mine).update({name: value for name, value in vars(other).items() if name != "env"})


def description(*parts: Any) -> str:
    """
    :param parts: what tells environments apart
    :return: a text that is equal where all of them are
    """
    digest = hashlib.sha256()
    for part in parts:
        try:
            digest.update(pickle.dumps(part))
        except Exception:  # of a class that is nowhere to be imported from
            digest.update(type(part).__qualname__.encode())
    return digest.hexdigest()


def describe(env: gym.Env) -> str:
    """
    :param env: an environment that hosts tasks
    :return: a text that is equal for environments that were made in the same way: their wrappers, their spec, their spaces
        and their tasks
    """
    spec = env.spec
    return description(
        [f"{type(layer).__module__}.{type(layer).__qualname__}" for layer in layers_of(env)],
        None if spec is None else (spec.id, repr(spec.kwargs)),
        repr(env.observation_space),
        repr(env.action_space),
        env.get_wrapper_attr("task_distribution"),
    )
