"""The latent dynamics network, its objective and its buffer."""

from sb3_ldm.common.latent_dynamics.buffer import MetaEpisodeBatch, MetaEpisodeBuffer, Transitions
from sb3_ldm.common.latent_dynamics.elbo import elbo, kl_to_previous
from sb3_ldm.common.latent_dynamics.latent_dynamics import LatentDynamics
from sb3_ldm.common.latent_dynamics.networks import Belief, BeliefEncoder, Encoder, RewardDecoder
from sb3_ldm.common.latent_dynamics.ppo import LatentDynamicsPPO, StreamSeeds
from sb3_ldm.common.latent_dynamics.recording_vec_env import RecordingVecEnv

__all__ = [
    "Belief",
    "BeliefEncoder",
    "Encoder",
    "LatentDynamics",
    "LatentDynamicsPPO",
    "MetaEpisodeBatch",
    "MetaEpisodeBuffer",
    "RecordingVecEnv",
    "RewardDecoder",
    "StreamSeeds",
    "Transitions",
    "elbo",
    "kl_to_previous",
]
