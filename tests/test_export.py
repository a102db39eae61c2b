"""Agents leave Python as they are."""

import sys

import numpy as np
import pytest
import torch as th
from helpers import Bandit, Drift, vec_env

from sb3_ldm import LDM, RL2, Mixreg, VariBAD
from sb3_ldm.on_policy import PolicyStep, export_onnx


def agent(algorithm, make_env=Bandit, **policy_kwargs):
    env = vec_env(make_env, 2)
    return algorithm("MlpLstmPolicy", env, seed=0, device="cpu", policy_kwargs={"lstm_hidden_size": 8, **policy_kwargs})


@pytest.mark.parametrize("way", ["export", "trace"])
@pytest.mark.parametrize("algorithm", [RL2, Mixreg, LDM, VariBAD])
def test_one_step_is_exported_with_its_reset(algorithm, way):
    model = agent(algorithm)
    step = PolicyStep(model.policy)
    example = (th.rand(3, model.layout.dim), th.randn(1, 3, 8), th.randn(1, 3, 8), th.zeros(3))
    if way == "export":
        n = th.export.Dim("n_agents", min=1)
        exported = th.export.export(step, example, dynamic_shapes=({0: n}, {1: n}, {1: n}, {0: n})).module()
    else:
        exported = th.jit.trace(step, example)
    obs, hidden, cell = th.rand(4, model.layout.dim), th.randn(1, 4, 8), th.randn(1, 4, 8)
    starts = th.tensor([0.0, 1.0, 1.0, 0.0])
    with th.no_grad():
        for mine, other in zip(step(obs, hidden, cell, starts), exported(obs, hidden, cell, starts), strict=True):
            th.testing.assert_close(mine, other)
        forgotten = step(obs, th.zeros_like(hidden), th.zeros_like(cell), starts)[2]
        remembered = exported(obs, hidden, cell, starts)[2]
    equal = th.isclose(forgotten, remembered).all(-1)[0]
    assert equal.tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("algorithm", "make_env", "policy_kwargs"),
    [
        (VariBAD, Bandit, {}),
        (LDM, Drift, {"shared_lstm": False, "n_lstm_layers": 2, "enable_critic_lstm": True}),
    ],
)
def test_onnx_acts_like_predict(algorithm, make_env, policy_kwargs, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = agent(algorithm, make_env, **policy_kwargs)
    before = model.policy.training
    export_onnx(model, tmp_path / "agent.onnx")
    assert model.policy.training == before
    session = runtime.InferenceSession(tmp_path / "agent.onnx", providers=["CPUExecutionProvider"])

    env = vec_env(make_env, 3, seed=5)  # another number of agents than it was made with
    obs, starts, states = env.reset(), np.ones(3, dtype=bool), None
    hidden, cell = (np.ones_like(state.numpy()) for state in PolicyStep(model.policy).initial_states(3))
    for _ in range(20):
        wanted, states = model.predict(obs, states, starts, deterministic=True)
        inputs = {"obs": obs, "hidden": hidden, "cell": cell, "episode_start": starts.astype(np.float32)}
        actions, _, hidden, cell = session.run(None, inputs)
        np.testing.assert_allclose(actions, wanted, atol=1e-5)
        np.testing.assert_allclose(hidden, states[0], atol=1e-5)
        obs, _, starts, _ = env.step(wanted)


def test_what_export_needs_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"sb3_ldm\[onnx\]"):
        export_onnx(agent(RL2), tmp_path / "agent.onnx")
