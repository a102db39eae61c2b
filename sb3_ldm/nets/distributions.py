"""Action distributions as plain tensor arithmetic, equal to the distribution objects and without their overhead."""

import math

import torch as th

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def sample_categorical(logits: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor]:
    """
    :param logits: unnormalised log probabilities, ``(batch, n_actions)``
    :param deterministic: take the most likely action
    :return: actions ``(batch,)`` and their log probabilities ``(batch,)``
    """
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    # The exponential race: what th.multinomial draws, without its checks.
    actions = (probs if deterministic else probs / th.empty_like(probs).exponential_()).argmax(-1)
    return actions, log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def evaluate_categorical(logits: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param logits: unnormalised log probabilities, ``(batch, n_actions)``
    :param actions: indices, ``(batch,)``
    :return: log probabilities of the actions and entropies, ``(batch,)`` each
    """
    log_probs = logits.log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, actions.long().reshape(-1, 1)).squeeze(-1), entropy


def sample_gaussian(means: th.Tensor, log_std: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor]:
    """
    :param means: ``(batch, action_dim)``
    :param log_std: ``(action_dim,)``
    :param deterministic: take the means
    :return: actions ``(batch, action_dim)`` and their log probabilities ``(batch,)``
    """
    actions = means if deterministic else th.normal(means, log_std.exp().expand_as(means))
    return actions, evaluate_gaussian(means, log_std, actions)[0]


def evaluate_gaussian(means: th.Tensor, log_std: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param means: ``(batch, action_dim)``
    :param log_std: ``(action_dim,)``
    :param actions: ``(batch, action_dim)``
    :return: log probabilities of the actions and entropies, ``(batch,)`` each
    """
    standardised = (actions - means) * th.exp(-log_std)
    log_prob = (-0.5 * standardised**2 - log_std - _LOG_SQRT_2PI).sum(-1)
    entropy = (0.5 + _LOG_SQRT_2PI + log_std).sum().expand(means.shape[0])
    return log_prob, entropy


def kl_categorical(logits: th.Tensor, other: th.Tensor) -> th.Tensor:
    """
    :param logits: unnormalised log probabilities, ``(..., n_actions)``
    :param other: those of another distribution, ``(..., n_actions)``
    :return: KL(first || other), ``(...)``
    """
    log_probs, others = logits.log_softmax(-1), other.log_softmax(-1)
    return (log_probs.exp() * (log_probs - others)).sum(-1)


def kl_gaussian(means: th.Tensor, log_std: th.Tensor, other_means: th.Tensor, other_log_std: th.Tensor) -> th.Tensor:
    """
    :param means: ``(..., action_dim)``
    :param log_std: ``(..., action_dim)``, or what can be spread to it
    :param other_means: of another distribution, ``(..., action_dim)``
    :param other_log_std: as ``log_std``
    :return: KL(first || other), ``(...)``
    """
    square = (2.0 * log_std).exp() + (means - other_means) ** 2
    return (other_log_std - log_std + 0.5 * square * (-2.0 * other_log_std).exp() - 0.5).sum(-1)
