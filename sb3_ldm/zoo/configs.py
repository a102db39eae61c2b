"""Where hyperparameters are: ``zoo_configs/<name>.yml``, a file for each algorithm and each preset."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

import sb3_ldm


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


def load_preset(config: str | Path, env_id: str) -> dict[str, Any]:
    """
    :param config: a hyperparameter file, or its name in ``zoo_configs``
    :param env_id: id of the environment
    :return: its hyperparameters: those for environments of which nothing is known if it has none, empty without those too
    :raises ValueError: if there is no such file
    """
    path = available_configs().get(str(config), Path(config))
    if not path.is_file():
        path = config_path(str(config))  # it says what there is
    presets = yaml.safe_load(path.read_text(encoding="utf-8"))
    return presets.get(env_id, presets.get("default", {}))


def resolve_config(config: str | None, algo: str) -> str:
    """
    :param config: what ``--conf-file`` was given: the name of a preset, a file or a module; None for the algorithm's own file
    :param algo: name of the algorithm
    :return: the file or the module
    :raises ValueError: if it is none of them
    """
    if config is None:
        return str(config_path(algo))
    if config in available_configs():
        return str(config_path(config))
    if Path(config).is_file() or (not config.endswith((".yml", ".yaml", ".py")) and find_spec(config) is not None):
        return config
    raise ValueError(f"conf_file={config!r}: no such file or module; presets are {', '.join(available_configs())}.")
