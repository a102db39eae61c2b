"""
Search hyperparameters with Optuna: ``python -m sb3_ldm.tune --algo ldm --env GridNavi-v0 --n-trials 50``, with the options of
rl_zoo3's train script.

Trials train on part of the training tasks and are judged by the return on the rest; the test tasks are not touched. The study
is kept in ``--storage``: the same command goes on with it, and several processes may work on it at a time. The best
configuration is written as a file that ``python -m sb3_ldm.train --conf-file`` accepts.
"""

import argparse
import sys
from pathlib import Path

import rl_zoo3.train

from sb3_ldm.train import DEFAULTS
from sb3_ldm.zoo import register
from sb3_ldm.zoo.tuning import TuningManager


def with_defaults(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """
    :param arguments: the command line
    :return: the command line of rl_zoo3's train script, and the parameters to vary, None for the default ones
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tune", nargs="+")
    parser.add_argument("--algo", default=DEFAULTS["--algo"])
    parser.add_argument("--env", default=DEFAULTS["--env"])
    parser.add_argument("-f", "--log-folder", default="logs")
    parser.add_argument("--study-name")
    parser.add_argument("--storage")
    parser.add_argument("--verbose", default="0")
    parser.add_argument("--num-threads", default="1")
    own, others = parser.parse_known_args(arguments)
    study = own.study_name or f"{own.algo}_{own.env}"
    storage = own.storage or str(Path(own.log_folder) / own.algo / "tune" / f"{study}.log")
    words = ["--algo", own.algo, "--env", own.env, "-f", own.log_folder]
    words += ["--study-name", study, "--storage", storage, "--verbose", own.verbose, "--num-threads", own.num_threads]
    return ["-optimize", "--eval-freq", "-1", *words, *others], own.tune


def main(arguments: list[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    """
    register()
    rl_zoo3.train.ExperimentManager = TuningManager  # type: ignore[misc]
    arguments = sys.argv[1:] if arguments is None else arguments
    if set(arguments) & {"-h", "--help"}:
        print(__doc__, "\n  --tune NAME [NAME ...]   parameters to vary\n")
    words, TuningManager.tuned = with_defaults(arguments)
    sys.argv = [sys.argv[0], *words]
    rl_zoo3.train.train()


if __name__ == "__main__":
    main()
