"""VariBAD: variational Bayes-adaptive deep reinforcement learning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_ldm.algorithms.varibad.policies import BeliefPolicy, MlpLstmPolicy, PolicyEncoder
from sb3_ldm.checks import options_checked
from sb3_ldm.inference import LatentDynamics
from sb3_ldm.on_policy import LatentDynamicsPPO, MetaLstmPolicy

SelfVariBAD = TypeVar("SelfVariBAD", bound="VariBAD")


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


class VariBAD(LatentDynamicsPPO):
    """
    VariBAD (Zintgraf et al. 2020, https://arxiv.org/abs/1910.08348), a baseline of the paper (section 5).

    Policy and latent dynamics network share the encoder: the policy acts on the state and the belief N(mu, sigma^2) about the
    task, which the ELBO trains. ELBO, decoder and buffer are those of LDM; every worker's task is true.

    The encoder sees what the agent sees: observations with the previous action, the previous reward and the inner done flag,
    normalised where a ``VecNormalize`` does so (with its present statistics, for meta-episodes of the buffer too). The decoder
    sees and predicts original states and rewards.

    :param policy: the policy to use (``"MlpLstmPolicy"``, or a subclass of it); the encoder's sizes are ``policy_kwargs``
    :param env: a meta-episode environment: a registered id, an env or a VecEnv, normalised or not
    :param rl_loss_through_encoder: whether the policy's loss trains the encoder too; not in the original, but in the baseline
        that LDM's paper reports
    :param dropout_rate: and all up to ``vae_updates``: see
        :class:`~sb3_ldm.on_policy.LatentDynamicsPPO`; without dropout in the original
    :param learning_rate: and all that follow: see :class:`~sb3_ldm.on_policy.SequencePPO`
    :raises ValueError: if the env has no meta-episodes, or a parameter is out of its range
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpLstmPolicy": MlpLstmPolicy}
    policy_base: ClassVar[type[MetaLstmPolicy]] = BeliefPolicy
    policy: BeliefPolicy

    @options_checked
    def __init__(
        self,
        policy: str | type[BeliefPolicy],
        env: GymEnv | str,
        rl_loss_through_encoder: bool = False,
        dropout_rate: float = 0.0,
        latent_dim: int = 5,
        kl_weight: float = 0.01,
        n_elbo_terms: int | None = 16,
        n_decoded_steps: int | None = 50,
        reward_likelihood: str = "gaussian",
        bernoulli_rewards: Sequence[float] = (0.0, 1.0),
        decoder_inputs: Sequence[str] = ("state", "action", "next_state"),
        vae_kwargs: dict[str, Any] | None = None,
        vae_learning_rate: float | Schedule = 1e-3,
        vae_buffer_size: int = 10_000,
        vae_buffer_keeps: str = "latest",
        vae_batch_size: int = 25,
        vae_updates: int = 3,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int | None = None,
        batch_size: int | None = None,
        n_epochs: int = 4,
        gamma: float = 0.95,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | Schedule = 0.05,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            dropout_rate=dropout_rate,
            latent_dim=latent_dim,
            kl_weight=kl_weight,
            n_elbo_terms=n_elbo_terms,
            n_decoded_steps=n_decoded_steps,
            reward_likelihood=reward_likelihood,
            bernoulli_rewards=bernoulli_rewards,
            decoder_inputs=decoder_inputs,
            vae_kwargs=vae_kwargs,
            vae_learning_rate=vae_learning_rate,
            vae_buffer_size=vae_buffer_size,
            vae_buffer_keeps=vae_buffer_keeps,
            vae_batch_size=vae_batch_size,
            vae_updates=vae_updates,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.rl_loss_through_encoder = rl_loss_through_encoder
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        given = self.policy_kwargs
        shared = {"latent_dim": self.latent_dim, "rl_loss_through_encoder": self.rl_loss_through_encoder}
        for name in given.keys() & shared:
            if given[name] != shared[name]:
                raise ValueError(f"policy_kwargs has {name}={given[name]}: give {name} to VariBAD itself.")
        self.policy_kwargs = {**given, **shared}
        try:
            super()._setup_model()
        finally:
            # A model is loaded with the arguments that it was given.
            self.policy_kwargs = given

    def _check_parameters(self) -> None:
        super()._check_parameters()
        sizes = sorted(name for name in self.vae_kwargs if name.startswith("encoder"))
        if sizes:
            raise ValueError(
                f"vae_kwargs has {', '.join(sizes)}, but variBAD's encoder is the policy's: use policy_kwargs with "
                "lstm_hidden_size and features_extractor_kwargs."
            )

    def _make_latent_dynamics(self, **kwargs: Any) -> LatentDynamics:
        return super()._make_latent_dynamics(encoder=PolicyEncoder(self.policy), **kwargs)

    def agent_view(self, env: VecEnv) -> AgentView:
        return AgentView(unwrap_vec_normalize(env))

    def learn(
        self: SelfVariBAD,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "VariBAD",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfVariBAD:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
