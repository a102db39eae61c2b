"""Inference of the task: the latent dynamics network, a VAE, and its objective."""

from sb3_ldm.inference.elbo import elbo, kl_to_previous
from sb3_ldm.inference.likelihoods import Bernoulli, Gaussian, RewardLikelihood
from sb3_ldm.inference.networks import Belief, BeliefEncoder, Encoder, RewardDecoder
from sb3_ldm.inference.vae import RewardVAE

__all__ = [
    "Belief",
    "BeliefEncoder",
    "Bernoulli",
    "Encoder",
    "Gaussian",
    "RewardDecoder",
    "RewardLikelihood",
    "RewardVAE",
    "elbo",
    "kl_to_previous",
]
