"""Policies of E-MAML."""

from sb3_ldm.gradient.policies import AdaptivePolicy

MlpPolicy = AdaptivePolicy
