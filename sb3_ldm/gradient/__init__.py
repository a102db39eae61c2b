"""What adapts by gradient steps on its parameters, and estimates of the gradients through such steps."""

from sb3_ldm.gradient.estimators import ESTIMATORS, Estimator

__all__ = ["ESTIMATORS", "Estimator"]
