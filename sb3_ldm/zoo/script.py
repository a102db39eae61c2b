"""rl_zoo3's train script with managers of this package; also callable more than once in a process."""

import sys
from collections.abc import Callable, Sequence

import rl_zoo3.train
from rl_zoo3.exp_manager import ExperimentManager

from sb3_ldm.zoo.registration import register


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
