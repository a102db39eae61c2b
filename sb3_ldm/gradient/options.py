"""Options that constructors of algorithms which adapt by gradient steps hand on, for type checkers and editors."""

from typing import Any

import torch as th
from typing_extensions import TypedDict


class AdaptationOptions(TypedDict, total=False):
    """Of :class:`~sb3_ldm.gradient.GradientAdaptation`, which documents them."""

    adaptation_episodes: int | None
    adaptation_steps: int
    step_size: float
    estimator: str
    gamma: float
    gae_lambda: float
    n_envs: int | None
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: th.device | str


class TrustRegionOptions(AdaptationOptions, total=False):
    """Of :class:`~sb3_ldm.gradient.TrustRegionAdaptation`, which documents them."""

    max_kl: float
    cg_max_steps: int
    cg_damping: float
    sub_sampling_factor: int
    line_search_max_iter: int
    line_search_shrinking_factor: float
