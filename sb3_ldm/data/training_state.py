"""What a run needs besides a model's parameters to go on as if it had never stopped, as arrays that nothing is run to read."""

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ldm.data.array_file import read_arrays, write_arrays

ENTRY = "training_state.npz"  #: where it is in a model's file

State = dict[str, Any]  #: of arrays, tensors, numbers, texts and None, in dictionaries, lists and tuples


def pack(state: State) -> bytes:
    """
    :param state: what is to be kept
    :return: as an npz-file
    """
    arrays: dict[str, np.ndarray] = {}

    def told(value: Any) -> Any:
        if isinstance(value, th.Tensor):
            return {"tensor": told(value.cpu().numpy())["array"]}
        if isinstance(value, np.ndarray):
            arrays[f"array_{len(arrays)}"] = value
            return {"array": f"array_{len(arrays) - 1}"}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, dict):
            return {"dict": {name: told(one) for name, one in value.items()}}
        if isinstance(value, tuple):
            return {"tuple": [told(one) for one in value]}
        return [told(one) for one in value] if isinstance(value, list) else value

    numbers = told(state)
    file = io.BytesIO()
    write_arrays(file, arrays, numbers)
    return file.getvalue()


def unpack(packed: bytes, path: Any) -> State:
    """
    :param packed: from :func:`pack`
    :param path: of the file that it stood in, for messages
    :return: the state
    """
    read = read_arrays(io.BytesIO(packed), path)
    assert read is not None, f"{path} holds a pickle"
    arrays, numbers = read

    def meant(value: Any) -> Any:
        if isinstance(value, list):
            return [meant(one) for one in value]
        if not isinstance(value, dict):
            return value
        [(kind, held)] = value.items()
        if kind == "dict":
            return {name: meant(one) for name, one in held.items()}
        if kind == "tuple":
            return tuple(meant(one) for one in held)
        return th.as_tensor(arrays[held]) if kind == "tensor" else arrays[held]

    state = meant(numbers)
    assert isinstance(state, dict)
    return state


def read_state(path: str | Path | io.BufferedIOBase) -> State | None:
    """
    :param path: file of a model, or its path
    :return: the state in it, if there is one
    """
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            return unpack(archive.read(ENTRY), path) if ENTRY in archive.namelist() else None
    finally:
        if file is not path:
            file.close()


def random_state(device: th.device) -> State:
    """
    :param device: of the networks
    :return: the states of the global random streams
    """
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys, int(position), int(has_gauss), float(gauss)),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: State, device: th.device) -> None:
    """
    :param state: from :func:`random_state`
    :param device: of the networks; another kind of device than before goes on with its own stream
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        th.cuda.set_rng_state(state["cuda"], device)


def normalizer_state(normalizer: VecNormalize | None) -> State | None:
    """
    :param normalizer: what normalises observations and rewards, if anything does
    :return: its statistics, and what it has of the meta-episodes that run, which its own file leaves out
    """
    if normalizer is None:
        return None
    return {
        "statistics": [
            (np.asarray(rms.mean), np.asarray(rms.var), float(rms.count)) if isinstance(rms, RunningMeanStd) else None
            for rms in _statistics(normalizer)
        ],
        "returns": normalizer.returns,
        "old_obs": normalizer.old_obs,
        "old_reward": normalizer.old_reward,
    }


def set_normalizer_state(normalizer: VecNormalize, state: State) -> None:
    """
    :param normalizer: what normalises observations and rewards
    :param state: from :func:`normalizer_state`
    """
    for rms, saved in zip(_statistics(normalizer), state["statistics"], strict=True):
        if isinstance(rms, RunningMeanStd) and saved is not None:
            mean, var, rms.count = saved
            rms.mean, rms.var = mean.copy(), var.copy()
    normalizer.returns = state["returns"].copy()
    normalizer.old_obs, normalizer.old_reward = state["old_obs"].copy(), state["old_reward"].copy()


def _statistics(normalizer: VecNormalize) -> list[Any]:
    return [getattr(normalizer, name, None) for name in ("obs_rms", "ret_rms")]
