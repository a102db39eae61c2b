"""What Optuna may vary of ProMP."""

from sb3_ldm.gradient.search_space import ADAPTATION, Suggest

SEARCH_SPACE: dict[str, Suggest] = {
    **ADAPTATION,
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
    "n_epochs": lambda trial: trial.suggest_int("n_epochs", 1, 8),
    "clip_range": lambda trial: trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3]),
    "kl_coef": lambda trial: trial.suggest_float("kl_coef", 1e-5, 1e-1, log=True),
}
