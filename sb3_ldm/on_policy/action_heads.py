"""How the actions of a policy are drawn and judged, chosen once by what its actions are distributed as."""

from typing import Protocol

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ldm.nets.distributions import evaluate_categorical, evaluate_gaussian, sample_categorical, sample_gaussian


class ActionHead(Protocol):
    """Of policies, whose latents ``(batch, latent_dim)`` are those of the actor."""

    #: Whether it is made of pure functions, which threads may call side by side.
    is_pure: bool

    def sample(self, policy: ActorCriticPolicy, latents: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        """:return: actions ``(batch, ...)`` and their log probabilities ``(batch,)``"""
        ...

    def evaluate(
        self, policy: ActorCriticPolicy, latents: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor | None]:
        """:return: log probabilities of the actions and entropies, ``(batch,)`` each; None without an analytical form"""
        ...


class CategoricalHead:
    """Discrete actions."""

    is_pure = True

    def sample(self, policy: ActorCriticPolicy, latents: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        return sample_categorical(policy.action_net(latents), deterministic)

    def evaluate(
        self, policy: ActorCriticPolicy, latents: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor | None]:
        return evaluate_categorical(policy.action_net(latents), actions)


class GaussianHead:
    """Vectors, whose standard deviations do not depend on the state."""

    is_pure = True

    def sample(self, policy: ActorCriticPolicy, latents: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        return sample_gaussian(policy.action_net(latents), policy.log_std, deterministic)

    def evaluate(
        self, policy: ActorCriticPolicy, latents: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor | None]:
        return evaluate_gaussian(policy.action_net(latents), policy.log_std, actions)


class DistributionHead:
    """Any other actions, by SB3's distribution objects, which keep state."""

    is_pure = False

    def sample(self, policy: ActorCriticPolicy, latents: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        distribution = policy._get_action_dist_from_latent(latents)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions.reshape((-1, *policy.action_space.shape)), distribution.log_prob(actions)  # type: ignore[misc]

    def evaluate(
        self, policy: ActorCriticPolicy, latents: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor | None]:
        distribution = policy._get_action_dist_from_latent(latents)
        return distribution.log_prob(actions), distribution.entropy()


def action_head(policy: ActorCriticPolicy) -> ActionHead:
    """
    :param policy: a policy
    :return: the head for its actions
    """
    if isinstance(policy.action_dist, CategoricalDistribution):
        return CategoricalHead()
    if isinstance(policy.action_dist, DiagGaussianDistribution) and not policy.squash_output:
        return GaussianHead()
    return DistributionHead()
