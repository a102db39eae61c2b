"""Whole sequences: the fused recurrent pass equals the stock one, and the buffer's minibatches keep them whole."""

from itertools import combinations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import Bandit, Drift, vec_env
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ldm import RL2
from sb3_ldm.data import SequenceRolloutBuffer
from sb3_ldm.nets.sequences import initialize_memories, process_sequence

INPUTS, HIDDEN = 3, 4


def run(function, lstm, features, states, starts, weights):
    """Outputs, final states and gradients (of inputs, initial states and parameters) of one recurrent pass."""
    lstm.zero_grad()
    inputs = [x.clone().requires_grad_() for x in (features, *states)]
    outputs, (hidden, cell) = function(inputs[0], (inputs[1], inputs[2]), starts, lstm)
    loss = sum((x * w).sum() for x, w in zip((outputs, hidden, cell), weights, strict=True))
    loss.backward()
    gradients = [x.grad for x in inputs] + [p.grad.clone() for p in lstm.parameters()]
    return [outputs.detach(), hidden.detach(), cell.detach(), *gradients]


@st.composite
def sequences(draw):
    n_seq, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    starts = draw(st.lists(st.booleans(), min_size=n_seq * length, max_size=n_seq * length))
    return n_seq, length, starts, draw(st.integers(1, 2)), draw(st.integers(0, 2**31))


@given(sequences())
@settings(max_examples=80, deadline=None)
def test_the_fused_pass_equals_the_stock_one(case):
    n_seq, length, starts, n_layers, seed = case
    with th.random.fork_rng():
        th.manual_seed(seed)
        lstm = th.nn.LSTM(INPUTS, HIDDEN, num_layers=n_layers).double()
        features = th.randn(n_seq * length, INPUTS, dtype=th.float64)
        states = tuple(th.randn(n_layers, n_seq, HIDDEN, dtype=th.float64) for _ in range(2))
        shapes = ((n_seq * length, HIDDEN), (n_layers, n_seq, HIDDEN), (n_layers, n_seq, HIDDEN))
        weights = [th.randn(shape, dtype=th.float64) for shape in shapes]
    episode_starts = th.tensor(starts, dtype=th.float64)
    stock = run(RecurrentActorCriticPolicy._process_sequence, lstm, features, states, episode_starts, weights)
    fused = run(process_sequence, lstm, features, states, episode_starts, weights)
    for ours, theirs in zip(fused, stock, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_memories_begin_as_long_as_a_meta_episode(n_layers):
    """Without inputs a unit of memory T keeps 1/e of its cell after T steps; T is uniform up to the longest."""
    longest, n_units = 100, 2000
    lstm = th.nn.LSTM(INPUTS, n_units, num_layers=n_layers)
    initialize_memories(lstm, longest)
    for layer in range(n_layers):
        biases = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        writes, keeps, cell, outputs = biases.detach().chunk(4)
        th.testing.assert_close(writes, -keeps)
        assert not cell.any() and not outputs.any()
        memory = -1.0 / th.log(th.sigmoid(keeps))
        assert 1.0 < memory.min() < 3.0 and 0.98 * longest < memory.max() <= longest
        assert abs(memory.mean() / longest - 0.5) < 0.03
    assert all(parameter.requires_grad for parameter in lstm.parameters())


@pytest.mark.parametrize("n_starts", [0, 1, 30])
def test_there_is_no_loop_over_time(n_starts):
    lstm = th.nn.LSTM(INPUTS, HIDDEN)
    calls = []
    lstm.register_forward_hook(lambda *_: calls.append(1))
    starts = th.zeros(4 * 50)
    starts[th.randperm(200)[:n_starts]] = 1.0
    states = (th.zeros(1, 4, HIDDEN), th.zeros(1, 4, HIDDEN))
    process_sequence(th.randn(200, INPUTS), states, starts, lstm)
    # A call for each doubling of the pieces' lengths, and one for the last states.
    assert len(calls) <= 2 + np.ceil(np.log2(50))


def test_padding_is_at_most_half_of_a_call():
    """One long episode beside many short ones must not make all of them long."""
    lstm = th.nn.LSTM(INPUTS, HIDDEN)
    processed = []
    lstm.register_forward_hook(lambda _, inputs, __: processed.append(inputs[0].shape[0] * inputs[0].shape[1]))
    starts = th.zeros(2, 256)
    starts[1, ::3] = 1.0
    states = (th.zeros(1, 2, HIDDEN), th.zeros(1, 2, HIDDEN))
    outputs, _ = process_sequence(th.randn(512, INPUTS), states, starts.flatten(), lstm, need_states=False)
    assert outputs.shape == (512, HIDDEN)
    assert 512 <= sum(processed) < 2 * 512


def filled(n_steps, n_envs, seed=0):
    """A buffer in which every number tells which step of which worker it belongs to, and a stock one with the same content."""
    rng = np.random.default_rng(seed)
    space, actions = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float32), spaces.Discrete(1000)
    options = {"gae_lambda": 0.9, "gamma": 0.95, "n_envs": n_envs, "device": "cpu"}
    ours = SequenceRolloutBuffer(n_steps, space, actions, **options)
    stock = RecurrentRolloutBuffer(n_steps, space, actions, (n_steps, 1, n_envs, HIDDEN), **options)
    workers = np.arange(n_envs)
    tensor = th.as_tensor(np.broadcast_to(workers[:, None], (n_envs, HIDDEN)).copy()).float().unsqueeze(0)
    states = RNNStates((tensor, tensor + 0.25), (tensor + 0.5, tensor + 0.75))
    ours.start(states)
    for step in range(n_steps):
        identity = workers * n_steps + step
        row = (
            np.stack([identity, -identity], axis=1),
            identity.reshape(-1, 1),
            rng.normal(size=n_envs),
            rng.random(n_envs) < 0.3,
            th.as_tensor(rng.normal(size=(n_envs, 1))),
            th.as_tensor(-identity.astype(float)),
        )
        ours.add(*row)
        stock.add(*row, lstm_states=states)
    last = th.as_tensor(rng.normal(size=(n_envs, 1))), rng.random(n_envs) < 0.3
    for buffer in (ours, stock):
        buffer.compute_returns_and_advantage(last_values=last[0], dones=last[1])
    return ours, stock


@pytest.mark.parametrize("n_envs", [1, 4, 7])
def test_returns_are_those_of_the_stock_buffer(n_envs):
    ours, stock = filled(9, n_envs)
    np.testing.assert_array_equal(ours.advantages, stock.advantages)
    np.testing.assert_array_equal(ours.returns, stock.returns)


@pytest.mark.parametrize(("n_envs", "per_batch", "sizes"), [(1, 1, [1]), (6, 2, [2, 2, 2]), (7, 3, [4, 3]), (5, None, [5])])
def test_minibatches_are_whole_sequences_and_cover_the_rollout_once(n_envs, per_batch, sizes):
    n_steps = 9
    buffer, _ = filled(n_steps, n_envs)
    batches = list(buffer.get(None if per_batch is None else per_batch * n_steps))
    assert [len(batch.returns) // n_steps for batch in batches] == sizes
    seen = []
    for batch in batches:
        identity = batch.actions.flatten().long().reshape(-1, n_steps)
        workers = identity[:, 0] // n_steps
        assert th.equal(identity, workers.unsqueeze(1) * n_steps + th.arange(n_steps))
        seen += workers.tolist()
        flat = identity.flatten()
        step, worker = flat % n_steps, flat // n_steps
        assert th.equal(batch.observations, th.stack([flat, -flat], dim=1).float())
        assert th.equal(batch.old_log_prob, -flat.float())
        for name, field in (("values", "old_values"), ("advantages", "advantages"), ("returns", "returns")):
            np.testing.assert_array_equal(getattr(batch, field), getattr(buffer, name)[step, worker])
        np.testing.assert_array_equal(batch.episode_starts, buffer.episode_starts[step, worker])
        assert batch.mask.shape == flat.shape and bool((batch.mask == 1).all())
        states = (*batch.lstm_states.pi, *batch.lstm_states.vf)
        for offset, state in zip((0, 0.25, 0.5, 0.75), states, strict=True):
            assert th.equal(state, (workers.float() + offset).view(1, -1, 1).expand(1, -1, HIDDEN))
    assert sorted(seen) == list(range(n_envs))


def test_minibatches_mix_workers_anew_in_every_epoch():
    buffer, _ = filled(3, 6)
    met = set()
    for _ in range(60):
        for batch in buffer.get(2 * 3):
            met.add(tuple(sorted((batch.actions.flatten()[::3] // 3).int().tolist())))
    assert met == set(combinations(range(6), 2))


class SameAsActed(BaseCallback):
    """The training pass over whole sequences finds what the step-by-step pass of the rollout found."""

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size
        self.checked = self.carried = 0

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        policy, discrete = self.model.policy, isinstance(self.model.action_space, spaces.Discrete)
        for batch in self.model.rollout_buffer.get(self.batch_size):
            actions = batch.actions.long().flatten() if discrete else batch.actions
            with th.no_grad():
                values, log_prob, _ = policy.evaluate_actions(
                    batch.observations, actions, batch.lstm_states, batch.episode_starts
                )
            th.testing.assert_close(values.flatten(), batch.old_values, rtol=1e-4, atol=1e-5)
            th.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-4, atol=1e-5)
            self.checked += 1
            self.carried += bool(batch.lstm_states.pi[0].any())


@pytest.mark.filterwarnings("ignore:n_steps")
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {},
        {"n_lstm_layers": 2},
        {"state_in_heads": True},
        {"shared_lstm": False, "enable_critic_lstm": True},
        {"shared_lstm": False},
        {"chrono_init": 16},
    ],
)
@pytest.mark.parametrize(
    ("make", "n_steps"),
    [(Bandit, 16), (Bandit, 5), (Drift, 16)],
    ids=["two meta-episodes", "a cut meta-episode", "early ends"],
)
def test_training_sees_the_sequences_as_they_were_acted(make, n_steps, policy_kwargs):
    model = RL2("MlpLstmPolicy", vec_env(make, 3), n_steps=n_steps, policy_kwargs=policy_kwargs, seed=0, device="cpu")
    check = SameAsActed(batch_size=n_steps)
    model.learn(3 * 3 * n_steps, callback=check)
    assert check.checked == 9
    assert check.carried > 0  # a meta-episode carried over from the rollout before, with its recurrent state
