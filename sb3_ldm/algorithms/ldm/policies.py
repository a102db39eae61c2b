"""Policies of LDM; encoder-p and the policy network are those of RL2 (paper section 3.1)."""

from sb3_ldm.on_policy.policies import MetaLstmPolicy

MlpLstmPolicy = MetaLstmPolicy
