"""Recurrent actor-critic policy whose actor and critic share one encoder."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import is_vectorized_observation
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sb3_ldm.checks import check_names
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.nets.embedding import EmbeddingExtractor
from sb3_ldm.nets.sequences import LSTMStates, initialize_memories, process_sequence
from sb3_ldm.on_policy.action_heads import action_head

#: Of ``torch.nn.LSTM``, but for those that change the shapes of what it is given and gives.
LSTM_OPTIONS = ("bias", "dropout")


class MetaLstmPolicy(RecurrentActorCriticPolicy):
    """
    Encoder-p and the policy network of the paper (section 3.1): embeddings, an LSTM, a policy and a value head.

    It differs from :class:`RecurrentActorCriticPolicy` in four ways: sequences are processed in one fused call, the
    defaults are the paper's, with ``shared_lstm`` the value loss trains the encoder too, and the heads may see the state.

    :param observation_space: a meta-episode observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule
    :param net_arch: layers of the policy and value heads behind the LSTM
    :param activation_fn: activation of the heads
    :param features_extractor_class: embeds the observation before the LSTM
    :param lstm_hidden_size: number of hidden units of the LSTM
    :param shared_lstm: actor and critic share the LSTM; with False, algorithms make a
        :class:`SeparateLstmPolicy`
    :param enable_critic_lstm: the critic has an LSTM of its own (needs ``shared_lstm=False``)
    :param state_in_heads: the policy and value heads see the state s_t beside the encoder's output (needs ``shared_lstm``)
    :param chrono_init: the LSTM's units begin with memories of up to so many steps, see
        :func:`~sb3_ldm.nets.sequences.initialize_memories`; None for torch's initialization
    :param task_dim: size of a task, where tasks are told in training; 0 where they are not
    :param critic_observes_task: the value head sees the task, too
    :param regresses_task: a linear head tells the task from the LSTM's output
    :param optimizer_class: class of the optimizer
    :param optimizer_kwargs: its keyword arguments besides the learning rate
    :param kwargs: passed to :class:`RecurrentActorCriticPolicy`; of ``lstm_kwargs`` there are ``bias`` and ``dropout``
    :raises ValueError: if ``lstm_kwargs`` has others, ``state_in_heads`` lacks ``shared_lstm``, or ``chrono_init`` is below 3
        or lacks biases
    """

    task_mean: th.Tensor
    task_scale: th.Tensor
    needs_elbo: ClassVar[bool] = False  #: whether the encoder is trained by the ELBO of a VAE
    _process_sequence = staticmethod(process_sequence)  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        features_extractor_class: type[BaseFeaturesExtractor] = EmbeddingExtractor,
        lstm_hidden_size: int = 128,
        shared_lstm: bool = True,
        enable_critic_lstm: bool = False,
        state_in_heads: bool = False,
        chrono_init: int | None = None,
        task_dim: int = 0,
        critic_observes_task: bool = False,
        regresses_task: bool = False,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if (state_in_heads or task_dim > 0) and not shared_lstm:
            raise ValueError(f"{'state_in_heads=True' if state_in_heads else 'telling tasks'} needs shared_lstm=True.")
        if not shared_lstm and not isinstance(self, SeparateLstmPolicy):
            raise ValueError(f"shared_lstm=False: use SeparateLstmPolicy, {type(self).__name__} shares its LSTM.")
        if chrono_init is not None and chrono_init < 3:
            raise ValueError(f"chrono_init={chrono_init}: use the number of steps of a meta-episode, at least 3, or None.")
        lstm_kwargs = kwargs.get("lstm_kwargs") or {}
        check_names("lstm_kwargs", lstm_kwargs, LSTM_OPTIONS)
        if lstm_kwargs.get("dropout") and kwargs.get("n_lstm_layers", 1) < 2:
            raise ValueError(
                f"lstm_kwargs: dropout={lstm_kwargs['dropout']} lies between layers of the LSTM, of which there is one: give "
                "n_lstm_layers of at least 2, or leave it out."
            )
        self.state_in_heads = state_in_heads
        self.task_dim = task_dim
        self.critic_observes_task = critic_observes_task
        self.regresses_task = regresses_task
        self.chrono_init = chrono_init
        self.layout = observation_layout(observation_space) if state_in_heads else None
        if optimizer_class is th.optim.Adam:
            # SB3's epsilon for PPO; one fused kernel instead of several for each parameter.
            optimizer_kwargs = {"eps": 1e-5, "fused": True, **(optimizer_kwargs or {})}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[32] if net_arch is None else net_arch,
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            lstm_hidden_size=lstm_hidden_size,
            shared_lstm=shared_lstm,
            enable_critic_lstm=enable_critic_lstm,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )
        self.action_head = action_head(self)
        if chrono_init is not None:
            if not self.lstm_actor.bias:
                raise ValueError(
                    f"chrono_init={chrono_init} sets the biases of the LSTM, leave bias=False out of lstm_kwargs."
                )
            for lstm in filter(None, (self.lstm_actor, self.lstm_critic)):
                initialize_memories(lstm, chrono_init)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        lstm = {"lstm_hidden_size": self.lstm_actor.hidden_size, "n_lstm_layers": self.lstm_actor.num_layers}
        shared = {"shared_lstm": self.shared_lstm, "enable_critic_lstm": self.enable_critic_lstm}
        given = {"lstm_kwargs": self.lstm_kwargs, "state_in_heads": self.state_in_heads, "chrono_init": self.chrono_init}
        told = {name: getattr(self, name) for name in ("task_dim", "critic_observes_task", "regresses_task")}
        return super()._get_constructor_parameters() | lstm | shared | given | told

    def _build_mlp_extractor(self) -> None:
        inputs = self.lstm_output_dim + (self.layout.state_dim if self.layout is not None else 0)
        self.mlp_extractor = MlpExtractor(inputs, self.net_arch, self.activation_fn, self.device)
        if self.task_dim > 0:
            self.register_buffer("task_mean", th.zeros(self.task_dim))
            self.register_buffer("task_scale", th.ones(self.task_dim))
        if self.critic_observes_task:
            wider = MlpExtractor(inputs + self.task_dim + 1, self.net_arch, self.activation_fn, self.device)
            self.mlp_extractor.value_net = wider.value_net
        if self.regresses_task:
            self.task_net = nn.Linear(self.lstm_output_dim, self.task_dim)

    def set_task_scale(self, tasks: np.ndarray) -> None:
        """
        :param tasks: typical ones, ``(n, task_dim)``, whose mean becomes 0 and whose standard deviation 1
        """
        scale = tasks.std(axis=0)
        self.task_mean.copy_(th.as_tensor(tasks.mean(axis=0)))
        self.task_scale.copy_(th.as_tensor(np.where(scale > 1e-6, scale, 1.0)))

    def _standardized(self, told: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Tasks of mean 0 and deviation 1, all 0 where there is none, and whether there is one."""
        has_task = told[:, -1:]
        return has_task * (told[:, :-1] - self.task_mean) / self.task_scale, has_task

    def _values(self, encoding: th.Tensor, told: th.Tensor | None) -> th.Tensor:
        """
        :param encoding: from :meth:`encode`
        :param told: tasks, followed by whether there is one, ``(..., task_dim + 1)``; None if nothing is told
        :return: value estimates, ``(..., 1)``
        """
        if self.critic_observes_task:
            if told is None:
                told = encoding.new_zeros(len(encoding), self.task_dim + 1)
            encoding = th.cat([encoding, *self._standardized(told)], dim=-1)
        return self.value_net(self.mlp_extractor.forward_critic(encoding))

    def task_error(self, encoding: th.Tensor, told: th.Tensor) -> th.Tensor:
        """
        :param encoding: from :meth:`encode`
        :param told: as in :meth:`evaluate_told`
        :return: squared error of the task that is told from the LSTM's output, a mean over what has a task
        """
        tasks, has_task = self._standardized(told)
        error = (self.task_net(encoding[:, : self.lstm_output_dim]) - tasks).square().mean(-1, keepdim=True)
        return (has_task * error).sum() / has_task.sum().clamp(min=1.0)

    @property
    def is_pure(self) -> bool:
        """Whether actions are evaluated by pure functions, which threads may do side by side; SB3 keeps state in objects."""
        # Of a minibatch as a whole, or of one random stream.
        depends_on_shards = any(
            isinstance(module, (_BatchNorm, _DropoutNd)) or (isinstance(module, nn.RNNBase) and module.dropout > 0.0)
            for module in self.modules()
        )
        return self.action_head.is_pure and not depends_on_shards

    def encode(
        self, obs: th.Tensor, lstm_states: LSTMStates, episode_starts: th.Tensor, need_states: bool = True
    ) -> tuple[th.Tensor, LSTMStates]:
        """
        Encoder-p: what the heads get to know after the observations so far.

        :param obs: shape ``(n_seq * length, obs_dim)``
        :param lstm_states: states before the first step
        :param episode_starts: shape ``(n_seq * length,)``
        :param need_states: see :func:`~sb3_ldm.nets.sequences.process_sequence`
        :return: encoding ``(n_seq * length, hidden_size)``, followed by the state where heads see it, and the states after the
            last step
        """
        features = self.extract_features(obs)
        encoding, states = process_sequence(features, lstm_states, episode_starts, self.lstm_actor, need_states)  # type: ignore[arg-type]
        if self.layout is not None:
            encoding = th.cat([encoding, obs[..., self.layout.state].float()], dim=-1)
        return encoding, states

    def encode_for_actor(
        self, obs: th.Tensor, lstm_states: LSTMStates, episode_starts: th.Tensor
    ) -> tuple[th.Tensor, LSTMStates]:
        """
        What the policy head gets to know, with any of the options of the LSTM.

        :param obs: shape ``(n_seq * length, obs_dim)``
        :param lstm_states: states of the actor before the first step
        :param episode_starts: shape ``(n_seq * length,)``
        :return: as :meth:`encode`
        """
        return self.encode(obs, lstm_states, episode_starts)

    def forward(  # type: ignore[override]
        self,
        obs: th.Tensor,
        lstm_states: RNNStates,
        episode_starts: th.Tensor,
        deterministic: bool = False,
        told: th.Tensor | None = None,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, RNNStates]:
        encoding, states = self.encode(obs, lstm_states.pi, episode_starts)
        latent_pi = self.mlp_extractor.forward_actor(encoding)
        actions, log_prob = self.action_head.sample(self, latent_pi, deterministic)
        return actions, self._values(encoding, told), log_prob, RNNStates(states, states)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Act on observations, of one environment or of several.

        :param observation: shape ``(obs_dim,)`` or ``(n_envs, obs_dim)``
        :param state: what the last call returned, two arrays of shape ``(n_layers, n_envs, hidden_size)``; None at first
        :param episode_start: whether each environment begins a meta-episode, ``(n_envs,)``; None for no
        :param deterministic: whether to take the most likely actions
        :return: actions, and the state for the next call
        :raises ValueError: if observations have another shape than the observation space's, or ``state`` or
            ``episode_start`` are of another number of environments
        """
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
            raise ValueError(
                "observation is a tuple (observation, info), as gymnasium's reset returns: use obs, info = env.reset() and "
                "predict(obs). (SB3's VecEnv returns observations alone.)"
            )
        if isinstance(observation, dict):
            raise ValueError(
                f"observation is a dict of {list(observation)}, expected an array of "
                f"observation_space={self.observation_space}"
            )
        given = np.asarray(observation)
        if given.dtype.kind not in "buif":
            raise ValueError(f"observation={observation!r} has type {given.dtype}, expected numbers")
        # What this raises names the shape.
        n_envs = len(given) if is_vectorized_observation(given, self.observation_space) else 1
        if n_envs == 0:
            raise ValueError(f"observation has shape {given.shape}: there is nothing to act on")
        if state is not None:
            state = self._checked_state(state, n_envs)
        if episode_start is not None:
            episode_start = self._checked_starts(episode_start, n_envs)
        return super().predict(observation, state, episode_start, deterministic)

    def _checked_state(self, state: Any, n_envs: int) -> tuple[np.ndarray, ...]:
        n_layers, _, hidden_size = self.lstm_hidden_state_shape
        expected = (n_layers, n_envs, hidden_size)
        remedy = f"expected what predict returned, a tuple of two arrays of shape {expected}, or None at first"
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise ValueError(f"state is {type(state).__name__}, {remedy}")
        try:
            parts = [part.numpy(force=True) if isinstance(part, th.Tensor) else np.asarray(part) for part in state]
        except (TypeError, ValueError):
            raise ValueError(f"state={state!r} has parts that are no arrays, {remedy}") from None
        for part in parts:
            if part.ndim == 3 and part.shape[1] != n_envs and (part.shape[0], part.shape[2]) == (n_layers, hidden_size):
                raise ValueError(
                    f"state is of {part.shape[1]} environments, but observation of {n_envs}: give each environment its own "
                    "memory, or None to begin anew"
                )
            if part.shape != expected or part.dtype.kind not in "buif":
                raise ValueError(f"state has a part of shape {part.shape} and type {part.dtype}, {remedy}")
        return tuple(parts)

    def _checked_starts(self, episode_start: Any, n_envs: int) -> np.ndarray:
        given = np.asarray(episode_start)
        if given.size != n_envs or given.dtype.kind not in "buif":
            raise ValueError(
                f"episode_start={episode_start!r} is of {given.size} environments, but observation of {n_envs}: give one bool "
                "for each"
            )
        return given.reshape(n_envs)

    def evaluate_actions(  # type: ignore[override]
        self, obs: th.Tensor, actions: th.Tensor, lstm_states: RNNStates, episode_starts: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        return self.evaluate_told(obs, actions, lstm_states, episode_starts, None)[:3]

    def evaluate_told(
        self,
        obs: th.Tensor,
        actions: th.Tensor,
        lstm_states: RNNStates,
        episode_starts: th.Tensor,
        told: th.Tensor | None,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None, th.Tensor | None]:
        """
        As :meth:`evaluate_actions`, where tasks are told in training.

        :param obs: shape ``(n_seq * length, obs_dim)``
        :param actions: shape ``(n_seq * length, ...)``
        :param lstm_states: states before the first step
        :param episode_starts: shape ``(n_seq * length,)``
        :param told: tasks, followed by 1, or 0 where there is none, ``(n_seq * length, task_dim + 1)``; None for none at all
        :return: values, log probabilities, entropies, and :meth:`task_error` if the task is regressed
        """
        encoding, _ = self.encode(obs, lstm_states.pi, episode_starts, need_states=False)
        latent_pi = self.mlp_extractor.forward_actor(encoding)
        log_prob, entropy = self.action_head.evaluate(self, latent_pi, actions)
        error = self.task_error(encoding, told) if self.regresses_task and told is not None else None
        return self._values(encoding, told), log_prob, entropy, error

    def get_distribution(  # type: ignore[override]
        self, obs: th.Tensor, lstm_states: LSTMStates, episode_starts: th.Tensor
    ) -> tuple[Distribution, LSTMStates]:
        encoding, states = self.encode(obs, lstm_states, episode_starts)
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(encoding)), states

    def predict_values(  # type: ignore[override]
        self, obs: th.Tensor, lstm_states: LSTMStates, episode_starts: th.Tensor, told: th.Tensor | None = None
    ) -> th.Tensor:
        encoding, _ = self.encode(obs, lstm_states, episode_starts, need_states=False)
        return self._values(encoding, told)


class SeparateLstmPolicy(MetaLstmPolicy):
    """
    A :class:`MetaLstmPolicy` of ``shared_lstm=False``: the critic has an LSTM of its own, or none, and all is done as in the
    parent class, whose options hold.

    :param observation_space: a meta-episode observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule
    :param shared_lstm: False
    :param kwargs: of :class:`MetaLstmPolicy`
    """

    is_pure = False  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        shared_lstm: bool = False,
        **kwargs: Any,
    ):
        if shared_lstm:
            raise ValueError("shared_lstm=True: use MetaLstmPolicy.")
        super().__init__(observation_space, action_space, lr_schedule, shared_lstm=False, **kwargs)

    forward = RecurrentActorCriticPolicy.forward  # type: ignore[assignment]
    evaluate_actions = RecurrentActorCriticPolicy.evaluate_actions  # type: ignore[assignment]
    get_distribution = RecurrentActorCriticPolicy.get_distribution  # type: ignore[assignment]
    predict_values = RecurrentActorCriticPolicy.predict_values  # type: ignore[assignment]

    def encode_for_actor(
        self, obs: th.Tensor, lstm_states: LSTMStates, episode_starts: th.Tensor
    ) -> tuple[th.Tensor, LSTMStates]:
        features = self.extract_features(obs) if self.share_features_extractor else self.extract_features(obs)[0]
        return process_sequence(features, lstm_states, episode_starts, self.lstm_actor)  # type: ignore[arg-type]
