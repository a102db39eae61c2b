"""Separate linear embeddings of states, actions and rewards, as every encoder of the paper starts with."""

from collections.abc import Sequence

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_ldm.envs.meta_episode import observation_layout


class Embedding(nn.Module):
    """
    Each input goes through its own linear layer and ReLU; the results are concatenated.

    :param input_dims: size of each input
    :param embedding_dims: size of each embedding; 0 leaves that input out
    """

    def __init__(self, input_dims: Sequence[int], embedding_dims: Sequence[int]):
        super().__init__()
        self.used = [i for i, size in enumerate(embedding_dims) if size > 0]
        self.layers = nn.ModuleList(nn.Linear(input_dims[i], embedding_dims[i]) for i in self.used)
        self.output_dim = sum(embedding_dims)

    def forward(self, *inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: tensors ``(..., input_dim)``, one per entry of ``input_dims``
        :return: ``(..., output_dim)``
        """
        return th.relu(th.cat([layer(inputs[i]) for i, layer in zip(self.used, self.layers, strict=True)], dim=-1))


class EmbeddingExtractor(BaseFeaturesExtractor):
    """
    Features of a meta-episode observation: state, previous action and previous reward (with the inner done flag),
    embedded separately.

    :param observation_space: a :class:`~sb3_ldm.envs.meta_episode.MetaObservationSpace`
    :param state_embedding: size of the state's embedding
    :param action_embedding: size of the previous action's embedding, 0 to leave it out
    :param reward_embedding: size of the embedding of (previous reward, done flag)
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        state_embedding: int = 32,
        action_embedding: int = 16,
        reward_embedding: int = 8,
    ):
        layout = observation_layout(observation_space)
        sizes = (state_embedding, action_embedding, reward_embedding)
        super().__init__(observation_space, features_dim=sum(sizes))
        self.sections = (layout.state_dim, layout.action_dim, 2)
        self.embedding = Embedding(self.sections, sizes)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: shape ``(batch, layout.dim)``
        :return: shape ``(batch, features_dim)``
        """
        return self.embedding(*observations.split(self.sections, dim=-1))
