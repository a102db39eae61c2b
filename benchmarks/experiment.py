"""Experiments as data: what is trained and what results should show; :mod:`benchmarks.experiment_file` reads them."""

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.imagination import settings
from benchmarks.tables import RESULTS, kept_metadata
from sb3_ldm.inference import RewardVAE
from sb3_ldm.registry import display_name, get_algorithm
from sb3_ldm.results import FINAL_FILE, RUN_FILE, files_of_attempts, load_metadata
from sb3_ldm.zoo.configs import read_preset

#: Not a choice of the method.
_IGNORED = ("n_timesteps", "policy")


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    :param prefix: what their names begin with
    :return: the same without mappings, names joined by dots
    """
    result: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = list(value) if isinstance(value, tuple) else value
    return result


def differences(options: Mapping[str, Any], defaults: Mapping[str, Any], otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param defaults: those of the configuration file
    :param otherwise: values of what is not given, those of the algorithm's class
    :return: values of the run that are not the configuration's, by name
    """
    known = {name: value for name, value in flat(otherwise).items() if value is not inspect.Parameter.empty}
    mine, theirs = {**known, **flat(options)}, {**known, **flat(defaults)}
    return {name: value for name, value in mine.items() if name not in _IGNORED and value != theirs.get(name)}


def class_defaults(algo: str) -> dict[str, Any]:
    """:return: the hyperparameters that it has where none are given, of its latent dynamics network too"""
    defaults = {name: one.default for name, one in inspect.signature(get_algorithm(algo).load()).parameters.items()}
    networks = inspect.signature(RewardVAE).parameters if "vae_kwargs" in defaults else {}
    defaults["vae_kwargs"] = {name: one.default for name, one in networks.items()}
    return defaults


@dataclass(frozen=True)
class Run(ABC):
    """
    One run of an experiment.

    :param experiment: name of the experiment
    :param variant: name of the variant
    :param seed: seed
    :param algo: name of the algorithm
    :param env: id of the environment
    :param n_timesteps: budget in time steps of all environments together
    :param hyperparameters: what is not as in the file of hyperparameters, or by default
    """

    experiment: str
    variant: str
    seed: int
    algo: str
    env: str
    n_timesteps: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the run in its experiment."""
        return f"{self.variant}_seed{self.seed}"

    def kept(self, root: Path = RESULTS) -> dict[str, Any] | None:
        """:return: what its results say of it, None without results of a run that came to its end"""
        metadata = kept_metadata(root / self.experiment).get(self.name)
        return metadata if metadata is not None and self.has_ended(metadata) else None

    def has_ended(self, metadata: Mapping[str, Any]) -> bool:
        """:return: whether it came to its end, that of its own budget: another one is one of :meth:`changed_settings`"""
        # Runs from before this was written down had their results kept by hand once they had ended.
        return metadata.get("finished", True) and metadata["frames"] >= metadata.get("n_timesteps", metadata["frames"])

    @abstractmethod
    def changed_settings(self, metadata: Mapping[str, Any]) -> list[str]:
        """:return: settings that it was started with and now has others for"""

    def changed_in(self, folder: Path) -> list[str]:
        """:return: :meth:`changed_settings` of a run in a folder, none without one"""
        return self.changed_settings(load_metadata(folder / RUN_FILE)) if (folder / RUN_FILE).is_file() else []

    def has_ended_in(self, folder: Path) -> bool:
        """:return: whether it came to its end in a folder, with the settings that it has now"""
        has_run = (folder / RUN_FILE).is_file()
        return has_run and self.has_ended(load_metadata(folder / RUN_FILE)) and not self.changed_in(folder)

    @abstractmethod
    def attempts(self, folder: Path) -> list[Path]:
        """:return: the folders of the attempts that may have come to their end, the latest one last"""

    @abstractmethod
    def command(self, folder: Path, checkpoint: Path | None = None) -> list[str]:
        """
        :param checkpoint: of an earlier attempt, to go on from there
        :return: the command line of the run
        """


@dataclass(frozen=True)
class Training(Run):
    """
    An agent is trained and evaluated.

    :param config: name of the file of hyperparameters
    :param env_kwargs: of the environment
    """

    config: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def changed_settings(self, metadata: Mapping[str, Any]) -> list[str]:
        now, defaults = {**read_preset(self.config, self.env), **self.merged_hyperparameters()}, class_defaults(self.algo)
        recorded = metadata.get("hyperparameters", {})
        given = {"algo": self.algo, "env": self.env, "env_kwargs": self.env_kwargs, "n_timesteps": self.n_timesteps}
        changed = [name for name, value in given.items() if (metadata.get(name, value) or {}) != (value or {})]
        if "n_envs" not in recorded:  # nor was what is missing
            return changed
        return [*(differences(recorded, now, defaults) | differences(now, recorded, defaults)), *changed]

    def attempts(self, folder: Path) -> list[Path]:
        return [file.parent for file in files_of_attempts(folder, FINAL_FILE)]

    def command(self, folder: Path, checkpoint: Path | None = None) -> list[str]:
        command = [sys.executable, "-m", "sb3_ldm.train", "--algo", self.algo, "--env", self.env, "--conf-file", self.config]
        command += ["--seed", str(self.seed), "-n", str(self.n_timesteps), "-f", str(folder), "--verbose", "0"]
        for option, given in (("--env-kwargs", self.env_kwargs), ("--hyperparams", self.merged_hyperparameters())):
            command += [option, *(f"{name}:{value!r}" for name, value in given.items())] if given else []
        return command if checkpoint is None else [*command, "-i", str(checkpoint)]

    def merged_hyperparameters(self) -> dict[str, Any]:
        """:return: the hyperparameters that differ; those that are mappings with what the file has in them besides"""
        defaults, given = read_preset(self.config, self.env), self.hyperparameters
        mappings = {name: value for name, value in given.items() if isinstance(value, Mapping)}
        return {**given, **{name: {**(defaults.get(name) or {}), **value} for name, value in mappings.items()}}


@dataclass(frozen=True)
class Study(Run):
    """A run of :mod:`benchmarks.imagination`: no agent is trained, so there is nothing to evaluate or to go on from."""

    def changed_settings(self, metadata: Mapping[str, Any]) -> list[str]:
        recorded = {**metadata["hyperparameters"], "env": metadata["env"], "n_timesteps": metadata["frames"]}
        now = {**settings(self.hyperparameters), "env": self.env, "n_timesteps": self.n_timesteps}
        return sorted(name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name))

    def attempts(self, folder: Path) -> list[Path]:
        return [folder]

    def command(self, folder: Path, checkpoint: Path | None = None) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.imagination", "--env", self.env, "--seed", str(self.seed)]
        command += ["-n", str(self.n_timesteps), "--save", str(folder)]
        return [*command, "-p", *(f"{name}:{value!r}" for name, value in self.hyperparameters.items())]


@dataclass(frozen=True)
class Expectation:
    """
    Something that results should show: of an agent, in the last episode of a meta-episode, that one variant is better than
    another, or that a variant reaches a number; of a study, that one variant finds more of something than another.

    :param claim: it, in words
    :param split: the split that it is about
    :param result: instead of a split, what a study found
    :param better: variant with the higher return
    :param worse: variant with the lower return
    :param variant: variant that reaches a number
    :param returned: least mean return of it
    :param reached: least number of tasks that it solves
    :param paper: whether it is the paper that claims it
    """

    claim: str
    split: str | None = None
    result: str | None = None
    better: str | None = None
    worse: str | None = None
    variant: str | None = None
    returned: float | None = None
    reached: float | None = None
    paper: bool = False

    @property
    def variants(self) -> list[str]:
        """The variants that it is about."""
        return [name for name in (self.better, self.worse, self.variant) if name is not None]


@dataclass(frozen=True)
class Experiment:
    """
    An experiment.

    :param name: its file's name
    :param title: its name for people
    :param source: what in the paper it belongs to
    :param runs: all of its runs, the first seed of every variant first
    :param learned: mean training return in the last episode below which an agent has not learned, None for no such limit
    :param expectations: what its results should show
    :param about: what a reader should know, a paragraph
    :param labels: names of variants for people, where the file has some
    :param baseline: variant that every other one is compared with, None if they are not ablations
    """

    name: str
    title: str
    source: str
    runs: list[Run]
    learned: float | None = None
    expectations: Sequence[Expectation] = ()
    about: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    baseline: str | None = None

    @property
    def own_runs(self) -> list[Run]:
        """Its runs without those of other experiments, which it shows, too."""
        return [run for run in self.runs if run.experiment == self.name]

    @property
    def variants(self) -> list[str]:
        """Names of the variants."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def label(self, variant: str) -> str:
        """:return: the name of a variant for people"""
        return self.labels.get(variant) or display_name(variant)

    @property
    def is_study(self) -> bool:
        """Whether no agent is trained in it."""
        return all(isinstance(run, Study) for run in self.runs)

    def finished(self, root: Path = RESULTS) -> list[Run]:
        """:return: the runs that have results, of the settings that the experiment has now"""
        found = [(run, run.kept(root)) for run in self.runs]
        return [run for run, metadata in found if metadata is not None and not run.changed_settings(metadata)]
