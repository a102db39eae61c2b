"""Where hyperparameters are: ``zoo_configs/<name>.yml``, a file for each algorithm and each preset."""

import contextlib
import runpy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch as th
import yaml
from stable_baselines3.common.utils import LinearSchedule

import sb3_ldm
from sb3_ldm.registry import get_algorithm

_REMEDY = "restore it, or give another one with --conf-file"
#: What files of hyperparameters have besides arguments of the algorithm.
ZOO_KEYS = ("n_envs", "n_timesteps", "normalize", "env_kwargs", "callback")
#: Hyperparameters that may be schedules.
SCHEDULES = {"learning_rate", "clip_range", "clip_range_vf", "vae_learning_rate", "ent_coef"}


def config_folder() -> Path:
    """
    The folder of the hyperparameter files: beside the package in a clone or an editable install, inside it in a wheel.

    :return: The folder ``zoo_configs``.
    """
    package = Path(sb3_ldm.__path__[0])
    candidates = [package / "zoo_configs", package.parent / "zoo_configs"]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"No folder zoo_configs: looked for {candidates[0]} and {candidates[1]}")


def available_configs() -> dict[str, Path]:
    """:return: the hyperparameter files in the RL Zoo's format, by names of algorithms and presets (``ldm-paper``)"""
    return {path.stem: path for path in sorted(config_folder().glob("*.yml"))}


def config_path(name: str) -> Path:
    """
    The hyperparameter file of an algorithm or a preset.

    :param name: of the algorithm or the preset, such as ``"ldm"`` or ``"ldm-paper"``
    :return: path of its yml file
    :raises ValueError: if there is none
    """
    available = available_configs()
    if name not in available:
        raise ValueError(f"No hyperparameters for {name!r}: available are {', '.join(available) or 'none'}")
    return available[name]


def read_config(path: str | Path) -> dict[str, Any]:
    """
    Read hyperparameters. What stands in a yml file as Python's (``!!python/name:torch.nn.Tanh``) is imported, so that it is
    to be trusted like code, as in the RL Zoo, where strings in it are evaluated.

    :param path: a yml file in the RL Zoo's format, or a Python file or module with ``hyperparams`` of the same form
    :return: hyperparameters by ids of environments
    :raises ValueError: if it cannot be read, naming the file
    """
    try:
        if str(path).endswith((".yml", ".yaml")):
            content = yaml.unsafe_load(Path(path).read_text(encoding="utf-8"))
        else:
            values = runpy.run_path(str(path)) if str(path).endswith(".py") else vars(import_module(str(path)))
            content = values.get("hyperparams")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no YAML: {' '.join(str(error).split())}; {_REMEDY}.") from None
    if not isinstance(content, dict) or not all(isinstance(preset, dict) for preset in content.values()):
        raise ValueError(f"{path} has no hyperparameters by ids of environments, or was cut; {_REMEDY}.")
    return content


def config_text(env_id: str, hyperparameters: dict[str, Any]) -> str:
    """
    :param env_id: id of the environment
    :param hyperparameters: of an algorithm; classes, functions of modules and other objects too
    :return: a yml file from which :func:`read_config` reads the same
    """
    return yaml.dump({env_id: hyperparameters}, sort_keys=False, allow_unicode=True)


def unrecordable(hyperparameters: dict[str, Any]) -> list[str]:
    """
    :param hyperparameters: of an algorithm
    :return: names of those that :func:`config_text` cannot write down, such as functions without a module
    """
    return [name for name, value in hyperparameters.items() if not _is_recordable(value)]


def _is_recordable(value: Any) -> bool:
    try:
        text = yaml.dump(value)
        # What the script itself defines has another name, or none, in the next process.
        return ":__main__." not in text and yaml.dump(yaml.unsafe_load(text)) == text
    except Exception:  # whatever objects raise that cannot be copied
        return False


def read_preset(config: str | Path, env_id: str) -> dict[str, Any]:
    """
    What a file says of an environment, in rl_zoo3's format: what the commands train with. Besides arguments of the
    algorithm it has ``n_envs``, ``n_timesteps`` and maybe ``normalize`` (observations and rewards, by SB3's ``VecNormalize``).

    :param config: a hyperparameter file, or its name in ``zoo_configs``
    :param env_id: id of the environment
    :return: its hyperparameters: those for environments of which nothing is known if it has none, empty without those too
    :raises ValueError: if there is no such file
    """
    path = available_configs().get(str(config), Path(config))
    if not path.is_file():
        path = config_path(str(config))  # it says what there is
    presets = read_config(path)
    return presets.get(env_id, presets.get("default", {}))


def load_preset(config: str | Path, env_id: str) -> dict[str, Any]:
    """
    What the algorithm's class takes of a preset: ``LDM(**load_preset("ldm", "GridNavi-v0"), env=env)``.

    Schedules such as ``lin_1e-3`` are SB3's. What is not the class's is left out: it is the environment's or the training's,
    and :func:`read_preset` has it. ``batch_size`` is made for ``read_preset(...)["n_envs"]`` environments, which are to be in
    a ``VecNormalize`` with the same ``gamma`` where it has ``normalize``.

    :param config: a hyperparameter file, or its name in ``zoo_configs``
    :param env_id: id of the environment
    :return: keyword arguments of the algorithm's class, ``policy`` among them
    :raises ValueError: if there is no such file, or a schedule is not understood
    """
    preset = {name: value for name, value in read_preset(config, env_id).items() if name not in ZOO_KEYS}
    for name in SCHEDULES & preset.keys():
        if isinstance(preset[name], str):
            preset[name] = LinearSchedule(initial_value(name, preset[name]), 0.0, 1.0)
    for name in ("policy_kwargs", "vae_kwargs"):
        if isinstance(preset.get(name), str):  # as the zoo does
            preset[name] = eval(preset[name], {"th": th, "nn": th.nn})
    return preset


def initial_value(name: str, schedule: str) -> float:
    """
    :param name: of the hyperparameter
    :param schedule: in rl_zoo3's form, ``lin_1e-3``: linearly to 0
    :return: the value at the beginning
    :raises ValueError: if it is something else
    """
    kind, _, number = schedule.partition("_")
    with contextlib.suppress(ValueError):
        if kind == "lin":
            return float(number)
    raise ValueError(f"{name}={schedule!r}: use a number, or lin_NUMBER for one that goes linearly to 0, such as lin_1e-3.")


def resolve_config(config: str | None, algo: str) -> str:
    """
    :param config: what ``--conf-file`` was given: the name of a preset, a file or a module; None for the algorithm's own file
    :param algo: name of the algorithm
    :return: the file or the module
    :raises ValueError: if it is none of them
    """
    if config is None:
        return _own_config(algo)
    if config in available_configs():
        return str(config_path(config))
    if Path(config).is_file() or (not config.endswith((".yml", ".yaml", ".py")) and find_spec(config) is not None):
        return config
    raise ValueError(f"conf_file={config!r}: no such file or module; presets are {', '.join(available_configs())}.")


def _own_config(algo: str) -> str:
    """The file of an algorithm's hyperparameters: its own, or rl_zoo3's for those that are known there."""
    preset = get_algorithm(algo).preset or algo
    if preset in available_configs():
        return str(config_path(str(preset)))
    zoo = find_spec("rl_zoo3")
    assert zoo is not None and zoo.origin is not None
    for path in (Path(preset), Path(zoo.origin).parent / "hyperparams" / f"{algo}.yml"):
        if path.is_file():
            return str(path)
    if preset != algo:
        raise ValueError(f"preset={str(preset)!r} of {algo}: no such file; presets are {', '.join(available_configs())}.")
    raise ValueError(f"algo={algo!r} has no preset: give --conf-file, or its AlgorithmSpec a preset.")
