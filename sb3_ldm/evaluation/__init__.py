"""One meta-evaluation for every agent, and the callbacks that call it."""

from sb3_ldm.evaluation.evaluate import (
    N_MADE,
    N_SAMPLED_TASKS,
    as_vec_env,
    check_normalized,
    evaluate_meta,
    evaluation_tasks,
    is_trained_on,
    meta_episode_recorder,
    record_meta,
    task_distribution_of,
)
from sb3_ldm.evaluation.meta_learner import MetaLearner, SeesDifferently, ShowsBeliefs
from sb3_ldm.results.evaluation_table import MetaEvaluation

__all__ = [
    "N_MADE",
    "N_SAMPLED_TASKS",
    "MetaEvaluation",
    "MetaLearner",
    "SeesDifferently",
    "ShowsBeliefs",
    "as_vec_env",
    "check_normalized",
    "evaluate_meta",
    "evaluation_tasks",
    "is_trained_on",
    "meta_episode_recorder",
    "record_meta",
    "task_distribution_of",
]
