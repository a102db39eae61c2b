"""Refusing parameters that cannot be meant, before any work starts, and warning of those that hardly can."""

import importlib
import math
import sys
import warnings
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

#: What stands between this package and a user's line.
_LIBRARIES = ("sb3_ldm", "stable_baselines3", "sb3_contrib", "rl_zoo3", "contextlib", "copy", "pickle", "cloudpickle")


def warn_user(message: str) -> None:
    """
    Warn at the user's own line: the innermost one that is neither in this package nor in those that it builds on.

    :param message: of the warning
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def check_integer(name: str, value: Any, least: int, why: str = "") -> None:
    """
    :param name: of the parameter
    :param value: what was given
    :param least: the least that is allowed
    :param why: what follows in the message
    :raises ValueError: if it is no whole number, or less
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}={value!r}: use a whole number of at least {least}{f', {why}' if why else ''}.")


def is_number(value: Any) -> bool:
    """
    :param value: of a parameter
    :return: whether it is a finite number
    """
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
    """
    :param name: of the parameter
    :param value: what was given
    :param least: the least that is allowed
    :param most: the most that is allowed
    :raises ValueError: if it is no finite number, or out of its range
    """
    if not is_number(value) or not least <= value <= most:
        raise ValueError(f"{name}={value!r}: use a finite number in [{least:g}, {most:g}].")


def check_positive(name: str, value: Any) -> None:
    """
    :param name: of the parameter
    :param value: what was given
    :raises ValueError: if it is no finite number above 0
    """
    if not is_number(value) or value <= 0.0:
        raise ValueError(f"{name}={value!r}: use a finite number above 0.")


def check_names(what: str, given: Any, known: Collection[str]) -> None:
    """
    :param what: of which the names are, for the message
    :param given: values by their names
    :param known: the names that there are
    :raises ValueError: if it is no mapping, or a name is unknown: then with the nearest one
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}={given!r}: use a mapping of names to values.")
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{what}: {name}={value!r} is not understood: {nearest(str(name), known)}")


def nearest(name: str, known: Collection[str]) -> str:
    """
    :param name: what is unknown
    :param known: what there is
    :return: what may have been meant, for a message; all that there is if nothing is near
    """
    close = get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else f"use {', '.join(sorted(known)) or 'none'}"


def check_installed(extra: str, *modules: str) -> None:
    """
    :param extra: name of this package's extra that installs them
    :param modules: what is needed
    :raises ImportError: if one cannot be imported, naming the extra
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(f"{module} is needed: pip install 'sb3_ldm[{extra}]' ({error})") from error
