"""What Optuna may vary of Mixreg."""

from sb3_ldm.on_policy.search_space import PPO, Suggest

SEARCH_SPACE: dict[str, Suggest] = {
    "mixreg_alpha": lambda trial: trial.suggest_float("mixreg_alpha", 0.05, 2.0, log=True),
    **PPO,
}
