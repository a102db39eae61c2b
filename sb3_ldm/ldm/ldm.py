"""Latent Dynamics Mixture."""

import io
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.common.latent_dynamics import LatentDynamics, MetaEpisodeBuffer
from sb3_ldm.common.probes import has_probes
from sb3_ldm.common.recurrent import MetaLstmPolicy
from sb3_ldm.ldm.imagination import Imagination, ImaginationConfig
from sb3_ldm.ldm.mixture_vec_env import MixtureVecEnv
from sb3_ldm.ldm.policies import MlpLstmPolicy
from sb3_ldm.ldm.reward_maps import RewardMapCallback
from sb3_ldm.rl2 import RL2

SelfLDM = TypeVar("SelfLDM", bound="LDM")

_GENERATORS = ("_imagination_generator", "_vae_generator")


class LDM(RL2):
    """
    Latent Dynamics Mixture (Lee and Chung, NeurIPS 2021, https://arxiv.org/abs/2105.13524).

    RL2 in which some sub-environments are *mixture workers*: their rewards come from the decoder of a latent dynamics network,
    fed with mixtures of the other, *normal* workers' beliefs. The policy is thereby prepared for tasks outside of the training
    tasks; the latent dynamics network itself is trained on the normal workers' meta-episodes alone and is not used to act.

    :param policy: the policy to use (``"MlpLstmPolicy"``, or a subclass of it)
    :param env: a meta-episode environment: a registered id, an env or a VecEnv, normalised or not
    :param mixture_ratio: share of the sub-environments that are mixture workers, in [0, 1); at least one if above 0
    :param imagination_starts: time steps before mixture workers get imaginary rewards; until then they get the true ones, so
        that the policy and the decoder first learn what the training tasks have in common
    :param beta: degree of extrapolation of the mixture weights (Equation 1); 1 keeps to convex mixtures
    :param n_partners: normal workers that each mixture worker mixes, at most as many as there are
    :param mixture_weights: one weight ``"per_worker"`` or independent weights ``"per_dimension"`` of the latent model
    :param mixed_belief: mix the beliefs' ``"mean"``, or a ``"sample"`` of them
    :param mixture_time: mix the normal workers' ``"current"`` beliefs, or the ``"final"`` ones of their last meta-episodes
    :param imaginary_reward: the decoder's ``"mean"``, or (Bernoulli) a ``"sample"`` or ``"threshold"`` of its two rewards
    :param imagination_dropout: its dropout in imagination: ``"off"``, new every ``"step"`` or every ``"meta_episode"``
    :param n_candidates: mixtures drawn for each imaginary task, of which the first is kept whose goals are new; 1 takes any
    :param require_goal: an imaginary task must promise the high reward somewhere, else its worker gets a true one
    :param dropout_rate: p_drop, dropout on the decoder's inputs other than the latent model
    :param latent_dim: dimension of the latent model m
    :param kl_weight: weight of the KL terms of the ELBO, whose reconstruction is a sum over the meta-episode
    :param n_elbo_terms: random ELBO terms per update, None for all
    :param n_decoded_steps: random decoded steps per update, None for all
    :param reward_likelihood: ``"bernoulli"`` for rewards that take two values, ``"gaussian"`` for any
    :param bernoulli_rewards: the two values, lower first
    :param decoder_inputs: what the decoder sees beside m, out of ``"state"``, ``"action"``, ``"next_state"``
    :param vae_kwargs: sizes of the latent dynamics network, see :class:`~sb3_ldm.common.latent_dynamics.LatentDynamics`
    :param vae_learning_rate: learning rate of the latent dynamics network
    :param vae_buffer_size: meta-episodes in the latent dynamics network's buffer
    :param vae_batch_size: meta-episodes per update
    :param vae_updates: updates per rollout; 0 freezes the network
    :param learning_rate: and all that follow: see :class:`~sb3_ldm.common.recurrent.SequencePPO`
    :raises ValueError: if the env has no meta-episodes, or a parameter is out of its range
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpLstmPolicy": MlpLstmPolicy}
    latent_dynamics: LatentDynamics
    replay_buffer: MetaEpisodeBuffer
    mixture_env: MixtureVecEnv | None

    def __init__(
        self,
        policy: str | type[MetaLstmPolicy],
        env: GymEnv | str,
        mixture_ratio: float = 0.125,
        imagination_starts: int = 0,
        beta: float = 1.0,
        n_partners: int = 14,
        mixture_weights: str = "per_worker",
        mixed_belief: str = "mean",
        mixture_time: str = "current",
        imaginary_reward: str = "mean",
        imagination_dropout: str = "off",
        n_candidates: int = 1,
        require_goal: bool = False,
        dropout_rate: float = 0.5,
        latent_dim: int = 32,
        kl_weight: float = 1.0,
        n_elbo_terms: int | None = None,
        n_decoded_steps: int | None = None,
        reward_likelihood: str = "gaussian",
        bernoulli_rewards: Sequence[float] = (0.0, 1.0),
        decoder_inputs: Sequence[str] = ("state", "action", "next_state"),
        vae_kwargs: dict[str, Any] | None = None,
        vae_learning_rate: float = 1e-3,
        vae_buffer_size: int = 10_000,
        vae_batch_size: int = 25,
        vae_updates: int = 2,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int | None = None,
        batch_size: int | None = None,
        n_epochs: int = 4,
        gamma: float = 0.95,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.05,
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
        self.mixture_ratio = mixture_ratio
        self.imagination_starts = imagination_starts
        self.beta = beta
        self.n_partners = n_partners
        self.mixture_weights = mixture_weights
        self.mixed_belief = mixed_belief
        self.mixture_time = mixture_time
        self.imaginary_reward = imaginary_reward
        self.imagination_dropout = imagination_dropout
        self.n_candidates = n_candidates
        self.require_goal = require_goal
        self.dropout_rate = dropout_rate
        self.latent_dim = latent_dim
        self.kl_weight = kl_weight
        self.n_elbo_terms = n_elbo_terms
        self.n_decoded_steps = n_decoded_steps
        self.reward_likelihood = reward_likelihood
        self.bernoulli_rewards = bernoulli_rewards
        self.decoder_inputs = decoder_inputs
        self.vae_kwargs = {} if vae_kwargs is None else vae_kwargs
        self.vae_learning_rate = vae_learning_rate
        self.vae_buffer_size = vae_buffer_size
        self.vae_batch_size = vae_batch_size
        self.vae_updates = vae_updates
        self._imagination_generator: th.Generator | None = None
        self._vae_generator: th.Generator | None = None
        self._vae_rng: np.random.Generator | None = None
        self._generator_states: dict[str, th.Tensor] = {}
        self.mixture_env = None

        if _init_setup_model:
            self._setup_model()

    @property
    def n_mixture(self) -> int:
        """Number of mixture workers, the last of the sub-environments."""
        if self.mixture_ratio == 0.0 or self.n_envs < 2:
            return 0
        return min(max(1, round(self.mixture_ratio * self.n_envs)), self.n_envs - 1)

    @property
    def n_normal(self) -> int:
        """Number of normal workers, the first of the sub-environments."""
        return self.n_envs - self.n_mixture

    @property
    def imagination_config(self) -> ImaginationConfig:
        """How imaginary tasks are made."""
        return ImaginationConfig(
            beta=self.beta,
            n_partners=self.n_partners,
            mixture_weights=self.mixture_weights,
            mixed_belief=self.mixed_belief,
            mixture_time=self.mixture_time,
            imaginary_reward=self.imaginary_reward,
            imagination_dropout=self.imagination_dropout,
            n_candidates=self.n_candidates,
            require_goal=self.require_goal,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self._setup_generators()
        # Forked, so that the policy's random stream does not know of the latent dynamics network.
        with th.random.fork_rng(devices=[]):
            # Not th.manual_seed, which would seed the GPUs' streams too: the policy samples its actions from them.
            th.default_generator.manual_seed(self._network_seed)
            self.latent_dynamics = LatentDynamics(
                self.layout,
                latent_dim=self.latent_dim,
                dropout_rate=self.dropout_rate,
                kl_weight=self.kl_weight,
                n_elbo_terms=self.n_elbo_terms,
                n_decoded_steps=self.n_decoded_steps,
                reward_likelihood=self.reward_likelihood,
                bernoulli_rewards=self.bernoulli_rewards,
                decoder_inputs=self.decoder_inputs,
                learning_rate=self.vae_learning_rate,
                **self.vae_kwargs,
            ).to(self.device)
        self.replay_buffer = MetaEpisodeBuffer(self.vae_buffer_size, self.layout, self.n_normal)
        self._setup_mixture_env()

    def _setup_generators(self) -> None:
        """Random streams of their own for what LDM adds to RL2; kept where a saved model brought its own."""
        imagination_seed, vae_seed, batch_seed, self._network_seed = (
            np.random.SeedSequence(self.seed).generate_state(4).tolist()
        )
        self._imagination_generator = th.Generator(self.device).manual_seed(imagination_seed)
        self._vae_generator = th.Generator(self.device).manual_seed(vae_seed)
        if self._vae_rng is None:
            self._vae_rng = np.random.default_rng(batch_seed)
        for name, state in self._generator_states.items():
            generator = getattr(self, name)
            # A state saved on another kind of device has another form; the streams then start anew.
            if state.shape == generator.get_state().shape:
                generator.set_state(state)

    def _setup_mixture_env(self) -> None:
        """Wrap the user's env, for collecting rollouts only."""
        self.mixture_env = None
        if self.env is None:
            return
        assert self._imagination_generator is not None
        imagination = Imagination(
            self.latent_dynamics, self.n_normal, self.n_mixture, self.imagination_config, self._imagination_generator
        )
        self.mixture_env = MixtureVecEnv(self.env, imagination, self.replay_buffer, self._stats_window_size)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 0.0 <= self.mixture_ratio < 1.0:
            raise ValueError(
                f"mixture_ratio={self.mixture_ratio} is outside [0, 1): some workers must be normal; the paper uses 0.125."
            )
        if self.mixture_ratio > 0.0 and self.n_envs == 1 and self.env is not None:
            warnings.warn(
                f"mixture_ratio={self.mixture_ratio} with one sub-environment: there is no worker to mix, LDM trains as RL2. "
                "Pass a VecEnv of several (16 in the paper), or set mixture_ratio=0.",
                stacklevel=4,
            )
        for name, value, least in (
            ("vae_batch_size", self.vae_batch_size, 1),
            ("vae_updates", self.vae_updates, 0),
            ("imagination_starts", self.imagination_starts, 0),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: use at least {least}.")
        self.imagination_config.validate(self.reward_likelihood)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        if self.replay_buffer.layout != self.layout:
            self.replay_buffer = MetaEpisodeBuffer(self.vae_buffer_size, self.layout, self.n_normal)
        self.replay_buffer.set_workers(self.n_normal)
        self._setup_mixture_env()

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callbacks = callback if isinstance(callback, list) else [callback]
        watched = any(isinstance(one, RewardMapCallback) for one in callbacks)
        if self.n_mixture == 0 or watched or not has_probes(self.env):  # type: ignore[arg-type]
            return super()._init_callback(callback, progress_bar)
        given = [one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in callbacks]
        return super()._init_callback([*given, RewardMapCallback()], progress_bar)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        obs_before = self._last_obs
        prepared = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert self.mixture_env is not None
        self.mixture_env.enabled = self.num_timesteps >= self.imagination_starts
        if self._last_obs is not obs_before or not self.mixture_env.started:
            self.mixture_env.start(self._last_obs, self._last_episode_starts)  # type: ignore[arg-type]
        return prepared

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert self.mixture_env is not None and self.mixture_env.venv is env
        self.mixture_env.enabled = self.num_timesteps >= self.imagination_starts
        return super().collect_rollouts(self.mixture_env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        super().train()
        assert self._vae_rng is not None
        parts = self.latent_dynamics.update(
            self.replay_buffer, self.vae_batch_size, self.vae_updates, self._vae_rng, self._vae_generator, self._n_threads
        )
        for name, value in parts.items():
            self.logger.record(f"latent_dynamics/{name}", value)
        if self.n_mixture > 0 and self.mixture_env is not None:
            self.logger.record("imagination/share_imagining", self.mixture_env.imagining.mean())
        self.logger.record("latent_dynamics/meta_episodes", len(self.replay_buffer))

    def dump_logs(self, iteration: int = 0) -> None:
        assert self.mixture_env is not None
        returns = self.mixture_env.mean_imaginary_returns()
        if returns is not None:
            for i, value in enumerate(returns):
                self.logger.record(f"imagination/return_{i + 1}", value)
        super().dump_logs(iteration)

    def learn(
        self: SelfLDM,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "LDM",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfLDM:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        self._generator_states = {name: getattr(self, name).get_state() for name in _GENERATORS}
        super().save(path, exclude, include)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the buffer of meta-episodes to its own file, as SB3 does with replay buffers (``CheckpointCallback`` too).

        :param path: file, or its path
        """
        save_to_pkl(path, self.replay_buffer, self.verbose)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Load a buffer of meta-episodes.

        :param path: file, or its path
        :raises ValueError: if its meta-episodes have another layout than the model's
        """
        buffer = load_from_pkl(path, self.verbose)
        if not isinstance(buffer, MetaEpisodeBuffer) or buffer.layout != self.layout:
            raise ValueError(f"{path} holds no meta-episodes of the model's layout {self.layout}.")
        buffer.set_workers(self.n_normal)
        self.replay_buffer = buffer
        self._setup_mixture_env()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "latent_dynamics", "mixture_env", *_GENERATORS]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "latent_dynamics", "latent_dynamics.optimizer"], variables
