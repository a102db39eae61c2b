"""
Train an agent: ``python -m sb3_ldm.train --algo ldm --env GridNavi-v0``, with the options of rl_zoo3's train script.

Hyperparameters come from ``zoo_configs/<algo>.yml``. ``-i RUN/checkpoint.zip`` continues an interrupted run with the options
that it was started with, as far as none are given.
"""

import itertools
import re
import sys
from pathlib import Path
from typing import Any

from sb3_ldm.command import run_command
from sb3_ldm.results import RUN_FILE, load_metadata
from sb3_ldm.zoo.configs import available_configs, read_config
from sb3_ldm.zoo.experiment import HYPERPARAMETERS_FILE, MetaExperimentManager
from sb3_ldm.zoo.options import DEFAULTS, REFUSED_IN_TRAINING, TOLD
from sb3_ldm.zoo.script import run_script

_AGENT = ("-i", "--trained-agent")
_CONFIG = ("-conf", "--conf-file")
_STATE = ("algo", "env", "seed", "n_timesteps", "hyperparameters")
#: What an agent was trained with, if there is nothing else that says it.
_NEEDED = (("--algo",), ("--env",), ("--seed",), ("-n", "--n-timesteps"), _CONFIG)
_SHORT = {"tensorboard_log": ("-tb",)}  #: other names of the options that are kept as such in ``run.json``
_NAME_AND_VALUE = re.compile(r"--?[A-Za-z][\w-]*=")


def with_defaults(arguments: list[str], interactive: bool) -> list[str]:
    """
    :param arguments: the command line
    :param interactive: whether someone watches, who is shown a progress bar
    :return: the command line with this package's defaults for options that it does not give
    """
    # --name=value is --name value
    words = [word for given in arguments for word in (given.split("=", 1) if _NAME_AND_VALUE.match(given) else [given])]
    defaults = [word for name_and_value in DEFAULTS.items() for word in name_and_value]
    if interactive and not {"--progress", "-P"} & set(words):
        defaults.append("--progress")
    # The last one counts, also where the user's is abbreviated.
    return [*defaults, *options_of_run(words), *words]


def options_of_run(arguments: list[str]) -> list[str]:
    """
    The options that a run was started with, so that nobody goes on with others by mistake.

    :param arguments: the words of a command line, perhaps with ``-i RUN/checkpoint.zip``
    :return: options of that run that the command line does not give; none if it starts anew
    :raises ValueError: if files that say them are missing or damaged, and the command line does not say them all
    """
    agent = next((after for word, after in itertools.pairwise(arguments) if word in _AGENT), None)
    state_file = None if agent is None else Path(agent).with_name(RUN_FILE)
    if state_file is None or not (state_file.is_file() or Path(str(agent)).is_file()):
        return []
    try:
        state = load_metadata(state_file, _STATE)
    except (FileNotFoundError, ValueError) as error:
        if missing := [names[-1] for names in _NEEDED if not set(names) & set(arguments)]:
            raise ValueError(f"{error} It says how {agent} was trained: without it, give {', '.join(missing)}, too.") from None
        return []
    options: dict[tuple[str, ...], list[str] | None] = {
        ("--algo",): [state["algo"]],
        ("--env",): [state["env"]],
        ("--seed",): [str(state["seed"])],
        ("-n", "--n-timesteps"): [str(state["n_timesteps"])],
        ("--env-kwargs",): _words(state.get("env_kwargs") or {}),
    }
    complete = state_file.with_name(HYPERPARAMETERS_FILE)
    if state.get("unrecorded") and not set(_CONFIG) & set(arguments):
        raise ValueError(
            f"{agent} was trained with {', '.join(state['unrecorded'])}, which no file can hold: give --conf-file, too."
        )
    if complete.is_file() and not set(_CONFIG) & set(arguments):
        _check_whole(complete, state)
        options[_CONFIG] = [str(complete)]
    elif not {*_CONFIG, "-params", "--hyperparams"} & set(arguments):  # a run from before there was one
        options[("--hyperparams",)] = _words(state["hyperparameters"])
        options[_CONFIG] = [state["config"]] if state.get("config") in available_configs() else None
    for name, value in state.get("options", {}).items():
        options[(*_SHORT.get(name, ()), f"--{name.replace('_', '-')}")] = _words(value)
    return [
        word
        for names, values in options.items()
        if values is not None and not set(names) & set(arguments)
        for word in (names[-1], *values)
    ]


def _check_whole(path: Path, state: dict[str, Any]) -> None:
    """Refuse a file of hyperparameters that was cut, which is a whole one of fewer if that was at the end of a line."""
    found = read_config(path).get(state["env"], {})
    environment = {"env_kwargs": state["env_kwargs"]} if "env_kwargs" in found else {}
    lost = _missing({**state["hyperparameters"], **environment}, found)
    if not path.read_text(encoding="utf-8").endswith("\n"):
        lost.append("the end of its last line")
    if lost:
        raise ValueError(f"{path} was cut, it lacks {', '.join(lost)}: restore it, or give another one with --conf-file.")


def _missing(whole: dict[str, Any], part: Any, prefix: str = "") -> list[str]:
    """Names in a dictionary, and in those in it, that another one lacks."""
    if not isinstance(part, dict):
        return [prefix or "all"]
    lost = [f"{prefix}{name}" for name in whole if name not in part]
    nested = [name for name, value in whole.items() if isinstance(value, dict) and name in part]
    return lost + [name for key in nested for name in _missing(whole[key], part[key], f"{prefix}{key}.")]


def _words(value: Any) -> list[str] | None:
    """What follows an option's name, None if the option is not to be given."""
    if isinstance(value, bool):
        return [] if value else None
    if isinstance(value, dict):
        value = [f"{name}:{one!r}" for name, one in value.items()]
    return (value or None) if isinstance(value, list) else [str(value)]


def main(arguments: list[str] | None = None) -> None:
    """
    Run rl_zoo3's train script with this package's algorithms, environments and hyperparameters.

    :param arguments: the command line, that of the process by default
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    words = with_defaults(arguments, interactive=sys.stdout.isatty())
    told = {"command": "train", "description": __doc__, "epilog": _EPILOG, "sections": _SECTIONS}
    run_script(MetaExperimentManager, words, REFUSED_IN_TRAINING, **told)


_SECTIONS = {
    "agent and tasks": TOLD,
    "run": {
        "--seed": "of all that is random (default: one that is drawn and printed)",
        "--n-timesteps": "of all workers together, and in all where a run goes on (default: the preset's)",
        "--trained-agent": "go on with the run of this agent, such as RUN/checkpoint.zip, with the run's options",
        "--eval-freq": f"timesteps between evaluations, -1 for the one at the end alone (default: {DEFAULTS['--eval-freq']})",
        "--eval-env-kwargs": "of the evaluations' environments (default: those of the training)",
        "--save-freq": f"timesteps between checkpoints, -1 for interrupts alone (default: {DEFAULTS['--save-freq']})",
        "--log-interval": "rollouts between two rows of progress.csv (default: 10, or fewer in a short run)",
        "--vec-env": "workers in this process, vectorised where they can be, or in one each (default: dummy)",
        "--num-threads": f"of PyTorch, -1 for its own number (default: {DEFAULTS['--num-threads']})",
        "--progress": "show a progress bar, as by default on a terminal",
    },
}
_EPILOG = "Options of rl_zoo3's script that have no use are refused; those of a search are the tune command's."

if __name__ == "__main__":
    sys.exit(run_command(main))
