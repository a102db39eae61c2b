"""Fixtures that several test files share, and what every test begins with and leaves behind."""

import os
import random
import signal
import sys
import zlib
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch as th

# The same examples in every run, however slow the machine is; --hypothesis-profile=explore looks for others.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest) -> Iterator[None]:
    """Global state is the same before every test, whichever ran before: random streams are seeded, the rest is restored."""
    # pytest-randomly seeds all but torch's; without it (-p no:randomly) tests have the streams of --randomly-seed=0.
    seed = (request.config.getoption("randomly_seed", 0) + zlib.crc32(request.node.nodeid.encode())) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    th.manual_seed(seed)
    threads, folder, arguments, environment = th.get_num_threads(), os.getcwd(), sys.argv, dict(os.environ)
    yield
    th.set_num_threads(threads)
    os.chdir(folder)
    sys.argv = arguments
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    if "rl_zoo3.enjoy" in sys.modules:  # sb3_ldm.enjoy replaces its function
        sys.modules["rl_zoo3.enjoy"].create_test_env = sys.modules["rl_zoo3.utils"].create_test_env  # type: ignore[attr-defined]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt and SIGHUP ends, also in the background and under nohup, where they are ignored."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are run in this process, with a final evaluation that is short."""
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr("sb3_ldm.zoo.experiment.FINAL_REPEATS", 1)
