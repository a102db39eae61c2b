"""Policies of variBAD, which know the task by a belief about it."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_ldm.data import MetaEpisodeBatch
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.inference import Belief
from sb3_ldm.nets.embedding import Embedding
from sb3_ldm.nets.sequences import LSTMStates, process_sequence
from sb3_ldm.on_policy import MetaLstmPolicy


class BeliefPolicy(MetaLstmPolicy):
    """
    An encoder q(m | tau_:t) = N(mu_t, diag sigma_t^2), and heads that see the state and the belief (variBAD, section 3).

    The encoder is embeddings and an LSTM over the observations of a meta-episode, as in
    :class:`~sb3_ldm.on_policy.MetaLstmPolicy`, followed by linear layers for mu and log sigma^2. The algorithm trains
    it by the ELBO; the policy's own loss reaches it only with ``rl_loss_through_encoder``.

    :param observation_space: a meta-episode observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule
    :param latent_dim: dimension of the latent model m
    :param state_embedding: size of the embedding of the state for the heads, 0 to leave the state out
    :param belief_embedding: size of the embedding of (mu, log sigma^2) for the heads
    :param rl_loss_through_encoder: whether the policy's loss trains the encoder too
    :param kwargs: passed to :class:`~sb3_ldm.on_policy.MetaLstmPolicy`
    :raises ValueError: if ``belief_embedding`` is not positive, or the LSTM is not to be shared
    """

    needs_elbo: ClassVar[bool] = True

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        latent_dim: int = 32,
        state_embedding: int = 32,
        belief_embedding: int = 64,
        rl_loss_through_encoder: bool = False,
        **kwargs: Any,
    ):
        if belief_embedding < 1:
            raise ValueError(f"belief_embedding={belief_embedding}: the policy needs at least 1 number about the task.")
        if kwargs.get("state_in_heads") or not kwargs.get("shared_lstm", True):
            raise ValueError("variBAD's encoder is shared by actor and critic, and state_embedding shows the heads the state.")
        self.latent_dim = latent_dim
        self.state_embedding = state_embedding
        self.belief_embedding_dim = belief_embedding
        self.rl_loss_through_encoder = rl_loss_through_encoder
        self.state_slice = observation_layout(observation_space).state
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        for name in ("state_in_heads", "shared_lstm", "enable_critic_lstm"):
            del parameters[name]
        parameters |= {"latent_dim": self.latent_dim, "state_embedding": self.state_embedding}
        return parameters | {
            "belief_embedding": self.belief_embedding_dim,
            "rl_loss_through_encoder": self.rl_loss_through_encoder,
        }

    def _build_mlp_extractor(self) -> None:
        # Here, so that the optimizer, which is made afterwards, knows of their parameters.
        self.mu = nn.Linear(self.lstm_output_dim, self.latent_dim)
        self.logvar = nn.Linear(self.lstm_output_dim, self.latent_dim)
        state_dim = self.state_slice.stop - self.state_slice.start
        self.belief_embedding = Embedding((state_dim, 2 * self.latent_dim), (self.state_embedding, self.belief_embedding_dim))
        self.mlp_extractor = MlpExtractor(self.belief_embedding.output_dim, self.net_arch, self.activation_fn, self.device)

    def infer(
        self, obs: th.Tensor, lstm_states: LSTMStates, episode_starts: th.Tensor, **kwargs: Any
    ) -> tuple[Belief, LSTMStates]:
        """
        Encode observations.

        :param obs: shape ``(n_seq * length, obs_dim)``
        :param lstm_states: states before the first step
        :param episode_starts: shape ``(n_seq * length,)``
        :param kwargs: of :func:`~sb3_ldm.nets.sequences.process_sequence`
        :return: mu and log sigma^2 after each observation, ``(n_seq * length, latent_dim)`` each, and the last states
        """
        features = self.extract_features(obs)
        hidden, states = process_sequence(features, lstm_states, episode_starts, self.lstm_actor, **kwargs)  # type: ignore[arg-type]
        return (self.mu(hidden), self.logvar(hidden)), states

    def encode(
        self, obs: th.Tensor, lstm_states: LSTMStates, episode_starts: th.Tensor, need_states: bool = True
    ) -> tuple[th.Tensor, LSTMStates]:
        with th.set_grad_enabled(th.is_grad_enabled() and self.rl_loss_through_encoder):
            belief, states = self.infer(obs, lstm_states, episode_starts, need_states=need_states)
        return self.belief_embedding(obs[..., self.state_slice].float(), th.cat(belief, dim=-1)), states


class PolicyEncoder(nn.Module):
    """
    The policy's encoder, as the encoder of a VAE.

    :param policy: whose modules are shared
    """

    def __init__(self, policy: BeliefPolicy):
        super().__init__()
        self.shared = nn.ModuleList([policy.features_extractor, policy.lstm_actor, policy.mu, policy.logvar])

    def beliefs(self, batch: MetaEpisodeBatch) -> Belief:
        """
        :param batch: meta-episodes of T steps, with observations
        :return: mu and logvar of m_0..m_{H+}, ``(T + 1, batch, latent_dim)`` each; m_0 follows from the first observation
        """
        assert batch.observations is not None, "the buffer must be told what the agent observes"
        extractor, lstm, mu, logvar = self.shared
        # Extractors know of a batch alone.
        features = extractor(batch.observations.flatten(0, 1)).unflatten(0, batch.observations.shape[:2])
        outputs, _ = lstm(features)
        return mu(outputs), logvar(outputs)


MlpLstmPolicy = BeliefPolicy
