"""What Optuna may vary of variBAD."""

from sb3_ldm.on_policy.search_space import PPO, VAE, Suggest

SEARCH_SPACE: dict[str, Suggest] = {
    **VAE,
    "kl_weight": lambda trial: trial.suggest_float("kl_weight", 1e-3, 200.0, log=True),
    **PPO,
}
