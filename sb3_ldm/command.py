"""What commands have in common: how they are called, and how they end: with one line for an error that is the user's."""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import yaml

DEBUG = "--debug"  #: option of every command
SCRIPT = "sb3-ldm"  #: that has all commands
#: Errors of options, files, disks and what is not installed. Assertions with a message are rl_zoo3's and SB3's way to refuse.
_USERS = (ValueError, AssertionError, OSError, ImportError, MemoryError, gym.error.Error, yaml.YAMLError)
_NOTES = "__notes__"  # what Python 3.11's add_note writes, and tracebacks show


class _Paragraphs(argparse.HelpFormatter):
    """Docstrings as help: each paragraph is wrapped by itself, without the marks of code."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(part, width, indent) for part in text.strip().replace("``", "").split("\n\n"))


class CommandParser(argparse.ArgumentParser):
    """
    A parser whose help is made of a module's docstring, and names the command as it was called.

    :param command: its name, a module of this package; None for a parser that nobody sees
    :param kwargs: of ``ArgumentParser``
    """

    def __init__(self, command: str | None = None, **kwargs: Any):
        by_script = sys.argv[0] == f"{SCRIPT} {command}"
        prog = None if command is None else sys.argv[0] if by_script else f"python -m sb3_ldm.{command}"
        kwargs = {"usage": "%(prog)s [options]", "formatter_class": _Paragraphs, **kwargs}
        super().__init__(prog=prog, **kwargs)
        if command is not None:
            # Known here for the help alone: run_command takes it out.
            self.add_argument(DEBUG, action="store_true", default=argparse.SUPPRESS, help="show where an error comes from")


def add_note(error: BaseException, note: str) -> None:
    """
    :param error: an error that goes on
    :param note: what is said behind it, such as what was saved
    """
    setattr(error, _NOTES, [*notes_of(error), note])


def notes_of(error: BaseException) -> list[str]:
    """:return: what :func:`add_note` has added"""
    return list(getattr(error, _NOTES, []))


def is_users(error: BaseException) -> bool:
    """
    :param error: what a command ended with
    :return: whether its message alone tells the user what to do; not where it ended work, with notes of what became of it,
        unless a disk is full or a file cannot be written
    """
    if isinstance(error, ConnectionError) or (notes_of(error) and not isinstance(error, (OSError, MemoryError))):
        return False
    return isinstance(error, _USERS) and (bool(str(error)) or isinstance(error, MemoryError))


def run_command(main: Callable[[list[str]], Any], arguments: Sequence[str] | None = None) -> int:
    """
    Run a command: ``sys.exit(run_command(main))``. An error that is the user's ends it with one line, with ``--debug`` with
    its traceback.

    :param main: takes the command line; may return its exit status
    :param arguments: the command line, that of the process by default
    :return: exit status: 0, 1 after an error, 130 after Ctrl-C
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    try:
        return main([word for word in words if word != DEBUG]) or 0
    except KeyboardInterrupt as error:
        _report(error, "interrupted")
        return 130
    except Exception as error:
        if debug or not is_users(error):
            # Notes come last on every version of Python.
            traceback.print_exception(type(error), error, error.__traceback__)
            if sys.version_info < (3, 11):
                print(*notes_of(error), sep="\n", file=sys.stderr)
        else:
            _report(error, f"error: {_one_line(error)} ({DEBUG} shows where)")
        return 1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _report(error: BaseException, line: str) -> None:
    print(line, *notes_of(error), sep="\n", file=sys.stderr)
