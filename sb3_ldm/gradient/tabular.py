"""Tabular decision problems whose value and all of its derivatives are exact: what estimators are checked against."""

from typing import NamedTuple

import torch as th
from torch.func import grad

from sb3_ldm.gradient.estimators import Estimator, discounts


class TabularMDP(NamedTuple):
    """A decision problem of few states and actions, in double precision."""

    transitions: th.Tensor  #: p(s'|s, a), ``(n_states, n_actions, n_states)``
    rewards: th.Tensor  #: r(s, a), ``(n_states, n_actions)``
    start: th.Tensor  #: probability of each state at the start, ``(n_states,)``
    gamma: float  #: discount factor


class Trajectories(NamedTuple):
    """What a policy has done."""

    states: th.Tensor  #: s_t, indices, ``(n, horizon)``
    actions: th.Tensor  #: a_t, indices, ``(n, horizon)``
    rewards: th.Tensor  #: r_t, ``(n, horizon)``


def random_mdp(
    n_states: int, n_actions: int, generator: th.Generator, gamma: float = 0.8, concentration: float = 1e-3
) -> TabularMDP:
    """
    A random problem as in Tang et al. 2021: next states are drawn from a Dirichlet distribution, rewards are
    uniform in [0, 1], and it starts in state 0.

    :param n_states: number of states
    :param n_actions: number of actions
    :param generator: of random numbers
    :param gamma: discount factor
    :param concentration: of the Dirichlet distribution; the lower, the nearer to one next state
    :return: the problem
    """
    shape = (n_states, n_actions, n_states)
    # Of small concentrations gamma variates underflow: log G(c) is that of log G(c + 1) + log(U) / c.
    logs = -th.empty(shape, dtype=th.float64).exponential_(generator=generator) / concentration
    ones = th._standard_gamma(th.full(shape, concentration + 1.0, dtype=th.float64), generator=generator)
    transitions = (logs + ones.log()).softmax(-1)
    rewards = th.rand(n_states, n_actions, dtype=th.float64, generator=generator)
    start = th.zeros(n_states, dtype=th.float64)
    start[0] = 1.0
    return TabularMDP(transitions, rewards, start, gamma)


def policy_of(logits: th.Tensor) -> th.Tensor:
    """
    :param logits: ``(n_states, n_actions)``
    :return: pi(a|s), the softmax of the logits, ``(n_states, n_actions)``
    """
    return logits.softmax(-1)


def state_values(mdp: TabularMDP, policy: th.Tensor, horizon: int | None = None) -> th.Tensor:
    """
    Exact values: ``(I - gamma P_pi)^-1 r_pi``, or those of as many steps as there are.

    :param mdp: the problem
    :param policy: pi(a|s), ``(n_states, n_actions)``
    :param horizon: steps after which it ends; None for never
    :return: V(s), differentiable in the policy, ``(n_states,)``
    """
    rewards = (policy * mdp.rewards).sum(-1)
    moves = th.einsum("sa,sax->sx", policy, mdp.transitions)
    if horizon is None:
        return th.linalg.solve(th.eye(len(rewards), dtype=rewards.dtype) - mdp.gamma * moves, rewards)
    values = th.zeros_like(rewards)
    for _ in range(horizon):
        values = rewards + mdp.gamma * moves @ values
    return values


def value(mdp: TabularMDP, logits: th.Tensor, horizon: int | None = None) -> th.Tensor:
    """
    :param mdp: the problem
    :param logits: of the policy, ``(n_states, n_actions)``
    :param horizon: steps after which it ends; None for never
    :return: the expected discounted return, differentiable as often as one likes, a scalar
    """
    return mdp.start @ state_values(mdp, policy_of(logits), horizon)


def sample_trajectories(mdp: TabularMDP, policy: th.Tensor, n: int, horizon: int, generator: th.Generator) -> Trajectories:
    """
    :param mdp: the problem
    :param policy: pi(a|s), ``(n_states, n_actions)``
    :param n: how many
    :param horizon: steps of each
    :param generator: of random numbers
    :return: trajectories
    """
    state = th.multinomial(mdp.start, n, replacement=True, generator=generator)
    states, actions = [], []
    for _ in range(horizon):
        action = th.multinomial(policy[state], 1, generator=generator).squeeze(-1)
        states.append(state)
        actions.append(action)
        state = th.multinomial(mdp.transitions[state, action], 1, generator=generator).squeeze(-1)
    at = th.stack(states, -1), th.stack(actions, -1)
    return Trajectories(*at, mdp.rewards[at])


def returns_of(rewards: th.Tensor, gamma: float) -> th.Tensor:
    """
    :param rewards: ``(..., n_steps)``
    :param gamma: discount factor
    :return: discounted returns from each step on, ``(..., n_steps)``
    """
    returns = th.empty_like(rewards)
    following = th.zeros_like(rewards[..., 0])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        following = rewards[..., t] + gamma * following
        returns[..., t] = following
    return returns


def estimate(
    estimator: Estimator,
    logits: th.Tensor,
    trajectories: Trajectories,
    behaviour: th.Tensor,
    gamma: float,
    critic: th.Tensor | None = None,
) -> th.Tensor:
    """
    What an estimator says of a policy's value by some trajectories; its derivatives in the logits are those of the estimator.

    :param estimator: one of :data:`~sb3_ldm.gradient.estimators.ESTIMATORS`
    :param logits: of the policy, ``(n_states, n_actions)``
    :param trajectories: ``(n, horizon)`` each
    :param behaviour: mu(a|s), that they come from, ``(n_states, n_actions)``
    :param gamma: discount factor
    :param critic: values of the states, the baseline, ``(n_states,)``; None for 0
    :return: the mean over trajectories, a scalar
    """
    at = trajectories.states, trajectories.actions
    returns = returns_of(trajectories.rewards, gamma)
    values = th.zeros_like(returns) if critic is None else critic[trajectories.states]
    weights = discounts(returns.shape[-1], gamma, returns)
    return estimator(logits.log_softmax(-1)[at], behaviour.log()[at], returns, values, weights).mean()


def adapted(mdp: TabularMDP, logits: th.Tensor, step_size: float, n_steps: int = 1) -> th.Tensor:
    """
    :param mdp: the problem
    :param logits: before, ``(n_states, n_actions)``
    :param step_size: of a step along the exact gradient
    :param n_steps: how many
    :return: theta' = theta + eta grad V(theta), as often, differentiable in the logits, ``(n_states, n_actions)``
    """
    for _ in range(n_steps):
        logits = logits + step_size * grad(lambda theta: value(mdp, theta))(logits)
    return logits


def meta_gradient(mdp: TabularMDP, logits: th.Tensor, step_size: float, n_steps: int = 1) -> th.Tensor:
    """
    :param mdp: the problem
    :param logits: ``(n_states, n_actions)``
    :param step_size: of the inner steps
    :param n_steps: number of inner steps
    :return: the exact gradient of V(theta'(theta)), of one step (I + eta H(theta)) grad V(theta'), ``(n_states, n_actions)``
    """
    return grad(lambda theta: value(mdp, adapted(mdp, theta, step_size, n_steps)))(logits)
