"""What ``"auto"`` stands for: settings that work, chosen by what is known of the environment and of its rewards."""

from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule

from sb3_ldm.data.meta_episodes import MetaEpisodeBuffer
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout
from sb3_ldm.inference.networks import DECODER_INPUTS
from sb3_ldm.nets.embedding import EmbeddingExtractor

AUTO: Literal["auto"] = "auto"

#: Learning rate of networks that the policy's loss trains; not 0 at the end, so that a `learn` of one rollout learns, too.
LEARNING_RATE = LinearSchedule(1e-3, 1e-5, 1.0)
_LIMITED_LEARNING_RATE = LinearSchedule(2e-3, 1e-5, 1.0)  # where target_kl ends a rollout's updates

N_ENVS = 64  #: workers that a model makes of an environment's id

_LONG_EPISODE = 100  # steps; the paper's have 30 and 200
_MANY_STATE_DIMS = 5  # more than a position on a plane and its velocity
_MINIBATCH = 4000  # transitions
_SMALL_ROLLOUT_MINIBATCHES = 4  # else short episodes make few steps of the optimiser in a rollout
_BUFFER_BYTES = 2**28
_BUFFER_SIZE = 20_000

#: Options of the VAE that follow from the rewards: whether they take two values, or any.
NETWORK_SETTINGS: dict[str, dict[str, Any]] = {
    "bernoulli": {
        "dropout_rate": 0.7,
        "latent_dim": 32,
        "vae_batch_size": 25,
        "vae_updates": 6,
        "vae_learning_rate": 1e-3,
        "vae_buffer_keeps": "latest",
    },
    "gaussian": {
        "dropout_rate": 0.2,
        "latent_dim": 5,
        "vae_batch_size": 16,
        "vae_updates": 12,
        "vae_learning_rate": 2e-3,
        "vae_buffer_keeps": "uniform",  # early exploration shows rewards between those of the training tasks
    },
}


def ppo_settings(layout: MetaEpisodeLayout, action_space: spaces.Space, n_steps: int, n_envs: int) -> dict[str, Any]:
    """
    :param layout: of the meta-episodes
    :param action_space: of the environments
    :param n_steps: steps of a rollout per worker
    :param n_envs: number of workers
    :return: options of :class:`~sb3_ldm.on_policy.SequencePPO`, by the length of an episode, the kind of actions and the size
        of a rollout
    """
    is_long, is_box = layout.max_episode_steps >= _LONG_EPISODE, isinstance(action_space, spaces.Box)
    return {
        "gamma": 0.97 if is_long else 0.95,
        "gae_lambda": 0.9 if is_long else 0.95,
        "ent_coef": 0.001 if is_box else 0.05,
        "target_kl": 0.03 if is_box else None,
        "learning_rate": _LIMITED_LEARNING_RATE if is_box else LEARNING_RATE,
        "batch_size": n_steps * sequences_per_minibatch(n_steps, n_envs),
    }


def sequences_per_minibatch(n_steps: int, n_envs: int) -> int:
    """
    :param n_steps: steps of a rollout per worker
    :param n_envs: number of workers
    :return: how many workers' sequences make a minibatch of about 4,000 transitions, or a fourth of a rollout that is smaller
        than this; a divisor of ``n_envs``
    """
    size = n_steps * n_envs
    wanted = size / _MINIBATCH if size >= _MINIBATCH else _SMALL_ROLLOUT_MINIBATCHES
    divisors = [n for n in range(1, n_envs + 1) if n_envs % n == 0]
    return n_envs // min(divisors, key=lambda n_minibatches: abs(np.log(n_minibatches / wanted)))


def embedding_settings(layout: MetaEpisodeLayout) -> dict[str, int]:
    """:return: sizes of the policy's embeddings, by the size of the state"""
    state, reward = (64, 16) if layout.state_dim >= _MANY_STATE_DIMS else (32, 8)
    return {"state_embedding": state, "action_embedding": 16, "reward_embedding": reward}


def policy_settings(layout: MetaEpisodeLayout, action_space: spaces.Space, given: dict[str, Any]) -> dict[str, Any]:
    """
    :param layout: of the meta-episodes
    :param action_space: of the environments
    :param given: keyword arguments of the policy that were given
    :return: these, and what they leave open, by the size of the state and the kind of actions: where a state has many
        dimensions, how to move is a matter of the heads that see it, and the LSTM tells tasks apart
    """
    has_many = layout.state_dim >= _MANY_STATE_DIMS
    chosen: dict[str, Any] = {
        "lstm_hidden_size": 64 if has_many else 128,
        "net_arch": [128] if has_many else [32],
        "state_in_heads": has_many and given.get("shared_lstm", True),
    }
    if isinstance(action_space, spaces.Box):
        chosen["log_std_init"] = -1.0
    extractor: type[BaseFeaturesExtractor] = given.get("features_extractor_class", EmbeddingExtractor)
    if issubclass(extractor, EmbeddingExtractor):
        sizes = given.get("features_extractor_kwargs") or {}
        given = given | {"features_extractor_kwargs": embedding_settings(layout) | sizes}
    return chosen | given


def encoder_settings(layout: MetaEpisodeLayout) -> dict[str, Any]:
    """:return: sizes of encoder-v, as ``vae_kwargs``"""
    reward = 16 if layout.state_dim >= _MANY_STATE_DIMS else 8
    return {"encoder_hidden_size": 64, "encoder_embeddings": [32, 16, reward]}


def buffer_size(layout: MetaEpisodeLayout) -> int:
    """:return: how many meta-episodes a buffer of 256 MB holds, 20,000 at most"""
    return min(_BUFFER_SIZE, max(1000, _BUFFER_BYTES // MetaEpisodeBuffer.bytes_of_one(layout)))


def distinct_rewards(seen: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """
    :param seen: distinct rewards so far, ``(n,)``
    :param rewards: more of them, ``(m,)``
    :return: the distinct ones of both, sorted, but three of more
    """
    values = np.unique(np.concatenate([seen, np.asarray(rewards, dtype=np.float64).ravel()]))
    is_new = np.append(True, ~np.isclose(values[1:], values[:-1]))
    return values[is_new][:3]


def states_recur(buffer: MetaEpisodeBuffer) -> tuple[bool, bool]:
    """
    What the states of some meta-episodes tell: on a grid the same ones come again and again.

    :param buffer: meta-episodes
    :return: whether a meta-episode mostly comes to states where it was before, and whether its reward then is the same
    """
    batch = buffer.get(np.arange(min(len(buffer), 100)))
    n_steps, n_states, same = 0, 0, True
    for i, length in enumerate(batch.mask.sum(0).long().tolist()):
        states, rewards = batch.next_states[:length, i].numpy(), batch.rewards[:length, i].numpy()
        distinct, place = np.unique(states, axis=0, return_inverse=True)
        lowest, highest = np.full(len(distinct), np.inf), np.full(len(distinct), -np.inf)
        np.minimum.at(lowest, place.ravel(), rewards)
        np.maximum.at(highest, place.ravel(), rewards)
        same = same and np.allclose(lowest, highest)
        n_steps, n_states = n_steps + length, n_states + len(distinct)
    return 2 * n_states <= n_steps, same


def decoder_settings(buffer: MetaEpisodeBuffer) -> tuple[list[str], dict[str, Any]]:
    """
    :param buffer: meta-episodes of training tasks
    :return: ``decoder_inputs``, the next state alone where it tells the reward, and ``vae_kwargs``: states are standardised
        where they are not on a grid
    """
    recur, same = states_recur(buffer)
    return (["next_state"] if recur and same else list(DECODER_INPUTS)), {"standardize_states": not recur}
