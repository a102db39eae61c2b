"""Options of rl_zoo3's scripts as they are meant here: what is understood, and what is refused by name before any work."""

import argparse
import ast
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import rl_zoo3.utils
from rl_zoo3.utils import StoreDict
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ldm.checks import check_integer, check_names, check_positive, nearest
from sb3_ldm.command import CommandParser
from sb3_ldm.inference.vae import NETWORK_OPTIONS
from sb3_ldm.registry import DEFAULT, algorithms, get_algorithm, meta_learners
from sb3_ldm.zoo.configs import SCHEDULES, ZOO_KEYS, available_configs, initial_value
from sb3_ldm.zoo.registration import register

#: Arguments of algorithms that the commands give, by the options that say them.
_GIVEN = {
    "env": "--env",
    "tensorboard_log": "--tensorboard-log",
    "seed": "--seed",
    "verbose": "--verbose",
    "device": "--device",
}
_NOISE = ("noise_type", "noise_std")  #: of which rl_zoo3 makes the action noise of off-policy algorithms
#: Hyperparameters of rl_zoo3 that would change the environment.
UNUSED_HYPERPARAMETERS = ("env_wrapper", "vec_env_wrapper", "frame_stack", "monitor_kwargs")

_EVALUATED = "every task of the evaluated splits is tried, side by side"
#: Options of rl_zoo3's train script that have no use in any command, and why.
NEVER = {
    "--truncate-last-trajectory": "no algorithm here replays trajectories that could be cut",
    "--eval-episodes": _EVALUATED,
    "--n-eval-envs": _EVALUATED,
}
_SEARCHES = (
    *("--optimize-hyperparameters", "--trial-id", "--optimization-log-path", "--n-trials", "--max-total-trials"),
    *("--no-optim-plots", "--n-jobs", "--sampler", "--pruner", "--n-startup-trials", "--n-evaluations", "--storage"),
    "--study-name",
)
REFUSED_IN_TRAINING = {
    **NEVER,
    **dict.fromkeys(
        _SEARCHES,
        "search hyperparameters with python -m sb3_ldm.tune, which writes the best ones to a file for train --conf-file",
    ),
}
_TRACKED = ("--track", "--wandb-project-name", "--wandb-entity", "--wandb-group", "--wandb-tags")
REFUSED_IN_SEARCHES = {
    **NEVER,
    **dict.fromkeys(_TRACKED, "a search is kept in its study, and each of its trials in a folder with progress.csv"),
    **dict.fromkeys(("--eval-freq", "--save-freq"), "trials are evaluated and saved --n-evaluations times"),
    "--trained-agent": "trials begin anew; train -i continues an agent",
    "--save-replay-buffer": "trials keep their curves alone; train the best one with train --conf-file",
    "--tensorboard-log": "each trial has a progress.csv; train the best one with train --conf-file",
    "--progress": "trials write to log.txt in their folders",
    "--uuid": "trials have folders by their numbers",
    "--trial-id": "the best trial is in best.yml of the study's folder",
    "--optimization-log-path": "trials are kept in the folder of the study",
}
#: Options that tell of which run an agent is, and their defaults.
OF_RUNS = {"folder": "logs", "exp_id": 0, "load_best": False, "load_last_checkpoint": False}
#: Options of rl_zoo3's enjoy script that have no use, and why.
REFUSED_IN_SHOWS = {"--load-checkpoint": "a run keeps one checkpoint, which --load-last-checkpoint shows"}
#: Options whose default differs from rl_zoo3's, which is made for one environment and many short episodes.
DEFAULTS = {"--algo": DEFAULT, "--env": "GridNavi-v0", "--eval-freq": "250000", "--save-freq": "250000", "--num-threads": "1"}
#: What help says of options that mean more here than in rl_zoo3's train script, where that is not its own text.
TOLD: dict[str, str | None] = {
    "--algo": None,
    "--env": f"id of the environment (default: {DEFAULTS['--env']})",
    "--env-kwargs": "its options, such as task_split:all, or validation_tasks:6 to make choices without the test tasks",
    "--conf-file": f"hyperparameters: {', '.join(available_configs())}, a file or module (default: the algorithm's)",
    "--hyperparams": "single ones instead, such as mixture_ratio:0.25 learning_rate:lin_1e-3 n_envs:32",
}


class _Refuse(argparse.Action):
    """An option that is known, but of no use."""

    def __init__(self, option_strings: Sequence[str], dest: str, why: str = "", **kwargs: Any):
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **kwargs)
        self.why = why

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> NoReturn:
        raise ValueError(f"{option_string} has no use: {self.why}.")


class _StoreWords(argparse.Action):
    """rl_zoo3's ``name:value``, where words that are no Python expression are text: ``task_split:all`` needs no quotes."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = {}
        for word in values:
            name, colon, value = word.partition(":")
            if not colon or not value or not name.isidentifier():
                right = word.replace("=", ":", 1) if "=" in name and name.partition("=")[0].isidentifier() else "name:value"
                raise ValueError(f"{option_string} {word}: use {right}.")
            try:
                given[name] = evaluated(value)
            except Exception as error:
                raise ValueError(f"{option_string} {word}: {type(error).__name__}: {error}") from error
        setattr(namespace, self.dest, given)


class Parser(CommandParser):
    """
    A parser that ends with one line, knows of options that are refused, and understands words and ids of environments.

    :param command: its name; None for a parser that nobody sees
    :param refused: options that have no use, and why
    :param sections: of the help, options by title: what is said of each, None for what rl_zoo3 says. They come first, those
        that are in none after them, as rl_zoo3's
    :param kwargs: of ``ArgumentParser``
    """

    def __init__(
        self,
        command: str | None = None,
        refused: Mapping[str, str] | None = None,
        sections: Mapping[str, Mapping[str, str | None]] | None = None,
        **kwargs: Any,
    ):
        self._refused = refused or {}
        self._places: dict[str, tuple[Any, str | None]] = {}
        self.others: Any = None  #: where options are that are in no section
        super().__init__(command, **kwargs)
        for title, told in (sections or {}).items():
            of_parents = [group for group in self._action_groups if group.title == title]
            section = of_parents[0] if of_parents else self.add_argument_group(title)
            self._places |= {name: (section, text) for name, text in told.items()}
        self.others = self.add_argument_group("options of rl_zoo3") if sections else None

    def add_argument(self, *names: Any, **kwargs: Any) -> argparse.Action:
        why = next((self._refused[name] for name in names if name in self._refused), None)
        if why is not None:
            takes = {"nargs": 0} if kwargs.get("action") == "store_true" else {"nargs": kwargs.get("nargs")}
            return super().add_argument(*names, action=_Refuse, why=why, default=kwargs.get("default"), **takes)
        if "--algo" in names:
            kwargs.pop("choices", None)  # modules of --gym-packages may register more
            kwargs["help"] = f"{', '.join(algorithms())}, or what a module of --gym-packages registers (default: {DEFAULT})"
        if kwargs.get("action") is StoreDict:
            kwargs |= {"action": _StoreWords, "metavar": "NAME:VALUE"}
        section, text = next((self._places[name] for name in names if name in self._places), (self.others, None))
        kwargs["help"] = text or kwargs.get("help")
        return super().add_argument(*names, **kwargs) if section is None else section.add_argument(*names, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options = super().parse_args(args, namespace)
        if options.env is not None:
            options.gym_packages, options.env = packages_and_id(options.gym_packages, options.env)
        for package in options.gym_packages:
            importlib.import_module(package)
        register()
        if options.algo is not None:
            get_algorithm(options.algo)  # names those that there are
        self._check_tracking(options)
        return options

    def _check_tracking(self, options: argparse.Namespace) -> None:
        for name in _TRACKED[1:]:
            dest = name.removeprefix("--").replace("-", "_")
            if not getattr(options, "track", True) and getattr(options, dest) != self.get_default(dest):
                raise ValueError(f"{name} has no use without --track.")

    def error(self, message: str) -> NoReturn:
        unknown = message.rpartition("unrecognized arguments: ")[2].split()
        names = [name for action in self._actions for name in action.option_strings if action.help != argparse.SUPPRESS]
        hints = [f"{word}: {nearest(word, names)}" for word in unknown if word.startswith("-")] if "unrecog" in message else []
        raise ValueError("; ".join([message, *hints, "--help shows all options"]))


def add_agent_options(parser: Parser) -> None:
    """
    Options that say which agent it is about: ``find_trained`` and ``load_agent`` of :mod:`sb3_ldm.zoo.trained` take them.

    :param parser: gets them
    """
    parser.add_argument("--algo", default=DEFAULTS["--algo"])
    parser.add_argument("--env", default=DEFAULTS["--env"], help="environment (default: %(default)s)")
    parser.add_argument("-f", "--folder", default="logs", help="log folder (default: %(default)s)")
    parser.add_argument("--exp-id", type=int, default=0, help="number of the run (default: the latest with an agent)")
    which = (parser.others or parser).add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model instead of the last")
    which.add_argument("--load-last-checkpoint", action="store_true", help="of a run that has not ended; else its best model")
    parser.add_argument("--load-checkpoint", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of environments and sampled actions (default: %(default)s)")
    parser.add_argument("--env-kwargs", nargs="+", action=StoreDict, default={}, help="besides those of the run")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="modules that register the environment")
    parser.add_argument("--custom-objects", action="store_true", help="load an agent whose schedules cannot be loaded here")
    parser.add_argument("--device", default="cpu", help="of the agent (default: %(default)s)")
    parser.add_argument("--num-threads", type=int, default=-1, help="of PyTorch (default: its own)")


def refuse_given(options: argparse.Namespace, defaults: Mapping[str, Any], by: str) -> None:
    """
    :param options: of a command
    :param defaults: names and defaults of some of them
    :param by: what has no use for these
    :raises ValueError: if one of them is given
    """
    given = [f"--{name.replace('_', '-')}" for name, default in defaults.items() if getattr(options, name) != default]
    if given:
        raise ValueError(f"{by} has no use for {', '.join(given)}.")


def packages_and_id(packages: Sequence[str], env_id: str) -> tuple[list[str], str]:
    """
    :param packages: modules that register environments
    :param env_id: id of an environment, which may name its module as in ``gym.make("module:Env-v0")``
    :return: all such modules, and the id without them
    """
    module, _, bare = env_id.rpartition(":")
    return [*packages, *([module] if module and module not in packages else [])], bare


def evaluated(text: str) -> Any:
    """
    :param text: the value of an option
    :return: as rl_zoo3 evaluates it; the text itself where it is no expression of what is known there, such as ``lin_1e-3``,
        or names a function, as ``all`` does
    :raises Exception: of an expression with brackets that is wrong
    """
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return text
    is_word = not any(isinstance(node, (ast.Call, ast.Subscript, ast.List, ast.Tuple, ast.Dict)) for node in ast.walk(tree))
    try:
        value = eval(text, dict(vars(rl_zoo3.utils)))
    except (NameError, TypeError):
        if is_word:
            return text
        raise
    names_function = isinstance(tree.body, ast.Name) and not isinstance(value, type)
    return text if names_function else value


def check_hyperparameters(algo: str, given: Mapping[str, Any]) -> None:
    """
    :param algo: name of an algorithm
    :param given: hyperparameters in rl_zoo3's format
    :raises ValueError: if the algorithm has no such option, with the nearest one, or a value cannot be meant
    """
    what = f"hyperparameters of {algo}"
    cls = get_algorithm(algo).load()
    known = [*_parameters(cls), *ZOO_KEYS, *UNUSED_HYPERPARAMETERS]
    if "action_noise" in known:
        known += _NOISE
    for name, value in given.items():
        if name in _GIVEN:
            raise ValueError(f"{what}: {name}={value!r}: give {_GIVEN[name]} instead.")
        if name in known:
            continue
        others = [other for other, spec in meta_learners().items() if name in _parameters(spec.load())]
        if others:
            nearby = nearest(name, _parameters(cls))
            raise ValueError(f"{what}: {name}={value!r} is an option of {', '.join(others)}: {nearby}")
    check_names(what, given, known)
    if "n_envs" in given:
        check_integer("n_envs", given["n_envs"], 1)
    if "n_timesteps" in given:
        check_positive("n_timesteps", given["n_timesteps"])
    for name in SCHEDULES & given.keys():
        is_tuned = name == "ent_coef" and "target_entropy" in known  # "auto" and "auto_0.1" of SAC are no schedules
        if isinstance(given[name], str) and not is_tuned:
            initial_value(name, given[name])
    if isinstance(given.get("vae_kwargs"), Mapping):
        check_names(f"{what}: vae_kwargs", given["vae_kwargs"], NETWORK_OPTIONS)
    if isinstance(given.get("policy_kwargs"), Mapping):
        check_names(f"{what}: policy_kwargs", given["policy_kwargs"], _policy_options(cls, given.get("policy")))


def _parameters(cls: type) -> list[str]:
    """Options of an algorithm, without those that are not hyperparameters."""
    return [name for name in inspect.signature(cls).parameters if name not in (*_GIVEN, "_init_setup_model")]


def _policy_options(cls: type[BaseAlgorithm], policy: Any) -> list[str]:
    """What a policy and the classes that it hands options on to are told."""
    default = next(iter(cls.policy_aliases.values()))
    policy_class: Any = cls.policy_aliases.get(policy, default) if isinstance(policy, str) else policy
    names: list[str] = []
    for one in inspect.getmro(policy_class or default):
        parameters = inspect.signature(one).parameters.values()
        names += [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return [name for name in dict.fromkeys(names) if name not in ("observation_space", "action_space", "lr_schedule")]
