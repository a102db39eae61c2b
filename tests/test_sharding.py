"""Shards of a minibatch, computed side by side, give the gradient of the whole."""

import copy
import os
import threading
import time

import numpy as np
import pytest
import torch as th
from helpers import Bandit, Drift, differing, parameters, vec_env
from sb3_contrib import RecurrentPPO
from torch import nn

from sb3_ldm import LDM, RL2
from sb3_ldm.nets.sequences import lstm_step
from sb3_ldm.nets.sharding import MAX_SEQUENCES, _threads, backward_in_shards, even_slices, n_shards, one_thread_per_operation

STEPS = 8


@pytest.fixture
def two_threads():
    before = th.get_num_threads()
    th.set_num_threads(2)
    yield
    th.set_num_threads(before)


@pytest.mark.parametrize("sequences", [1, 2, 7, 8, 25, 32, 256])
@pytest.mark.parametrize("threads", [1, 2, 16])
def test_a_minibatch_is_cut_into_shards_that_are_neither_small_nor_large(sequences, threads):
    number = n_shards(sequences, threads)
    sizes = [part.stop - part.start for part in even_slices(sequences, number)]
    assert sum(sizes) == sequences
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= MAX_SEQUENCES
    assert min(sizes) >= min(sequences, 2)


def test_more_threads_get_more_shards():
    assert [n_shards(32, threads) for threads in (1, 2, 4, 8, 64)] == [2, 2, 4, 8, 16]


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_the_gradient_is_that_of_the_sum(n_threads):
    net, unused = nn.Linear(3, 2), nn.Parameter(th.ones(1))
    unused.grad = th.ones(1)
    inputs = th.randn(5, 3)
    (net(inputs) ** 2).sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    ran_on = set()

    def loss(shard):
        ran_on.add(threading.get_ident())
        return (net(shard) ** 2).sum(), len(shard)

    results = backward_in_shards(loss, [inputs[:2], inputs[2:3], inputs[3:]], [*net.parameters(), unused], n_threads)
    assert results == [2, 1, 2]
    assert unused.grad is None
    th.testing.assert_close([p.grad for p in net.parameters()], expected)
    assert len(ran_on) <= n_threads
    assert n_threads > 1 or ran_on == {threading.get_ident()}


def test_an_error_in_a_shard_reaches_the_caller():
    def loss(shard):
        raise ValueError(f"shard {shard}")

    with pytest.raises(ValueError, match="shard"):
        backward_in_shards(loss, [0, 1], [], 2)


@pytest.mark.parametrize("on_helper", [False, True])
def test_an_error_of_one_thread_is_raised_when_all_have_stopped(on_helper):
    caller, both_run, running = threading.get_ident(), threading.Barrier(2, timeout=600), []

    def loss(shard):
        running.append(shard)
        both_run.wait()
        if (threading.get_ident() != caller) == on_helper:
            raise IndexError("of the loss")
        time.sleep(0.2)
        running.remove(shard)
        return th.ones((), requires_grad=True), None

    weight = nn.Parameter(th.ones(1))
    with pytest.raises(IndexError, match="of the loss"):
        backward_in_shards(loss, [0, 1], [weight], 2)
    assert len(running) == 1


def test_operations_get_their_threads_back(two_threads):
    with pytest.raises(RuntimeError), one_thread_per_operation() as n_threads:
        assert (n_threads, th.get_num_threads()) == (2, 1)
        raise RuntimeError
    seen = []
    other = threading.Thread(target=lambda: seen.append(th.get_num_threads()))
    other.start()
    other.join()
    assert (th.get_num_threads(), seen) == (2, [2])


def test_training_leaves_the_number_of_threads_as_it_was(two_threads):
    RL2("MlpLstmPolicy", vec_env(Bandit, 8), seed=0, device="cpu").learn(8 * STEPS)
    assert th.get_num_threads() == 2


@pytest.mark.parametrize("options", [{}, {"clip_range_vf": 0.05}, {"normalize_advantage": False}, {"target_kl": 0.2}], ids=str)
@pytest.mark.parametrize("make_env", [Bandit, Drift])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_update_equals_that_of_the_stock_algorithm(make_env, options, n_threads):
    model = RL2(
        "MlpLstmPolicy", vec_env(make_env, 24), batch_size=12 * STEPS, learning_rate=3e-3, seed=0, device="cpu", **options
    )
    model.learn(2 * 24 * STEPS)
    model._n_threads = n_threads
    policy, optimizer = copy.deepcopy(model.policy.state_dict()), copy.deepcopy(model.policy.optimizer.state_dict())
    logged = {}
    for train in (RecurrentPPO.train, RL2.train):
        model.policy.load_state_dict(policy)
        model.policy.optimizer.load_state_dict(copy.deepcopy(optimizer))
        model.rollout_buffer.generator_ready = False
        np.random.seed(3)
        updates = model._n_updates
        train(model)
        logged[train] = dict(model.logger.name_to_value), copy.deepcopy(model.policy.state_dict())
        logged[train][0]["train/n_updates"] = model._n_updates - updates
    (stock, stock_weights), (ours, our_weights) = logged.values()
    assert differing(policy, our_weights)
    th.testing.assert_close(our_weights, stock_weights, rtol=1e-3, atol=2e-5)
    assert ours.keys() == stock.keys()
    assert ours == pytest.approx(stock, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("approx_kl", "n_minibatches"), [(0.149, 4 * 2), (0.151, 1)])
def test_updates_stop_beyond_one_and_a_half_times_the_target_divergence(approx_kl, n_minibatches, monkeypatch):
    model = RL2("MlpLstmPolicy", vec_env(Bandit, 4), batch_size=2 * STEPS, target_kl=0.1, seed=0, device="cpu")
    backward, losses = model._backward, []

    def told(*args):
        losses.append(backward(*args)._replace(approx_kl=approx_kl))
        return losses[-1]

    monkeypatch.setattr(model, "_backward", told)
    model.learn(4 * STEPS)
    assert len(losses) == n_minibatches


@pytest.mark.parametrize("algorithm", [RL2, LDM])
def test_the_same_seed_gives_the_same_agent_on_two_threads(algorithm, two_threads):
    options = {"mixture_ratio": 0.25, "vae_batch_size": 10} if algorithm is LDM else {}
    one, two = (
        algorithm("MlpLstmPolicy", vec_env(Bandit, 16), seed=0, device="cpu", **options).learn(3 * 16 * STEPS)
        for _ in range(2)
    )
    assert differing(parameters(one), parameters(two)) == []


def test_a_step_is_what_the_whole_sequence_makes_of_it():
    lstm = nn.LSTM(5, 7)
    inputs, states = th.randn(6, 3, 5), (th.randn(1, 3, 7), th.randn(1, 3, 7))
    outputs, final = lstm(inputs, states)
    for step, expected in zip(inputs, outputs, strict=True):
        output, states = lstm_step(step, states, lstm)
        th.testing.assert_close(output, expected)
    th.testing.assert_close(states, final)


def test_a_step_of_a_rollout_moves_observations_up_and_actions_down(monkeypatch):
    n_steps = 5 * STEPS
    model = RL2("MlpLstmPolicy", vec_env(Bandit, 4), n_steps=n_steps, seed=0, device="cpu")
    model.learn(4 * n_steps)
    moved = {"up": 0, "down": 0}

    def counted(function, key):
        def count(*args, **kwargs):
            moved[key] += 1
            return function(*args, **kwargs)

        return count

    for name in ("as_tensor", "tensor", "from_numpy"):
        monkeypatch.setattr(th, name, counted(getattr(th, name), "up"))
    for name in ("cpu", "item", "tolist"):
        monkeypatch.setattr(th.Tensor, name, counted(getattr(th.Tensor, name), "down"))
    monkeypatch.setattr(model, "train", lambda: None)
    model.learn(4 * n_steps, reset_num_timesteps=False)
    # Up: observations and episode starts; down: actions; a handful more at the rollout's end.
    assert 2 * n_steps <= moved["up"] <= 2 * n_steps + 10
    assert n_steps <= moved["down"] <= n_steps + 10


def test_helpers_run_operations_on_one_thread_whatever_the_process_may(two_threads):
    _threads.cache_clear()
    helper = _threads(1, os.getpid())
    large = th.ones(300, 300)
    helper.submit(lambda: (large @ large).relu().sum()).result()  # the first operation of the thread
    assert (helper.submit(th.get_num_threads).result(), th.get_num_threads()) == (1, 2)
