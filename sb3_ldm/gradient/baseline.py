"""What returns were to be expected, by a linear function of the states and the time that is fitted to each task's episodes."""

import torch as th

_RIDGE = 1e-5


def features(states: th.Tensor) -> th.Tensor:
    """
    The features of Duan et al. 2016 (https://arxiv.org/abs/1604.06778): the state, its squares, and powers of the time.

    :param states: as the policy sees them, ``(..., n_steps, state_dim)``
    :return: ``(..., n_steps, 2 * state_dim + 4)``
    """
    states = states.clamp(-10.0, 10.0)
    n_steps = states.shape[-2]
    time = th.arange(n_steps, dtype=states.dtype, device=states.device)[:, None] / n_steps
    powers = th.cat([time, time**2, time**3, th.ones_like(time)], dim=-1)
    return th.cat([states, states**2, powers.expand(*states.shape[:-1], 4)], dim=-1)


def linear_baseline(states: th.Tensor, returns: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """
    Fit the returns of each task's episodes by least squares.

    :param states: ``(n_tasks, n_episodes, n_steps, state_dim)``
    :param returns: from each step on, ``(n_tasks, n_episodes, n_steps)``
    :param mask: whether there was such a step, ``(n_tasks, n_episodes, n_steps)``
    :return: values, 0 where there was no step, ``(n_tasks, n_episodes, n_steps)``
    """
    # Double precision: squares of squares are summed.
    inputs = (features(states).double() * mask[..., None]).flatten(1, 2)
    moments = inputs.mT @ inputs
    ridge = _RIDGE * th.eye(inputs.shape[-1], dtype=inputs.dtype, device=inputs.device)
    targets = (returns.double() * mask).flatten(1, 2)[..., None]
    weights = th.linalg.solve(moments + ridge, inputs.mT @ targets)
    return (inputs @ weights).view(returns.shape).to(returns.dtype)
