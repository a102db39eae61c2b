"""rl_zoo3's train script with managers of this package; also callable more than once in a process."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import rl_zoo3.train
from rl_zoo3.exp_manager import ExperimentManager

from sb3_ldm.zoo.options import Parser
from sb3_ldm.zoo.registration import register

#: Signals that end a process: of schedulers that take the machine back, and of terminals that are closed.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def _handling(numbers: Sequence[signal.Signals], handler: Callable[[int, object], None]) -> Iterator[None]:
    """Handle signals, but those that are ignored, as under nohup; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heeded:
            previous = before[number]
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


@contextlib.contextmanager
def exit_when_terminated() -> Iterator[None]:
    """Let the signals that end a process raise SystemExit; in the main thread alone."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    with _handling(ENDING, leave):
        yield


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Let SIGINT and the signals that end a process wait until what is in the ``with`` is done; in the main thread alone."""
    received: list[int] = []
    with _handling((signal.SIGINT, *ENDING), lambda number, frame: received.append(number)):
        yield
    for number in ENDING:
        if number in received:
            sys.exit(128 + number)
    if received:
        raise KeyboardInterrupt


def run_script(
    manager: Callable[..., Any], arguments: Sequence[str], refused: Mapping[str, str] | None = None, **told: Any
) -> None:
    """
    :param manager: makes the :class:`~sb3_ldm.zoo.experiment.MetaExperimentManager` that runs the experiment
    :param arguments: the script's command line
    :param refused: options that have no use, and why
    :param told: how the help is written, see :class:`~sb3_ldm.zoo.options.Parser`
    """
    register()
    made: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> ExperimentManager:
        made.append(manager(*args, **kwargs))
        return made[-1]

    script: Any = rl_zoo3.train
    before = script.ExperimentManager, script.argparse, sys.argv
    script.ExperimentManager, script.argparse = make, SimpleNamespace(ArgumentParser=partial(Parser, refused=refused, **told))
    sys.argv = [sys.argv[0], *arguments]
    failed = True
    try:
        with exit_when_terminated():
            script.train()
        failed = False
    finally:
        script.ExperimentManager, script.argparse, sys.argv = before
        for experiment in made:
            experiment.close(failed)
