"""Policies of which many sets of parameters are evaluated at once: feedforward ones that see the state alone."""

from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.func import vmap

from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.nets.distributions import (
    evaluate_categorical,
    evaluate_gaussian,
    kl_categorical,
    kl_gaussian,
    sample_categorical,
)
from sb3_ldm.nets.stacked import Parameters, StackedNetwork, parameters_of, stacked_network


class StateExtractor(BaseFeaturesExtractor):
    """
    The state s_t of a meta-episode's observation: what tells of the task besides it is for the gradient steps.

    :param observation_space: of meta-episodes
    """

    def __init__(self, observation_space: spaces.Space):
        layout = observation_layout(observation_space)
        super().__init__(observation_space, layout.state_dim)
        self.state = layout.state

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations[..., self.state]


class AdaptivePolicy(BasePolicy):
    """
    A multilayer perceptron for discrete actions, or for vectors whose standard deviations do not depend on the state.

    :param observation_space: of meta-episodes
    :param action_space: ``Discrete``, or a ``Box`` of one dimension
    :param lr_schedule: learning rate of the outer step's optimizer
    :param net_arch: sizes of the hidden layers
    :param activation_fn: their activation
    :param log_std_init: logarithm of the standard deviations at first
    :param features_extractor_class: what the network sees of observations
    :param features_extractor_kwargs: its keyword arguments
    :param optimizer_class: of the outer step, where that has one
    :param optimizer_kwargs: its keyword arguments besides the learning rate
    :param use_sde: False
    :raises ValueError: if actions are of another kind, or ``use_sde`` is True
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        log_std_init: float = 0.0,
        features_extractor_class: type[BaseFeaturesExtractor] = StateExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        use_sde: bool = False,
    ):
        if use_sde:
            raise ValueError("use_sde=True: state dependent exploration is not adapted by gradient steps, leave it out.")
        if not isinstance(action_space, (spaces.Discrete, spaces.Box)):
            raise ValueError(f"action_space={action_space}: use Discrete or Box actions.")
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.net_arch = [64, 64] if net_arch is None else net_arch
        self.activation_fn, self.log_std_init, self.lr_schedule = activation_fn, log_std_init, lr_schedule
        self.is_discrete = isinstance(action_space, spaces.Discrete)
        self.features_extractor = self.make_features_extractor()
        n_outputs = int(action_space.n) if isinstance(action_space, spaces.Discrete) else action_space.shape[0]
        self.action_net = nn.Sequential(
            *create_mlp(self.features_extractor.features_dim, n_outputs, self.net_arch, activation_fn)
        )
        for module in self.action_net.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        if not self.is_discrete:
            self.log_std = nn.Parameter(th.full((n_outputs,), float(log_std_init)))
        self.optimizer = optimizer_class(self.parameters(), lr=lr_schedule(1.0), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        given = ("net_arch", "activation_fn", "log_std_init", "optimizer_class", "optimizer_kwargs")
        extractor = ("features_extractor_class", "features_extractor_kwargs")
        names = {name: getattr(self, name) for name in (*given, *extractor)}
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            **names,
        }

    def forward(self, obs: th.Tensor) -> th.Tensor:  # type: ignore[override]
        """
        :param obs: ``(n, obs_dim)``
        :return: logits of the actions, or means, ``(n, n_outputs)``
        """
        return self.action_net(self.extract_features(obs, self.features_extractor))  # type: ignore[arg-type]

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        assert isinstance(observation, th.Tensor)
        return self._sample(self(observation), None if self.is_discrete else self.log_std, deterministic)

    def _sample(self, outputs: th.Tensor, log_std: th.Tensor | None, deterministic: bool) -> th.Tensor:
        if log_std is None:
            return sample_categorical(outputs, deterministic)[0]
        return outputs if deterministic else th.normal(outputs, log_std.exp().expand_as(outputs))

    def stacked(self, n: int) -> Parameters:
        """
        :param n: number of tasks
        :return: the parameters once for each of them, as views that gradients come together in, ``(n, ...)`` each
        """
        return {name: one.expand(n, *one.shape) for name, one in self.named_parameters()}

    def act(self, parameters: Parameters, obs: th.Tensor, deterministic: bool = False) -> th.Tensor:
        """
        :param parameters: of n tasks
        :param obs: one of each, ``(n, obs_dim)``
        :param deterministic: whether to take the most likely actions
        :return: actions, ``(n, ...)``
        """
        return self.actor(parameters)(obs, deterministic)

    def actor(self, parameters: Parameters) -> Callable[[th.Tensor, bool], th.Tensor]:
        """
        :param parameters: of n tasks
        :return: :meth:`act` with these parameters, for many steps
        """
        network, log_std = self._network(parameters), parameters.get("log_std")
        return lambda obs, deterministic: self._sample(network(obs[:, None]).squeeze(1), log_std, deterministic)

    def outputs(self, parameters: Parameters, obs: th.Tensor) -> th.Tensor:
        """
        One batched call per layer, whatever the number of tasks.

        :param parameters: of n tasks
        :param obs: of each, ``(n, ..., obs_dim)``
        :return: logits or means, ``(n, ..., n_outputs)``
        """
        return self._network(parameters)(obs.reshape(len(obs), -1, obs.shape[-1])).view(*obs.shape[:-1], -1)

    def _network(self, parameters: Parameters) -> StackedNetwork:
        dtype = next(iter(parameters.values())).dtype
        features, action_net = (
            stacked_network(getattr(self, name), parameters_of(parameters, name))
            for name in ("features_extractor", "action_net")
        )
        return lambda obs: action_net(features(obs.to(dtype)))

    def log_prob(self, parameters: Parameters, outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param parameters: of n tasks
        :param outputs: of :meth:`outputs`, ``(n, ..., n_outputs)``
        :param actions: ``(n, ...)``, indices or vectors
        :return: log probabilities, ``(n, ...)``
        """
        shape = outputs.shape[:-1]
        flat = outputs.reshape(len(outputs), -1, outputs.shape[-1])
        if self.is_discrete:
            return evaluate_categorical(flat.flatten(0, 1), actions.flatten())[0].view(shape)
        of_one = vmap(lambda means, log_std, taken: evaluate_gaussian(means, log_std, taken)[0])
        return of_one(flat, parameters["log_std"], actions.reshape(flat.shape)).view(shape)

    def kl(self, old: Parameters, old_outputs: th.Tensor, new: Parameters, new_outputs: th.Tensor) -> th.Tensor:
        """
        :param old: parameters of n tasks
        :param old_outputs: their outputs, ``(n, ..., n_outputs)``
        :param new: other parameters of the tasks
        :param new_outputs: their outputs, ``(n, ..., n_outputs)``
        :return: KL(old || new) at each observation, ``(n, ...)``
        """
        if self.is_discrete:
            return kl_categorical(old_outputs, new_outputs)
        spread = (-1, *(1,) * (old_outputs.ndim - 2), old_outputs.shape[-1])
        return kl_gaussian(old_outputs, old["log_std"].view(spread), new_outputs, new["log_std"].view(spread))
