"""Convex combinations of sequences (Wang et al. 2020, section 3)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th

from sb3_ldm.data import SequenceRolloutBuffer

#: What is mixed; of actions and episode starts a sequence keeps its own.
MIXED_FIELDS = ("observations", "values", "log_probs", "advantages", "returns")


def draw_partners(n_sequences: int, alpha: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    :param n_sequences: number of sequences
    :param alpha: of the Beta(alpha, alpha) that weights are drawn from
    :param rng: source of randomness
    :return: for each sequence the index of its partner, a random other one (its own if there is none), and its own weight,
        the larger of the two, in [0.5, 1]
    """
    others = rng.integers(1, max(n_sequences, 2), n_sequences)
    weights = rng.beta(alpha, alpha, n_sequences)
    return (np.arange(n_sequences) + others) % n_sequences, np.maximum(weights, 1.0 - weights)


def mix(own: th.Tensor, partners: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    :param own: shape ``(n_sequences, ...)``
    :param partners: index of each sequence's partner, ``(n_sequences,)``
    :param weights: each sequence's own weight, ``(n_sequences,)``
    :return: weight * own + (1 - weight) * partner's, step by step, same shape
    """
    weight = weights.view(-1, *[1] * (own.ndim - 1))
    return weight * own + (1.0 - weight) * own[partners]


class MixingRolloutBuffer(SequenceRolloutBuffer):
    """
    A rollout buffer that mixes every sequence with another one, anew at every pass over the rollout.

    :param alpha: see :func:`draw_partners`
    :param rng: source of the partners and weights
    :param kwargs: of :class:`~sb3_ldm.data.SequenceRolloutBuffer`
    """

    def __init__(self, alpha: float, rng: np.random.Generator, **kwargs: Any):
        super().__init__(**kwargs)
        self.alpha = alpha
        self.rng = rng
        self._collected: dict[str, th.Tensor] = {}

    def prepare(self) -> dict[str, th.Tensor]:
        if not self.generator_ready:
            self._collected = super().prepare()
        return self.tensors

    def minibatches(self, batch_size: int | None = None) -> Iterator[th.Tensor]:
        self.prepare()
        partners, weights = draw_partners(self.n_envs, self.alpha, self.rng)
        arguments = th.as_tensor(partners, device=self.device), self.to_torch(weights.astype(np.float32))
        # What was collected stays as it is: every pass is mixed from there.
        self.tensors = self._collected | {name: mix(self._collected[name], *arguments) for name in MIXED_FIELDS}
        return super().minibatches(batch_size)
