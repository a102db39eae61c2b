"""
Estimates of an agent's value whose derivatives are meta-gradients: pure functions of what was seen.

Each takes steps of episodes that a fixed behaviour mu has taken, and the log probabilities of the same actions by the policy
pi_theta that is differentiated. Its m-th derivative in theta estimates that of the value, up to a constant that is left out;
they differ in the derivatives that are right, and in their variance (Tang et al., "Unifying gradient estimators for
meta-reinforcement learning via off-policy evaluation", 2021, https://arxiv.org/abs/2106.13125).

With ``rho_t = pi(a_t|s_t) / mu(a_t|s_t)``, the return ``G_t`` from step t on, a baseline ``V_t`` and ``A_t = G_t - V_t``, all
but the first are ``sum_t w_t m_t (rho_t - 1) A_t``, where ``m_t`` tells how likely the steps before are: 1 in the first order,
``1 + sum_{s<t} (rho_s - 1)`` in the second, ``prod_{s<t} rho_s`` in all orders.
"""

from collections.abc import Callable

import torch as th

#: Called with log probabilities, those of the behaviour, returns, values ``(..., n_steps)`` each, and weights ``(n_steps,)``.
Estimator = Callable[[th.Tensor, th.Tensor, th.Tensor, th.Tensor, th.Tensor], th.Tensor]

_ROUNDING = 1e-5


def discounts(n_steps: int, gamma: float, like: th.Tensor) -> th.Tensor:
    """
    :param n_steps: steps of an episode
    :param gamma: discount factor
    :param like: a tensor of the wanted type, on the wanted device
    :return: gamma^t, the weights with which estimates are of the discounted value, ``(n_steps,)``
    """
    return gamma ** th.arange(n_steps, dtype=like.dtype, device=like.device)


def plain(
    log_prob: th.Tensor, behaviour_log_prob: th.Tensor, returns: th.Tensor, values: th.Tensor, weights: th.Tensor
) -> th.Tensor:
    """
    ``sum_t w_t A_t log pi(a_t|s_t)``: the loss of a policy gradient, as MAML differentiates it twice (Finn et al. 2017,
    https://arxiv.org/abs/1703.03400). Where mu = pi its gradient is right and its Hessian is not: it lacks what the policy's
    own sampling depends on. Elsewhere neither is.

    :param log_prob: log pi(a_t|s_t), ``(..., n_steps)``
    :param behaviour_log_prob: log mu(a_t|s_t), ``(..., n_steps)``
    :param returns: G_t, ``(..., n_steps)``
    :param values: V_t, ``(..., n_steps)``
    :param weights: w_t, ``(n_steps,)``: :func:`discounts`, or ones as practice has it
    :return: the estimate of each episode, ``(...)``
    """
    return (weights * (returns - values) * log_prob).sum(-1)


def dice(
    log_prob: th.Tensor, behaviour_log_prob: th.Tensor, returns: th.Tensor, values: th.Tensor, weights: th.Tensor
) -> th.Tensor:
    """
    ``sum_t gamma^t (prod_{s<=t} rho_s) r_t``: step-wise importance sampling, known as DiCE (Foerster et al. 2018,
    https://arxiv.org/abs/1802.05098), written by its returns. All derivatives are unbiased, for any mu; their variance grows
    with the length of an episode. There is no baseline: ``values`` are not used. Parameters as of :func:`plain`.

    :return: the estimate of each episode, ``(...)``
    """
    return loaded_dice(log_prob, behaviour_log_prob, returns, th.zeros_like(values), weights)


def loaded_dice(
    log_prob: th.Tensor, behaviour_log_prob: th.Tensor, returns: th.Tensor, values: th.Tensor, weights: th.Tensor
) -> th.Tensor:
    """
    ``sum_t w_t (prod_{s<=t} rho_s - prod_{s<t} rho_s) A_t``: loaded DiCE at lambda = 1 (Farquhar et al. 2019,
    https://arxiv.org/abs/1909.10549), which is the doubly robust recursion ``V^_t = V_t + rho_t (r_t + gamma V^_{t+1} - V_t)``
    unrolled. All derivatives are unbiased, for any mu and any baseline. Parameters as of :func:`plain`.

    :return: the estimate of each episode, ``(...)``
    """
    return _telescoped(log_prob - behaviour_log_prob, returns - values, weights)


def first_order_taypo(
    log_prob: th.Tensor, behaviour_log_prob: th.Tensor, returns: th.Tensor, values: th.Tensor, weights: th.Tensor
) -> th.Tensor:
    """
    ``sum_t w_t (rho_t - 1) A_t``: the first order of the value's Taylor expansion in pi - mu (first-order TayPO), which
    is ProMP's low-variance curvature, J^LVC (Rothfuss et al. 2019, https://arxiv.org/abs/1810.06784). Where mu = pi its
    gradient is right, and its Hessian lacks the terms of two different steps. Parameters as of :func:`plain`.

    :return: the estimate of each episode, ``(...)``
    """
    ratio = (log_prob - behaviour_log_prob).exp()
    return (weights * (ratio - 1.0) * (returns - values)).sum(-1)


def second_order_taypo(
    log_prob: th.Tensor, behaviour_log_prob: th.Tensor, returns: th.Tensor, values: th.Tensor, weights: th.Tensor
) -> th.Tensor:
    """
    ``sum_t w_t (1 + sum_{s<t} (rho_s - 1)) (rho_t - 1) A_t``: the second order (second-order TayPO, Tang et al.). Where mu =
    pi the gradient and the Hessian are unbiased, with a variance that does not grow exponentially with an episode's length.
    Parameters as of :func:`plain`.

    :return: the estimate of each episode, ``(...)``
    """
    excess = (log_prob - behaviour_log_prob).exp() - 1.0
    before = excess.cumsum(-1) - excess
    return (weights * (1.0 + before) * excess * (returns - values)).sum(-1)


def v_trace(
    log_prob: th.Tensor, behaviour_log_prob: th.Tensor, returns: th.Tensor, values: th.Tensor, weights: th.Tensor
) -> th.Tensor:
    """
    V-trace (Espeholt et al. 2018, https://arxiv.org/abs/1802.01561) with both thresholds at 1: the doubly robust
    estimate with ``min(1, rho_t)`` in the place of ``rho_t``. Truncation lowers the variance and biases all derivatives but
    where mu = pi, from below. Parameters as of :func:`plain`.

    :return: the estimate of each episode, ``(...)``
    """
    log_ratio = log_prob - behaviour_log_prob
    # What rounding makes of a ratio of 1 must not cut its gradient.
    truncated = th.where(log_ratio > _ROUNDING, th.zeros_like(log_ratio), log_ratio)
    return _telescoped(truncated, returns - values, weights)


def _telescoped(log_ratio: th.Tensor, advantages: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """``sum_t w_t (prod_{s<=t} rho_s - prod_{s<t} rho_s) A_t``."""
    until = log_ratio.cumsum(-1)
    return (weights * (until.exp() - (until - log_ratio).exp()) * advantages).sum(-1)


#: The estimators by the names that algorithms take.
ESTIMATORS: dict[str, Estimator] = {
    "plain": plain,
    "dice": dice,
    "loaded_dice": loaded_dice,
    "lvc": first_order_taypo,
    "taypo2": second_order_taypo,
    "v_trace": v_trace,
}
