"""Policies of MAML."""

from sb3_ldm.gradient.policies import AdaptivePolicy

MlpPolicy = AdaptivePolicy
