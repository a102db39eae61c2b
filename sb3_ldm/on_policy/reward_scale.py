"""Rewards in units of their returns' deviation, for value functions that are learned without a wrapper's normalisation."""

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd


class RewardScale:
    """
    Running deviation of discounted sums of rewards, as :class:`~stable_baselines3.common.vec_env.VecNormalize` has it, which
    what is trained on is divided by; what agents and networks see stays as it is.

    :param gamma: discount factor
    :param clip: scaled rewards are clipped to [-clip, clip]
    """

    def __init__(self, gamma: float, clip: float = 10.0):
        self.gamma = gamma
        self.clip = clip
        self.statistics = RunningMeanStd(shape=())
        self._sums = np.zeros(0)

    @property
    def scale(self) -> float:
        """The deviation."""
        return float(np.sqrt(self.statistics.var + 1e-8))

    def scaled(self, rewards: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """
        Count one step of every worker in.

        :param rewards: of the step, ``(n_envs,)``
        :param starts: whether a meta-episode began with it, ``(n_envs,)``
        :return: scaled rewards, ``(n_envs,)``
        """
        before = self._sums if self._sums.shape == rewards.shape else np.zeros(rewards.shape)  # loaded for other workers
        self._sums = np.where(starts, 0.0, before) * self.gamma + rewards
        self.statistics.update(self._sums)
        return np.clip(rewards / self.scale, -self.clip, self.clip)
