"""
Read experiments: ``benchmarks/experiments/<name>.yml`` says which algorithms run on which environment, with which seeds. What
may stand there is told by ``experiment_file.yml``.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.validators import extend

from benchmarks.experiment import Expectation, Experiment, Run, Study, Training
from benchmarks.imagination import ENV_IDS, IMAGINATION, SHARES
from sb3_ldm.algorithms.ldm.imagination import ImaginationConfig
from sb3_ldm.checks import check_names, is_number
from sb3_ldm.envs.factory import check_env_kwargs
from sb3_ldm.envs.locomotion import DOMAINS
from sb3_ldm.envs.registration import TASKS
from sb3_ldm.envs.tasks import SPLITS, VALIDATION, unseen_split
from sb3_ldm.inference.vae import RewardVAE
from sb3_ldm.registry import meta_learners
from sb3_ldm.zoo.configs import available_configs, read_preset
from sb3_ldm.zoo.options import check_hyperparameters

FOLDER = Path(__file__).parent / "experiments"
_SCHEMA = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
_TYPES = Draft202012Validator.TYPE_CHECKER.redefine("number", lambda _, value: is_number(value))  # infinity is none
_VALIDATOR = extend(Draft202012Validator, type_checker=_TYPES)(_SCHEMA)
#: What an expectation has besides its claim.
_EXPECTED = ("split, better, worse", "result, better, worse", "split, variant, returned", "split, variant, reached")


def available_experiments(folder: Path = FOLDER) -> list[str]:
    """
    :return: names of all experiments, the most valuable ones (``order`` in their files) first
    :raises ValueError: if a file cannot be read
    """
    orders = {path.stem: _read(path).get("order", 1000) for path in folder.glob("*.yml")}
    return sorted(orders, key=lambda name: (orders[name], name))


def load_experiment(name: str, folder: Path = FOLDER) -> Experiment:
    """
    :return: the experiment
    :raises ValueError: if there is none, or its file says something that is not understood
    """
    path = folder / f"{name}.yml"
    if not path.is_file():
        raise ValueError(f"experiment={name!r} does not exist, use one of {', '.join(available_experiments(folder))}")
    data = _read(path)
    with _naming(str(path)):
        runs = [run for variant, given in data["variants"].items() for run in _runs_of(name, variant, given, data, folder)]
        runs.sort(key=lambda run: run.seed)
        expected = [_expectation(given, runs) for given in data.get("expectations", ())]
        labels = {variant: given["label"] for variant, given in data["variants"].items() if "label" in given}
        told = {key: data[key].strip() for key in ("title", "source", "about") if key in data}
        limits: dict[str, Any] = {key: data.get(key) for key in ("learned", "baseline")}
        experiment = Experiment(name=name, runs=runs, expectations=expected, labels=labels, **told, **limits)
        _check_kind(experiment)
    return experiment


def _read(path: Path) -> dict[str, Any]:
    """What a file says, which agrees with the schema."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    wrong = best_match(_VALIDATOR.iter_errors(data))
    if wrong is not None:
        use = wrong.schema.get("description") or ", ".join(wrong.schema.get("properties", ()))
        raise ValueError(f"{path}: {wrong.json_path}: {wrong.message}{f', use {use}' if use else ''}")
    data["variants"] = {name: given or {} for name, given in data["variants"].items()}
    return data


def _check_kind(experiment: Experiment) -> None:
    if not experiment.is_study and any(isinstance(run, Study) for run in experiment.runs):
        raise ValueError(f"variants with algo: {IMAGINATION} and others need experiments of their own")
    for name in ("learned", "baseline"):
        if experiment.is_study and getattr(experiment, name) is not None:
            raise ValueError(f"{name}={getattr(experiment, name)!r} is of agents, leave it out where none is trained")
    if experiment.baseline is not None:
        if experiment.baseline not in experiment.variants:
            raise ValueError(f"baseline={experiment.baseline!r}: use one of {', '.join(experiment.variants)}")
        seeds = {run.seed for run in experiment.runs if run.variant == experiment.baseline}
        if lacking := sorted({run.seed for run in experiment.runs} - seeds):
            raise ValueError(f"baseline={experiment.baseline!r} has no seeds {lacking}, with which others are compared")


def _expectation(given: Mapping[str, Any], runs: Sequence[Run]) -> Expectation:
    """An expectation of which the results will tell."""
    expectation = Expectation(**given)
    if {*given} - {"claim", "paper"} not in [set(names.split(", ")) for names in _EXPECTED]:
        raise ValueError(f"{given!r} needs a claim and either {'; or '.join(_EXPECTED)}")
    claim, first_runs = expectation.claim, {run.variant: run for run in runs[::-1]}
    if expectation.variant is None and expectation.better == expectation.worse:
        raise ValueError(f"better and worse of {claim!r} are both {expectation.worse!r}, use two variants")
    name = "split" if expectation.result is None else "result"
    for variant in expectation.variants:
        if variant not in first_runs:
            raise ValueError(f"{variant!r} of {claim!r} is no variant, use {', '.join(sorted(first_runs))}")
        run = first_runs[variant]
        if isinstance(run, Study) != (name == "result"):
            raise ValueError(f"{claim!r} needs {'result' if name == 'split' else 'split'} instead of {name}")
        told = _told_by(run)
        if told is not None and given[name] not in told:
            where = f"{name}={given[name]!r} of {claim!r} is not in results of {variant!r}"
            raise ValueError(f"{where}, use one of {', '.join(told)}")
        if expectation.reached is not None and run.env in DOMAINS:
            asked = f"reached={expectation.reached} of {claim!r}"
            raise ValueError(f"{asked}: {run.env} does not tell success, use returned")
    return expectation


def _told_by(run: Run) -> Collection[str] | None:
    """The splits that an agent is evaluated on, or what a study finds; None if the tasks are not known."""
    if run.env not in TASKS:
        return None
    if not isinstance(run, Training):
        splits = TASKS[run.env]().splits
        return [name for name in SHARES if not name.startswith("in_") or name.removeprefix("in_") in splits]
    tasks = TASKS[run.env]().hold_out(run.env_kwargs.get("validation_tasks", 0))
    # As sb3_ldm.zoo.experiment.evaluation_splits, which takes seconds to import and a made environment.
    unseen = unseen_split(tasks)
    if unseen == VALIDATION:
        return ["train", unseen]
    return list(dict.fromkeys(["train", unseen, "test", *(split for split in tasks.splits if split not in SPLITS)]))


def _runs_of(name: str, variant: str, given: Mapping[str, Any], data: Mapping[str, Any], folder: Path) -> list[Run]:
    experiment = given.get("experiment", name)
    if experiment != name:
        _check_borrowed(experiment, variant, folder)
    algo, env = given.get("algo", variant), given.get("env", data["env"])
    hyperparameters = given.get("hyperparameters", {})
    n_timesteps = int(given.get("n_timesteps", data["n_timesteps"]))
    if algo == IMAGINATION:
        if env not in ENV_IDS or {"env_kwargs", "config"} & {*given, *data}:
            needed = f"env: {' or '.join(ENV_IDS)}, without env_kwargs and config"
            raise ValueError(f"algo: {IMAGINATION} of {variant!r} needs {needed}")
        make: Callable[..., Run] = Study
    elif algo in meta_learners():
        config = given.get("config", variant if variant in available_configs() else algo)
        env_kwargs = {**data.get("env_kwargs", {}), **given.get("env_kwargs", {})}
        with _naming(repr(variant)):
            check_env_kwargs(env, env_kwargs)
            if not read_preset(config, env):
                raise ValueError(f"config={config!r} has no hyperparameters for {env}")
            if env in TASKS:
                tasks = TASKS[env]().hold_out(env_kwargs.get("validation_tasks", 0))
                tasks.validate_split(env_kwargs.get("task_split", "train"))
        make = partial(Training, config=config, env_kwargs=env_kwargs)
    else:
        raise ValueError(
            f"algo={algo!r} of {variant!r} does not exist, use one of {', '.join([*meta_learners(), IMAGINATION])}"
        )
    with _naming(repr(variant)):
        _check_hyperparameters(algo, hyperparameters)
    seeds = given.get("seeds", data["seeds"])
    return [make(experiment, variant, int(seed), algo, env, n_timesteps, hyperparameters) for seed in seeds]


def _check_borrowed(experiment: str, variant: str, folder: Path) -> None:
    """Refuse runs of another experiment that it does not have."""
    known = available_experiments(folder)
    if experiment not in known:
        raise ValueError(f"experiment={experiment!r} of {variant!r} does not exist, use one of {', '.join(known)}")
    variants = _read(folder / f"{experiment}.yml")["variants"]
    own = [name for name, given in variants.items() if "experiment" not in given]
    if variant not in own:
        raise ValueError(f"experiment={experiment!r} has no runs of its own of {variant!r}, but of {', '.join(own)}")


def _check_hyperparameters(algo: str, hyperparameters: Mapping[str, Any]) -> None:
    if algo == IMAGINATION:
        networks = [name for name in inspect.signature(RewardVAE).parameters if name not in ("layout", "encoder")]
        known = ["updates", "maps", *networks, *(one.name for one in fields(ImaginationConfig))]
        check_names("hyperparameters", hyperparameters, known)
    else:
        check_hyperparameters(algo, hyperparameters)


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """What is refused is told with its place."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
