"""Latent Dynamics Mixture."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Unpack

from sb3_ldm.algorithms.ldm.imagination import (
    IMAGINATION_OPTIONS,
    IMAGINATION_SETTINGS,
    Imagination,
    ImaginationConfig,
    ImaginationOptions,
)
from sb3_ldm.algorithms.ldm.mixture_vec_env import MixtureVecEnv
from sb3_ldm.algorithms.ldm.reward_maps import RewardMapCallback
from sb3_ldm.checks import check_number, is_number, warn_user
from sb3_ldm.on_policy import VAEPPO, MetaLstmPolicy, StreamSeeds, VAEOptions
from sb3_ldm.on_policy.automatic import AUTO
from sb3_ldm.on_policy.options import Auto
from sb3_ldm.options import takes_options_of

#: What ``imagination_requires="auto"`` stands for. Where rewards take two values, nothing: 15% of a run is late enough, and in
#: meta-episodes in which no goal was found, most of them at first, there is nothing to explain.
REQUIRED: dict[str, float | None] = {"bernoulli": None, "gaussian": 0.7}


class LDMOptions(VAEOptions, ImaginationOptions, total=False):
    """What :class:`LDM` hands on."""


@takes_options_of(ImaginationConfig, VAEPPO, mixture_time="final", **dict.fromkeys(IMAGINATION_SETTINGS["bernoulli"], AUTO))
class LDM(VAEPPO):
    """
    Latent Dynamics Mixture (Lee and Chung, NeurIPS 2021, https://arxiv.org/abs/2105.13524).

    RL2 in which some sub-environments are *mixture workers*: their rewards come from the decoder of the latent dynamics
    network (the paper's name), a VAE, fed with mixtures of the other, *normal* workers' beliefs. The policy is thereby
    prepared for tasks outside of the training tasks; the VAE itself is trained on the normal workers' meta-episodes alone and
    is not used to act.

    How imaginary tasks are made follows by default (``"auto"``) from the rewards, as the VAE does: where
    they take two values, 3 partners are mixed with weights per dimension, one of 32 candidates is kept that promises a new
    goal, and the more likely reward is given; elsewhere 14 partners are mixed with a weight each, and the decoder's mean is
    given.

    Options are read when a model is made or loaded: assigning another ``beta`` later has no effect. A task
    is chosen where the meta-episode before it ends, so in the last step of a rollout by default: before the network's updates,
    after which the decoder may judge it in another way.

    :param policy: the policy to use (``"MlpLstmPolicy"``, or a subclass of it)
    :param env: a meta-episode environment: a registered id, an env or a VecEnv, normalised or not
    :param mixture_ratio: share of the sub-environments that are mixture workers, in [0, 1); at least one if above 0
    :param imagination_starts: time steps before mixture workers get imaginary rewards, below 1 as a share of those that
        :meth:`learn` is called for; until then they get the true ones, so that the policy and the decoder first learn what the
        training tasks have in common
    :param imagination_requires: share of the variance of rewards, in meta-episodes that the network was not trained on yet,
        that it must explain once before mixture workers get imaginary rewards, besides ``imagination_starts``; None for no
        such condition, which is what ``"auto"`` is for rewards of two values, and 0.7 for others
    :param dropout_rate: p_drop, dropout in the decoder, but for the latent model: on embeddings of its inputs, or with
        ``dropout_place="inputs"`` in ``vae_kwargs`` on the inputs themselves, as in the paper
    :raises ValueError: if the env has no meta-episodes, or a parameter is out of its range
    """

    generators: ClassVar[tuple[str, ...]] = ("_imagination_generator", *VAEPPO.generators)

    def __init__(
        self,
        policy: str | type[MetaLstmPolicy],
        env: GymEnv | str,
        mixture_ratio: float = 0.375,
        imagination_starts: float = 0.15,
        *,
        imagination_requires: float | Auto | None = AUTO,
        _init_setup_model: bool = True,
        **options: Unpack[LDMOptions],
    ):
        inherited: dict[str, Any] = dict(options)
        imagination = {name: inherited.pop(name) for name in IMAGINATION_OPTIONS if name in inherited}
        super().__init__(policy, env, _init_setup_model=False, **inherited)
        self.mixture_ratio = mixture_ratio
        self.imagination_starts = imagination_starts
        self.imagination_requires: float | None = imagination_requires  # type: ignore[assignment]
        #: Whether the network has explained as much as ``imagination_requires``.
        self.knows_tasks = False
        vars(self).update(asdict(ImaginationConfig()) | imagination)
        self._imagination_generator: th.Generator | None = None

        if _init_setup_model:
            self._set_up()

    def _settings_of(self, reward_likelihood: str) -> dict[str, Any]:
        imagination = IMAGINATION_SETTINGS.get(reward_likelihood, IMAGINATION_SETTINGS["gaussian"])
        imagination = imagination | {"imagination_requires": REQUIRED.get(reward_likelihood, REQUIRED["gaussian"])}
        if vars(self)["mixture_time"] != "final":  # else goals are not known in advance
            imagination = imagination | {"n_candidates": 1, "require_goal": False}
        return super()._settings_of(reward_likelihood) | imagination

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
        return ImaginationConfig(**{name: getattr(self, name) for name in IMAGINATION_OPTIONS})

    @property
    def n_recorded(self) -> int:
        """Number of workers whose meta-episodes the VAE is trained on: the normal ones."""
        return self.n_normal

    def _told(self, env: VecEnv) -> np.ndarray | None:
        told = super()._told(env)
        if told is not None and self.n_mixture > 0:
            assert self.mixture_env is not None
            # Nobody can say what an imaginary task is: its workers have none.
            told[self.n_normal :][self.mixture_env.imagining] = 0.0
        return told

    @property
    def mixture_env(self) -> MixtureVecEnv | None:
        """The env in which some workers imagine, around the user's; None without an env."""
        assert self.recording_env is None or isinstance(self.recording_env, MixtureVecEnv)
        return self.recording_env

    def _make_generators(self, seeds: StreamSeeds) -> None:
        super()._make_generators(seeds)
        self._imagination_generator = th.Generator(self.device).manual_seed(seeds.imagination)

    def _seed_streams(self, seeds: StreamSeeds) -> None:
        super()._seed_streams(seeds)
        assert self._imagination_generator is not None
        self._imagination_generator.manual_seed(seeds.imagination)
        if self.mixture_env is not None:
            self.mixture_env.restart_stream()

    def _make_imagination(self) -> Imagination:
        assert self._imagination_generator is not None
        config = self.imagination_config
        return Imagination(self.vae, self.n_normal, self.n_mixture, config, self._imagination_generator)

    def _make_recording_env(self, env: VecEnv) -> MixtureVecEnv:
        imagination = self._make_imagination()
        return MixtureVecEnv(
            env, imagination, self.replay_buffer, self._stats_window_size, self._may_imagine, self._check_rewards
        )

    def _renew_recording(self) -> None:
        self.imagination_config.validate(self.reward_likelihood)
        if self.mixture_env is not None:
            self.mixture_env.set_imagination(self._make_imagination())

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not is_number(self.mixture_ratio) or not 0.0 <= self.mixture_ratio < 1.0:
            raise ValueError(
                f"mixture_ratio={self.mixture_ratio!r} is outside [0, 1): some workers must be normal; the paper uses 0.125."
            )
        if self.mixture_ratio > 0.0 and self.n_envs == 1 and self.env is not None:
            warn_user(
                f"mixture_ratio={self.mixture_ratio} with one sub-environment: there is no worker to mix, LDM trains as RL2. "
                "Pass a VecEnv of several (16 in the paper), or set mixture_ratio=0."
            )
        if self.n_mixture > 0 and self.env is not None:
            self._warn_of_workers()
        if self.n_mixture > 0 and self.env is not None and self.env.has_attr("observes_task"):
            warn_user(
                "The environment tells the agent its task (observe_task), which imaginary rewards contradict: use RL2 or "
                "Mixreg for an oracle, or set mixture_ratio=0."
            )
        if not is_number(self.imagination_starts) or not self.imagination_starts >= 0:
            raise ValueError(f"imagination_starts={self.imagination_starts}: use a number of at least 0.")
        if self._required is not None:
            check_number("imagination_requires", self._required, 0.0, 1.0)
        self.imagination_config.validate(self.reward_likelihood)

    def _warn_of_workers(self) -> None:
        """Warn of shares of the workers that there cannot be."""
        if self.n_mixture != round(self.mixture_ratio * self.n_envs):
            warn_user(
                f"mixture_ratio={self.mixture_ratio}: {self.n_mixture} of {self.n_envs} sub-environments imagines, a share of "
                f"{self.n_mixture / self.n_envs:.3g}. Use at least {ceil(1.0 / self.mixture_ratio)} sub-environments, or "
                "mixture_ratio=0 for none that imagine."
            )
        # The default means all of fewer.
        n_partners = self.imagination_config.n_partners
        if n_partners > max(self.n_normal, ImaginationConfig.n_partners):
            warn_user(
                f"n_partners={n_partners}: there are {self.n_normal} normal workers to mix, and all of them are mixed. "
                f"Use more sub-environments, or n_partners={self.n_normal}."
            )

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callbacks = callback if isinstance(callback, list) else [callback]
        if self.n_mixture == 0 or any(_looks_at_imagination(one) for one in callbacks):
            return super()._init_callback(callback, progress_bar)
        given = [one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in callbacks]
        return super()._init_callback([*given, RewardMapCallback()], progress_bar)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        prepared = super()._setup_learn(*args, **kwargs)
        rollout, meta_episode = self.n_steps * self.n_envs, self.layout.meta_episode_steps * self.n_envs
        begins = meta_episode * ceil(self.imagination_begins / meta_episode)  # imaginary tasks, as others, last to their end
        if self.n_mixture > 0 and begins >= rollout * ceil(self._total_timesteps / rollout):
            warn_user(
                f"imagination_starts={self.imagination_starts} is not reached in {self._total_timesteps} time steps: LDM "
                "trains as RL2. Train longer, or let imagination start earlier."
            )
        return prepared

    def _recall(self, recording: dict[str, Any], resumes: bool) -> bool:
        assert self.mixture_env is not None
        imagination, beliefs = self.mixture_env.imagination, recording["imagination"]
        if not imagination.fits(beliefs):
            return False
        imagination.set_final_beliefs(beliefs)  # to be mixed at once, where meta-episodes begin anew
        return super()._recall(recording, resumes)

    @property
    def _required(self) -> float | None:
        """What the network must explain; nothing for a model that was saved before there was such a condition."""
        return None if self.imagination_requires == AUTO else self.imagination_requires

    def _may_imagine(self, timesteps: int) -> bool:
        """Whether meta-episodes that begin after some more time steps are imaginary."""
        is_known = self._required is None or self.knows_tasks
        return self.knows_rewards and is_known and self.num_timesteps + timesteps >= self.imagination_begins

    @property
    def imagination_begins(self) -> float:
        """Time steps before mixture workers get imaginary rewards, of the present or last call of :meth:`learn`."""
        is_share = 0.0 < self.imagination_starts < 1.0
        return self.imagination_starts * self._total_timesteps if is_share else self.imagination_starts

    def _look_at_newest(self) -> None:
        super()._look_at_newest()
        required = self._required
        if required is not None and self.explained_variance is not None:
            self.knows_tasks = self.knows_tasks or self.explained_variance >= required

    def _find_rewards(self) -> None:
        network = self.vae
        super()._find_rewards()
        self.knows_tasks = self.knows_tasks and self.vae is network

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with super()._computing():
            yield
        late = self.num_timesteps >= self.imagination_begins and self.n_mixture > 0
        if late and self._required is not None and not self.knows_tasks:
            warn_user(
                f"imagination_requires={self._required} was not reached in {self.num_timesteps} time steps "
                f"(explained_variance={self.explained_variance}): LDM trained as RL2. Train longer, with more vae_updates, "
                "or require less."
            )

    def train(self) -> None:
        super().train()
        if self.n_mixture > 0 and self.mixture_env is not None:
            self.logger.record("imagination/share_imagining", self.mixture_env.imagining.mean())

    def dump_logs(self, iteration: int = 0) -> None:
        assert self.mixture_env is not None
        returns = self.mixture_env.mean_imaginary_returns()
        if returns is not None and self.mixture_env.imagining.any():  # else they are those of an earlier time
            for i, value in enumerate(returns):
                self.logger.record(f"imagination/return_{i + 1}", value)
        super().dump_logs(iteration)


def _looks_at_imagination(callback: object) -> bool:
    if isinstance(callback, CallbackList):
        return any(_looks_at_imagination(one) for one in callback.callbacks)
    return isinstance(callback, RewardMapCallback)
