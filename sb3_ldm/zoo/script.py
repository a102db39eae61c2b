"""rl_zoo3's train script with managers of this package; also callable more than once in a process."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import rl_zoo3.train
from rl_zoo3.exp_manager import ExperimentManager

from sb3_ldm.zoo.registration import register


@contextlib.contextmanager
def exit_when_terminated() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, as a scheduler sends it before it takes the machine back; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until what is in the ``with`` is done; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: received.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if signal.SIGTERM in received:
        sys.exit(128 + signal.SIGTERM)
    if received:
        raise KeyboardInterrupt


def run_script(manager: Callable[..., ExperimentManager], arguments: Sequence[str]) -> None:
    """
    :param manager: makes what runs the experiment
    :param arguments: the script's command line
    """
    register()
    before = rl_zoo3.train.ExperimentManager, sys.argv
    rl_zoo3.train.ExperimentManager = manager  # type: ignore[misc, assignment]
    sys.argv = [sys.argv[0], *arguments]
    try:
        rl_zoo3.train.train()
    finally:
        rl_zoo3.train.ExperimentManager, sys.argv = before  # type: ignore[misc]
