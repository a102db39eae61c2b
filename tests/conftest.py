"""Fixtures that several test files share."""

import signal
import sys
from collections.abc import Iterator

import pytest

from sb3_ldm.zoo import experiment


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where tests run in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are run in this process, with a final evaluation that is short."""
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(experiment, "FINAL_REPEATS", 1)
