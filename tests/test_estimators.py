"""Estimators of meta-gradients against derivatives that are exact."""

import pytest
import torch as th
from torch.func import grad, hessian, vmap

from sb3_ldm.gradient.estimators import ESTIMATORS, discounts
from sb3_ldm.gradient.tabular import (
    Trajectories,
    adapted,
    estimate,
    meta_gradient,
    policy_of,
    random_mdp,
    returns_of,
    sample_trajectories,
    state_values,
    value,
)

N_STATES, N_ACTIONS, HORIZON = 3, 2, 4


def _generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def mdp():
    return random_mdp(N_STATES, N_ACTIONS, _generator(), concentration=1.0)


@pytest.fixture(scope="module")
def logits():
    return th.randn(N_STATES, N_ACTIONS, dtype=th.float64, generator=_generator(1))


@pytest.fixture(scope="module")
def off_policy(logits):
    return logits + 0.8 * th.randn(N_STATES, N_ACTIONS, dtype=th.float64, generator=_generator(2))


@pytest.fixture(scope="module")
def every(mdp):
    """All trajectories that there are."""
    at = th.cartesian_prod(*([th.arange(N_STATES), th.arange(N_ACTIONS)] * HORIZON)).view(-1, HORIZON, 2).unbind(-1)
    return Trajectories(*at, mdp.rewards[at])


def expected(mdp, every, name, behaviour_logits, critic=None):
    """An estimator's mean over what a behaviour does, a function of the policy's logits."""
    behaviour, (states, actions, rewards) = policy_of(behaviour_logits), every
    chance = mdp.start[states[:, 0]] * behaviour[states, actions].prod(-1)
    chance = chance * mdp.transitions[states[:, :-1], actions[:, :-1], states[:, 1:]].prod(-1)
    assert chance.sum() == pytest.approx(1.0)

    def mean(theta):
        returns = returns_of(rewards, mdp.gamma)
        values = th.zeros_like(returns) if critic is None else critic[states]
        log_probs = theta.log_softmax(-1)[states, actions], behaviour.log()[states, actions]
        return chance @ ESTIMATORS[name](*log_probs, returns, values, discounts(HORIZON, mdp.gamma, returns))

    return mean


def exact(mdp, derivative, at):
    return derivative(lambda theta: value(mdp, theta, HORIZON))(at)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_are_right_where_the_policy_is_the_behaviour(name, mdp, logits, every):
    critic = state_values(mdp, policy_of(logits)) + 0.3
    th.testing.assert_close(grad(expected(mdp, every, name, logits, critic))(logits), exact(mdp, grad, logits))


@pytest.mark.parametrize("name", ["dice", "loaded_dice", "taypo2"])
def test_hessians_that_are_unbiased(name, mdp, logits, every):
    critic = state_values(mdp, policy_of(logits)) + 0.3
    th.testing.assert_close(hessian(expected(mdp, every, name, logits, critic))(logits), exact(mdp, hessian, logits))


def surrogate(mdp, logits, critic, of_policy):
    """``sum_t gamma^t E_t[sum_a (Q - critic) of_policy]``, by the states and the values of the policy with these logits."""
    policy, state, total = policy_of(logits), mdp.start, th.zeros((), dtype=th.float64)
    for t in range(HORIZON):
        following = state_values(mdp, policy, HORIZON - t - 1)
        advantages = mdp.rewards + mdp.gamma * mdp.transitions @ following - critic[:, None]
        total = total + mdp.gamma**t * (state[:, None] * advantages * of_policy).sum()
        state = th.einsum("s,sa,sax->x", state, policy, mdp.transitions)
    return total


def test_hessians_that_are_biased_lack_what_the_papers_say(mdp, logits, every):
    critic = state_values(mdp, policy_of(logits)) + 0.3
    right = exact(mdp, hessian, logits)
    kept = {
        "lvc": hessian(lambda theta: surrogate(mdp, logits, critic, policy_of(theta)))(logits),
        "plain": hessian(lambda theta: surrogate(mdp, logits, critic, policy_of(logits) * theta.log_softmax(-1)))(logits),
    }
    for name, lacking in kept.items():
        th.testing.assert_close(hessian(expected(mdp, every, name, logits, critic))(logits), lacking)
        assert (lacking - right).norm() > 0.1 * right.norm()


@pytest.mark.parametrize("derivative", [grad, hessian])
@pytest.mark.parametrize("name", ["dice", "loaded_dice"])
def test_importance_sampling_is_unbiased_for_any_behaviour(name, derivative, mdp, logits, off_policy, every):
    critic = state_values(mdp, policy_of(off_policy)) - 0.5
    estimated = derivative(expected(mdp, every, name, logits, critic))(off_policy)
    th.testing.assert_close(estimated, exact(mdp, derivative, off_policy))


@pytest.mark.parametrize("name", ["plain", "v_trace"])
def test_some_are_biased_off_the_behaviour(name, mdp, logits, off_policy, every):
    right = exact(mdp, grad, off_policy)
    estimated = grad(expected(mdp, every, name, logits, state_values(mdp, policy_of(logits))))(off_policy)
    assert (estimated - right).norm() > 0.1 * right.norm()


def test_truncated_ratios_give_no_more_than_the_value(mdp, logits, off_policy, every):
    """With rewards that are not negative and no baseline: every product of ratios is at most what it was."""
    truncated, whole = (expected(mdp, every, name, logits) for name in ("v_trace", "dice"))
    left_out = value(mdp, logits, HORIZON)  # the constant
    assert 0.0 < truncated(off_policy) + left_out < whole(off_policy) + left_out
    th.testing.assert_close(whole(off_policy) + left_out, value(mdp, off_policy, HORIZON))


def test_the_bias_of_an_expansion_is_of_the_order_that_it_leaves_out(mdp, logits, off_policy, every):
    """Half as far from the behaviour, the first order's gradient is half as wrong, and the second's a quarter."""

    def bias(name, share):
        at = logits + share * (off_policy - logits)
        return (grad(expected(mdp, every, name, logits))(at) - exact(mdp, grad, at)).norm()

    assert bias("lvc", 0.01) / bias("lvc", 0.005) == pytest.approx(2.0, rel=0.05)
    assert bias("taypo2", 0.01) / bias("taypo2", 0.005) == pytest.approx(4.0, rel=0.05)
    assert bias("taypo2", 0.01) < 0.1 * bias("lvc", 0.01)


@pytest.mark.parametrize(("name", "derivative"), [("loaded_dice", grad), ("loaded_dice", hessian), ("taypo2", hessian)])
def test_means_over_samples_are_within_their_errors(name, derivative, mdp, logits):
    n, behaviour = 4000, policy_of(logits)
    critic = state_values(mdp, behaviour)
    sampled = sample_trajectories(mdp, behaviour, n, HORIZON, _generator(3))

    def of_one(*one):
        trajectory = Trajectories(*(part[None] for part in one))
        return derivative(lambda theta: estimate(ESTIMATORS[name], theta, trajectory, behaviour, mdp.gamma, critic))(logits)

    samples = vmap(of_one)(*sampled).flatten(1)
    difference = samples.mean(0) - exact(mdp, derivative, logits).flatten()
    # One number of a million is further off than 5 standard errors by chance.
    assert (difference.abs() < 5.0 * samples.std(0) / n**0.5 + 1e-9).all()
    mean = derivative(lambda theta: estimate(ESTIMATORS[name], theta, sampled, behaviour, mdp.gamma, critic))(logits)
    th.testing.assert_close(mean.flatten(), samples.mean(0))


def test_variance_grows_from_the_first_to_the_second_order_to_importance_sampling():
    mdp = random_mdp(4, 2, _generator())
    logits = th.zeros(4, 2, dtype=th.float64)
    critic = state_values(mdp, policy_of(logits))
    sampled = sample_trajectories(mdp, policy_of(logits), 300, 20, _generator(1))

    def spread(name):
        def of_one(*one):
            one = Trajectories(*(part[None] for part in one))
            return hessian(lambda theta: estimate(ESTIMATORS[name], theta, one, policy_of(logits), mdp.gamma, critic))(logits)

        return vmap(of_one)(*sampled).var(0).sum()

    assert spread("lvc") < spread("taypo2") and spread("loaded_dice") < spread("dice")


def test_exact_values_are_those_of_endless_episodes(mdp, logits):
    policy = policy_of(logits)
    endless = state_values(mdp, policy)
    moves = th.einsum("sa,sax->sx", policy, mdp.transitions)
    th.testing.assert_close(endless, (policy * mdp.rewards).sum(-1) + mdp.gamma * moves @ endless)
    th.testing.assert_close(state_values(mdp, policy, 200), endless)
    th.testing.assert_close(state_values(mdp, policy, 1), (policy * mdp.rewards).sum(-1))


def test_random_problems_are_what_they_are_said_to_be():
    mdp = random_mdp(10, 5, _generator())
    th.testing.assert_close(mdp.transitions.sum(-1), th.ones(10, 5, dtype=th.float64))
    assert mdp.transitions.max(-1).values.median() > 0.99  # almost one next state
    assert 1 < len(mdp.transitions.argmax(-1).unique()) <= 10
    assert th.equal(random_mdp(10, 5, _generator()).transitions, mdp.transitions)


def test_the_meta_gradient_is_that_of_the_chain_rule(mdp, logits):
    eta = 0.7
    after = adapted(mdp, logits, eta)
    th.testing.assert_close(after, logits + eta * grad(lambda theta: value(mdp, theta))(logits))
    curvature = hessian(lambda theta: value(mdp, theta))(logits).reshape(6, 6)
    of_after = grad(lambda theta: value(mdp, theta))(after).flatten()
    expected = (th.eye(6, dtype=th.float64) + eta * curvature) @ of_after
    th.testing.assert_close(meta_gradient(mdp, logits, eta).flatten(), expected)
    assert value(mdp, after) > value(mdp, logits)
