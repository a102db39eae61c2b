"""Options that a constructor hands on: each is named, documented and given its default in one place."""

import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from sb3_ldm.checks import nearest

Class = TypeVar("Class", bound=type)
Parameters = dict[str, inspect.Parameter]

_PARAM = re.compile(r"^:param (\w+):.*\n?(?:^[ ]+.*\n?)*", re.MULTILINE)


def takes_options_of(*parts: Callable[..., Any], **defaults: Any) -> Callable[[Class], Class]:
    """
    For a class whose constructor hands ``**options`` on: its signature and its docstring tell all that it takes.

    Its own options come first, as positional arguments, too; then those of the parts in their order, and among them the
    class's own keyword-only ones where a part has the same name.

    :param parts: classes that the options go to, the nearest first
    :param defaults: of some of their options, where they are others in this class
    :return: a decorator of the class, whose constructor raises a TypeError of :func:`check_options`
    """

    def decorate(cls: Class) -> Class:
        constructor = cls.__init__  # type: ignore[misc]
        signature = _signature(constructor, parts, defaults)

        @functools.wraps(constructor)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            check_options(type(self), signature, kwargs)
            given = signature.bind(self, *args, **kwargs).arguments
            constructor(given.pop("self"), **{**defaults, **given})

        __init__.__signature__ = signature  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[misc]
        cls.__doc__ = _documentation(cls.__doc__, [part.__doc__ for part in parts], signature.parameters)
        return cls

    return decorate


def check_options(cls: type, signature: inspect.Signature, given: Collection[str], more: Collection[str] = ()) -> None:
    """
    :param cls: whose options they are, for the message
    :param signature: of its constructor
    :param given: names of keyword arguments
    :param more: names that are allowed besides those of its constructor
    :raises TypeError: if one is unknown, with the nearest one
    """
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.parameters.values()):
        return
    known = [name for name in signature.parameters if name != "self" and not name.startswith("_")]
    for name in given:
        if name not in signature.parameters and name not in more:
            raise TypeError(f"{cls.__name__} has no option {name}: {nearest(name, known)}.")


def _signature(constructor: Any, parts: Collection[Callable[..., Any]], defaults: dict[str, Any]) -> inspect.Signature:
    own = inspect.signature(constructor).parameters
    merged: Parameters = {name: one for name, one in own.items() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    for part in parts:
        for name, one in inspect.signature(part).parameters.items():
            merged.setdefault(name, own.get(name, one.replace(default=defaults.get(name, one.default))))
    for name, one in own.items():
        if one.kind is inspect.Parameter.KEYWORD_ONLY:
            merged.setdefault(name, one)
    for name in defaults:
        assert name in merged, f"no part has the option {name}"
    return inspect.Signature([one.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for one in merged.values()])


def _documentation(own: str | None, parts: Collection[str | None], names: Collection[str]) -> str | None:
    """A docstring with the ``:param`` of all names, each from the first that has it."""
    if own is None:  # python -OO
        return None
    own = inspect.cleandoc(own)
    told: dict[str, str] = {}
    for text in (own, *(inspect.cleandoc(part or "") for part in parts)):
        for one in _PARAM.finditer(text):
            told.setdefault(one[1], one[0].rstrip())
    before, *raised = re.split(r"^(?=:raises)", own, maxsplit=1, flags=re.MULTILINE)
    lines = [_PARAM.sub("", before).rstrip(), "", *(told[name] for name in names if name in told), *raised]
    return "\n".join(lines) + "\n"
