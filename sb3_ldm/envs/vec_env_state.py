"""Where vectorised environments are in their meta-episodes, to go on there in others that were made in the same way."""

from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

#: What Monitor, outside of the meta-episodes, has of an episode that runs.
_OF_MONITOR = ("rewards", "needs_reset", "total_steps")


def get_state(env: VecEnv) -> dict[str, Any] | None:
    """
    :param env: vectorised environments, wrapped or not
    :return: where they are, as arrays (of pickles, where environments run one by one); None where they do not tell:
        MuJoCo's one by one, whose state is in C, environments that cannot be pickled, or that are closed or in a step
    """
    base: Any = env.unwrapped
    try:
        if getattr(base, "waiting", False):
            return None
        if hasattr(base, "get_state"):
            state = base.get_state()
            return None if state is None else {"kind": "batched", "made": base.describe(), **state}
        if not base.has_attr("get_env_state"):
            return None
        states = base.env_method("get_env_state")
        if None in states:
            return None
        monitor: dict[str, Any] | None = None
        if all(base.env_is_wrapped(Monitor)):
            monitor = {name: base.get_attr(name) for name in _OF_MONITOR}
        return {
            "kind": "single",
            "made": base.env_method("describe"),
            "envs": [np.frombuffer(state, np.uint8) for state in states],
            "monitor": monitor,
        }
    except (EOFError, OSError):  # closed, or the processes have ended
        return None


def fits(env: VecEnv, state: dict[str, Any] | None) -> bool:
    """
    :param env: vectorised environments, wrapped or not
    :param state: from :func:`get_state`
    :return: whether they were made as those of the state
    """
    base: Any = env.unwrapped
    if state is None:
        return False
    if hasattr(base, "get_state"):
        return state["kind"] == "batched" and state["made"] == base.describe()
    return state["kind"] == "single" and base.has_attr("get_env_state") and state["made"] == base.env_method("describe")


def set_state(env: VecEnv, state: dict[str, Any]) -> None:
    """
    :param env: vectorised environments that the state fits, wrapped or not
    :param state: from :func:`get_state`
    """
    base: Any = env.unwrapped
    base.reset()  # so that wrappers know that they may be stepped, and seeds are used up
    if hasattr(base, "set_state"):
        base.set_state(state)
        return
    for index, one in enumerate(state["envs"]):
        base.env_method("set_env_state", one.tobytes(), indices=[index])
        for name, values in (state["monitor"] or {}).items():
            base.set_attr(name, values[index], indices=[index])
