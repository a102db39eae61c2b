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
from sb3_ldm.command import run_command
from sb3_ldm.zoo.options import DEFAULTS, REFUSED_IN_SEARCHES, Parser
from sb3_ldm.zoo.script import run_script


def with_defaults(arguments: list[str]) -> tuple[list[str], argparse.Namespace]:
    """
    :param arguments: the command line
    :return: the command line of rl_zoo3's train script, and the options that are not its own
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tune", nargs="+")
    parser.add_argument("--ray-address", nargs="?", const="")
    parser.add_argument("--gpus-per-trial", type=float, default=0.0)
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
    if set(arguments) & {"-h", "--help"}:
        print(__doc__, _OWN_OPTIONS)
    check_installed("tune", "optuna", "pandas")  # which writes the table of the trials at the end
    from sb3_ldm.zoo.tuning import TuningManager

    words, options = with_defaults(arguments)
    run_script(partial(TuningManager, tuned=options.tune, cluster=connect_cluster(options)), words, REFUSED_IN_SEARCHES)


_OWN_OPTIONS = """
  --tune NAME [NAME ...]   parameters to vary
  --ray-address [ADDRESS]  run trials on this Ray cluster; without an address, Ray is started on this machine
  --n-jobs N               trials at a time on the cluster (default: as many as fit)
  --gpus-per-trial N       GPUs of a node that a trial needs
"""

if __name__ == "__main__":
    sys.exit(run_command(main))
