"""The plain action arithmetic equals SB3's distribution objects."""

import pytest
import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution

from sb3_ldm.nets.distributions import evaluate_categorical, evaluate_gaussian, sample_categorical, sample_gaussian


@pytest.mark.parametrize("deterministic", [False, True])
def test_categorical(deterministic: bool) -> None:
    logits = th.randn(500, 5) * 3
    distribution = CategoricalDistribution(5).proba_distribution(logits)
    th.manual_seed(0)
    expected = distribution.get_actions(deterministic)
    th.manual_seed(0)
    actions, log_probs = sample_categorical(logits, deterministic)
    assert th.equal(actions, expected)
    assert len(actions.unique()) == 5
    th.testing.assert_close(log_probs, distribution.log_prob(expected))
    log_probs, entropy = evaluate_categorical(logits, actions)
    th.testing.assert_close(log_probs, distribution.log_prob(expected))
    th.testing.assert_close(entropy, distribution.entropy())


@pytest.mark.parametrize("deterministic", [False, True])
def test_gaussian(deterministic: bool) -> None:
    means, log_std = th.randn(500, 3), th.randn(3)
    distribution = DiagGaussianDistribution(3).proba_distribution(means, log_std)
    th.manual_seed(0)
    expected = distribution.get_actions(deterministic)
    th.manual_seed(0)
    actions, log_probs = sample_gaussian(means, log_std, deterministic)
    th.testing.assert_close(actions, expected)
    th.testing.assert_close(log_probs, distribution.log_prob(expected))
    log_probs, entropy = evaluate_gaussian(means, log_std, actions)
    th.testing.assert_close(log_probs, distribution.log_prob(expected))
    th.testing.assert_close(entropy, distribution.entropy())
