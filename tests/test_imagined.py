"""What mixtures of a saved agent's beliefs imagine: which tasks rewards are like, chosen mixtures, networks trained anew."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from helpers import PAPER, grid_vec_env

from benchmarks import imagination
from benchmarks.mixtures import GridJudge, RewardJudge, alike, study_agent
from sb3_ldm import LDM, make_meta_vec_env
from sb3_ldm.data import Transitions
from sb3_ldm.data.probes import get_probes
from sb3_ldm.envs.locomotion import DOMAINS, LocomotionEnv
from sb3_ldm.inference import RewardVAE
from sb3_ldm.nets.sharding import one_thread_per_operation
from sb3_ldm.zoo.pretrained import find_pretrained

REWARDED = ("AntDirection-v0", "AntGoal-v0", "HalfCheetahVelocity-v0")


def rollout(env_id: str, n_steps: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Raw observations before and after some steps, and the states that an agent sees."""
    env = LocomotionEnv(DOMAINS[env_id])
    env.action_space.seed(0)
    state, _ = env.reset(seed=0)
    rows = []
    for _ in range(n_steps):
        before, raw = state, env._raw
        state, *_ = env.step(env.action_space.sample())
        rows.append((raw, env._raw, before, state))
    env.close()
    return tuple(np.stack(column) for column in zip(*rows, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("env_id", REWARDED)
def test_what_tells_tasks_apart_is_what_differs_between_their_rewards(env_id):
    domain = DOMAINS[env_id]
    before, after, states, next_states = rollout(env_id)
    tasks = domain.make_tasks().representatives("all", 6)
    still = np.zeros((len(before), 1))
    true = np.stack([domain.rewards(before, still, after, np.tile(task, (len(before), 1))) for task in tasks])
    told = domain.told_apart(states, next_states, tasks)
    true, told = true - true.mean(0), told - told.mean(0)
    # Ant-direction's state has the velocity at the ends of a step, not on average over it.
    assert np.abs(true - told).max() < (0.25 * np.abs(true).max() if env_id == "AntDirection-v0" else 1e-4)


def test_bodies_are_not_told_apart_by_rewards():
    with pytest.raises(ValueError, match="HopperMass differ in bodies"):
        DOMAINS["HopperMass-v0"].told_apart(np.zeros((1, 11)), np.zeros((1, 11)), np.ones((1, 1)))


@pytest.mark.parametrize("env_id", REWARDED)
def test_true_rewards_are_like_their_own_task(env_id):
    domain = DOMAINS[env_id]
    distribution = domain.make_tasks()
    scale = 0.1 if env_id == "HalfCheetahVelocity-v0" else 2.0  # of places, whose change is a velocity
    states, next_states = np.random.default_rng(0).normal(scale=scale, size=(2, 1000, domain.state_dim))
    rest = np.zeros(len(states))
    judge = RewardJudge(domain, distribution, Transitions(states, rest, rest, next_states, rest, rest, rest))
    own = distribution.representatives("train", 10)
    rewards = domain.told_apart(states, next_states, own) - 3.0
    told = judge.describe_own(rewards, own)
    assert judge.common == pytest.approx(-3.0, abs=0.5)
    assert told["slope"] == pytest.approx(1.0, abs=0.1) and told["fit"] > 0.95 and told["error"] < 0.3
    unseen = domain.told_apart(states, next_states, distribution.representatives("test", 10)) - 3.0
    assert judge.describe(unseen)["unseen"] >= 0.8 and judge.describe(rewards)["train"] >= 0.8
    weak = unseen.mean(1, keepdims=True) + 0.2 * (unseen - unseen.mean(1, keepdims=True))
    assert judge.describe(weak)["weak"] == 1.0


def test_the_task_that_rewards_are_like_is_the_nearest_and_a_regression_tells_how_strong_they_are():
    rng = np.random.default_rng(0)
    features, tasks = rng.normal(size=(5, 400)), np.arange(5.0)[:, None]
    like = alike(np.stack([0.6 * features[3] + 7.0, 2.0 * features[0] + features[1] + 7.0]), features, tasks, 7.0)
    assert like.tasks.ravel().tolist() == [3.0, 0.0]
    np.testing.assert_allclose(like.slope[0], 0.6, rtol=1e-6)
    assert like.fit[0] == pytest.approx(1.0) and 0.6 < like.fit[1] < 0.95


def test_of_a_robot_that_stands_still_the_level_of_rewards_tells_the_velocity():
    domain, states = DOMAINS["HalfCheetahVelocity-v0"], np.zeros((50, 20))
    judge = RewardJudge(domain, domain.make_tasks(), Transitions(states, states, states[:, 0], states, *[states[:, 0]] * 3))
    own = np.array([[0.2], [3.3]])
    assert judge.describe_own(-np.abs(own) * np.ones(50) - 0.4, own)["error"] < 0.02
    assert judge.common == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("env_id", "unseen", "known"),
    [
        ("AntDirection-v0", [[0.7], [0.9], [-0.8]], [[0.1], [6.2], [1.6]]),
        ("AntGoal-v0", [[1.5, 0.0], [0.0, -2.4]], [[0.5, 0.0], [2.0, 2.0]]),
        ("HalfCheetahVelocity-v0", [[0.5], [2.9]], [[0.4], [3.2]]),
        ("AntCrippled-v0", [[3]], [[0], [2]]),
    ],
)
def test_any_task_is_near_unseen_ones_or_training_ones(env_id, unseen, known):
    distribution = DOMAINS[env_id].make_tasks()
    tasks = np.array([*unseen, *known])
    expected = np.arange(len(tasks)) < len(unseen)
    assert distribution.is_in("test", tasks).tolist() == expected.tolist()
    assert distribution.is_in("train", tasks).tolist() == (~expected).tolist()


def test_directions_are_near_each_other_across_the_full_turn():
    distances = DOMAINS["AntDirection-v0"].make_tasks().distances(np.array([[0.1], [np.pi]]), np.array([[2 * np.pi], [0.0]]))
    np.testing.assert_allclose(distances, [0.1, np.pi])


def test_tasks_are_unseen_where_all_of_their_goals_are():
    env = grid_vec_env(2)
    model = LDM("MlpLstmPolicy", env, seed=0, device="cpu", **PAPER)
    vae = RewardVAE(model.layout, reward_likelihood="bernoulli", bernoulli_rewards=(-0.1, 1.0))
    probes, distribution = get_probes(env), env.get_attr("task_distribution")[0]
    judge = GridJudge(probes, distribution, vae)
    rings = probes.tasks.max(1)
    unseen, known = np.flatnonzero(judge.is_unseen)[:2], int(np.flatnonzero(rings == 6)[0])
    maps = np.full((4, len(probes.tasks)), -0.1)
    maps[0, unseen], maps[1, [unseen[0], known]], maps[2, known] = 1.0, 0.9, 0.8
    assert judge.describe(maps) == {"unseen": 0.25, "no_goal": 0.25, "distinct": 2}
    assert judge.describe_own(maps[1:3], probes.tasks[[unseen[0], unseen[1]]]) == {"right": 0.5}


def test_meta_episodes_are_taken_out_of_a_buffer():
    model = LDM("MlpLstmPolicy", grid_vec_env(4), seed=0, device="cpu", **PAPER).learn(4 * 12 * 3)
    chosen = np.array([2, 0])
    part, whole = model.replay_buffer.part(chosen), model.replay_buffer.get(chosen)
    assert len(part) == part.capacity == 2
    for name, array in vars(part.get(np.arange(2))).items():
        if array is not None:
            assert th.equal(array, getattr(whole, name)), name


def test_explained_variance_is_that_of_all_rewards_of_a_meta_episode():
    model = LDM("MlpLstmPolicy", grid_vec_env(8), seed=0, device="cpu", **PAPER).learn(8 * 12)
    batch = model.replay_buffer.get(np.arange(len(model.replay_buffer)))
    vae, generator = RewardVAE(model.layout, dropout_rate=0.3), th.random.get_rng_state()
    shifted = replace(batch, rewards=th.randn(batch.rewards.shape, generator=th.Generator().manual_seed(0)))
    assert vae.explained_variance(shifted) == vae.explained_variance(shifted) < 1.0
    assert th.equal(generator, th.random.get_rng_state())
    # A decoder of what was rewarded: of a reward r it tells r + 1, so it errs by 1 in each step.
    vae.decoder.forward = lambda latents, steps: shifted.rewards + 1.0  # type: ignore[method-assign]
    half = batch.mask.clone()
    half[6:, 0] = 0.0
    for mask in (batch.mask, half):
        rewards = shifted.rewards[mask > 0]
        expected = 1.0 - 1.0 / rewards.var(correction=0).item()
        assert vae.explained_variance(replace(shifted, mask=mask)) == pytest.approx(expected, rel=1e-4)
    assert np.isnan(vae.explained_variance(replace(batch, rewards=th.ones_like(batch.rewards))))


def test_chosen_mixtures_of_the_agent_that_comes_with_the_package():
    agent = find_pretrained("ldm", "GridNavi-v0")
    with one_thread_per_operation():
        found = study_agent("GridNavi-v0", agent, None, {}, 0, 128, n_candidates=(1, 8))
    assert found["own_right"] > 0.9 and found["explained_variance"] > 0.8
    assert found["share_imagined_1"] == 1.0 and 0.3 < found["share_imagined_8"] < 1.0
    assert found["unseen_8"] > found["unseen_1"] + 0.03 and found["no_goal_8"] == 0.0 < found["no_goal_1"]


def test_a_network_is_trained_anew_on_what_a_run_has_saved(tmp_path, capsys):
    env = make_meta_vec_env("HalfCheetahVelocity-v0", 16, seed=0, env_kwargs={"horizon": 10})
    model = LDM("MlpLstmPolicy", env, seed=0, device="cpu", reward_likelihood="gaussian").learn(16 * 20 * 6)
    model.save(tmp_path / "checkpoint")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    env.close()
    told = {"algo": "ldm", "env": "HalfCheetahVelocity-v0", "env_kwargs": {"horizon": 10}}
    told |= {"seed": 0, "frames": 1920, "episodes_per_task": 2}
    (tmp_path / "run.json").write_text(json.dumps(told))
    command = ["--agent", str(tmp_path / "checkpoint.zip"), "--buffer", str(tmp_path / "buffer.pkl")]
    imagination.main([*command, "-p", "updates:3", "dropout_rate:0", "encoder_hidden_size:8", "n_partners:2"])
    found = json.loads(capsys.readouterr().out)
    assert found["ms_of_an_update"] > 0 and np.isfinite(found["elbo"]) and 0.0 <= found["own_error"] <= 3.5
    assert found["unseen_1"] + found["train_1"] + found["weak_1"] == pytest.approx(1.0, abs=0.01)
    for wrong, message in (("kl_weight:1", "need updates"), ("updates:1 kl:2", "kl: no options")):
        with pytest.raises(ValueError, match=message):
            imagination.main([*command, "-p", *wrong.split()])
