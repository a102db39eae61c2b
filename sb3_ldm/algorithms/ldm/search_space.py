"""What Optuna may vary of LDM."""

from collections.abc import Mapping
from typing import Any

from sb3_ldm.on_policy.search_space import PPO, VAE, Suggest
from sb3_ldm.registry import Beginning

_MIXTURE: dict[str, Suggest] = {
    # The paper's 0 to 12 of 16 workers (Appendix D), trained one by one in benchmarks/experiments/mixture_workers.yml:
    # one seed each rules none of them out, and the largest reached the most unseen goals.
    "mixture_ratio": lambda trial: trial.suggest_float("mixture_ratio", 0.0, 0.75, step=0.125),
    "beta": lambda trial: trial.suggest_float("beta", 1.0, 2.5, step=0.25),
    "n_partners": lambda trial: trial.suggest_int("n_partners", 2, 16, log=True),
}
SEARCH_SPACE: dict[str, Suggest] = {**_MIXTURE, **VAE, **PPO}


def imagination_begins(hyperparameters: Mapping[str, Any]) -> Beginning | None:
    """
    :param hyperparameters: of a run
    :return: when tasks begin to be imagined, None if none ever are
    """
    if hyperparameters.get("mixture_ratio") == 0.0:
        return None
    return Beginning(hyperparameters.get("imagination_starts", 0.15), "imagination_starts", "imagine a task")
