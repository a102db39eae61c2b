"""What learners keep of the past: rollouts of whole sequences, meta-episodes."""

from sb3_ldm.data.meta_episodes import MetaEpisodeBatch, MetaEpisodeBuffer, Transitions
from sb3_ldm.data.rollouts import SequenceRolloutBuffer

__all__ = ["MetaEpisodeBatch", "MetaEpisodeBuffer", "SequenceRolloutBuffer", "Transitions"]
