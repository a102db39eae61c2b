"""What Optuna may vary of gradient steps, and of an outer step within a trust region."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

Suggest = Callable[["optuna.Trial"], Any]

ADAPTATION: dict[str, Suggest] = {
    "step_size": lambda trial: trial.suggest_float("step_size", 0.01, 1.0, log=True),
    "estimator": lambda trial: trial.suggest_categorical("estimator", ["plain", "lvc", "taypo2"]),
    "gamma": lambda trial: trial.suggest_categorical("gamma", [0.9, 0.95, 0.97, 0.99]),
    "gae_lambda": lambda trial: trial.suggest_categorical("gae_lambda", [0.9, 0.95, 1.0]),
}
TRUST_REGION: dict[str, Suggest] = {
    **ADAPTATION,
    "max_kl": lambda trial: trial.suggest_float("max_kl", 1e-3, 0.1, log=True),
}
