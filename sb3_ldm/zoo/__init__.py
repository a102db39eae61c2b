"""The package's algorithms in the RL Zoo's training scripts."""

from sb3_ldm.zoo.registration import register

__all__ = ["register"]
