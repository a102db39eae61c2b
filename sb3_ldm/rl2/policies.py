"""Policies of RL2."""

from sb3_ldm.common.recurrent.policies import MetaLstmPolicy

MlpLstmPolicy = MetaLstmPolicy
