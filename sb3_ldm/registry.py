"""
The algorithms by name: what everything outside of them asks where it must know more than how an agent acts.

``docs/adding_an_algorithm.md`` tells how one is added. Nothing is imported before it is asked for, so that names, labels and
colours need no torch.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple

from sb3_ldm.checks import warn_user

DEFAULT = "ldm"  #: of the commands
ENTRY_POINTS = "sb3_ldm.algorithms"  #: group of the entry points by which other distributions bring algorithms
_NAME = re.compile(r"[A-Za-z][\w-]*")


class Look(NamedTuple):
    """How a group of runs is shown: its name for people, and its colour; None for what it would have otherwise."""

    label: str | None = None
    colour: str | None = None


class Beginning(NamedTuple):
    """When an algorithm begins with what it is about."""

    starts: float  #: time steps, below 1 as a share of the training's
    option: str  #: which says so
    what: str  #: that it does from then on, such as "imagine a task"

    def timestep(self, n_timesteps: int) -> int:
        """
        :param n_timesteps: of the training
        :return: time steps before it begins
        """
        return int(self.starts * n_timesteps if 0.0 < self.starts < 1.0 else self.starts)


@dataclass(frozen=True)
class AlgorithmSpec:
    """
    An algorithm, for the commands and the figures. Where a reference ``"package.module:NAME"`` may stand for an object, it is
    imported when it is needed.

    :param name: after ``--algo``, and of the folder of its runs
    :param algorithm: its class, a :class:`~stable_baselines3.common.base_class.BaseAlgorithm`
    :param label: its name for people
    :param colour: in figures, such as ``"#d1495b"``; None for one that no other has
    :param preset: file of its hyperparameters by ids of environments, or its name in ``zoo_configs``; by default that of its
        own name there, or else rl_zoo3's
    :param search_space: what ``tune`` may vary: functions of an Optuna trial, by names of hyperparameters
    :param tuned: what it varies if nothing else is asked for
    :param begins: function of hyperparameters, for algorithms whose evaluations cannot tell good from bad ones at once:
        when they can, a :class:`Beginning`, or None for always; trials are not pruned before
    :param records: functions ``record(model, env, folder, split, seed)`` that are called after a run's last evaluation with
        the evaluation's environments and the split of unseen tasks, and write to the run's folder what figures are drawn from
    :param looks: of groups of runs with names of their own, such as those of a preset
    :raises ValueError: if the name cannot be a folder's, or something of ``tuned`` is not in the search space
    """

    name: str
    algorithm: type | str
    label: str
    colour: str | None = None
    preset: str | Path | None = None
    search_space: Mapping[str, Callable[[Any], Any]] | str = field(default_factory=dict)
    tuned: tuple[str, ...] = ()
    begins: Callable[[Mapping[str, Any]], Beginning | None] | str | None = None
    records: tuple[Callable[..., None] | str, ...] = ()
    looks: Mapping[str, Look] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r} of an algorithm: use letters, digits, - and _, a letter first.")
        known = self.tuned if isinstance(self.search_space, str) else self.search_space
        if unknown := [one for one in self.tuned if one not in known]:
            raise ValueError(f"{self.name}: tuned={', '.join(unknown)} is not in its search_space.")

    def load(self) -> Any:
        """:return: the algorithm's class"""
        return resolve(self.algorithm)

    def load_search_space(self) -> Mapping[str, Callable[[Any], Any]]:
        """:return: functions of an Optuna trial by names of hyperparameters"""
        return resolve(self.search_space)

    def beginning(self, hyperparameters: Mapping[str, Any]) -> Beginning | None:
        """
        :param hyperparameters: of a run
        :return: when evaluations can tell good from bad ones, None for always
        """
        return None if self.begins is None else resolve(self.begins)(hyperparameters)

    def record(self, model: Any, env: Any, folder: Path, split: str, seed: int) -> None:
        """
        Write what figures are drawn from besides what every agent shows.

        :param model: the agent, after its training in this process
        :param env: the evaluation's environments
        :param folder: of the run
        :param split: of unseen tasks
        :param seed: of random numbers
        """
        for one in self.records:
            resolve(one)(model, env, folder, split, seed)


def resolve(reference: Any) -> Any:
    """
    :param reference: ``"package.module:NAME"``, or any object
    :return: what it refers to, or the object
    :raises ImportError: if there is no such module or name
    """
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{reference!r}: {error}") from None


_LDM, _ON_POLICY = "sb3_ldm.algorithms.ldm", "sb3_ldm.on_policy.search_space"
_GRADIENT = "sb3_ldm.gradient.search_space"
_OWN = (
    AlgorithmSpec(
        "rl2",
        "sb3_ldm.algorithms.rl2:RL2",
        "RL²",
        "#2e6f9e",
        search_space=f"{_ON_POLICY}:PPO",
        tuned=("learning_rate", "ent_coef"),
        looks={
            "rl2-paper": Look("RL² (paper's settings)"),
            "rl2 oracle": Look(colour="#555555"),
            "rl2 oracle, told its task": Look(colour="#9a9a9a"),
        },
    ),
    AlgorithmSpec(
        "ldm",
        f"{_LDM}:LDM",
        "LDM",
        "#d1495b",
        search_space=f"{_LDM}.search_space:SEARCH_SPACE",
        tuned=("mixture_ratio", "beta", "dropout_rate", "n_partners", "kl_weight"),
        begins=f"{_LDM}.search_space:imagination_begins",
        records=(f"{_LDM}.reward_maps:record_reward_maps",),
        looks={
            "ldm-paper": Look("LDM (paper's settings)", "#e08a3c"),
            "ldm-release": Look("LDM (released code's settings)", "#b58900"),
        },
    ),
    AlgorithmSpec(
        "varibad",
        "sb3_ldm.algorithms.varibad:VariBAD",
        "variBAD",
        "#3a8f6b",
        search_space="sb3_ldm.algorithms.varibad.search_space:SEARCH_SPACE",
        tuned=("kl_weight", "latent_dim", "learning_rate"),
        looks={"varibad-paper": Look("variBAD (paper's settings)")},
    ),
    AlgorithmSpec(
        "mixreg",
        "sb3_ldm.algorithms.mixreg:Mixreg",
        "Mixreg",
        "#8d5fa8",
        search_space="sb3_ldm.algorithms.mixreg.search_space:SEARCH_SPACE",
        tuned=("mixreg_alpha", "learning_rate", "ent_coef"),
    ),
    AlgorithmSpec(
        "maml",
        "sb3_ldm.algorithms.maml:MAML",
        "MAML",
        "#6b8e23",
        search_space=f"{_GRADIENT}:TRUST_REGION",
        tuned=("step_size", "max_kl"),
    ),
    AlgorithmSpec(
        "emaml",
        "sb3_ldm.algorithms.emaml:EMAML",
        "E-MAML",
        "#c2a83e",
        search_space="sb3_ldm.algorithms.emaml.search_space:SEARCH_SPACE",
        tuned=("step_size", "max_kl", "sampling_weight"),
    ),
    AlgorithmSpec(
        "promp",
        "sb3_ldm.algorithms.promp:ProMP",
        "ProMP",
        "#4a90a4",
        search_space="sb3_ldm.algorithms.promp.search_space:SEARCH_SPACE",
        tuned=("step_size", "learning_rate"),
    ),
)
#: Those of Stable-Baselines3, by their names in rl_zoo3: they train on meta-episodes as on any environment.
_STOCK = (
    *(AlgorithmSpec(name.lower(), f"stable_baselines3:{name}", name) for name in ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")),
    *(AlgorithmSpec(name.lower(), f"sb3_contrib:{name}", name) for name in ("ARS", "CrossQ", "QRDQN", "TQC", "TRPO")),
    AlgorithmSpec("ppo_lstm", "sb3_contrib:RecurrentPPO", "RecurrentPPO"),
)
_added: dict[str, AlgorithmSpec] = {}  #: by :func:`register_algorithm`


def register_algorithm(spec: AlgorithmSpec) -> None:
    """
    Make an algorithm known to the commands and the figures of this process. Registering the same again changes nothing.

    :param spec: the algorithm
    :raises ValueError: if another algorithm has its name
    """
    if algorithms().get(spec.name, spec) != spec:
        raise ValueError(f"name={spec.name!r}: there is another algorithm of this name, {algorithms()[spec.name].algorithm}.")
    _added[spec.name] = spec


def algorithms() -> dict[str, AlgorithmSpec]:
    """:return: by name: this package's, Stable-Baselines3's, those of other distributions, and registered ones"""
    return {spec.name: spec for spec in (*_OWN, *_STOCK)} | _of_other_distributions() | _added


def meta_learners() -> dict[str, AlgorithmSpec]:
    """:return: all algorithms by name, without those of Stable-Baselines3"""
    return {name: spec for name, spec in algorithms().items() if spec not in _STOCK}


def get_algorithm(name: str) -> AlgorithmSpec:
    """
    :param name: of an algorithm
    :return: the algorithm
    :raises ValueError: if there is none of this name
    """
    known = algorithms()
    if name not in known:
        raise ValueError(f"algo={name!r} is not known: there are {', '.join(known)}; register_algorithm adds others.")
    return known[name]


@cache
def _of_other_distributions() -> dict[str, AlgorithmSpec]:
    specs = [spec for point in entry_points(group=ENTRY_POINTS) for spec in _loaded(point)]
    return {spec.name: spec for spec in specs}


def _loaded(point: EntryPoint) -> Iterator[AlgorithmSpec]:
    """What an entry point refers to; a distribution that is broken does not take the others with it."""
    try:
        spec = point.load()
    except Exception as error:
        warn_user(f"{ENTRY_POINTS}: {point.name} = {point.value} cannot be loaded: {error}")
        return
    if not isinstance(spec, AlgorithmSpec):
        warn_user(f"{ENTRY_POINTS}: {point.name} = {point.value} is no AlgorithmSpec but {spec!r}")
    elif spec.name in {one.name for one in (*_OWN, *_STOCK)}:
        warn_user(f"{ENTRY_POINTS}: {point.name} = {point.value}: the name {spec.name!r} is taken")
    else:
        yield spec


def display_name(label: str) -> str:
    """
    :param label: a label of :func:`~sb3_ldm.results.group_runs`
    :return: the label with the algorithm's name as people write it
    """
    labels = {name: look.label for name, look in _looks().items() if look.label is not None}
    return re.sub(r"(?<![^ ])[\w-]+(?![^ ,])", lambda word: labels.get(word[0], word[0]), label)


def colours() -> dict[str, str]:
    """:return: colours in figures, by names of algorithms and of groups of runs"""
    return {name: look.colour for name, look in _looks().items() if look.colour is not None}


def _looks() -> dict[str, Look]:
    looks: dict[str, Look] = {}
    for spec in algorithms().values():
        looks |= {spec.name: Look(spec.label, spec.colour), **spec.looks}
    return looks
