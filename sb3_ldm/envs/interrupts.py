"""Environments in processes of their own, and Ctrl-C, which reaches all of them at once."""

import contextlib
import signal
import threading
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

_PATIENCE_S = 10.0  #: how long a worker may take to end a step
_GONE = (EOFError, OSError)  #: what a pipe to a process that has ended raises


def make_undisturbed(spec: Any, **kwargs: Any) -> gym.Env:
    """
    Make an environment in a worker process, which leaves Ctrl-C to the process that it works for.

    :param spec: of the environment
    :param kwargs: of ``gym.make``
    :return: the environment
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return gym.make(spec, **kwargs)


def settle(env: VecEnv) -> None:
    """
    Make environments answer again after an interrupt: workers may still be busy with what nobody waits for any more.

    :param env: vectorised environments, maybe wrapped; only those in processes of their own need it
    """
    venv = env.unwrapped
    if not isinstance(venv, SubprocVecEnv) or venv.closed:
        return
    venv.waiting = False
    try:
        for remote in venv.remotes:
            remote.send(("has_attr", "settled"))
        for remote in venv.remotes:
            # Nothing else is answered by False alone.
            while remote.poll(_PATIENCE_S):
                if remote.recv() is False:
                    break
            else:
                raise EOFError
    except _GONE:
        for process in venv.processes:
            process.terminate()


def close_env(env: VecEnv) -> None:
    """
    Close environments, whose processes may have ended before.

    :param env: vectorised environments
    """
    with contextlib.suppress(*_GONE):
        env.close()
