"""ProMP: proximal meta-policy search, several clipped outer steps through one inner step of low variance."""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule
from typing_extensions import Unpack

from sb3_ldm.checks import check_integer, check_number, check_positive
from sb3_ldm.gradient import Acting, AdaptationOptions, AdaptivePolicy, Batch, GradientAdaptation
from sb3_ldm.options import takes_options_of


class ProMPLoss(NamedTuple):
    """The parts of ProMP's objective, a scalar each."""

    surrogate: th.Tensor  #: clipped, of the adapted policies
    kl: th.Tensor  #: of the initial policy from the one that has acted
    clip_fraction: th.Tensor  #: share of the steps whose ratio is beyond the clip range


def clipped_surrogate(ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """
    ``min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)``, J^CLIP of the paper.

    :param ratio: pi(a|s) by what has acted, any shape
    :param advantages: of the actions, of the same shape
    :param clip_range: eps
    :return: of the same shape
    """
    return th.min(ratio * advantages, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantages)


@takes_options_of(GradientAdaptation, estimator="lvc")
class ProMP(GradientAdaptation):
    """
    Proximal meta-policy search (Rothfuss et al. 2019, https://arxiv.org/abs/1810.06784, Algorithm 1).

    The inner step follows the likelihood ratio surrogate, whose second derivative has a low variance; the outer objective is
    PPO's clipped one after the update, less a penalty of the KL divergence between the initial policy and the one that acted.

    :param learning_rate: of the outer step, Adam's, or its schedule
    :param n_epochs: outer gradient steps on the same meta-episodes
    :param clip_range: of the outer ratio, or its schedule
    :param kl_coef: weight eta of the penalty
    :param target_kl: divergence around which the penalty's weight is adapted, twice or half of what it was where the
        divergence is off by a factor of 1.5; None for a weight that stays
    :raises ValueError: if the env has no meta-episodes or too few episodes in them, there is one worker alone, the policy is
        recurrent, a parameter is out of its range, or training diverges
    """

    def __init__(
        self,
        policy: str | type[AdaptivePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_epochs: int = 5,
        clip_range: float | Schedule = 0.3,
        kl_coef: float = 5e-4,
        target_kl: float | None = None,
        *,
        _init_setup_model: bool = True,
        **options: Unpack[AdaptationOptions],
    ):
        super().__init__(policy, env, _init_setup_model=False, **options)
        self.learning_rate = learning_rate
        self.n_epochs, self.clip_range, self.kl_coef, self.target_kl = n_epochs, clip_range, kl_coef, target_kl
        if _init_setup_model:
            self._set_up()

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_integer("n_epochs", self.n_epochs, 1)
        if not callable(self.clip_range):
            check_positive("clip_range", self.clip_range)
        check_number("kl_coef", self.kl_coef, 0.0)
        if self.target_kl is not None:
            check_positive("target_kl", self.target_kl)

    def train(self) -> None:
        """Maximise ProMP's objective on the meta-episodes of a rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        batch = self.batch()
        for _ in range(self.n_epochs):
            parts = self.objective(batch, self.adapted(batch))
            loss = self._loss(parts)
            self._check_finite("loss", loss, "learning_rate", "step_size")
            self.policy.optimizer.zero_grad()
            loss.backward()
            self.policy.optimizer.step()
        learned = self.adapted(batch, create_graph=False)
        with th.no_grad():
            parts = self.objective(batch, learned)
        self._check_finite("loss", self._loss(parts), "learning_rate", "step_size")
        self.logger.record("train/loss", self._loss(parts).item())
        self.logger.record("train/kl", parts.kl.item())
        self.logger.record("train/kl_coef", self.kl_coef)
        self.logger.record("train/clip_fraction", parts.clip_fraction.item())
        self._log_policy()
        if self.target_kl is not None:
            self.kl_coef = adapted_kl_coef(self.kl_coef, parts.kl.item(), self.target_kl)

    def _loss(self, parts: ProMPLoss) -> th.Tensor:
        return self.kl_coef * parts.kl - parts.surrogate

    def objective(self, batch: Batch, steps: list[Acting]) -> ProMPLoss:
        """
        :param batch: what was seen
        :param steps: parameters before each inner step and after the last
        :return: the parts of the objective ``J^ProMP = J^CLIP(theta') - eta KL(pi_old, pi_theta)``
        """
        after, clip_range = batch.after, FloatSchedule(self.clip_range)(self._current_progress_remaining)
        ratio = (self.log_prob(steps[-1], after) - batch.behaviours[-1]).exp()
        surrogate = after.mean(clipped_surrogate(ratio, after.advantages, clip_range)).mean()
        of_rounds = zip(batch.rounds, batch.acted, steps, strict=False)
        divergences = [seen.mean(self.policy.kl(*acted, *now)).mean() for seen, acted, now in of_rounds]
        beyond = after.mean(((ratio.detach() - 1.0).abs() > clip_range).float()).mean()
        return ProMPLoss(surrogate, th.stack(divergences).mean(), beyond)


def adapted_kl_coef(kl_coef: float, kl: float, target_kl: float) -> float:
    """
    :param kl_coef: weight of the penalty
    :param kl: divergence that there was
    :param target_kl: that there should be
    :return: the weight, doubled or halved where the divergence is off by more than a factor of 1.5
    """
    if kl > 1.5 * target_kl:
        return 2.0 * kl_coef
    return 0.5 * kl_coef if kl < target_kl / 1.5 else kl_coef
