"""Networks that are told tasks in training: what the critic sees, what the LSTM is trained for; to act nothing is told."""

import numpy as np
import pytest
import torch as th
from helpers import PAPER, Bandit, differing, parameters, vec_env

from sb3_ldm import LDM, RL2, Mixreg, VariBAD
from sb3_ldm.on_policy import PolicyStep

N_ENVS, STEPS = 6, 8  # 2 episodes of 4 steps
ROLLOUT = N_ENVS * STEPS
SMALL = {"policy_kwargs": {"lstm_hidden_size": 8, "net_arch": [8]}, "seed": 0, "device": "cpu"}
BOTH = {"critic_observes_task": True, "task_coef": 0.5}


def make(algorithm=RL2, **options):
    return algorithm("MlpLstmPolicy", vec_env(Bandit, N_ENVS), **{**SMALL, **options})


def test_a_rollout_knows_the_task_of_every_step():
    """Workers end their meta-episodes at different times: a sequence has several tasks."""
    model = make(critic_observes_task=True, n_steps=20)
    model.learn(7 * N_ENVS)  # whatever came before, tasks go on
    true, collect = [], model.env.step

    def step(actions):
        true.append(np.array(model.env.get_attr("task")))
        return collect(actions)

    model.env.step = step
    model.learn(20 * N_ENVS, reset_num_timesteps=False)
    told = model.rollout_buffer.told
    np.testing.assert_array_equal(told[..., :1], np.stack(true))
    assert (told[..., 1] == 1.0).all() and len(np.unique(told[:, 0, 0])) == 2
    in_sequence = model.rollout_buffer.told_of(th.tensor([2])).numpy()
    np.testing.assert_array_equal(in_sequence, told[:, 2])


def test_the_critic_sees_the_task_and_the_actor_does_not():
    model = make(critic_observes_task=True).learn(2 * ROLLOUT)
    obs = th.as_tensor(model.env.reset())[:2]
    states, starts = PolicyStep(model.policy).initial_states(2), th.ones(2)
    values = [
        model.policy.predict_values(obs, states, starts, th.tensor(told))
        for told in ([[0.0, 1.0]] * 2, [[1.0, 1.0]] * 2, [[0.0, 0.0]] * 2, [[9.0, 0.0]] * 2)
    ]
    assert not th.allclose(values[0], values[1]) and not th.allclose(values[0], values[2])
    assert th.equal(values[2], values[3]), "what is no task is not looked at"
    assert th.equal(values[2], model.policy.predict_values(obs, states, starts)), "nobody needs to tell anything"
    heads = model.policy.mlp_extractor
    assert heads.policy_net[0].in_features + 2 == heads.value_net[0].in_features


def test_tasks_are_told_as_numbers_of_mean_0_and_deviation_1():
    policy = make(critic_observes_task=True).policy
    standardized, _ = policy._standardized(th.tensor([[0.0, 1.0], [1.0, 1.0], [5.0, 0.0]]))
    assert standardized.flatten().tolist() == [-1.0, 1.0, 0.0]


def test_an_imaginary_task_is_none():
    options = {"mixture_ratio": 0.5, "reward_likelihood": "bernoulli", "vae_batch_size": 4, **PAPER}
    model = make(LDM, **BOTH, **options)
    model.learn(2 * ROLLOUT)
    assert model.mixture_env.imagining.all()
    told = model.rollout_buffer.told
    assert (told[:, : model.n_normal, 1] == 1.0).all() and (told[:, model.n_normal :] == 0.0).all()
    later = make(LDM, **BOTH, **{**options, "imagination_starts": 10**6})
    later.learn(ROLLOUT)
    assert (later.rollout_buffer.told[..., 1] == 1.0).all(), "mixture workers that do not imagine have true tasks"


def test_the_lstm_is_trained_to_tell_the_task():
    """Of a bandit whose arm the first reward tells; without the loss only by what acting needs."""
    errors = []
    for task_coef in (0.0, 5.0):
        model = make(critic_observes_task=True, task_coef=task_coef or 1e-9, learning_rate=0.01, vf_coef=0.0, ent_coef=1.0)
        model.learn(25 * ROLLOUT)
        batch, told = model.rollout_buffer.sequences(th.arange(N_ENVS)), model.rollout_buffer.told_of(th.arange(N_ENVS))
        with th.no_grad():
            encoding, _ = model.policy.encode(batch.observations, batch.lstm_states.pi, batch.episode_starts)
            errors.append(float(model.policy.task_error(encoding, told)))
    assert errors[1] < 0.5 < errors[0]


def test_what_has_no_task_is_not_regressed():
    policy = make(task_coef=1.0).policy
    encoding, told = th.randn(3, 8), th.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    with th.no_grad():
        policy.task_net.weight.zero_()
        policy.task_net.bias.fill_(1.0)
    assert float(policy.task_error(encoding, told)) == pytest.approx((0.0 + 4.0) / 2)
    assert float(policy.task_error(encoding, 0.0 * told)) == 0.0


@pytest.mark.parametrize("algorithm", [RL2, LDM])
def test_they_are_saved_and_go_on_as_if_they_had_not_been_stopped(algorithm, tmp_path):
    options = {**BOTH, "learning_rate": 1e-3}
    whole = make(algorithm, **options).learn(3 * ROLLOUT)
    half = make(algorithm, **options).learn(2 * ROLLOUT)
    half.save(tmp_path / "model")
    if algorithm is LDM:
        half.save_replay_buffer(tmp_path / "buffer")
    loaded = algorithm.load(tmp_path / "model", env=vec_env(Bandit, N_ENVS), device="cpu")
    if algorithm is LDM:
        loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(ROLLOUT, reset_num_timesteps=False)
    assert differing(parameters(whole), parameters(loaded)) == []
    alone = algorithm.load(tmp_path / "model", device="cpu")
    obs = np.asarray(half.env.reset())
    np.testing.assert_array_equal(alone.predict(obs, deterministic=True)[0], half.predict(obs, deterministic=True)[0])
    step, at_start = PolicyStep(alone.policy), th.ones(N_ENVS)
    exported, *_ = step(th.as_tensor(obs), *step.initial_states(N_ENVS), at_start)
    np.testing.assert_array_equal(exported.numpy(), half.predict(obs, episode_start=at_start, deterministic=True)[0])


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (VariBAD, {"critic_observes_task": True}, "VariBAD tells its networks no tasks"),
        (Mixreg, {"task_coef": 0.1}, "Mixreg tells its networks no tasks"),
        (RL2, {"task_coef": -1.0}, "task_coef=-1.0"),
        (RL2, {"critic_observes_task": True, "policy_kwargs": {"shared_lstm": False}}, "shared_lstm=True"),
    ],
)
def test_what_cannot_be_told_is_refused(algorithm, options, message):
    with pytest.raises(ValueError, match=message):
        make(algorithm, **options)


def test_a_model_that_was_made_without_cannot_be_told_tasks_later(tmp_path):
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"critic_observes_task=True and .* the model that is loaded was made without"):
        RL2.load(tmp_path / "model", env=vec_env(Bandit, N_ENVS), critic_observes_task=True)
