"""
Search hyperparameters with Optuna: ``python -m sb3_ldm.tune --algo ldm --env GridNavi-v0 --n-trials 50``, with the options of
rl_zoo3's train script.

Trials train on part of the training tasks and are judged by the return on the rest; the test tasks are not touched. The study
is kept in ``--storage``: the same command goes on with it, and several processes may work on it at a time, or the nodes of a
Ray cluster (``--ray-address``). The best configuration is written as a file that ``python -m sb3_ldm.train --conf-file``
accepts.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from huggingface_sb3 import EnvironmentName

from sb3_ldm.checks import check_installed
from sb3_ldm.cluster import Cluster, connect, n_at_once
from sb3_ldm.command import CommandParser, run_command
from sb3_ldm.zoo.options import DEFAULTS, REFUSED_IN_SEARCHES, TOLD, Parser
from sb3_ldm.zoo.script import run_script


def _own_options() -> CommandParser:
    parser = CommandParser(add_help=False, allow_abbrev=False)
    own = parser.add_argument_group("search")
    own.add_argument("--tune", nargs="+", metavar="NAME", help="hyperparameters to vary (default: the algorithm's choice)")
    own.add_argument(
        "--ray-address",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run trials on this Ray cluster; without an address, Ray is started on this machine",
    )
    own.add_argument(
        "--gpus-per-trial", type=float, default=0.0, metavar="N", help="GPUs of a node that a trial needs (default: 0)"
    )
    return parser


def with_defaults(arguments: list[str]) -> tuple[list[str], argparse.Namespace]:
    """
    :param arguments: the command line
    :return: the command line of rl_zoo3's train script, and the options that are not its own
    """
    parser = Parser(add_help=False, allow_abbrev=False, parents=[_own_options()])
    parser.add_argument("--n-jobs", type=int)
    parser.add_argument("--algo", default=DEFAULTS["--algo"])
    parser.add_argument("--env", default=DEFAULTS["--env"])
    parser.add_argument("-f", "--log-folder", default="logs")
    parser.add_argument("--study-name")
    parser.add_argument("--storage")
    parser.add_argument("--verbose", default="0")
    parser.add_argument("--num-threads", default="1")
    own, others = parser.parse_known_args(arguments)
    study = own.study_name or f"{own.algo}_{EnvironmentName(own.env)}"
    storage = own.storage or str(Path(own.log_folder) / own.algo / "tune" / f"{study}.log")
    words = [
        "--algo",
        own.algo,
        "--env",
        own.env,
        "-f",
        own.log_folder,
        "--n-jobs",
        str(1 if own.n_jobs is None else own.n_jobs),
    ]
    words += ["--study-name", study, "--storage", storage, "--verbose", own.verbose, "--num-threads", own.num_threads]
    return ["-optimize", *words, *others], own


def connect_cluster(options: argparse.Namespace) -> Cluster | None:
    """
    :param options: of :func:`with_defaults`
    :return: where trials are run: on the Ray cluster that was asked for, or in this process
    :raises ValueError: if ``n_jobs`` is not positive, or the cluster has not what a trial needs
    """
    if options.ray_address is None:
        return None
    if options.n_jobs is not None and options.n_jobs < 1:
        raise ValueError(f"n_jobs={options.n_jobs}: use at least 1 trial at a time.")
    connect(options.ray_address)
    n_cpus = max(1, int(options.num_threads))
    most = n_at_once(n_cpus, options.gpus_per_trial)
    return Cluster(most if options.n_jobs is None else options.n_jobs, n_cpus, options.gpus_per_trial)


def main(arguments: list[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not {"-h", "--help"} & set(arguments):
        check_installed("tune", "optuna", "pandas")  # which writes the table of the trials at the end
    from sb3_ldm.zoo.tuning import TuningManager

    words, options = with_defaults(arguments)
    told = {"command": "tune", "description": __doc__, "parents": [_own_options()], "sections": _SECTIONS}
    manager = partial(TuningManager, tuned=options.tune, cluster=connect_cluster(options))
    run_script(manager, words, REFUSED_IN_SEARCHES, **told)


_SECTIONS = {
    "search": {
        "-optimize": argparse.SUPPRESS,
        "--n-trials": "trials of this process (default: 500)",
        "--n-jobs": "trials at a time (default: 1, on a cluster as many as fit)",
        "--n-timesteps": "of each trial (default: the preset's)",
        "--study-name": "of the study (default: ALGO_ENV)",
        "--storage": "where the study is kept, to go on with or to work on together (default: in the log folder)",
        "--num-threads": "of PyTorch in each trial (default: 1)",
        "--verbose": "1 to print what trials print (default: 0)",
    },
    "agent and tasks": TOLD,
}

if __name__ == "__main__":
    sys.exit(run_command(main))
