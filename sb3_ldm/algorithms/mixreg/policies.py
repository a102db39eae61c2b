"""Policies of Mixreg, which are those of RL2."""

from sb3_ldm.on_policy import MetaLstmPolicy

MlpLstmPolicy = MetaLstmPolicy
