"""The VAE of rewards, the paper's latent dynamics network: encoder-v and reward decoder, trained by the ELBO."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch as th
from torch import nn

from sb3_ldm.checks import check_integer, is_number
from sb3_ldm.data.meta_episodes import MetaEpisodeBatch, MetaEpisodeBuffer
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout
from sb3_ldm.inference.elbo import elbo, kl_to_previous
from sb3_ldm.inference.likelihoods import make_likelihood
from sb3_ldm.inference.networks import DECODER_INPUTS, Belief, BeliefEncoder, Encoder, RewardDecoder, Standardize, dropout_mask
from sb3_ldm.nets.sharding import backward_in_shards, even_slices, n_shards

#: Arguments of :class:`RewardVAE` that are the network's own, so that algorithms take them together.
NETWORK_OPTIONS = (
    "encoder_hidden_size",
    "encoder_embeddings",
    "decoder_embeddings",
    "decoder_layers",
    "dropout_place",
    "standardize_states",
    "linear_decoder",
)


class RewardVAE(nn.Module):
    """
    The latent dynamics network (the paper's name), a VAE: a variational model of the reward dynamics of a task (section 3.2).

    :param layout: layout of the meta-episodes
    :param latent_dim: dimension of the latent model m
    :param dropout_rate: p_drop, dropout on the decoder's inputs other than m
    :param kl_weight: weight of the KL terms in the ELBO, which is summed over decoded steps
    :param n_elbo_terms: random ELBO terms t per update out of the H+ + 1, an unbiased estimate; None for all
    :param n_decoded_steps: random steps decoded per update, an unbiased estimate; None for all: with None for both, memory
        grows with the square of a meta-episode's length
    :param reward_likelihood: ``"bernoulli"`` for rewards of two values, ``"gaussian"`` (squared error) for any
    :param bernoulli_rewards: the two rewards (low, high) of the Bernoulli likelihood
    :param decoder_inputs: which of ``state``, ``action``, ``next_state`` the decoder sees beside m
    :param encoder_hidden_size: units of encoder-v's LSTM
    :param encoder_embeddings: sizes of encoder-v's state, action and reward embeddings
    :param decoder_embeddings: sizes of the decoder's state and action embeddings
    :param decoder_layers: sizes of the decoder's layers
    :param dropout_place: drop the decoder's ``inputs`` (the paper) or their ``embeddings`` (the release)
    :param standardize_states: encoder-v and decoder see states of mean 0 and variance 1, by running statistics of the
        batches; an ``encoder`` that is shared does not
    :param linear_decoder: the decoder's outputs are linear in m
    :param learning_rate: of Adam
    :param encoder: shares a module that infers beliefs, instead of an encoder-v of its own
    :raises ValueError: if a parameter is out of its range, or training diverges
    """

    def __init__(
        self,
        layout: MetaEpisodeLayout,
        latent_dim: int = 32,
        dropout_rate: float = 0.5,
        kl_weight: float = 1.0,
        n_elbo_terms: int | None = 8,
        n_decoded_steps: int | None = 128,
        reward_likelihood: str = "gaussian",
        bernoulli_rewards: Sequence[float] = (0.0, 1.0),
        decoder_inputs: Sequence[str] = DECODER_INPUTS,
        encoder_hidden_size: int = 128,
        encoder_embeddings: Sequence[int] = (32, 16, 8),
        decoder_embeddings: Sequence[int] = (32, 16),
        decoder_layers: Sequence[int] = (64, 32),
        dropout_place: str = "embeddings",
        standardize_states: bool = False,
        linear_decoder: bool = False,
        learning_rate: float = 1e-3,
        encoder: Encoder | None = None,
    ):
        super().__init__()
        if not is_number(dropout_rate) or not 0.0 <= dropout_rate < 1.0:
            raise ValueError(f"dropout_rate={dropout_rate} is outside [0, 1).")
        if not is_number(kl_weight) or kl_weight < 0.0:
            raise ValueError(f"kl_weight={kl_weight} must be a finite number of at least 0.")
        check_integer("latent_dim", latent_dim, 1)
        for name, number in (("n_elbo_terms", n_elbo_terms), ("n_decoded_steps", n_decoded_steps)):
            if number is not None:
                check_integer(name, number, 1, "or None for all")
        self.likelihood = make_likelihood(reward_likelihood, bernoulli_rewards)
        check_integer("encoder_hidden_size", encoder_hidden_size, 1)
        _check_sizes("encoder_embeddings", encoder_embeddings, ("state", "action", "reward"))
        _check_sizes("decoder_embeddings", decoder_embeddings, ("state", "action"))
        for name, given in (("standardize_states", standardize_states), ("linear_decoder", linear_decoder)):
            if not isinstance(given, bool):
                raise ValueError(f"{name}={given!r}: use True or False.")
        self.layout = layout
        self.latent_dim = latent_dim
        self.dropout_rate = dropout_rate
        self.kl_weight = kl_weight
        self.n_elbo_terms = n_elbo_terms
        self.n_decoded_steps = n_decoded_steps
        self.standardize = Standardize(layout.state_dim) if standardize_states else None
        self.encoder: Encoder
        if encoder is None:
            self.encoder = BeliefEncoder(layout, latent_dim, encoder_hidden_size, encoder_embeddings, self.standardize)
        else:
            self.encoder = encoder
        self.decoder = RewardDecoder(
            layout,
            latent_dim,
            decoder_inputs,
            decoder_embeddings,
            decoder_layers,
            dropout_place,
            self.standardize,
            linear_decoder,
        )
        self.optimizer = th.optim.Adam(self.parameters(), lr=learning_rate, fused=True)

    def check_rewards(self, rewards: np.ndarray) -> None:
        """
        :param rewards: true rewards
        :raises ValueError: if they are not finite, or cannot come from the reward likelihood
        """
        check_finite(rewards)
        self.likelihood.check(rewards)

    def beliefs(self, batch: MetaEpisodeBatch) -> Belief:
        """
        Beliefs m_0..m_{H+} along meta-episodes.

        :param batch: meta-episodes of T steps
        :return: mu and logvar, ``(T + 1, batch, latent_dim)`` each
        """
        return self.encoder.beliefs(batch)

    def dropout_mask(self, shape: Sequence[int], generator: th.Generator | None = None) -> th.Tensor | None:
        """
        :param shape: leading shape of the decoder's steps
        :param generator: source of randomness
        :return: dropout factors ``(*shape, decoder.dropout_dim)``, None without dropout
        """
        if self.dropout_rate == 0.0:
            return None
        device = next(self.parameters()).device
        return dropout_mask((*shape, self.decoder.dropout_dim), self.dropout_rate, generator, device)

    @th.no_grad()
    def predict(
        self,
        latents: th.Tensor,
        transitions: tuple[np.ndarray, np.ndarray, np.ndarray],
        generator: th.Generator | None = None,
        n_masks: int = 32,
    ) -> th.Tensor:
        """
        What the network knows of rewards: its expectation over the dropout that it was trained with. Without any dropout a
        decoder that was trained with much of it sees inputs that it has never met, and promises next to nothing.

        :param latents: ``(..., latent_dim)``
        :param transitions: states ``(n, state_dim)``, actions ``(n, action_dim)`` and next states ``(n, state_dim)``
        :param generator: source of randomness
        :param n_masks: masks to average over
        :return: ``(..., n)``
        """
        device = next(self.parameters()).device
        mask = self.dropout_mask((n_masks, len(transitions[0])), generator)
        states, actions, next_states = (th.as_tensor(array, device=device) for array in transitions)
        steps = self.decoder.encode_steps(states, actions, next_states, mask)
        drawn = [steps] if mask is None else list(steps)
        return th.stack([self.likelihood.mean(self.decoder(latents.unsqueeze(-2), one)) for one in drawn]).mean(0)

    def final_beliefs(self, batch: MetaEpisodeBatch) -> Belief:
        """
        :param batch: meta-episodes
        :return: mu and logvar of the beliefs at their ends, ``(batch, latent_dim)`` each
        """
        return at_the_end(*self.beliefs(batch), batch)

    @th.no_grad()
    def explained_variance(self, batch: MetaEpisodeBatch, n_masks: int = 8) -> float:
        """
        How well the beliefs at the ends of meta-episodes tell all of their rewards, by the network's expectation over dropout.
        Its masks are always the same, so that looking draws nothing from a random stream.

        :param batch: meta-episodes, better ones that the network was not trained on
        :param n_masks: masks to average over
        :return: share of the rewards' variance, at most 1; NaN where they do not vary
        """
        device = batch.rewards.device
        generator = th.Generator(device).manual_seed(0)
        means = self.final_beliefs(batch)[0]
        predicted = th.zeros_like(batch.rewards)
        for _ in range(n_masks if self.dropout_rate > 0.0 else 1):
            mask = self.dropout_mask(batch.rewards.shape, generator)
            steps = self.decoder.encode_steps(batch.states, batch.actions, batch.next_states, mask)
            predicted += self.likelihood.mean(self.decoder(means, steps))
        error = predicted / (n_masks if self.dropout_rate > 0.0 else 1) - batch.rewards
        mean = (batch.rewards * batch.mask).sum() / batch.mask.sum()
        variance = ((batch.rewards - mean) ** 2 * batch.mask).sum()
        return float(1.0 - (error**2 * batch.mask).sum() / variance) if variance > 0.0 else float("nan")

    def draw(self, batch: MetaEpisodeBatch, generator: th.Generator | None = None) -> "Draws":
        """
        :param batch: meta-episodes
        :param generator: source of randomness
        :return: all that is random in an estimate of their ELBO
        """
        (n_steps, n), device = batch.rewards.shape, batch.rewards.device
        terms, term_scale = _random_subset(n_steps + 1, self.n_elbo_terms, generator, device)
        steps, step_scale = _random_subset(n_steps, self.n_decoded_steps, generator, device)
        noise = th.randn((len(terms), n, self.latent_dim), generator=generator, device=device)
        return Draws(terms, term_scale, steps, step_scale, noise, self.dropout_mask((len(steps), n), generator))

    def elbo(self, batch: MetaEpisodeBatch, generator: th.Generator | None = None) -> dict[str, th.Tensor]:
        """
        An unbiased estimate of the ELBO of a batch, in nats per meta-episode (one sample of each m_t).

        :param batch: meta-episodes
        :param generator: source of the samples, of the dropout and of the random terms and steps
        :return: as :meth:`elbo_given`
        """
        return self.elbo_given(batch, self.draw(batch, generator))

    def elbo_given(self, batch: MetaEpisodeBatch, draws: "Draws") -> dict[str, th.Tensor]:
        """
        :param batch: meta-episodes
        :param draws: from :meth:`draw`
        :return: ``elbo``, ``reconstruction``, ``kl`` (summed over the terms), ``accuracy`` (share of decoded rewards nearer to
            the true one than half the reward range; where they take two values), ``final_kl`` of the last belief to N(0, I)
        """
        mu, logvar = self.beliefs(batch)
        kl = kl_to_previous(mu, logvar)
        # Belief t exists where step t - 1 does; m_0 always does.
        term_mask = th.cat([th.ones_like(batch.mask[:1]), batch.mask])

        terms, term_scale, steps, step_scale, noise, mask = draws
        latents = mu[terms] + th.exp(0.5 * logvar[terms]) * noise
        encoded_steps = self.decoder.encode_steps(batch.states[steps], batch.actions[steps], batch.next_states[steps], mask)
        outputs = self.decoder(latents.unsqueeze(1), encoded_steps)
        rewards, step_mask = batch.rewards[steps], batch.mask[steps]
        bound, reconstruction, divergence = elbo(
            self.likelihood.log_likelihood(outputs, rewards),
            kl[terms],
            term_scale * term_mask[terms],
            step_scale * step_mask,
            self.kl_weight,
        )
        parts = {"elbo": bound, "reconstruction": reconstruction, "kl": divergence}
        with th.no_grad():
            hits = self.likelihood.hits(outputs, rewards)
            if hits is not None:
                weight = term_mask[terms].unsqueeze(1) * step_mask
                parts["accuracy"] = (hits * weight).sum() / weight.sum().clamp(min=1.0)  # a shard may be padding alone
            mu_last, logvar_last = at_the_end(mu, logvar, batch)
            parts["final_kl"] = kl_to_previous(mu_last.unsqueeze(0), logvar_last.unsqueeze(0)).mean()
        return parts

    def update(
        self,
        buffer: MetaEpisodeBuffer,
        batch_size: int,
        n_updates: int,
        rng: np.random.Generator,
        generator: th.Generator | None = None,
        n_threads: int = 1,
    ) -> dict[str, float]:
        """
        Gradient steps on the ELBO.

        :param buffer: meta-episodes of true tasks
        :param batch_size: meta-episodes per update
        :param n_updates: number of updates
        :param rng: source of the batches
        :param generator: source of samples and dropout
        :param n_threads: shards of a batch that are computed at a time, see :mod:`sb3_ldm.nets.sharding`
        :return: means of the parts of :meth:`elbo_given`, those that are sums given per ELBO term; empty if nothing was done
        """
        device = next(self.parameters()).device
        parameters = list(self.parameters())
        sums: dict[str, float] = {}
        for _ in range(n_updates if len(buffer) > 0 else 0):
            batch = buffer.sample(batch_size, rng, device)
            if self.standardize is not None:
                self.standardize.update(batch.next_states[batch.mask > 0.5])
            draws = self.draw(batch, generator)
            n_terms = len(batch.rewards) + 1

            def loss(
                shard: slice, batch: MetaEpisodeBatch = batch, draws: Draws = draws
            ) -> tuple[th.Tensor, dict[str, float]]:
                share = (shard.stop - shard.start) / batch_size
                parts = self.elbo_given(batch.part(shard), draws.part(shard))
                values = {name: share * value.item() for name, value in parts.items()}
                return -share * parts["elbo"] / (len(batch.rewards) + 1), values

            shards = even_slices(batch_size, n_shards(batch_size, n_threads) if device.type == "cpu" else 1)
            for parts in backward_in_shards(loss, shards, parameters, n_threads):
                for name, value in parts.items():
                    per_term = n_terms if name in ("elbo", "reconstruction", "kl") else 1
                    sums[name] = sums.get(name, 0.0) + value / per_term
            self.optimizer.step()
        if sums and not np.isfinite(sums["elbo"]):
            raise ValueError(f"The VAE diverged (elbo={sums['elbo']}): lower its learning rate.")
        return {name: total / n_updates for name, total in sums.items()}


def at_the_end(mu: th.Tensor, logvar: th.Tensor, batch: MetaEpisodeBatch) -> Belief:
    """
    :param mu: means along meta-episodes, ``(T + 1, batch, latent_dim)``
    :param logvar: log variances, likewise
    :param batch: the meta-episodes, of different lengths maybe
    :return: both at the meta-episodes' ends, ``(batch, latent_dim)`` each
    """
    last, columns = batch.mask.sum(0).long(), th.arange(mu.shape[1], device=mu.device)
    return mu[last, columns], logvar[last, columns]


def check_finite(rewards: np.ndarray) -> None:
    """
    :param rewards: of the environment
    :raises ValueError: if one is not finite
    """
    if not np.isfinite(rewards).all():
        raise ValueError(f"The environment gave a reward that is not finite: {rewards[~np.isfinite(rewards)][0]}.")


def _check_sizes(name: str, sizes: Sequence[int], inputs: Sequence[str]) -> None:
    """Refuse sizes of embeddings that are not one for each input, or all 0."""
    if isinstance(sizes, str) or len(sizes) != len(inputs) or not any(sizes):
        raise ValueError(f"{name}={sizes!r}: give a size for each of {', '.join(inputs)}, not all of them 0.")
    for size in sizes:
        check_integer(name, size, 0)


class Draws(NamedTuple):
    """
    What is random in an estimate of the ELBO.

    :param terms: ELBO terms t, ``(n_terms,)``
    :param term_scale: all terms by ``n_terms``
    :param steps: decoded steps, ``(n_steps,)``
    :param step_scale: all steps by ``n_steps``
    :param noise: standard normal, of the latents' samples, ``(n_terms, batch, latent_dim)``
    :param dropout: the decoder's dropout factors, ``(n_steps, batch, dropout_dim)``
    """

    terms: th.Tensor
    term_scale: float
    steps: th.Tensor
    step_scale: float
    noise: th.Tensor
    dropout: th.Tensor | None

    def part(self, meta_episodes: slice) -> "Draws":
        """:return: the draws of some of the batch's meta-episodes"""
        dropout = None if self.dropout is None else self.dropout[:, meta_episodes]
        return self._replace(noise=self.noise[:, meta_episodes], dropout=dropout)


def _random_subset(
    size: int, n_wanted: int | None, generator: th.Generator | None, device: th.device
) -> tuple[th.Tensor, float]:
    """Random indices out of ``size`` without replacement, and the factor that keeps a sum over them unbiased."""
    if n_wanted is None or n_wanted >= size:
        return th.arange(size, device=device), 1.0
    return th.randperm(size, generator=generator, device=device)[:n_wanted], size / n_wanted
