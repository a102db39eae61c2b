"""The evidence lower bound of the VAE, as pure functions (paper section 3.2; variBAD, section 3)."""

import torch as th
from torch.nn import functional as F


def kl_to_previous(mu: th.Tensor, logvar: th.Tensor) -> th.Tensor:
    """
    KL(q_t || q_{t-1}) between successive beliefs of diagonal Gaussians, with q_{-1} = N(0, I).

    :param mu: means ``(T + 1, batch, latent_dim)`` of the beliefs after 0..T transitions
    :param logvar: log variances, same shape
    :return: nats, shape ``(T + 1, batch)``
    """
    previous_mu = th.cat([th.zeros_like(mu[:1]), mu[:-1]])
    previous_logvar = th.cat([th.zeros_like(logvar[:1]), logvar[:-1]])
    difference = logvar - previous_logvar
    distance = (mu - previous_mu) ** 2 * th.exp(-previous_logvar)
    return 0.5 * (th.exp(difference) + distance - 1.0 - difference).sum(-1)


def bernoulli_log_likelihood(logits: th.Tensor, rewards: th.Tensor, low: float, high: float) -> th.Tensor:
    """
    Log-likelihood of rewards that take two values, ``high`` with probability sigmoid(logit) and ``low`` else.

    :param logits: decoder outputs, any shape
    :param rewards: rewards, broadcastable to the same shape
    :param low: the lower reward
    :param high: the higher reward
    :return: nats, shape of ``logits``
    """
    is_high = (rewards > 0.5 * (low + high)).to(logits.dtype)
    return -F.binary_cross_entropy_with_logits(logits, is_high.expand_as(logits), reduction="none")


def gaussian_log_likelihood(means: th.Tensor, rewards: th.Tensor) -> th.Tensor:
    """
    Log-likelihood of rewards under a Gaussian of unit variance, less its constant: half the squared error, negated.

    :param means: decoder outputs, any shape
    :param rewards: rewards, broadcastable to the same shape
    :return: nats, shape of ``means``
    """
    return -0.5 * (means - rewards) ** 2


def elbo(
    log_likelihood: th.Tensor, kl: th.Tensor, term_mask: th.Tensor, step_mask: th.Tensor, kl_weight: float = 1.0
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    Sum over belief times t of E[log p(r_{1:H+} | m_t)] - kl_weight * KL(q_t || q_{t-1}), averaged over meta-episodes.

    Given a random subset of the terms or of the decoded steps, scale the masks by (all / subset) to keep it unbiased.

    :param log_likelihood: of the reward at each decoded step under each belief, ``(n_terms, n_steps, batch)``
    :param kl: of each belief to the one before it, ``(n_terms, batch)``
    :param term_mask: weight of each ELBO term, 0 behind a meta-episode's end, ``(n_terms, batch)``
    :param step_mask: weight of each decoded step, 0 behind a meta-episode's end, ``(n_steps, batch)``
    :param kl_weight: weight of the KL divergence; 1 for the bound itself
    :return: the ELBO, its reconstruction part and its (unweighted) KL part; scalars in nats per meta-episode
    """
    reconstruction = ((log_likelihood * step_mask).sum(1) * term_mask).sum(0).mean()
    divergence = (kl * term_mask).sum(0).mean()
    return reconstruction - kl_weight * divergence, reconstruction, divergence
