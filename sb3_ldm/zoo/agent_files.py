"""Files of an agent: loading them with errors that name what is damaged, and saving them whatever happens."""

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ldm.checks import warn_user
from sb3_ldm.command import add_note
from sb3_ldm.envs.interrupts import settle
from sb3_ldm.evaluation.callbacks import BEST_MODEL, BEST_NORMALIZER_FILE, BUFFER_FILE, CHECKPOINT_FILE
from sb3_ldm.files import replacing

BUFFER_FILES = (BUFFER_FILE, "replay_buffer.pkl")  #: of a checkpoint, and with --save-replay-buffer of a finished run
CHECKPOINT_FILES = (CHECKPOINT_FILE, BUFFER_FILE)  #: what a finished run does not need any more


def check_agent(path: Path) -> None:
    """
    :param path: an agent's file
    :raises ValueError: if it is damaged, naming others that are beside it
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        damaged = str(error)
    if damaged is not None:
        others = ", ".join(str(other) for other in sorted(path.parent.glob("*.zip")) if other != path)
        raise ValueError(
            f"{path} is damaged ({damaged}): restore it, or go on with another agent; beside it there is {others or 'none'}."
        )


def statistics_beside(agent: Path, env_name: str) -> Path:
    """
    :param agent: an agent's file
    :param env_name: of its environment
    :return: where the statistics of the ``VecNormalize`` that it was trained with are, if there are any
    """
    best = agent.parent / BEST_NORMALIZER_FILE
    return best if agent.stem == BEST_MODEL and best.is_file() else agent.parent / env_name / "vecnormalize.pkl"


def load_statistics(path: Path, env: VecEnv) -> VecNormalize:
    """
    :param path: saved statistics
    :param env: environments
    :return: the environments, normalised by them
    :raises ValueError: if the file is damaged
    """
    try:
        return VecNormalize.load(str(path), env)
    except Exception as error:  # pickle raises all kinds
        raise ValueError(
            f"{path} cannot be loaded, it is damaged: {error or type(error).__name__}. Restore it, or begin anew: "
            "the agent is of no use without the statistics that its observations were normalised by."
        ) from error


def load_buffer(model: BaseAlgorithm, agent: Path) -> None:
    """
    Load the replay buffer beside an agent, if it has one; without a file there is a warning.

    :param model: the agent
    :param agent: its file
    :raises ValueError: if the buffer's file is damaged
    """
    buffers = [path for path in map(agent.with_name, BUFFER_FILES) if path.is_file()]
    if buffers and hasattr(model, "load_replay_buffer"):
        try:
            model.load_replay_buffer(buffers[0])  # type: ignore[attr-defined]
        except Exception as error:  # pickle raises all kinds
            raise ValueError(
                f"{buffers[0]} cannot be loaded: {str(error) or type(error).__name__}. If it is damaged, "
                "restore it, or remove it: what is learned from it then goes on with new meta-episodes alone."
            ) from error
    if not buffers and getattr(model, "replay_buffer", None) is not None and model.num_timesteps > 0:
        warn_user(
            f"{agent} has no {BUFFER_FILE} beside it, as finished runs keep none (but for "
            "--save-replay-buffer): what is learned from it goes on with new meta-episodes alone.",
        )


def save_agent(model: BaseAlgorithm, file: Path, statistics: Path, with_buffer: bool) -> None:
    """
    :param model: the agent
    :param file: where it goes, and its replay buffer beside it
    :param statistics: where those of its ``VecNormalize`` go, if it has one
    :param with_buffer: whether to save its replay buffer, if it has one
    """
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        with replacing(statistics) as path:
            normalizer.save(str(path))
    if with_buffer and getattr(model, "replay_buffer", None) is not None:
        with replacing(file.with_name(BUFFER_FILES[1])) as path:
            model.save_replay_buffer(path)  # type: ignore[attr-defined]
    with replacing(file) as path:
        model.save(path)
    say(f"Saved the agent to {file}")


def save_interrupted(model: BaseAlgorithm, folder: Path, saves: Mapping[str, Callable[[], None]]) -> str:
    """
    Save what an agent has learned before its training was interrupted, where one file may fail and the other not.

    :param model: the agent
    :param folder: of the run
    :param saves: what saves it, by the names of the files in the folder
    :return: what there is now, for people
    """
    steps = model.num_timesteps
    if not all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters()):
        return f"The agent of step {steps} has weights that are not finite and is not saved. {_left_behind(folder)}"
    if model.env is not None:
        settle(model.env)
    saved, failed = [], []
    for name, save in saves.items():
        try:
            save()
            saved.append(str(folder / name))
        except Exception as error:  # a full disk
            failed.append(f"Not saved: {error}.")
    if not saved:
        return " ".join([*failed, _left_behind(folder)])
    return " ".join([f"Saved after {steps} steps: {' and '.join(saved)}; go on with -i {saved[-1]}.", *failed])


def _left_behind(folder: Path) -> str:
    """Which agents the run has saved before."""
    there = sorted(folder.glob("*.zip"), key=lambda path: path.name != CHECKPOINT_FILE)
    if not there:
        return "Nothing was saved before."
    return f"Saved before: {', '.join(map(str, there))}; go on with -i {there[0]}."


def say(text: str) -> None:
    """Print, if there is still somebody to read it: a terminal that was closed takes nothing."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def tell(reason: BaseException, text: str) -> None:
    """Tell behind an error what became of the run, or at once where the process is asked to end, which prints no error."""
    if isinstance(reason, SystemExit):
        say(f"Interrupted. {text}")
    else:
        add_note(reason, text)
