"""What Optuna may vary, by algorithm: parameters of the methods, and of PPO in whole meta-episodes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

Suggest = Callable[[optuna.Trial], Any]

#: Parameters that every algorithm has. The last two become n_steps and batch_size, so that no meta-episode is ever cut.
_PPO: dict[str, Suggest] = {
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
    "ent_coef": lambda trial: trial.suggest_float("ent_coef", 1e-3, 0.1, log=True),
    "gamma": lambda trial: trial.suggest_categorical("gamma", [0.9, 0.95, 0.97, 0.99]),
    "gae_lambda": lambda trial: trial.suggest_categorical("gae_lambda", [0.9, 0.95, 0.98]),
    "clip_range": lambda trial: trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3]),
    "n_epochs": lambda trial: trial.suggest_int("n_epochs", 1, 8),
    "meta_episodes_per_rollout": lambda trial: trial.suggest_int("meta_episodes_per_rollout", 1, 2),
    "sequences_per_minibatch": lambda trial: trial.suggest_categorical("sequences_per_minibatch", [4, 8, 16, 32]),
}
_LATENT_DYNAMICS: dict[str, Suggest] = {
    "dropout_rate": lambda trial: trial.suggest_float("dropout_rate", 0.0, 0.9, step=0.1),
    "latent_dim": lambda trial: trial.suggest_categorical("latent_dim", [2, 5, 10, 32]),
    "kl_weight": lambda trial: trial.suggest_float("kl_weight", 0.1, 100.0, log=True),
    "vae_learning_rate": lambda trial: trial.suggest_float("vae_learning_rate", 3e-4, 3e-3, log=True),
    "vae_updates": lambda trial: trial.suggest_int("vae_updates", 1, 12),
}
_MIXTURE: dict[str, Suggest] = {
    # The paper's 0 to 12 of 16 workers (Appendix D), trained one by one in benchmarks/experiments/mixture_workers.yml:
    # one seed each rules none of them out, and the largest reached the most unseen goals.
    "mixture_ratio": lambda trial: trial.suggest_float("mixture_ratio", 0.0, 0.75, step=0.125),
    "beta": lambda trial: trial.suggest_float("beta", 1.0, 2.5, step=0.25),
    "n_partners": lambda trial: trial.suggest_int("n_partners", 2, 16, log=True),
}
SEARCH_SPACES: dict[str, dict[str, Suggest]] = {
    "rl2": _PPO,
    "mixreg": {"mixreg_alpha": lambda trial: trial.suggest_float("mixreg_alpha", 0.05, 2.0, log=True), **_PPO},
    "varibad": {
        **_LATENT_DYNAMICS,
        "kl_weight": lambda trial: trial.suggest_float("kl_weight", 1e-3, 200.0, log=True),
        **_PPO,
    },
    "ldm": {**_MIXTURE, **_LATENT_DYNAMICS, **_PPO},
}
#: What is varied if nothing else is asked for: few parameters need few trials.
DEFAULT_NAMES: dict[str, tuple[str, ...]] = {
    "rl2": ("learning_rate", "ent_coef"),
    "mixreg": ("mixreg_alpha", "learning_rate", "ent_coef"),
    "varibad": ("kl_weight", "latent_dim", "learning_rate"),
    "ldm": ("mixture_ratio", "beta", "dropout_rate", "n_partners", "kl_weight"),
}


def check_names(algo: str, names: Sequence[str] | None) -> tuple[str, ...]:
    """
    :param algo: name of an algorithm
    :param names: parameters to vary, None for the default ones
    :return: the parameters
    :raises ValueError: if one cannot be varied
    """
    known = SEARCH_SPACES[algo]
    chosen = DEFAULT_NAMES[algo] if names is None else tuple(names)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ValueError(f"tune={', '.join(unknown) or 'nothing'} of {algo}: choose of {', '.join(known)}.")
    return chosen


def suggest(trial: optuna.Trial, algo: str, names: Sequence[str]) -> dict[str, Any]:
    """
    :param trial: a trial
    :param algo: name of an algorithm
    :param names: parameters to vary
    :return: their values
    """
    return {name: SEARCH_SPACES[algo][name](trial) for name in names}


def to_hyperparameters(values: Mapping[str, Any], meta_episode_steps: int, n_envs: int, n_steps: int | None) -> dict[str, Any]:
    """
    :param values: of :func:`suggest`
    :param meta_episode_steps: steps in a meta-episode
    :param n_envs: number of environments
    :param n_steps: steps of a rollout and environment, where they are not varied; None for one meta-episode
    :return: hyperparameters in the RL Zoo's format
    """
    given = dict(values)
    meta_episodes, sequences = given.pop("meta_episodes_per_rollout", None), given.pop("sequences_per_minibatch", None)
    if meta_episodes is not None:
        n_steps = given["n_steps"] = meta_episodes * meta_episode_steps
    if sequences is not None:
        given["batch_size"] = min(sequences, n_envs) * (n_steps or meta_episode_steps)
    if "learning_rate" in given:
        given["learning_rate"] = f"lin_{given['learning_rate']}"  # to zero, as in all of zoo_configs
    return given
