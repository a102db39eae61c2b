"""What Optuna may vary of variBAD."""

from sb3_ldm.on_policy.search_space import LATENT_DYNAMICS, PPO, Suggest

SEARCH_SPACE: dict[str, Suggest] = {
    **LATENT_DYNAMICS,
    "kl_weight": lambda trial: trial.suggest_float("kl_weight", 1e-3, 200.0, log=True),
    **PPO,
}
