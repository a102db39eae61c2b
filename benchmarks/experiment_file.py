"""
Read experiments: ``benchmarks/experiments/<name>.yml`` says which algorithms run on which environment, with which seeds.

.. code-block:: yaml

    title: The gridworld
    source: paper, Figure 3
    env: GridNavi-v0
    n_timesteps: 2.0e+7
    seeds: [0, 1, 2]
    variants:
      ldm:                                   # zoo_configs/ldm.yml as it is
      ldm-paper: {algo: ldm}                 # a preset
      oracle: {algo: rl2, env_kwargs: {task_split: all}}
      beta_2: {algo: ldm, label: LDM with beta 2, hyperparameters: {beta: 2.0}, seeds: [0], n_timesteps: 1.0e+7}
      rl2: {experiment: another}             # the runs are those of another experiment
      map: {algo: imagination, hyperparameters: {updates: 3000}}  # benchmarks.imagination, in which no agent is trained
    learned: 22.0                            # training return below which an agent has not learned
    baseline: ldm                            # ablations: every seed is compared with that of this variant
    expectations:                            # judged when results are reported; paper: true if the paper says so, not we
      - {claim: LDM is better than RL2, paper: true, split: test, better: ldm, worse: rl2}
      - {claim: LDM solves 19 unseen tasks, split: test, variant: ldm, reached: 19}
      - {claim: dropout helps, result: in_test, better: map, worse: another_map}  # of what benchmarks.imagination finds
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from benchmarks.experiment import Expectation, Experiment, Run, Study, Training
from benchmarks.imagination import ENV_IDS, IMAGINATION, SHARES
from sb3_ldm.algorithms.ldm.imagination import ImaginationConfig
from sb3_ldm.checks import is_number
from sb3_ldm.envs.locomotion import DOMAINS
from sb3_ldm.envs.registration import TASKS, make_grid
from sb3_ldm.envs.tasks import SPLITS, VALIDATION, unseen_split
from sb3_ldm.inference.latent_dynamics import NETWORK_OPTIONS, LatentDynamics
from sb3_ldm.registry import get_algorithm, meta_learners
from sb3_ldm.zoo.configs import available_configs, read_preset

FOLDER = Path(__file__).parent / "experiments"


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
    data = _understood(_read(path), (*_REQUIRED, *_OPTIONAL), path)
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    runs = [run for variant, given in data["variants"].items() for run in _runs_of(name, variant, given or {}, data, path)]
    known = {run.variant for run in runs}
    expectations = [_expectation(given, known, path) for given in data.get("expectations", ())]
    about = data.get("about", "").strip()
    runs.sort(key=lambda run: run.seed)
    labels = {variant: given["label"] for variant, given in data["variants"].items() if given and "label" in given}
    experiment = Experiment(
        name,
        data["title"],
        data["source"],
        runs,
        learned=data.get("learned"),
        expectations=expectations,
        about=about,
        labels=labels,
        baseline=data.get("baseline"),
    )
    if any(isinstance(run, Study) for run in runs) and not experiment.is_study:
        raise ValueError(f"{path}: variants with algo: {IMAGINATION} and others need experiments of their own")
    if experiment.is_study and experiment.learned is not None:
        raise ValueError(f"{path}: learned={experiment.learned} is of agents, leave it out where none is trained")
    if experiment.baseline is not None and (experiment.is_study or experiment.baseline not in known):
        use = "leave it out where no agent is trained" if experiment.is_study else f"use one of {', '.join(sorted(known))}"
        raise ValueError(f"{path}: baseline={experiment.baseline!r}: {use}")
    lacking = sorted({run.seed for run in runs} - {run.seed for run in runs if run.variant == experiment.baseline})
    if experiment.baseline is not None and lacking:
        raise ValueError(f"{path}: baseline={experiment.baseline!r} has no seeds {lacking}, with which others are compared")
    for expectation in expectations:
        if (expectation.result is not None) != experiment.is_study:
            raise ValueError(f"{path}: {expectation.claim!r} needs {'result' if experiment.is_study else 'split'}")
        _check_told(expectation, runs, path)
    return experiment


def _read(path: Path) -> Mapping[str, Any]:
    """What a file says; its order is looked at here, for all files are sorted before one is loaded."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: {data!r} is not a mapping")
    if "order" in data:
        _check_values({"order": data["order"]}, path)
    return data


def _expectation(given: Any, variants: set[str], path: Path) -> Expectation:
    given = _understood(given, [one.name for one in fields(Expectation)], path)
    if "claim" not in given:
        raise ValueError(f"{path}: {given!r} needs a claim")
    expectation = Expectation(**given)
    unknown = sorted(set(expectation.variants) - variants)
    if unknown or len(expectation.variants) != (1 if expectation.variant else 2):
        raise ValueError(f"{path}: {given!r} needs variants of the experiment: better and worse, or one as variant")
    if expectation.variant is None and expectation.better == expectation.worse:
        raise ValueError(f"{path}: better and worse of {expectation.claim!r} are both {expectation.worse!r}, use two variants")
    if (expectation.split is None) == (expectation.result is None):
        raise ValueError(f"{path}: {given!r} needs split, or result of a study")
    if expectation.result is not None and expectation.result not in SHARES:
        raise ValueError(f"{path}: result={expectation.result!r} is none of a study's: {', '.join(SHARES)}")
    if expectation.result is not None and expectation.variant is not None:
        raise ValueError(f"{path}: {given!r} needs better and worse, to compare what studies found")
    numbers = [name for name in ("returned", "reached") if name in given]
    if len(numbers) != (0 if expectation.variant is None else 1):
        raise ValueError(f"{path}: {given!r} needs returned or reached with variant, neither with better and worse")
    return expectation


def _check_told(expectation: Expectation, runs: Sequence[Run], path: Path) -> None:
    """Refuse to expect something of which the results will not tell."""
    name = "split" if expectation.result is None else "result"
    value = getattr(expectation, name)
    for run in {run.variant: run for run in runs if run.variant in expectation.variants}.values():
        told = _told_by(run)
        if told is not None and value not in told:
            raise ValueError(
                f"{path}: {name}={value!r} of {expectation.claim!r} is not in results of {run.variant!r}, "
                f"use one of {', '.join(told)}"
            )
        if expectation.reached is not None and run.env in DOMAINS:
            asked = f"reached={expectation.reached} of {expectation.claim!r}"
            raise ValueError(f"{path}: {asked}: {run.env} does not tell success, use returned")


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


_REQUIRED = ("title", "source", "env", "n_timesteps", "seeds", "variants")
_OPTIONAL = ("env_kwargs", "learned", "baseline", "expectations", "about", "order")
_VARIANT_KEYS = {one.name for one in fields(Training)} - {"variant", "seed"} | {"seeds", "label"}


def _runs_of(name: str, variant: str, given: Mapping[str, Any], data: Mapping[str, Any], path: Path) -> list[Run]:
    given = _understood(given, sorted(_VARIANT_KEYS), path)
    if given.get("experiment", name) != name:
        _check_borrowed(given["experiment"], variant, path)
    algo = given.get("algo", variant)
    is_study = algo == IMAGINATION
    if algo not in meta_learners() and not is_study:
        known = ", ".join([*meta_learners(), IMAGINATION])
        raise ValueError(f"{path}: algo={algo!r} of {variant!r} does not exist, use one of {known}")
    env, hyperparameters = given.get("env", data["env"]), given.get("hyperparameters", {})
    make: Callable[..., Run] = Study
    if not is_study:
        config = given.get("config", variant if variant in available_configs() else algo)
        env_kwargs = {**data.get("env_kwargs", {}), **given.get("env_kwargs", {})}
        _check_env(env, env_kwargs, variant, path)
        with _naming(f"{path}: config={config!r} of {variant!r}"):
            preset = read_preset(config, env)
        if not preset:
            raise ValueError(f"{path}: config={config!r} of {variant!r} has no hyperparameters for {env}")
        make = partial(Training, config=config, env_kwargs=env_kwargs)
    elif env not in ENV_IDS or {"env_kwargs", "config"} & {*given, *data}:
        raise ValueError(
            f"{path}: algo: {IMAGINATION} of {variant!r} needs env: {' or '.join(ENV_IDS)}, without env_kwargs and config"
        )
    _check_hyperparameters(algo, hyperparameters, f"{path}: hyperparameters of {variant!r}")
    n_timesteps = int(given.get("n_timesteps", data["n_timesteps"]))
    seeds = given.get("seeds", data["seeds"])
    return [make(given.get("experiment", name), variant, seed, algo, env, n_timesteps, hyperparameters) for seed in seeds]


def _check_borrowed(experiment: str, variant: str, path: Path) -> None:
    """Refuse runs of another experiment that it does not have."""
    other = path.with_name(f"{experiment}.yml")
    if not other.is_file():
        known = ", ".join(available_experiments(path.parent))
        raise ValueError(f"{path}: experiment={experiment!r} of {variant!r} does not exist, use one of {known}")
    variants = _read(other).get("variants")
    named = variants if isinstance(variants, Mapping) else {}
    own = [name for name, given in named.items() if not isinstance(given, Mapping) or "experiment" not in given]
    if variant not in own:
        known = ", ".join(map(str, own))
        raise ValueError(f"{path}: experiment={experiment!r} has no runs of its own of {variant!r}, but of {known}")


def _check_env(env: str, env_kwargs: Mapping[str, Any], variant: str, path: Path) -> None:
    if env not in gym.registry:
        known = ", ".join(get_close_matches(env, gym.registry) or TASKS)
        raise ValueError(f"{path}: env={env!r} of {variant!r} does not exist, use one of {known}")
    with _naming(f"{path}: env_kwargs of {variant!r}"):
        if env in ENV_IDS:  # the robots hand on to gymnasium what they do not know, and others are not known
            _check_names(env_kwargs, [name for name in inspect.signature(make_grid).parameters if name != "env_id"])
        if env in TASKS:
            tasks = TASKS[env]().hold_out(env_kwargs.get("validation_tasks", 0))
            tasks.validate_split(env_kwargs.get("task_split", "train"))


#: What files of hyperparameters have besides arguments of the algorithm, and arguments that training gives.
_ZOO_KEYS = ("n_envs", "n_timesteps", "normalize", "callback")
_GIVEN = ("env", "tensorboard_log", "seed", "verbose", "device", "_init_setup_model")


def _check_hyperparameters(algo: str, hyperparameters: Mapping[str, Any], place: str) -> None:
    with _naming(place):
        if algo == IMAGINATION:
            networks = [name for name in inspect.signature(LatentDynamics).parameters if name not in ("layout", "encoder")]
            imagination = [one.name for one in fields(ImaginationConfig)]
            _check_names(hyperparameters, ["updates", "maps", *networks, *imagination])
            return
        own = [name for name in inspect.signature(get_algorithm(algo).load()).parameters if name not in _GIVEN]
        _check_names(hyperparameters, [*_ZOO_KEYS, *own])
    with _naming(f"{place}: vae_kwargs"):
        _check_names(hyperparameters.get("vae_kwargs") or {}, NETWORK_OPTIONS)


def _check_names(given: Any, known: Collection[str]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r} is not a mapping")
    for name, value in given.items():
        if name not in known:
            close = get_close_matches(str(name), known) or known
            raise ValueError(f"{name}={value!r} is not understood, use {', '.join(close)}")


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """What is refused is told with its place."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _are_variants(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(name, str) for name in value)


def _are_seeds(value: Any) -> bool:
    if not isinstance(value, list) or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in value):
        return False
    return len(value) > 0 and min(value) >= 0 and len(set(value)) == len(value)


_TEXTS = (
    *("title", "source", "about", "env", "label", "algo", "config", "experiment", "baseline"),
    *("claim", "split", "result", "better", "worse", "variant"),
)
#: What values must be, by the names that they have in files: whether one is, and what it is in words.
_VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(_TEXTS, (lambda value: isinstance(value, str), "text")),
    **dict.fromkeys(("env_kwargs", "hyperparameters"), (lambda value: isinstance(value, Mapping), "a mapping")),
    **dict.fromkeys(("learned", "returned", "order"), (is_number, "a finite number")),
    "reached": (lambda value: is_number(value) and value >= 0, "a finite number of at least 0"),
    "n_timesteps": (
        lambda value: is_number(value) and value >= 1 and value == int(value),
        "a whole number of at least 1, which YAML reads as one: 2.0e+7, not 2e7",
    ),
    "seeds": (_are_seeds, "a list of whole numbers of at least 0, each once"),
    "variants": (_are_variants, "a mapping of at least one name, which is text"),
    "expectations": (lambda value: isinstance(value, list), "a list"),
    "paper": (lambda value: isinstance(value, bool), "true or false"),
}


def _check_values(given: Mapping[str, Any], path: Path) -> None:
    for name, value in given.items():
        is_right, right = _VALUES[name]
        if not is_right(value):
            raise ValueError(f"{path}: {name}={value!r}: use {right}")


def _understood(given: Any, known: Collection[str], path: Path) -> dict[str, Any]:
    """What is given, whose names and values are looked at; what is null is as if it was not there."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{path}: {given!r} is not a mapping")
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise ValueError(f"{path}: {', '.join(sorted(unknown))} is not understood, use {', '.join(known)}")
    understood = {name: value for name, value in given.items() if value is not None}
    _check_values(understood, path)
    return understood
