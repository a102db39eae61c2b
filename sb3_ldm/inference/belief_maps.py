"""What a VAE believes, as maps of rewards (paper, Figure 8a)."""

import numpy as np
import torch as th

from sb3_ldm.data import MetaEpisodeBatch
from sb3_ldm.envs.tasks import TaskProbes
from sb3_ldm.inference.vae import RewardVAE


@th.no_grad()
def belief_maps(network: RewardVAE, batch: MetaEpisodeBatch, probes: TaskProbes, times: np.ndarray) -> np.ndarray:
    """
    What the decoder expects of every possible task given the online context, as in Figure 8a.

    :param network: the agent's VAE
    :param batch: meta-episodes
    :param probes: typical transitions of the tasks
    :param times: after how many transitions to look, ``(n_times,)``
    :return: predicted rewards, ``(batch, n_times, n_probes)``
    """
    mu, _ = network.beliefs(batch)
    transitions = (probes.states, network.layout.encode_actions(probes.actions), probes.next_states)
    predicted = network.predict(mu[times], transitions, th.Generator(mu.device).manual_seed(0))
    return predicted.transpose(0, 1).cpu().numpy()
