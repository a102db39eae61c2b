"""What is looked at before and while agents act in vectorised environments: that they fit together, and who moves them."""

from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.envs.meta_episode import MetaEpisodeWrapper, MetaObservationSpace


def refuse_gymnasium_vector_env(env: object) -> None:
    """
    :param env: what was given as an environment
    :raises ValueError: if it is one of gymnasium's vectorised environments, which reset themselves in other ways than SB3's
    """
    if isinstance(env, (gym.vector.VectorEnv, gym.vector.VectorWrapper)):
        raise ValueError(
            f"env={env} is one of gymnasium's vectorised environments (gym.make_vec), which SB3 cannot use: make SB3's with "
            "sb3_ldm.make_meta_vec_env(env_id, n_envs)"
        )


def check_workers(env: VecEnv) -> None:
    """
    :param env: vectorised environments; nothing is looked at where these are no meta-episodes
    :raises ValueError: if a sub-environment's meta-episodes have another layout, number or length of episodes than the first
        one's, or tasks of another length
    """
    if not isinstance(env.observation_space, MetaObservationSpace):
        return
    for name in ("layout", "task_dim"):
        try:
            values = env.get_attr(name)
        except (AttributeError, NotImplementedError):  # of a VecEnv that somebody else wrote
            continue
        for worker, value in enumerate(values):
            if value != values[0]:
                raise ValueError(
                    f"env={env}: sub-environment {worker} has {name}={value}, but sub-environment 0 has {name}={values[0]}: "
                    "all must have the same observations, number and length of episodes, and kind of tasks"
                )


class Watch:
    """
    Notices where somebody else than the one who looks steps or resets environments, also through another VecEnv around them.

    :param env: vectorised environments, wrapped or not
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        inner = [unwrap_wrapper(one, MetaEpisodeWrapper) for one in getattr(env.unwrapped, "envs", ())]
        self._counting: list[Any] = [one for one in (env.unwrapped, *inner) if hasattr(one, "n_moves")]
        self.look()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()  # who copies or saves a model looks after other environments

    def look(self) -> None:
        """Take where the environments are now as known."""
        self._n_moves, self._info = self._now()

    @property
    def has_moved(self) -> bool:
        """Whether somebody has stepped or reset them since the last :meth:`look`."""
        n_moves, info = self._now()
        return n_moves != self._n_moves or info is not self._info

    def _now(self) -> tuple[int, Any]:
        # Environments in other processes send new objects with each reset and each step.
        reset_infos = getattr(self.env.unwrapped, "reset_infos", None)
        return sum(one.n_moves for one in self._counting), reset_infos[0] if reset_infos else None
