"""What adapts by gradient steps on its parameters, and estimates of the gradients through such steps."""

from sb3_ldm.gradient.adaptation import Acting, Batch, GradientAdaptation
from sb3_ldm.gradient.estimators import ESTIMATORS, Estimator
from sb3_ldm.gradient.options import AdaptationOptions, TrustRegionOptions
from sb3_ldm.gradient.policies import AdaptivePolicy, Parameters
from sb3_ldm.gradient.trust_region import TrustRegionAdaptation

__all__ = [
    "ESTIMATORS",
    "Acting",
    "AdaptationOptions",
    "AdaptivePolicy",
    "Batch",
    "Estimator",
    "GradientAdaptation",
    "Parameters",
    "TrustRegionAdaptation",
    "TrustRegionOptions",
]
