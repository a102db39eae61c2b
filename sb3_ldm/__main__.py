"""All commands in one: ``sb3-ldm COMMAND``, or ``python -m sb3_ldm COMMAND``."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from sb3_ldm.checks import nearest
from sb3_ldm.command import SCRIPT, run_command
from sb3_ldm.version import __version__

#: Modules of the package with ``main(arguments)``, imported when they are called, and what is said of them.
COMMANDS = {
    "quickstart": "train LDM and RL2 side by side for some minutes, print a table, draw figures",
    "demo": "write a page on which agents look for a goal that you hide",
    "train": "train an agent, or go on with one",
    "enjoy": "watch a trained agent on unseen tasks, or record a video of it",
    "evaluate": "tell a trained agent's returns on every split of tasks, as a table or JSON",
    "tune": "search hyperparameters",
    "figures": "draw figures of finished runs, and print a table of their results",
}


def _main_of(command: str) -> Callable[[list[str]], Any]:
    return import_module(f"sb3_ldm.{command}" + (".__main__" if command == "figures" else "")).main  # a package


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    usage = f"usage: {SCRIPT} COMMAND [options]\n\nMeta-reinforcement learning for tasks that nobody trained on."
    return "\n".join(
        [usage, "", "commands:", *lines, "", f"{SCRIPT} COMMAND --help tells its options, --version which code it is."]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: the command line, that of the process by default
    :return: exit status: that of the command, 2 if there is no such command
    """
    name, *words = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"{SCRIPT} {__version__}")
        return 0
    if name not in COMMANDS:
        what = f"{name!r} is no command: {nearest(name, COMMANDS)}" if name else f"give a command\n\n{_help()}"
        print(f"{SCRIPT}: error: {what}", file=sys.stderr)
        return 2
    sys.argv = [f"{SCRIPT} {name}", *words]  # as help and what libraries write down have it
    return run_command(lambda given: _main_of(name)(given), words)


if __name__ == "__main__":
    sys.exit(main())
