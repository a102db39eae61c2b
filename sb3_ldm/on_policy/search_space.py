"""What Optuna may vary of PPO in whole meta-episodes, and of a VAE of rewards."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

Suggest = Callable[["optuna.Trial"], Any]

#: The last two become n_steps and batch_size, so that no meta-episode is ever cut.
PPO: dict[str, Suggest] = {
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
    "ent_coef": lambda trial: trial.suggest_float("ent_coef", 1e-3, 0.1, log=True),
    "gamma": lambda trial: trial.suggest_categorical("gamma", [0.9, 0.95, 0.97, 0.99]),
    "gae_lambda": lambda trial: trial.suggest_categorical("gae_lambda", [0.9, 0.95, 0.98]),
    "clip_range": lambda trial: trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3]),
    "n_epochs": lambda trial: trial.suggest_int("n_epochs", 1, 8),
    "meta_episodes_per_rollout": lambda trial: trial.suggest_int("meta_episodes_per_rollout", 1, 2),
    "sequences_per_minibatch": lambda trial: trial.suggest_categorical("sequences_per_minibatch", [4, 8, 16, 32]),
}
VAE: dict[str, Suggest] = {
    "dropout_rate": lambda trial: trial.suggest_float("dropout_rate", 0.0, 0.9, step=0.1),
    "latent_dim": lambda trial: trial.suggest_categorical("latent_dim", [2, 5, 10, 32]),
    "kl_weight": lambda trial: trial.suggest_float("kl_weight", 0.1, 100.0, log=True),
    "vae_learning_rate": lambda trial: trial.suggest_float("vae_learning_rate", 3e-4, 3e-3, log=True),
    "vae_updates": lambda trial: trial.suggest_int("vae_updates", 1, 12),
}
