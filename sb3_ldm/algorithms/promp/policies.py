"""Policies of ProMP."""

from sb3_ldm.gradient.policies import AdaptivePolicy

MlpPolicy = AdaptivePolicy
