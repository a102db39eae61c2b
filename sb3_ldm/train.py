"""
Train an agent: ``python -m sb3_ldm.train --algo ldm --env GridNavi-v0``, with the options of rl_zoo3's train script.

Hyperparameters come from ``zoo_configs/<algo>.yml``. ``-i RUN/checkpoint.zip`` continues an interrupted run.
"""

import sys

import rl_zoo3.train

from sb3_ldm.zoo import register
from sb3_ldm.zoo.experiment import MetaExperimentManager

#: Options whose default differs from rl_zoo3's, which is made for one environment and many short episodes.
DEFAULTS = {"--algo": "ldm", "--env": "GridNavi-v0", "--eval-freq": "250000", "--save-freq": "250000", "--num-threads": "1"}


def with_defaults(arguments: list[str], interactive: bool) -> list[str]:
    """
    :param arguments: the command line
    :param interactive: whether someone watches, who is shown a progress bar
    :return: the command line with this package's defaults for options that it does not give
    """
    given = {argument.split("=")[0] for argument in arguments}
    missing = [word for name, value in DEFAULTS.items() if name not in given for word in (name, value)]
    if interactive and not given & {"--progress", "-P"}:
        missing.append("--progress")
    return [*arguments, *missing]


def main(arguments: list[str] | None = None) -> None:
    """
    Run rl_zoo3's train script with this package's algorithms, environments and hyperparameters.

    :param arguments: the command line, that of the process by default
    """
    register()
    rl_zoo3.train.ExperimentManager = MetaExperimentManager  # type: ignore[misc]
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.argv = [sys.argv[0], *with_defaults(arguments, interactive=sys.stdout.isatty())]
    rl_zoo3.train.train()


if __name__ == "__main__":
    main()
