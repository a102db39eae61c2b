"""MAML: initial parameters from which one gradient step leads to good ones."""

from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import Unpack

from sb3_ldm.gradient import AdaptivePolicy, TrustRegionAdaptation, TrustRegionOptions
from sb3_ldm.options import takes_options_of


@takes_options_of(TrustRegionAdaptation)
class MAML(TrustRegionAdaptation):
    """
    Model-agnostic meta-learning for reinforcement learning (Finn et al. 2017, https://arxiv.org/abs/1703.03400, Algorithm 3).

    The inner step follows the policy gradient of a task's first episodes; the outer one is TRPO's on the episodes after it,
    differentiated through the inner step. Its options are those of :class:`~sb3_ldm.gradient.TrustRegionAdaptation`.

    :raises ValueError: if the env has no meta-episodes or too few episodes in them, there is one worker alone, the policy is
        recurrent, a parameter is out of its range, or training diverges
    """

    def __init__(
        self,
        policy: str | type[AdaptivePolicy],
        env: GymEnv | str,
        *,
        _init_setup_model: bool = True,
        **options: Unpack[TrustRegionOptions],
    ):
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **options)  # type: ignore[misc]
