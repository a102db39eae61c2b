"""Export of agents, for use without this package."""

import copy
import warnings
from pathlib import Path

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_ldm.on_policy.policies import MetaLstmPolicy
from sb3_ldm.on_policy.sequence_ppo import SequencePPO


class PolicyStep(nn.Module):
    """
    One step of a policy from tensors to tensors, with no branch on values: for ``torch.export``, ``torch.jit.trace`` and ONNX.

    Observations are those that the policy was trained on: where a ``VecNormalize`` was around the environment, normalise them
    with its statistics first.

    :param policy: the policy, whose parameters are shared
    """

    def __init__(self, policy: MetaLstmPolicy):
        super().__init__()
        self.policy = policy

    def initial_states(self, n_agents: int = 1) -> tuple[th.Tensor, th.Tensor]:
        """
        :param n_agents: number of agents
        :return: hidden and cell state before the first step, ``(n_layers, n_agents, hidden_size)`` each
        """
        lstm = self.policy.lstm_actor
        zeros = th.zeros(lstm.num_layers, n_agents, lstm.hidden_size, device=self.policy.device)
        return zeros, zeros.clone()

    def forward(
        self, obs: th.Tensor, hidden: th.Tensor, cell: th.Tensor, episode_start: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """
        :param obs: observations, ``(n_agents, obs_dim)``
        :param hidden: hidden state, ``(n_layers, n_agents, hidden_size)``
        :param cell: cell state, same shape
        :param episode_start: 1 where a meta-episode begins, which forgets the states, else 0; ``(n_agents,)``
        :return: actions as of ``predict(deterministic=True)``, the distribution's parameters (logits or means) that other
            actions are sampled by, and the next hidden and cell state
        """
        encoding, states = self.policy.encode_for_actor(obs, (hidden, cell), episode_start)
        # Not by distribution objects, which branch on values.
        logits_or_means = self.policy.action_net(self.policy.mlp_extractor.forward_actor(encoding))
        return self._most_likely(logits_or_means), logits_or_means, *states

    def _most_likely(self, logits_or_means: th.Tensor) -> th.Tensor:
        space = self.policy.action_space
        if isinstance(space, spaces.Discrete):
            return logits_or_means.argmax(dim=-1)
        assert isinstance(space, spaces.Box)
        low, high = (th.as_tensor(bound, device=logits_or_means.device) for bound in (space.low, space.high))
        if self.policy.squash_output:
            return low + 0.5 * (logits_or_means.tanh() + 1.0) * (high - low)
        return logits_or_means.clamp(low, high)


def export_onnx(model: SequencePPO, path: str | Path) -> None:
    """
    Write an agent to an ONNX file of one step, :class:`PolicyStep`, for any number of agents side by side.

    Inputs are ``obs``, ``hidden``, ``cell`` and ``episode_start`` (float32 each), outputs ``actions``, ``logits_or_means``,
    ``hidden_out`` and ``cell_out``. Begin with states of 0; ``episode_start`` of 1 puts them there, too.

    :param model: the agent, of any algorithm of this package
    :param path: the file
    :raises ImportError: if ONNX is not installed, naming the extra that has it
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("Export to ONNX needs more packages: pip install sb3_ldm[onnx]") from error
    step = PolicyStep(copy.deepcopy(model.policy).cpu()).eval()
    assert model.observation_space.shape is not None
    obs = th.zeros(2, *model.observation_space.shape)
    n_agents = th.export.Dim("n_agents", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its exporter
        th.onnx.export(
            step,
            (obs, *step.initial_states(2), th.zeros(2)),
            path,
            input_names=["obs", "hidden", "cell", "episode_start"],
            output_names=["actions", "logits_or_means", "hidden_out", "cell_out"],
            dynamic_shapes=({0: n_agents}, {1: n_agents}, {1: n_agents}, {0: n_agents}),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
