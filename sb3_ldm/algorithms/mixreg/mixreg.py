"""Mixreg: mixture regularisation."""

from typing import ClassVar

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import Unpack

from sb3_ldm.algorithms.mixreg.mixture import MixingRolloutBuffer
from sb3_ldm.checks import is_number, warn_user
from sb3_ldm.data import SequenceRolloutBuffer
from sb3_ldm.on_policy import MetaLstmPolicy, PPOOptions, SequencePPO
from sb3_ldm.on_policy.automatic import LEARNING_RATE
from sb3_ldm.options import takes_options_of


@takes_options_of(SequencePPO, target_kl=None, learning_rate=LEARNING_RATE)
class Mixreg(SequencePPO):
    """
    Mixreg (Wang et al. 2020, https://arxiv.org/abs/2010.10814) on RL2, a baseline of the paper (section 5).

    RL2 that trains on convex combinations of two workers' rollouts: at every time step of the rollout, observations (with the
    previous action, reward and done flag), old log-probabilities, value estimates, returns and advantages are mixed; action
    and episode starts are those of the worker with the larger weight. Advantages are normalised after mixing.

    The original mixes single transitions of feed-forward agents. Here a sequence has one partner and one weight from its first
    to its last step, so that the recurrent state is that of one mixed history; they are drawn anew in every epoch. Sequences
    begin with a meta-episode; where episodes end early, partners are not in the same phase of theirs, and a sequence's LSTM is
    only reset where its own meta-episodes begin.

    :param policy: the policy to use (``"MlpLstmPolicy"``, or a subclass of it)
    :param env: a meta-episode environment: a registered id, an env or a VecEnv
    :param mixreg_alpha: weights are drawn from Beta(alpha, alpha)
    :param learning_rate: learning rate or its schedule; by default from 0.001 to 0.00001, as there is no ``target_kl``
    :param target_kl: must be None
    :raises ValueError: if the env has no meta-episodes, or a parameter is out of its range
    """

    may_tell_task: ClassVar[bool] = False

    def __init__(
        self,
        policy: str | type[MetaLstmPolicy],
        env: GymEnv | str,
        mixreg_alpha: float = 0.2,
        *,
        _init_setup_model: bool = True,
        **options: Unpack[PPOOptions],
    ):
        super().__init__(policy, env, _init_setup_model=False, **options)
        self.mixreg_alpha = mixreg_alpha
        self._mixreg_rng: np.random.Generator | None = None
        if _init_setup_model:
            self._set_up()

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not is_number(self.mixreg_alpha) or self.mixreg_alpha <= 0.0:
            raise ValueError(f"mixreg_alpha={self.mixreg_alpha}: weights come from Beta(alpha, alpha), use a positive number.")
        if self.env is not None and self.n_envs == 1:
            warn_user("n_envs=1: there is no other sequence to mix with, Mixreg trains as RL2. Pass a VecEnv of several.")
        if self.target_kl is not None:
            raise ValueError(
                f"target_kl={self.target_kl}: no policy has the log probabilities of mixed transitions, so the divergence "
                "from it is large before the first update already; use None."
            )

    def _make_rollout_buffer(self) -> SequenceRolloutBuffer:
        if self._mixreg_rng is None or not self._continues_streams:
            self._mixreg_rng = np.random.default_rng(self.seed)
        return MixingRolloutBuffer(self.mixreg_alpha, self._mixreg_rng, **self._rollout_buffer_arguments())

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        # While a loaded model is set up it has no buffer yet, and its own stream goes on.
        if seed is not None and getattr(self, "rollout_buffer", None) is not None:
            assert self._mixreg_rng is not None
            self._mixreg_rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
