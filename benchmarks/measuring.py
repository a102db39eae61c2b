"""What the measurements of speed share."""

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sb3_contrib
import stable_baselines3
import torch as th
from sb3_contrib import RecurrentPPO

from sb3_ldm.version import __version__, current_commit

Record = dict[str, Any]  #: of a JSON file


@contextlib.contextmanager
def pytorch_threads() -> Iterator[None]:
    """Leave PyTorch's number of threads as it was."""
    before = th.get_num_threads()
    try:
        yield
    finally:
        th.set_num_threads(before)


def results_folder(name: str, out: Path | None, quick: bool) -> Path:
    """
    :param name: of the benchmark
    :param out: where its results should lie, None if nobody said
    :param quick: whether it is only a glimpse, which must not replace results that are kept
    :return: the folder
    """
    if out is not None:
        return out
    return Path("runs", f"{name}_quick") if quick else Path("benchmarks", "results", name)


def frames_of(model: RecurrentPPO) -> int:
    """:return: frames in a rollout of all workers"""
    return model.n_envs * model.n_steps


def train_rollouts(model: RecurrentPPO, rollouts: int) -> None:
    """
    :param model: the algorithm to train further
    :param rollouts: how many rollouts, each with its updates
    """
    model.learn(rollouts * frames_of(model), reset_num_timesteps=False)


def cpu_name() -> str:
    """:return: the processor's model name"""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def load_average() -> float | None:
    """:return: how many processes run, averaged over the last minute; None where the system does not tell"""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_machine() -> Record:
    """:return: what the figures depend on besides the configuration"""
    return {
        "cpu": cpu_name(),
        "n_cpus": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "system": platform.system(),
        "commit": current_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            "torch": str(th.__version__),
            "numpy": np.__version__,
            "stable_baselines3": stable_baselines3.__version__,
            "sb3_contrib": sb3_contrib.__version__,
            "sb3_ldm": __version__,
        },
    }


class Spread(NamedTuple):
    """A median over the rounds, and the extremes or other quantiles."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """:return: for a table"""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def spread(values: Sequence[float] | np.ndarray, tail: float = 0.0) -> Spread:
    """
    :param values: of all rounds
    :param tail: share of them to leave out on each side
    :return: their median and the extremes of the others
    """
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return Spread(float(np.median(values)), float(low), float(high))
