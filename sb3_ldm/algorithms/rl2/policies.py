"""Policies of RL2."""

from sb3_ldm.on_policy.policies import MetaLstmPolicy

MlpLstmPolicy = MetaLstmPolicy
