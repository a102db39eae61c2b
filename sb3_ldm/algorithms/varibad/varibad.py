"""VariBAD: variational Bayes-adaptive deep reinforcement learning."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from typing_extensions import Unpack

from sb3_ldm.algorithms.varibad.policies import BeliefPolicy, MlpLstmPolicy, PolicyEncoder
from sb3_ldm.inference import RewardVAE
from sb3_ldm.on_policy import VAEPPO, MetaLstmPolicy, VAEOptions
from sb3_ldm.on_policy.automatic import embedding_settings
from sb3_ldm.options import takes_options_of

_SHARED = ("latent_dim", "rl_loss_through_encoder")  #: options that the policy has in common with the algorithm


@dataclass(frozen=True)
class AgentView:
    """What an agent is shown of original observations."""

    normalizer: VecNormalize | None

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        if self.normalizer is None:
            return observations
        normalized = self.normalizer.normalize_obs(observations)
        assert isinstance(normalized, np.ndarray)
        return normalized


@takes_options_of(VAEPPO, dropout_rate=0.0, latent_dim=32)
class VariBAD(VAEPPO):
    """
    VariBAD (Zintgraf et al. 2020, https://arxiv.org/abs/1910.08348), a baseline of the paper (section 5).

    Policy and VAE (LDM's latent dynamics network) share the encoder: the policy acts on the state and the belief
    N(mu, sigma^2) about the task, which the ELBO trains. ELBO, decoder and buffer are those of LDM; every worker's task is
    true.

    The encoder sees what the agent sees: observations with the previous action, the previous reward and the inner done flag,
    normalised where a ``VecNormalize`` does so (with its present statistics, for meta-episodes of the buffer too). The decoder
    sees and predicts original states and rewards.

    :param policy: the policy to use (``"MlpLstmPolicy"``, or a subclass of it); the encoder's sizes are ``policy_kwargs``
    :param env: a meta-episode environment: a registered id, an env or a VecEnv, normalised or not
    :param rl_loss_through_encoder: whether the policy's loss trains the encoder too; not in the original, but in the baseline
        that LDM's paper reports
    :param latent_dim: dimension of the belief
    :param vae_learning_rate: learning rate of the VAE, or its schedule; ``"auto"`` is the policy's
    :param dropout_rate: p_drop, dropout on the decoder's inputs other than the latent model; the original has none
    :raises ValueError: if the env has no meta-episodes, or a parameter is out of its range
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpLstmPolicy": MlpLstmPolicy}
    policy_base: ClassVar[type[MetaLstmPolicy]] = BeliefPolicy
    may_tell_task: ClassVar[bool] = False
    policy: BeliefPolicy

    def __init__(
        self,
        policy: str | type[BeliefPolicy],
        env: GymEnv | str,
        rl_loss_through_encoder: bool = True,
        *,
        _init_setup_model: bool = True,
        **options: Unpack[VAEOptions],
    ):
        super().__init__(policy, env, _init_setup_model=False, **options)
        self.rl_loss_through_encoder = rl_loss_through_encoder
        if _init_setup_model:
            self._set_up()

    def _policy_settings(self, given: dict[str, Any]) -> dict[str, Any]:
        state_embedding = embedding_settings(self.layout)["state_embedding"]  # for the heads, in place of the state
        sizes = {"lstm_hidden_size": 128, "state_embedding": state_embedding, "belief_embedding": 64, "state_in_heads": False}
        return super()._policy_settings(sizes | given)

    def _encoder_settings(self) -> dict[str, Any]:
        return {}

    def _settings_of(self, reward_likelihood: str) -> dict[str, Any]:
        # The policy's decaying rate, whose encoder this is too.
        return super()._settings_of(reward_likelihood) | {"vae_learning_rate": self.learning_rate}

    @property
    def policy_kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        """Keyword arguments of the policy: those that were given, which a model is saved with, and those that are its own."""
        return super().policy_kwargs | {name: self.__dict__[name] for name in _SHARED if name in self.__dict__}

    @policy_kwargs.setter
    def policy_kwargs(self, given: dict[str, Any]) -> None:
        self.__dict__["policy_kwargs"] = given

    def _check_parameters(self) -> None:
        super()._check_parameters()
        given = self.__dict__["policy_kwargs"]
        for name in given.keys() & set(_SHARED):
            if given[name] != getattr(self, name):
                raise ValueError(f"policy_kwargs has {name}={given[name]}: give {name} to VariBAD itself.")
        sizes = sorted(name for name in self.vae_kwargs if name.startswith("encoder"))
        if sizes:
            raise ValueError(
                f"vae_kwargs has {', '.join(sizes)}, but variBAD's encoder is the policy's: use policy_kwargs with "
                "lstm_hidden_size and features_extractor_kwargs."
            )

    def _make_vae(self, **kwargs: Any) -> RewardVAE:
        return super()._make_vae(encoder=PolicyEncoder(self.policy), **kwargs)

    def agent_view(self, env: VecEnv) -> AgentView:
        return AgentView(unwrap_vec_normalize(env))
