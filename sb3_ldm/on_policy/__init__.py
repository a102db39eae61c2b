"""The base of recurrent on-policy algorithms: PPO on whole sequences, without and with a VAE of rewards."""

from sb3_ldm.on_policy.export import PolicyStep, export_onnx
from sb3_ldm.on_policy.options import PPOOptions, VAEOptions
from sb3_ldm.on_policy.policies import MetaLstmPolicy, SeparateLstmPolicy
from sb3_ldm.on_policy.recording_vec_env import RecordingVecEnv
from sb3_ldm.on_policy.sequence_ppo import SequencePPO
from sb3_ldm.on_policy.vae_ppo import VAEPPO, StreamSeeds

__all__ = [
    "VAEPPO",
    "MetaLstmPolicy",
    "PPOOptions",
    "PolicyStep",
    "RecordingVecEnv",
    "SeparateLstmPolicy",
    "SequencePPO",
    "StreamSeeds",
    "VAEOptions",
    "export_onnx",
]
