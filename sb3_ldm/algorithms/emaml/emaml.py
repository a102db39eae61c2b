"""E-MAML: MAML whose first episodes are credited with what adapting to them is worth."""

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import Unpack

from sb3_ldm.checks import check_number
from sb3_ldm.gradient import Acting, AdaptivePolicy, Batch, TrustRegionAdaptation, TrustRegionOptions
from sb3_ldm.options import takes_options_of


@takes_options_of(TrustRegionAdaptation)
class EMAML(TrustRegionAdaptation):
    """
    E-MAML (Stadie et al. 2018, https://arxiv.org/abs/1803.01118): the outer gradient also credits the sampling before the
    update, ``lambda / T sum R(tau) grad log pi_theta(tau_before)``, so that the agent explores for what it will learn from.

    As in ProMP's experiments (https://arxiv.org/abs/1810.06784) the returns R after the update are standardised over the tasks
    of an iteration, and log probabilities are means over steps.

    :param sampling_weight: of the credit, lambda; 1 is E-MAML, 0 is MAML
    :raises ValueError: if the env has no meta-episodes or too few episodes in them, there is one worker alone, the policy is
        recurrent, a parameter is out of its range, or training diverges
    """

    def __init__(
        self,
        policy: str | type[AdaptivePolicy],
        env: GymEnv | str,
        sampling_weight: float = 1.0,
        *,
        _init_setup_model: bool = True,
        **options: Unpack[TrustRegionOptions],
    ):
        super().__init__(policy, env, _init_setup_model=False, **options)  # type: ignore[misc]
        self.sampling_weight = sampling_weight
        if _init_setup_model:
            self._set_up()

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_number("sampling_weight", self.sampling_weight, 0.0)

    def objective(self, batch: Batch, steps: list[Acting]) -> th.Tensor:
        after = super().objective(batch, steps)
        if self.sampling_weight == 0.0:
            return after
        worth = standardised_returns(batch.after.episodes.rewards)
        sampled = [seen.mean(self.log_prob(acting, seen)) for seen, acting in zip(batch.rounds, steps, strict=False)]
        return after + self.sampling_weight * (worth * th.stack(sampled).sum(0)).mean()


def standardised_returns(rewards: th.Tensor) -> th.Tensor:
    """
    :param rewards: after the update, ``(n_tasks, n_episodes, n_steps)``
    :return: mean return of each task, standardised over the tasks, ``(n_tasks,)``
    """
    returns = rewards.sum(-1).mean(-1)
    return (returns - returns.mean()) / (returns.std(correction=0) + 1e-8)
