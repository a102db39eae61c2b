"""Refusing parameters that cannot be meant, before any work starts."""

import math
from typing import Any

import numpy as np


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
