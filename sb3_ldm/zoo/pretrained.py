"""Agents that come with the package: weights, and which run they are from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th
from huggingface_sb3 import EnvironmentName
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_ldm.envs import make_meta_vec_env, observation_layout
from sb3_ldm.files import replacing
from sb3_ldm.registry import get_algorithm
from sb3_ldm.results import RUN_FILE
from sb3_ldm.version import PACKAGE
from sb3_ldm.zoo.agent_files import load_statistics
from sb3_ldm.zoo.final_evaluation import evaluate_finally, evaluation_splits
from sb3_ldm.zoo.trained import TrainedAgent, load_agent, normalized

FOLDER = PACKAGE / "pretrained"  #: ``<algo>-<env>.zip``, ``.json`` and, of agents on normalised observations, ``.pkl``
#: What a model's file holds of the moment in training when it was saved. Without it the constructor's values stay.
_OF_TRAINING = (
    "_last_obs",
    "_last_original_obs",
    "_last_episode_starts",
    "_generator_states",
    "_vae_rng",
    "ep_info_buffer",
    "ep_success_buffer",
    "start_time",
)


def available_pretrained() -> list[tuple[str, str]]:
    """:return: algorithm and environment of each agent that comes with the package"""
    return [(told["algo"], told["env"]) for told in map(_read, sorted(FOLDER.glob("*.json")))]


def find_pretrained(algo: str, env_id: str) -> TrainedAgent:
    """
    :param algo: name of the algorithm
    :param env_id: id of the environment
    :return: files of the agent
    :raises ValueError: if there is none, saying which there are
    """
    told = about_pretrained(algo, env_id)
    model, statistics = (_path(algo, env_id, ending) for ending in ("zip", "pkl"))
    return TrainedAgent(model, statistics if statistics.is_file() else None, told["env_kwargs"])


def about_pretrained(algo: str, env_id: str) -> dict[str, Any]:
    """
    :param algo: name of the algorithm
    :param env_id: id of the environment
    :return: the run that the agent is from: its ``seed``, ``timesteps``, ``commit`` and ``hyperparameters``; ``results`` by
        split and kind of actions, ``returns`` of each episode and how many of the ``tasks`` it ``reached`` in the last one;
        and ``chosen_from``, what the agents of all seeds returned, of which it is the median one
    :raises ValueError: if there is none, saying which there are
    """
    if (algo, env_id) not in available_pretrained():
        there = ", ".join(" on ".join(pair) for pair in available_pretrained())
        raise ValueError(f"algo={algo!r}, env_id={env_id!r}: the package has no such agent; there are: {there or 'none'}.")
    return _read(_path(algo, env_id, "json"))


def load_pretrained(
    algo: str, env_id: str, env: VecEnv | None = None, device: th.device | str = "auto", **kwargs: Any
) -> BaseAlgorithm:
    """
    Load an agent that comes with the package, to look at or to train on from.

    :param algo: name of the algorithm, such as ``"ldm"``
    :param env_id: id of the environment that it was trained on, such as ``"GridNavi-v0"``
    :param env: environments to go on in, which ``predict`` does not need. Around those of an agent that was trained on
        normalised observations a ``VecNormalize`` with its statistics is put, if there is none: ``model.get_env()``
    :param device: device of the networks
    :param kwargs: parameters to change, as of the algorithm's ``load``
    :return: the model, without its optimisers' state and its buffers
    :raises ValueError: if there is none, saying which there are
    """
    agent = find_pretrained(algo, env_id)
    if env is not None and agent.statistics is not None and unwrap_vec_normalize(env) is None:
        env = load_statistics(agent.statistics, env)
    return get_algorithm(algo).load().load(agent.model, env, device, **kwargs)


def evaluate_pretrained(algo: str, env_id: str, folder: Path, n_repeats: int = 5, n_envs: int = 16, seed: int = 0) -> None:
    """
    Evaluate an agent that comes with the package as a run's is at its end, and leave what figures are drawn from.

    :param algo: name of the algorithm
    :param env_id: id of the environment
    :param folder: to write ``run.json``, ``final_evaluation.csv`` and the rest of a run's results to
    :param n_repeats: meta-episodes on each of finitely many tasks with sampled actions
    :param n_envs: number of environments
    :param seed: of the environments and of the agent's actions
    :raises ValueError: if there is no such agent, saying which there are
    """
    told = about_pretrained(algo, env_id)
    agent = find_pretrained(algo, env_id)
    model = load_agent(agent, algo, "cpu")
    env = normalized(make_meta_vec_env(env_id, n_envs, seed, env_kwargs=agent.env_kwargs), agent)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        evaluate_finally(model, env, algo, folder, evaluation_splits(env, final=True), n_repeats, seed)
        run = {
            **told,
            "frames": told["timesteps"],
            "episodes_per_task": observation_layout(env.observation_space).episodes_per_task,
        }
    finally:
        env.close()
    with replacing(folder / RUN_FILE) as file:
        file.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def save_pretrained(agent: TrainedAgent, told: Mapping[str, Any]) -> Path:
    """
    Keep what acts of a run's agent (and what shows its beliefs) for the package.

    :param agent: files of the run
    :param told: of :func:`about_pretrained`
    :return: the agent's file
    """
    algo, env_id = told["algo"], told["env"]
    data, states, variables = load_from_zip_file(agent.model, device="cpu")
    assert data is not None
    parameters: dict[str, Any] = dict(states)
    kept = {name: value for name, value in data.items() if name not in _OF_TRAINING}
    # An optimiser without a state is one that has not made a step yet, so that the file is an ordinary model's.
    for name in parameters:
        if name.split(".")[-1] == "optimizer":
            parameters[name] |= {"state": {}}
    FOLDER.mkdir(exist_ok=True)
    path, statistics, about = (_path(algo, env_id, ending) for ending in ("zip", "pkl", "json"))
    with replacing(path) as file:
        save_to_zip_file(file, kept, parameters, variables)
    if agent.statistics is None:
        statistics.unlink(missing_ok=True)
    else:
        with replacing(statistics) as file:
            file.write_bytes(agent.statistics.read_bytes())
    with replacing(about) as file:
        file.write_text(json.dumps({**told, "env_kwargs": agent.env_kwargs}, indent=2) + "\n", encoding="utf-8")
    return path


def _path(algo: str, env_id: str, ending: str) -> Path:
    return FOLDER / f"{algo}-{EnvironmentName(env_id)}.{ending}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
