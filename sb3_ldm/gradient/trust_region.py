"""An outer step within a trust region of the adapted policies, as MAML takes it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch as th
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.type_aliases import GymEnv
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from typing_extensions import Unpack

from sb3_ldm.checks import check_integer, check_number, check_positive
from sb3_ldm.gradient.adaptation import Acting, Batch, GradientAdaptation
from sb3_ldm.gradient.options import AdaptationOptions
from sb3_ldm.gradient.policies import AdaptivePolicy, Parameters
from sb3_ldm.options import takes_options_of


class Direction:
    """
    Where TRPO goes in the initial parameters theta: products with the Fisher information of the adapted policies,
    ``J^T F' J`` with ``J = d theta' / d theta`` and F' the curvature of their mean KL divergence. At theta itself that is the
    Hessian of the divergence, for its gradient is 0 there. All graphs are built once.

    :param theta: initial parameters, leaves of the graph
    :param adapted: theta', stacked, differentiable in theta
    :param divergence: of adapted parameters, a function of theta'
    :param damping: that is added to the diagonal
    """

    def __init__(
        self,
        theta: Sequence[th.Tensor],
        adapted: Parameters,
        divergence: Callable[[Parameters], th.Tensor],
        damping: float,
    ):
        self._theta, self._adapted, self._damping = theta, list(adapted.values()), damping
        self._probe = [th.zeros_like(one, requires_grad=True) for one in self._adapted]
        self._pulled = th.autograd.grad(
            self._adapted, theta, grad_outputs=self._probe, create_graph=True, materialize_grads=True
        )
        leaves = {name: one.detach().requires_grad_() for name, one in adapted.items()}
        self._leaves = list(leaves.values())
        self._slopes = th.autograd.grad(divergence(leaves), self._leaves, create_graph=True, materialize_grads=True)

    def product(self, vector: th.Tensor) -> th.Tensor:
        """
        :param vector: in the space of theta, ``(n_parameters,)``
        :return: its product with the Fisher information, damped, ``(n_parameters,)``
        """
        parts, start = [], 0
        for one in self._theta:
            parts.append(vector[start : start + one.numel()].view_as(one))
            start += one.numel()
        # The derivative of J^T u in u is J: forward mode out of two backward passes.
        pushed = _gradients(self._pulled, self._probe, parts)
        curved = _gradients(self._slopes, self._leaves, pushed)
        pulled = _gradients(self._adapted, self._theta, curved)
        return parameters_to_vector(pulled) + self._damping * vector


def _gradients(
    outputs: Sequence[th.Tensor], inputs: Sequence[th.Tensor], weights: Sequence[th.Tensor]
) -> tuple[th.Tensor, ...]:
    return th.autograd.grad(outputs, inputs, weights, retain_graph=True, materialize_grads=True)


@takes_options_of(GradientAdaptation)
class TrustRegionAdaptation(GradientAdaptation):
    """
    A :class:`GradientAdaptation` with TRPO's outer step: the natural gradient of what the adapted policies return, through the
    inner steps, as long as their mean KL divergence is below ``max_kl`` (https://arxiv.org/abs/1502.05477).

    :param max_kl: mean KL divergence of the adapted policies in an outer step, at most
    :param cg_max_steps: iterations of the conjugate gradients
    :param cg_damping: added to the diagonal of the Fisher information
    :param sub_sampling_factor: the Fisher information is that of every so many tasks, which takes less time; 1 for all
    :param line_search_max_iter: step sizes that are tried
    :param line_search_shrinking_factor: by which each is smaller than the one before
    """

    def __init__(
        self,
        policy: str | type[AdaptivePolicy],
        env: GymEnv | str,
        *,
        max_kl: float = 0.01,
        cg_max_steps: int = 10,
        cg_damping: float = 1e-3,
        sub_sampling_factor: int = 1,
        line_search_max_iter: int = 10,
        line_search_shrinking_factor: float = 0.7,
        _init_setup_model: bool = True,
        **options: Unpack[AdaptationOptions],
    ):
        super().__init__(policy, env, _init_setup_model=False, **options)
        self.max_kl, self.cg_max_steps, self.cg_damping = max_kl, cg_max_steps, cg_damping
        self.sub_sampling_factor = sub_sampling_factor
        self.line_search_max_iter, self.line_search_shrinking_factor = line_search_max_iter, line_search_shrinking_factor
        if _init_setup_model:
            self._set_up()

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("max_kl", self.max_kl)
        check_integer("cg_max_steps", self.cg_max_steps, 1)
        check_number("cg_damping", self.cg_damping, 0.0)
        check_integer("sub_sampling_factor", self.sub_sampling_factor, 1)
        check_integer("line_search_max_iter", self.line_search_max_iter, 1)
        check_number("line_search_shrinking_factor", self.line_search_shrinking_factor, 0.0, 1.0)

    def train(self) -> None:
        """Take the longest step along the natural gradient that improves the objective within the trust region."""
        self.policy.set_training_mode(True)
        batch = self.batch()
        theta = list(self.policy.parameters())
        steps = self.adapted(batch)
        before = self.objective(batch, steps)
        gradient = parameters_to_vector(th.autograd.grad(before, theta, materialize_grads=True))
        self._check_finite("gradient", gradient, "step_size", "gamma")
        del steps  # its graph
        some = batch.of_tasks(slice(None, None, self.sub_sampling_factor))
        adapted = self.adapted(some)[-1].parameters
        direction = Direction(theta, adapted, lambda after: self._divergence(some, after), self.cg_damping)
        ascent = conjugate_gradient_solver(direction.product, gradient, self.cg_max_steps)
        curvature = float(ascent @ direction.product(ascent))
        del direction, adapted
        # Where nothing was seen to be better than anything else, there is nowhere to go.
        longest = np.sqrt(2.0 * self.max_kl / curvature) if curvature > 0.0 else 0.0
        size, improvement, kl = self._line_search(batch, float(longest) * ascent, before.item())
        self.logger.record("train/objective", before.item())
        self.logger.record("train/improvement", improvement)
        self.logger.record("train/kl", kl)
        self.logger.record("train/step_share", size)
        self._log_policy()

    def objective(self, batch: Batch, steps: list[Acting]) -> th.Tensor:
        """
        :param batch: what was seen
        :param steps: parameters before each inner step and after the last
        :return: what is to be as large as possible: the advantages after the update, by the ratio of how likely the actions
            are and were, a scalar
        """
        ratio = (self.log_prob(steps[-1], batch.after) - batch.behaviours[-1]).exp()
        return batch.after.mean(ratio * batch.after.advantages).mean()

    def _divergence(self, batch: Batch, adapted: Parameters, outputs: th.Tensor | None = None) -> th.Tensor:
        """Mean KL divergence of adapted policies from those that have acted, a scalar."""
        if outputs is None:
            outputs = self.policy.outputs(adapted, batch.after.episodes.observations)
        return batch.after.mean(self.policy.kl(*batch.acted[-1], adapted, outputs)).mean()

    def _line_search(self, batch: Batch, step: th.Tensor, before: float) -> tuple[float, float, float]:
        """
        Take the first step that is allowed and an improvement.

        :param batch: what was seen
        :param step: the longest one, ``(n_parameters,)``
        :param before: the objective so far
        :return: the share of the step that was taken, the improvement and the divergence; 0 each if none was taken
        """
        parameters = list(self.policy.parameters())
        theta = parameters_to_vector(parameters).detach().clone()
        share = 1.0
        for _ in range(self.line_search_max_iter):
            vector_to_parameters(theta + share * step, parameters)
            steps = self.adapted(batch, create_graph=False)
            with th.no_grad():
                improvement = float(self.objective(batch, steps)) - before
                kl = float(self._divergence(batch, *steps[-1]))
            if improvement > 0.0 and kl <= self.max_kl:
                return share, improvement, kl
            share *= self.line_search_shrinking_factor
        vector_to_parameters(theta, parameters)
        return 0.0, 0.0, 0.0
