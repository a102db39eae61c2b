"""Policies of Mixreg, which are those of RL2."""

from sb3_ldm.common.recurrent import MetaLstmPolicy

MlpLstmPolicy = MetaLstmPolicy
