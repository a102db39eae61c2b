"""What the reward decoder's outputs say of rewards (paper section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch as th

from sb3_ldm.inference.elbo import bernoulli_log_likelihood, gaussian_log_likelihood


class RewardLikelihood(Protocol):
    """p(r | output of the decoder)."""

    def log_likelihood(self, outputs: th.Tensor, rewards: th.Tensor) -> th.Tensor:
        """
        :param outputs: of the decoder
        :param rewards: broadcastable to ``outputs``
        :return: log p(r | outputs) in nats, shape of ``outputs``
        """
        ...

    def mean(self, outputs: th.Tensor) -> th.Tensor:
        """
        :param outputs: of the decoder
        :return: the mean of the reward's distribution, same shape
        """
        ...

    def hits(self, outputs: th.Tensor, rewards: th.Tensor) -> th.Tensor | None:
        """
        :param outputs: of the decoder
        :param rewards: broadcastable to ``outputs``
        :return: whether the mean is nearest to the true reward, same shape; None where rewards are any numbers
        """
        ...

    def check(self, rewards: np.ndarray) -> None:
        """
        :param rewards: true rewards, ``(n,)``
        :raises ValueError: if one cannot be
        """
        ...


@dataclass(frozen=True)
class Gaussian:
    """Outputs are means, of unit variance: for any rewards."""

    def log_likelihood(self, outputs: th.Tensor, rewards: th.Tensor) -> th.Tensor:
        return gaussian_log_likelihood(outputs, rewards)

    def mean(self, outputs: th.Tensor) -> th.Tensor:
        return outputs

    def hits(self, outputs: th.Tensor, rewards: th.Tensor) -> th.Tensor | None:
        return None

    def check(self, rewards: np.ndarray) -> None:
        pass


@dataclass(frozen=True)
class Bernoulli:
    """
    Outputs are logits of the higher of two rewards.

    :param low: the lower reward
    :param high: the higher reward
    """

    low: float
    high: float

    @property
    def middle(self) -> float:
        """Midway between the two rewards."""
        return 0.5 * (self.low + self.high)

    def log_likelihood(self, outputs: th.Tensor, rewards: th.Tensor) -> th.Tensor:
        return bernoulli_log_likelihood(outputs, rewards, self.low, self.high)

    def between(self, share: th.Tensor) -> th.Tensor:
        """:return: 0 as the lower reward, 1 as the higher one, same shape"""
        return self.low + (self.high - self.low) * share

    def mean(self, outputs: th.Tensor) -> th.Tensor:
        return self.between(th.sigmoid(outputs))

    def sample(self, outputs: th.Tensor, generator: th.Generator) -> th.Tensor:
        """:return: a reward drawn for each output"""
        return self.between(th.rand(outputs.shape, generator=generator, device=outputs.device) < th.sigmoid(outputs))

    def threshold(self, outputs: th.Tensor) -> th.Tensor:
        """:return: the more likely reward for each output"""
        return self.between(outputs > 0.0)

    def hits(self, outputs: th.Tensor, rewards: th.Tensor) -> th.Tensor | None:
        return (self.mean(outputs) - rewards).abs() < 0.5 * (self.high - self.low)

    def check(self, rewards: np.ndarray) -> None:
        known = np.isclose(rewards, self.low) | np.isclose(rewards, self.high)
        if not known.all():
            raise ValueError(
                f"reward_likelihood='bernoulli' with bernoulli_rewards=({self.low}, {self.high}) met the reward "
                f"{rewards[~known][0]:g}; give the environment's two rewards, or use 'gaussian'."
            )


REWARD_LIKELIHOODS = ("bernoulli", "gaussian")


def make_likelihood(name: str, bernoulli_rewards: Sequence[float]) -> RewardLikelihood:
    """
    :param name: one of ``REWARD_LIKELIHOODS``
    :param bernoulli_rewards: the two rewards (low, high) of the Bernoulli likelihood
    :return: the likelihood
    :raises ValueError: if there is no such likelihood, or the rewards are not two in their order
    """
    if name not in REWARD_LIKELIHOODS:
        raise ValueError(f"reward_likelihood={name!r}: choose one of {['auto', *REWARD_LIKELIHOODS]}.")
    low, high = bernoulli_rewards if len(bernoulli_rewards) == 2 else (0.0, 0.0)
    if not low < high or not np.isfinite([low, high]).all():
        raise ValueError(f"bernoulli_rewards={list(bernoulli_rewards)}: give the lower reward first, then the higher.")
    return Bernoulli(float(low), float(high)) if name == "bernoulli" else Gaussian()
