from pathlib import Path

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


def config_path(algo: str) -> Path:
    """
    The hyperparameter file of an algorithm, in the RL Zoo's format.

    :param algo: Name of the algorithm, such as ``"ldm"``.
    :return: Path of its yml file.
    """
    available = {path.stem: path for path in sorted(config_folder().glob("*.yml"))}
    if algo not in available:
        raise ValueError(f"No hyperparameters for {algo!r}: available are {', '.join(available) or 'none'}")
    return available[algo]
