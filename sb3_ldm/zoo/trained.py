"""Finding what a run has left of its agent, and running it."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_sb3 import EnvironmentName
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.evaluation import MetaLearner
from sb3_ldm.evaluation.callbacks import BEST_MODEL, BEST_NORMALIZER_FILE, CHECKPOINT_FILE
from sb3_ldm.registry import get_algorithm
from sb3_ldm.results import RUN_FILE, load_metadata
from sb3_ldm.zoo.agent_files import load_statistics

_BEST_FILE = f"{BEST_MODEL}.zip"


@dataclass(frozen=True)
class TrainedAgent:
    """
    What a run's folder in the zoo's layout holds of its agent.

    :param model: path of the agent
    :param statistics: of the ``VecNormalize`` that it was trained with, None if it was trained without
    :param env_kwargs: of the environment that it was trained on
    """

    model: Path
    statistics: Path | None
    env_kwargs: dict[str, Any]


def find_trained(
    algo: str,
    env_id: str,
    folder: str,
    exp_id: int = 0,
    best: bool = False,
    last_checkpoint: bool = False,
    statistics: Path | None = None,
) -> TrainedAgent:
    """
    :param algo: name of the algorithm
    :param env_id: id of the environment
    :param folder: the log folder
    :param exp_id: number of the run, 0 for the latest that has an agent, -1 for the folder of the algorithm itself
    :param best: the best model of the evaluations instead of the last
    :param last_checkpoint: the checkpoint of a run that has not ended, or else its best model
    :param statistics: of its ``VecNormalize``, in place of the run's
    :return: the agent
    :raises ValueError: if there is no such run or agent, saying what there is, or it lacks the statistics that its
        observations were normalised by
    """
    name = EnvironmentName(env_id)
    last = f"{name}.zip"
    run = _find_run(Path(folder) / algo, name, exp_id, (last, CHECKPOINT_FILE, _BEST_FILE))
    if run is None:
        number = f" with number {exp_id}" if exp_id > 0 else ""
        raise ValueError(f"folder={folder!r} has no trained {algo} for {env_id}{number}: looked for {algo}/{name}_*/{last}.")
    return _agent_of(run, name, best, last_checkpoint, statistics)


def _agent_of(run: Path, name: str, best: bool, last_checkpoint: bool, statistics: Path | None) -> TrainedAgent:
    """The agent of a run's folder; ValueError if it has not the one that is asked for."""
    last = f"{name}.zip"
    has_checkpoint = (run / CHECKPOINT_FILE).is_file()
    wanted = _BEST_FILE if best or (last_checkpoint and not has_checkpoint) else CHECKPOINT_FILE if last_checkpoint else last
    if not (run / wanted).is_file():
        options = {last: "neither of them", CHECKPOINT_FILE: "--load-last-checkpoint", _BEST_FILE: "--load-best"}
        there = [f"{file} ({option})" for file, option in options.items() if (run / file).is_file()]
        raise ValueError(f"{run} has no {wanted}, but {' and '.join(there) or 'nothing else either'}.")
    return _with_statistics(run / wanted, name, _metadata(run), statistics)


def find_saved(
    path: Path,
    algo: str | None = None,
    env_id: str | None = None,
    best: bool = False,
    last_checkpoint: bool = False,
    statistics: Path | None = None,
) -> tuple[str, str, TrainedAgent, list[str]]:
    """
    :param path: folder of a run, or file of an agent
    :param algo: name of the algorithm; None for what the run says
    :param env_id: id of the environment; None for what the run says
    :param best: of a folder, the best model of the evaluations instead of the last
    :param last_checkpoint: of a folder, the checkpoint of a run that has not ended, or else its best model
    :param statistics: of its ``VecNormalize``, in place of the run's
    :return: the algorithm, the environment, the agent, and modules that register what it was trained with
    :raises ValueError: if there is none, or nothing says how it was trained, or it lacks the statistics that its observations
        were normalised by
    """
    if not path.exists():
        raise ValueError(f"agent={str(path)!r}: there is no such file or folder.")
    run = path if path.is_dir() else path.parent
    metadata = _metadata(run)
    of_run = metadata.get("env")
    algo, env_id = algo or metadata.get("algo"), env_id or of_run
    if algo is None or env_id is None:
        missing = [option for option, value in (("--algo", algo), ("--env", env_id)) if value is None]
        raise ValueError(
            f"{run / RUN_FILE} is missing, which says how an agent was trained: give {' and '.join(missing)}, too."
        )
    name = EnvironmentName(of_run or env_id)
    if path.is_dir():
        agent = _agent_of(path, name, best, last_checkpoint, statistics)
    elif best or last_checkpoint:
        raise ValueError(f"{path} has no use for {'--load-best' if best else '--load-last-checkpoint'}, which choose a file.")
    else:
        agent = _with_statistics(path, name, metadata, statistics)
    if of_run not in (None, env_id):  # whose options are others
        agent = replace(agent, env_kwargs={})
    return algo, env_id, agent, metadata.get("options", {}).get("gym_packages", [])


def _metadata(run: Path) -> dict[str, Any]:
    return load_metadata(run / RUN_FILE) if (run / RUN_FILE).is_file() else {}


def _with_statistics(model: Path, name: str, metadata: dict[str, Any], given: Path | None) -> TrainedAgent:
    statistics = given or model.parent / (BEST_NORMALIZER_FILE if model.name == _BEST_FILE else f"{name}/vecnormalize.pkl")
    if (metadata.get("hyperparameters") or {}).get("normalize") and not statistics.is_file():
        raise ValueError(f"{statistics} is missing: the agent was trained on normalised observations")
    return TrainedAgent(model, statistics if statistics.is_file() else None, metadata.get("env_kwargs") or {})


def _find_run(folder: Path, name: str, exp_id: int, files: Iterable[str]) -> Path | None:
    """The folder of a run that holds one of the files."""
    if exp_id == -1:
        return folder if folder.is_dir() else None
    numbered = re.compile(rf"{re.escape(name)}_(\d+)(_[0-9a-f-]{{36}})?")  # --uuid appends one
    found = [(int(match[1]), path) for path in folder.glob("*") if (match := numbered.fullmatch(path.name))]
    if exp_id > 0:
        return next((path for number, path in found if number == exp_id), None)
    with_agents = [(number, path) for number, path in found if any((path / file).is_file() for file in files)]
    return max(with_agents, key=lambda one: (one[0], one[1].stat().st_mtime))[1] if with_agents else None


def load_agent(agent: TrainedAgent, algo: str, device: str = "auto", stand_ins: bool = False) -> Any:
    """
    :param agent: what a run has left
    :param algo: name of its algorithm
    :param device: of its networks
    :param stand_ins: whether to do without its schedules, which may not be loadable by other versions
    :return: the agent, to predict
    :raises ValueError: if the file is damaged, or of another algorithm
    """
    algorithm = get_algorithm(algo).load()
    schedules = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    # Off-policy algorithms of SB3 make room for all that they could learn from.
    small = {"buffer_size": 1} if "buffer_size" in inspect.signature(algorithm).parameters else {}
    return algorithm.load(agent.model, device=device, custom_objects=schedules if stand_ins else None, **small)


def normalized(env: VecEnv, agent: TrainedAgent, norm_reward: bool = False) -> VecEnv:
    """
    :param env: environments
    :param agent: what a run has left
    :param norm_reward: whether rewards are to be normalised, too
    :return: the environments as the agent is to see them
    :raises ValueError: if the statistics are damaged
    """
    if agent.statistics is None:
        return env
    normalizer = load_statistics(agent.statistics, env)
    normalizer.training, normalizer.norm_reward = False, norm_reward
    return normalizer


@dataclass(frozen=True)
class Played:
    """
    A meta-episode that an agent was run for.

    :param total: sum of its rewards, normalised ones where the environments normalise
    :param length: its steps
    :param task: its task
    :param returns: true return of each of its episodes
    :param success: whether its last episode succeeded, None if the environment does not tell
    """

    total: float
    length: int
    task: np.ndarray
    returns: np.ndarray
    success: bool | None


def play(model: MetaLearner, env: VecEnv, steps: Iterable[int], deterministic: bool, render: bool) -> Iterable[Played]:
    """
    Run an agent, as rl_zoo3's enjoy script does.

    :param model: the agent
    :param env: environments of meta-episodes
    :param steps: yields once a step of all environments
    :param deterministic: whether the agent takes its most likely actions
    :param render: whether to show the environments in a window
    :return: the meta-episodes, when they end
    """
    obs: Any = env.reset()
    state, starts = None, np.ones(env.num_envs, dtype=bool)
    totals = np.zeros(env.num_envs)
    for _ in steps:
        actions, state = model.predict(obs, state=state, episode_start=starts, deterministic=deterministic)
        obs, rewards, starts, infos = env.step(actions)
        totals += rewards
        if render:
            env.render("human")
        for index in np.flatnonzero(starts):
            info = infos[index]
            success = None if "is_success" not in info else bool(info["is_success"])
            length = int(np.sum(info["episode_lengths"]))
            yield Played(float(totals[index]), length, info["task"], info["episode_returns"], success)
            totals[index] = 0.0
