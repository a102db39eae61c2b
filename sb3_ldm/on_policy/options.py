"""Options that constructors of recurrent on-policy algorithms hand on, by name and type, for type checkers and editors."""

from collections.abc import Sequence
from typing import Any, Literal

import torch as th
from stable_baselines3.common.type_aliases import Schedule
from typing_extensions import TypedDict

Auto = Literal["auto"]


class RecurrentPPOOptions(TypedDict, total=False):
    """What :class:`~sb3_ldm.on_policy.SequencePPO` leaves as it is in :class:`~sb3_contrib.RecurrentPPO`."""

    gae_lambda: float | Auto
    clip_range: float | Schedule
    clip_range_vf: float | Schedule | None
    normalize_advantage: bool
    vf_coef: float
    max_grad_norm: float
    use_sde: bool
    sde_sample_freq: int
    target_kl: float | Auto | None
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: th.device | str


class PPOOptions(RecurrentPPOOptions, total=False):
    """Of :class:`~sb3_ldm.on_policy.SequencePPO`, which documents them."""

    learning_rate: float | Auto | Schedule
    n_steps: int | None
    batch_size: int | Auto | None
    n_epochs: int
    gamma: float | Auto
    ent_coef: float | Auto | Schedule
    scale_rewards: bool | Auto
    n_envs: int | None
    critic_observes_task: bool
    task_coef: float


class VAEOptions(PPOOptions, total=False):
    """Of :class:`~sb3_ldm.on_policy.VAEPPO`, which documents them."""

    dropout_rate: float | Auto
    latent_dim: int | Auto
    kl_weight: float
    n_elbo_terms: int | None
    n_decoded_steps: int | None
    reward_likelihood: str
    bernoulli_rewards: Sequence[float] | Auto
    decoder_inputs: Sequence[str] | Auto
    vae_kwargs: dict[str, Any] | None
    vae_learning_rate: float | Auto | Schedule
    vae_buffer_size: int | Auto
    vae_buffer_keeps: str
    vae_batch_size: int | Auto
    vae_updates: int | Auto
    vae_max_updates: int | None
