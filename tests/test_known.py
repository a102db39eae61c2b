"""What the network knows of meta-episodes that it was not trained on, and what waits for it."""

import numpy as np
import pytest
import torch as th
from helpers import PAPER, Drift, differing, grid_vec_env, parameters, vec_env, warns_here

from sb3_ldm import LDM

N_ENVS, STEPS = 8, 12  # 2 episodes of 6 steps
ROLLOUT = N_ENVS * STEPS


def make(**options) -> LDM:
    given = {"seed": 0, "device": "cpu", "mixture_ratio": 0.25, "reward_likelihood": "gaussian", **PAPER, **options}
    return LDM("MlpLstmPolicy", grid_vec_env(N_ENVS), **given)


def test_it_is_asked_before_it_is_trained_on_them():
    model = make()
    asked = []
    explained, update = model.vae.explained_variance, model.vae.update

    def ask(batch, *args):
        asked.append(batch)
        return explained(batch, *args)

    def refuse(*args):
        assert len(asked) == model.num_timesteps // ROLLOUT
        return update(*args)

    model.vae.explained_variance, model.vae.update = ask, refuse
    model.learn(2 * ROLLOUT)
    assert [batch.rewards.shape[1] for batch in asked] == [model.n_normal] * 2
    latest = model.replay_buffer.get(np.arange(model.n_normal, 2 * model.n_normal))
    assert th.equal(asked[1].next_states, latest.next_states)


@pytest.mark.parametrize("keeps", ["latest", "uniform"])
def test_the_newest_meta_episodes_are_those_since_the_last_time_that_are_still_there(keeps):
    model = make(vae_buffer_size=10, vae_buffer_keeps=keeps, vae_batch_size=2)
    asked = []
    take = model.replay_buffer.take_newest
    model.replay_buffer.take_newest = lambda: asked.append(take()) or asked[-1]
    model.learn(3 * ROLLOUT)
    assert asked[0].tolist() == [0, 1, 2, 3, 4, 5]
    if keeps == "latest":
        assert asked[1].tolist() == [0, 1, 6, 7, 8, 9] and asked[2].tolist() == [2, 3, 4, 5, 6, 7]
    else:
        assert set(asked[1]) >= {6, 7, 8, 9} and len(asked[2]) <= 6
    assert take().tolist() == []


def test_imagination_waits_until_enough_is_explained():
    model = make(imagination_requires=0.6)
    told = iter([0.2, 0.59, 0.7, 0.1, 0.1])
    model.vae.explained_variance = lambda batch: next(told)
    imagined = []
    for n in range(1, 6):
        model.learn(ROLLOUT, reset_num_timesteps=False)
        imagined.append(bool(model.mixture_env.imagining.any()))
        assert model.knows_tasks == (n >= 3)
    # Tasks are drawn where the last meta-episodes end, before the network is asked; what was reached once is not lost.
    assert imagined == [False, False, False, True, True]


def test_who_waits_in_vain_is_told():
    model = make(imagination_requires=1.0)
    with warns_here("imagination_requires=1.0 was not reached in 192 time steps", __file__):
        model.learn(2 * ROLLOUT)


def test_waiting_goes_on_where_it_was_saved(tmp_path):
    options = {"vae_max_updates": 20, "learning_rate": 1e-3}
    whole = make(**options).learn(4 * ROLLOUT)
    half = make(**options)
    half.learn(2 * ROLLOUT)
    half.knows_tasks = True
    half.save(tmp_path / "model")
    half.save_replay_buffer(tmp_path / "buffer")
    loaded = LDM.load(tmp_path / "model", env=grid_vec_env(N_ENVS), device="cpu")
    assert loaded.explained_variance == half.explained_variance and loaded.knows_tasks
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert loaded.explained_variance == whole.explained_variance != half.explained_variance
    assert differing(parameters(whole), parameters(loaded)) == []


def test_meta_episodes_that_nobody_took_note_of_are_saved_with_the_others(tmp_path):
    model = make()
    model.learn(ROLLOUT)
    model.replay_buffer.newest = [4, 1]
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer.take_newest().tolist() == [1, 4]


def test_the_less_is_explained_the_more_updates_there_are():
    model = make(vae_updates=2, vae_max_updates=12)
    expected = {None: 12, -3.0: 12, 0.0: 12, 0.5: 7, 0.8: 4, 1.0: 2}
    for model.explained_variance, n_updates in expected.items():
        assert model._updates_needed() == n_updates
    assert make(vae_updates=2)._updates_needed() == 2


def test_bad_options_are_refused():
    for options, message in (
        ({"imagination_requires": 1.5}, "imagination_requires=1.5"),
        ({"vae_updates": 4, "vae_max_updates": 3}, "vae_max_updates=3"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)


def test_looking_changes_no_agent():
    looking = make().learn(3 * ROLLOUT)
    blind = make()
    blind._look_at_newest = lambda: None
    blind.learn(3 * ROLLOUT)
    assert looking.explained_variance is not None
    assert differing(parameters(looking), parameters(blind)) == []


def test_rewards_that_never_vary_tell_nothing():
    model = LDM("MlpLstmPolicy", vec_env(lambda: Drift(reward=1.0), 4), seed=0, device="cpu", reward_likelihood="gaussian")
    assert model.learn(4 * 8).explained_variance is None


def test_no_more_are_remembered_than_there_are_places():
    model = make(vae_buffer_size=4, vae_buffer_keeps="latest", vae_batch_size=2, vae_updates=0)
    model._look_at_newest = lambda: None
    model.learn(3 * ROLLOUT)
    assert model.replay_buffer.newest == [2, 3, 0, 1]
