"""Inference of the task: the latent dynamics network and its objective."""

from sb3_ldm.inference.elbo import elbo, kl_to_previous
from sb3_ldm.inference.likelihoods import Bernoulli, Gaussian, RewardLikelihood
from sb3_ldm.inference.networks import Belief, BeliefEncoder, Encoder, RewardDecoder
from sb3_ldm.inference.vae import LatentDynamics

__all__ = [
    "Belief",
    "BeliefEncoder",
    "Bernoulli",
    "Encoder",
    "Gaussian",
    "LatentDynamics",
    "RewardDecoder",
    "RewardLikelihood",
    "elbo",
    "kl_to_previous",
]
