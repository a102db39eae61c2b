"""Rollouts of recurrent policies, sampled as whole sequences."""

from collections.abc import Generator, Iterator

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples, RNNStates
from stable_baselines3.common.buffers import RolloutBuffer


class SequenceRolloutBuffer(RolloutBuffer):
    """
    Rollout buffer whose minibatches are whole worker sequences in random order.

    Each minibatch mixes workers and needs no padding. Only the recurrent states at the start of the rollout are kept:
    a sequence is always processed from there.

    :param buffer_size: steps per worker and rollout
    :param observation_space: observation space of one worker
    :param action_space: action space of one worker
    :param device: PyTorch device of the minibatches
    :param gae_lambda: factor of the generalised advantage estimator
    :param gamma: discount factor
    :param n_envs: number of workers
    :param told_dim: numbers that the policy is told in training besides observations; 0 for none
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        gae_lambda: float = 1.0,
        gamma: float = 0.99,
        n_envs: int = 1,
        told_dim: int = 0,
    ):
        self.told_dim = told_dim
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)
        self.initial_states: RNNStates | None = None
        #: The rollout as tensors, ``(n_envs, n_steps, ...)`` each; there once it is sampled from.
        self.tensors: dict[str, th.Tensor] = {}

    def start(self, initial_states: RNNStates) -> None:
        """
        Empty the buffer for a new rollout.

        :param initial_states: recurrent states before the rollout's first step, each ``(n_layers, n_envs, hidden_size)``
        """
        self.reset()
        self.initial_states = initial_states

    def reset(self) -> None:
        super().reset()
        self._estimates = th.zeros((2, self.buffer_size, self.n_envs), device=self.device)
        self.told = np.zeros((self.buffer_size, self.n_envs, self.told_dim), dtype=np.float32)

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
        told: np.ndarray | None = None,
    ) -> None:
        """
        Add one step of every worker.

        The policy's estimates stay on its device until the rollout ends: a transfer of each at every step would cost a GPU
        more than computing them.

        :param obs: observations, ``(n_envs, obs_dim)``
        :param action: actions taken, ``(n_envs, ...)``
        :param reward: rewards, ``(n_envs,)``
        :param episode_start: whether the observation is an episode's first, ``(n_envs,)``
        :param value: value estimates, ``(n_envs, 1)``
        :param log_prob: log probabilities of the actions, ``(n_envs,)``
        :param told: what the policy was told besides, ``(n_envs, told_dim)``
        """
        if told is not None:
            self.told[self.pos] = told
        self.observations[self.pos] = obs
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self._estimates[0, self.pos] = value.flatten()
        self._estimates[1, self.pos] = log_prob
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        self.values, self.log_probs = self._estimates.cpu().numpy()
        super().compute_returns_and_advantage(last_values, dones)

    def get(self, batch_size: int | None = None) -> Generator[RecurrentRolloutBufferSamples, None, None]:  # type: ignore[override]
        """
        Yield the rollout once, in minibatches of whole sequences.

        :param batch_size: transitions per minibatch, rounded to whole sequences; None for one minibatch
        """
        for sequences in self.minibatches(batch_size):
            yield self.sequences(sequences)

    def minibatches(self, batch_size: int | None = None) -> Iterator[th.Tensor]:
        """
        Yield the indices of the sequences of each minibatch, all of the rollout once.

        :param batch_size: transitions per minibatch, rounded to whole sequences; None for one minibatch
        """
        self.prepare()
        n_minibatches = n_sequence_minibatches(self.n_envs, self.buffer_size, batch_size)
        order = th.as_tensor(np.random.permutation(self.n_envs), device=self.device)
        yield from order.tensor_split(n_minibatches)

    def prepare(self) -> dict[str, th.Tensor]:
        """:return: the rollout as tensors, ``(n_envs, n_steps, ...)`` each"""
        assert self.full, "Rollout buffer must be full before sampling from it"
        if not self.generator_ready:
            names = (*_SEQUENCE_FIELDS, "told") if self.told_dim > 0 else _SEQUENCE_FIELDS
            self.tensors = {name: self._by_sequence(name) for name in names}
            self._mask = th.ones_like(self.tensors["returns"])
            self.generator_ready = True
        return self.tensors

    def _by_sequence(self, name: str) -> th.Tensor:
        """Time-major array ``(n_steps, n_envs, ...)`` as a sequence-major tensor ``(n_envs, n_steps, ...)``."""
        return self.to_torch(np.ascontiguousarray(getattr(self, name).swapaxes(0, 1)), copy=False)

    def told_of(self, sequences: th.Tensor) -> th.Tensor | None:
        """
        :param sequences: indices of sequences, ``(n,)``
        :return: what the policy was told besides observations, sequence after sequence, ``(n * n_steps, told_dim)``; or None
        """
        return self.tensors["told"][sequences].flatten(0, 1) if self.told_dim > 0 else None

    def sequences(self, sequences: th.Tensor) -> RecurrentRolloutBufferSamples:
        """
        :param sequences: indices of sequences, ``(n,)``
        :return: their transitions, sequence after sequence
        """
        assert self.initial_states is not None
        flat = {name: tensor[sequences].flatten(0, 1) for name, tensor in self.tensors.items()}
        return RecurrentRolloutBufferSamples(
            observations=flat["observations"],
            actions=flat["actions"],
            old_values=flat["values"],
            old_log_prob=flat["log_probs"],
            advantages=flat["advantages"],
            returns=flat["returns"],
            lstm_states=RNNStates(
                (self.initial_states.pi[0][:, sequences], self.initial_states.pi[1][:, sequences]),
                (self.initial_states.vf[0][:, sequences], self.initial_states.vf[1][:, sequences]),
            ),
            episode_starts=flat["episode_starts"],
            mask=self._mask[sequences].flatten(0, 1),
        )


_SEQUENCE_FIELDS = ("observations", "actions", "values", "log_probs", "advantages", "returns", "episode_starts")


def n_sequence_minibatches(n_envs: int, n_steps: int, batch_size: int | None) -> int:
    """
    :param n_envs: number of workers, i.e. of sequences in a rollout
    :param n_steps: length of a sequence
    :param batch_size: wanted transitions per minibatch; None for all
    :return: the number of minibatches a rollout is cut into
    """
    sequences_per_minibatch = n_envs if batch_size is None else max(1, batch_size // n_steps)
    return max(1, n_envs // sequences_per_minibatch)
