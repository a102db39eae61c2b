"""Encoder-v and the reward decoder (paper section 3.2 and 3.3)."""

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch as th
from torch import nn

from sb3_ldm.checks import check_integer
from sb3_ldm.data.meta_episodes import MetaEpisodeBatch
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout
from sb3_ldm.nets.embedding import Embedding
from sb3_ldm.nets.sequences import LSTMStates, lstm_step

DECODER_INPUTS = ("state", "action", "next_state")
Belief = tuple[th.Tensor, th.Tensor]


class Encoder(Protocol):
    """Whatever infers beliefs along meta-episodes; a module."""

    def beliefs(self, batch: MetaEpisodeBatch) -> Belief:
        """
        :param batch: meta-episodes of T steps
        :return: mu and logvar of m_0..m_{H+}, ``(T + 1, batch, latent_dim)`` each
        """
        ...


def dropout_mask(shape: Sequence[int], rate: float, generator: th.Generator | None, device: th.device | str) -> th.Tensor:
    """
    Factors of inverted dropout, from a generator of their own so that the global random stream is left alone.

    :param shape: shape of the mask
    :param rate: probability of a 0
    :param generator: source of randomness
    :param device: device of the generator and the mask
    :return: 0 or 1 / (1 - rate), mean 1
    """
    return (th.rand(tuple(shape), generator=generator, device=device) >= rate) / (1.0 - rate)


class Standardize(nn.Module):
    """
    States to mean 0 and variance 1 by running statistics, which only :meth:`update` changes.

    Positions of tens of metres beside velocities of a few hide small differences from a network.

    :param state_dim: size of a state
    :param clip: standardised values are clipped to [-clip, clip]
    """

    mean: th.Tensor
    var: th.Tensor
    count: th.Tensor

    def __init__(self, state_dim: int, clip: float = 10.0):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", th.zeros(state_dim))
        self.register_buffer("var", th.ones(state_dim))
        self.register_buffer("count", th.zeros(()))

    @th.no_grad()
    def update(self, states: th.Tensor) -> None:
        """
        :param states: to be counted in, ``(n, state_dim)``
        """
        mean = states.mean(dim=0)
        var = (states - mean).square().mean(dim=0)  # th.var_mean takes ten times as long along the first dimension
        total = self.count + len(states)
        share, delta = len(states) / total, mean - self.mean
        self.var += share * (var - self.var + (1.0 - share) * delta**2)
        self.mean += share * delta
        self.count.copy_(total)

    def forward(self, states: th.Tensor) -> th.Tensor:
        """:return: the standardised states, ``(..., state_dim)``"""
        return ((states - self.mean) * th.rsqrt(self.var + 1e-8)).clamp(-self.clip, self.clip)


class BeliefEncoder(nn.Module):
    """
    Encoder-v: transitions (a_t, r_{t+1}, s_{t+1}) to the belief N(mu_t, diag exp(logvar_t)).

    :param layout: layout of the meta-episodes
    :param latent_dim: dimension of the latent model m
    :param hidden_size: units of the LSTM
    :param embeddings: sizes of the state, action and reward embeddings, 0 to leave an input out
    :param standardize: what states go through first, shared with the decoder; None for nothing
    """

    def __init__(
        self,
        layout: MetaEpisodeLayout,
        latent_dim: int,
        hidden_size: int = 128,
        embeddings: Sequence[int] = (32, 16, 8),
        standardize: Standardize | None = None,
    ):
        super().__init__()
        self.standardize = standardize
        self.embedding = Embedding((layout.state_dim, layout.action_dim, 1), embeddings)
        self.lstm = nn.LSTM(self.embedding.output_dim, hidden_size)
        self.mu = nn.Linear(hidden_size, latent_dim)
        self.logvar = nn.Linear(hidden_size, latent_dim)

    def initial_states(self, n_workers: int) -> tuple[th.Tensor, th.Tensor]:
        """Recurrent states before any transition, ``(1, n_workers, hidden_size)`` each."""
        zeros = self.mu.weight.new_zeros(1, n_workers, self.lstm.hidden_size)
        return zeros, zeros.clone()

    def belief(self, hidden: th.Tensor) -> Belief:
        """:return: mu and logvar for outputs of the LSTM, ``(..., latent_dim)`` each"""
        return self.mu(hidden), self.logvar(hidden)

    def beliefs(self, batch: MetaEpisodeBatch) -> Belief:
        """
        :param batch: meta-episodes of T steps
        :return: mu and logvar of m_0..m_{H+}, ``(T + 1, batch, latent_dim)`` each; m_0 is that of no transition
        """
        states = self.initial_states(batch.rewards.shape[1])
        outputs, _ = self(batch.next_states, batch.actions, batch.rewards, states)
        return self.belief(th.cat([states[0][-1:], outputs]))

    def forward(
        self, next_states: th.Tensor, actions: th.Tensor, rewards: th.Tensor, states: LSTMStates
    ) -> tuple[th.Tensor, LSTMStates]:
        """
        :param next_states: ``(T, batch, state_dim)``
        :param actions: ``(T, batch, action_dim)``
        :param rewards: ``(T, batch)``
        :param states: recurrent states before the first transition
        :return: LSTM outputs ``(T, batch, hidden_size)`` and the states after the last transition
        """
        if self.standardize is not None:
            next_states = self.standardize(next_states)
        inputs = self.embedding(next_states, actions, rewards.unsqueeze(-1))
        if len(inputs) == 1:
            output, states = lstm_step(inputs[0], states, self.lstm)
            return output.unsqueeze(0), states
        return self.lstm(inputs, states)


class RewardDecoder(nn.Module):
    """
    p(r_{t+1} | m, s_t, a_t, s_{t+1}), with dropout on everything but m so that it cannot be ignored (section 3.3).

    The first layer is applied to the latents and to the steps separately, then added: decoding T steps under K latents costs
    K + T rows there instead of K * T. A linear one is w(m) . f(step) + b(step), so that a mixture of latent models has the
    mixture of their rewards.

    :param layout: layout of the meta-episodes
    :param latent_dim: dimension of the latent model m
    :param inputs: which of ``state``, ``action``, ``next_state`` the decoder sees
    :param embeddings: sizes of the state and action embeddings (both states share one size)
    :param hidden_sizes: sizes of the decoder's layers
    :param dropout_place: drop the ``inputs`` themselves (the paper) or their ``embeddings`` (the release)
    :param standardize: what states go through first; None for nothing
    :param is_linear: whether outputs are linear in the latent model
    :raises ValueError: if ``inputs`` or ``dropout_place`` is unknown, a size is no positive whole number, or no input is left
    """

    def __init__(
        self,
        layout: MetaEpisodeLayout,
        latent_dim: int,
        inputs: Sequence[str] = DECODER_INPUTS,
        embeddings: Sequence[int] = (32, 16),
        hidden_sizes: Sequence[int] = (64, 32),
        dropout_place: str = "embeddings",
        standardize: Standardize | None = None,
        is_linear: bool = False,
    ):
        super().__init__()
        self.standardize = standardize
        self.is_linear = is_linear
        if isinstance(inputs, str) or not inputs or any(name not in DECODER_INPUTS for name in inputs):
            raise ValueError(f"decoder_inputs={inputs!r}: choose a list of some of {list(DECODER_INPUTS)}.")
        if dropout_place not in ("embeddings", "inputs"):
            raise ValueError(f"dropout_place={dropout_place!r}: choose 'embeddings' or 'inputs'.")
        if len(hidden_sizes) == 0:
            raise ValueError("decoder_layers=[]: the decoder needs at least one hidden layer.")
        for size in hidden_sizes:
            check_integer("decoder_layers", size, 1)
        self.inputs = tuple(inputs)
        self.dropout_place = dropout_place
        sizes = {"state": (layout.state_dim, embeddings[0]), "action": (layout.action_dim, embeddings[1])}
        sizes["next_state"] = sizes["state"]
        self.input_dims = [sizes[name][0] for name in DECODER_INPUTS if name in inputs]
        self.embedding = Embedding(self.input_dims, [sizes[name][1] for name in DECODER_INPUTS if name in inputs])
        if self.embedding.output_dim == 0:
            raise ValueError(f"decoder_embeddings={list(embeddings)} leave out all of decoder_inputs={list(inputs)}.")
        self.dropout_dim = self.embedding.output_dim if dropout_place == "embeddings" else sum(self.input_dims)
        self.latent_layer = nn.Linear(latent_dim, hidden_sizes[-1 if is_linear else 0], bias=not is_linear)
        self.step_layer = nn.Linear(self.embedding.output_dim, hidden_sizes[0], bias=is_linear)
        layers: list[nn.Module] = []
        for size_in, size_out in itertools.pairwise(hidden_sizes):
            layers += [nn.ReLU(), nn.Linear(size_in, size_out)]
        layers.append(nn.ReLU())
        self.features = nn.Sequential(*layers) if is_linear else None
        outputs = nn.Linear(hidden_sizes[-1], 1)
        self.head: nn.Module = outputs if is_linear else nn.Sequential(*layers, outputs)

    def encode_steps(
        self, states: th.Tensor, actions: th.Tensor, next_states: th.Tensor, mask: th.Tensor | None = None
    ) -> th.Tensor:
        """
        :param states: ``(..., state_dim)``
        :param actions: ``(..., action_dim)``
        :param next_states: ``(..., state_dim)``
        :param mask: dropout factors, broadcastable to ``(..., dropout_dim)``; None for no dropout
        :return: the steps' part of the first layer, ``(..., hidden_sizes[0])``; of a linear decoder their features,
            ``(..., hidden_sizes[-1])``
        """
        if self.standardize is not None:
            states, next_states = self.standardize(states), self.standardize(next_states)
        inputs = [x for name, x in zip(DECODER_INPUTS, (states, actions, next_states), strict=True) if name in self.inputs]
        if mask is not None and self.dropout_place == "inputs":
            inputs = [x * part for x, part in zip(inputs, mask.split(self.input_dims, dim=-1), strict=True)]
        embedded = self.embedding(*inputs)
        if mask is not None and self.dropout_place == "embeddings":
            embedded = embedded * mask
        encoded = self.step_layer(embedded)
        return encoded if self.features is None else self.features(encoded)

    def forward(self, latents: th.Tensor, steps: th.Tensor) -> th.Tensor:
        """
        :param latents: m, ``(..., latent_dim)``
        :param steps: from :meth:`encode_steps`; its leading dimensions broadcast against those of ``latents``
        :return: logits (Bernoulli) or means (Gaussian), the broadcast leading shape
        """
        if self.is_linear:
            return (self.latent_layer(latents) * steps).sum(-1) + self.head(steps).squeeze(-1)
        return self.head(self.latent_layer(latents) + steps).squeeze(-1)
