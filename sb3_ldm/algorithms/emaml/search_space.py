"""What Optuna may vary of E-MAML."""

from sb3_ldm.gradient.search_space import TRUST_REGION, Suggest

SEARCH_SPACE: dict[str, Suggest] = {
    **TRUST_REGION,
    "sampling_weight": lambda trial: trial.suggest_float("sampling_weight", 0.0, 2.0),
}
