"""The loss of PPO (Schulman et al. 2017, https://arxiv.org/abs/1707.06347), as a pure function."""

from typing import NamedTuple

import torch as th


class PPOLoss(NamedTuple):
    """
    Means over the transitions, each a scalar.

    :param policy: clipped surrogate, negated (Equation 7)
    :param value: squared error of the value estimate
    :param entropy: negated entropy, or its estimate from the actions taken
    :param clip_fraction: share of the probability ratios that are clipped
    :param approx_kl: estimate of KL(old policy || policy), http://joschu.net/blog/kl-approx.html
    :param task: squared error of the task's regression, 0 without one
    """

    policy: th.Tensor
    value: th.Tensor
    entropy: th.Tensor
    clip_fraction: th.Tensor
    approx_kl: th.Tensor
    task: th.Tensor

    def total(self, ent_coef: float, vf_coef: float, task_coef: float = 0.0) -> th.Tensor:
        """
        :param ent_coef: entropy coefficient
        :param vf_coef: value loss coefficient
        :param task_coef: coefficient of the task's regression
        :return: the loss that is minimised (Equation 9, negated)
        """
        loss = self.policy + ent_coef * self.entropy + vf_coef * self.value
        return loss + task_coef * self.task if task_coef else loss


def ppo_loss(
    values: th.Tensor,
    log_prob: th.Tensor,
    entropy: th.Tensor | None,
    old_values: th.Tensor,
    old_log_prob: th.Tensor,
    advantages: th.Tensor,
    returns: th.Tensor,
    clip_range: float,
    clip_range_vf: float | None = None,
) -> PPOLoss:
    """
    All tensors have the shape ``(batch,)``.

    :param values: value estimates
    :param log_prob: log probabilities of the actions taken
    :param entropy: entropies of the policy, None where it has no analytical form
    :param old_values: value estimates when the actions were taken
    :param old_log_prob: log probabilities when they were taken
    :param advantages: advantages, normalised or not
    :param returns: targets of the value estimates
    :param clip_range: clipping of the probability ratio
    :param clip_range_vf: clipping of the value estimate's change, None for none
    :return: the parts of the loss
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    surrogate = th.min(advantages * ratio, advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range))
    if clip_range_vf is not None:
        values = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
    with th.no_grad():
        clip_fraction = ((ratio - 1.0).abs() > clip_range).float().mean()
        approx_kl = (ratio - 1.0 - log_ratio).mean()
    return PPOLoss(
        policy=-surrogate.mean(),
        value=((returns - values) ** 2).mean(),
        entropy=log_prob.mean() if entropy is None else -entropy.mean(),
        clip_fraction=clip_fraction,
        approx_kl=approx_kl,
        task=values.new_zeros(()),
    )
