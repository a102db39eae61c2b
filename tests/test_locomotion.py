"""The MuJoCo domains: tasks, rewards, and two backends that agree."""

import copy
import re
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm import make_meta_vec_env
from sb3_ldm.data.training_state import pack, unpack
from sb3_ldm.envs import backend_of, mujoco_backend, vec_env_state
from sb3_ldm.envs.locomotion import DOMAINS, LocomotionEnv, contact_cost, control_cost, domain_of, start_seed
from sb3_ldm.envs.mujoco_backend import BatchedLocomotion
from sb3_ldm.envs.tasks import check_task_env, unseen_split

IDS = list(DOMAINS)
PAPER = ("AntDirection-v0", "AntGoal-v0", "HalfCheetahVelocity-v0")  #: whose tasks differ in rewards
BODIES = [env_id for env_id in IDS if env_id not in PAPER]


def sample(env_id: str, split: str, n: int = 4000) -> np.ndarray:
    tasks, rng = DOMAINS[env_id].make_tasks(), np.random.default_rng(0)
    return np.stack([tasks.sample(split, rng) for _ in range(n)])


def test_directions_are_the_paper_s() -> None:
    tasks = DOMAINS["AntDirection-v0"].make_tasks()
    np.testing.assert_allclose(np.rad2deg(tasks.tasks("train"))[:, 0], [0, 90, 180, 270])
    np.testing.assert_allclose(np.rad2deg(tasks.tasks("eval"))[:, 0], [45, 135, 225, 315])


def test_goals_are_uniform_over_the_area_of_their_split() -> None:
    radius = np.linalg.norm(sample("AntGoal-v0", "train"), axis=-1)
    inner = radius < 1
    assert ((inner) | ((radius >= 2.5) & (radius < 3))).all()
    assert inner.mean() == pytest.approx(4 / 15, abs=0.03)
    # The squares of the radii of points that are uniform over an area are uniform themselves.
    assert np.square(radius[inner]).mean() == pytest.approx(0.5, abs=0.03)
    assert np.square(radius[~inner]).mean() == pytest.approx((6.25 + 9) / 2, abs=0.05)
    unseen = np.linalg.norm(sample("AntGoal-v0", "test"), axis=-1)
    assert unseen.min() >= 1 and unseen.max() < 2.5
    np.testing.assert_allclose(np.linalg.norm(DOMAINS["AntGoal-v0"].make_tasks().tasks("eval"), axis=-1), 1.75)


def test_velocities_are_slow_or_fast_in_equal_shares() -> None:
    velocity = sample("HalfCheetahVelocity-v0", "train")[:, 0]
    slow = velocity < 0.5
    assert ((velocity >= 0) & (slow | ((velocity >= 3) & (velocity < 3.5)))).all()
    assert slow.mean() == pytest.approx(0.5, abs=0.03)
    unseen = sample("HalfCheetahVelocity-v0", "test")[:, 0]
    assert unseen.min() >= 0.5 and unseen.max() < 3


@pytest.mark.parametrize("env_id", IDS)
def test_infinite_splits_have_representatives_that_stay_the_same(env_id: str) -> None:
    tasks = DOMAINS[env_id].make_tasks()
    some = tasks.representatives("train", 7)
    np.testing.assert_array_equal(some, tasks.representatives("train", 7))
    assert len(some) == {"AntDirection-v0": 4, "AntCrippled-v0": 3}.get(env_id, 25 if "Damping" in env_id else 7)
    assert tasks.is_finite("train") == (len(some) != 7)
    np.testing.assert_array_equal(tasks.representatives("eval", 7), tasks.tasks("eval"))


def base(env: gym.Env) -> Any:
    """gymnasium's own environment."""
    return env.unwrapped


def test_a_few_velocities_stand_for_all() -> None:
    tasks = DOMAINS["HalfCheetahVelocity-v0"].make_tasks()
    np.testing.assert_allclose(tasks.representatives("train", 4)[:, 0], [0.125, 0.375, 3.125, 3.375])
    np.testing.assert_allclose(tasks.representatives("train", 5)[:, 0], [0.1, 0.3, 3.0, 3.2, 3.4])
    np.testing.assert_allclose(tasks.representatives("test", 5)[:, 0], [0.75, 1.25, 1.75, 2.25, 2.75])
    for split in ("train", "test", "all"):
        some = tasks.representatives(split, 100)[:, 0]
        assert some.mean() == pytest.approx(sample("HalfCheetahVelocity-v0", split).mean(), abs=0.1)


def actions(rng: np.random.Generator, env: VecEnv) -> np.ndarray:
    """Random actions of all sub-environments."""
    shape = env.action_space.shape
    assert shape is not None
    return rng.uniform(-1, 1, (env.num_envs, *shape)).astype(np.float32)


@pytest.mark.parametrize("env_id", PAPER)
def test_rewards_are_those_of_the_formulas(env_id: str) -> None:
    """Against the terms that gymnasium computes, and the positions of its simulation."""
    domain = domain_of(env_id)
    env = LocomotionEnv(domain)
    env.reset(seed=0)
    simulation = base(env).data
    rng = np.random.default_rng(0)
    for _ in range(30):
        action = rng.uniform(-1, 1, domain.action_dim).astype(np.float32)
        position = simulation.qpos[:2].copy()
        state, reward, _, _, _ = env.step(action)
        velocity = (simulation.qpos[:2] - position) / 0.05
        task = env.task
        assert task is not None
        if env_id == "AntDirection-v0":
            along = velocity @ [np.cos(task[0]), np.sin(task[0])]
            contact = 5e-4 * np.square(np.clip(simulation.cfrc_ext, -1, 1)).sum()
            expected = along - 0.5 * np.square(action).sum() - contact + 1
            np.testing.assert_array_equal(state, np.concatenate([simulation.qpos[2:], simulation.qvel]).astype(np.float32))
        elif env_id == "AntGoal-v0":
            contact = 5e-4 * np.square(np.clip(simulation.cfrc_ext, -1, 1)).sum()
            expected = -np.abs(simulation.qpos[:2] - task).sum() - 0.1 * np.square(action).sum() - contact
            np.testing.assert_array_equal(state[:29], np.concatenate([simulation.qpos, simulation.qvel]).astype(np.float32))
            assert np.abs(state[29:]).max() <= 1
        else:
            expected = -abs(velocity[0] - task[0]) - 0.05 * np.square(action).sum()
            np.testing.assert_array_equal(
                state[:17], np.concatenate([simulation.qpos[1:], simulation.qvel]).astype(np.float32)
            )
            # The torso's frame is that of the step before: it is close, and at rest the same.
            np.testing.assert_allclose(state[17:], simulation.body("torso").xpos, atol=0.2)
        assert reward == pytest.approx(expected, abs=1e-6)


def test_the_torso_s_height_is_that_of_the_model() -> None:
    env = LocomotionEnv(domain_of("HalfCheetahVelocity-v0"))
    state, _ = env.reset(seed=0)
    np.testing.assert_allclose(state[17:], base(env).data.body("torso").xpos, atol=1e-6)


@pytest.mark.parametrize("env_id", PAPER)
def test_standing_still_has_the_return_that_figures_show(env_id: str) -> None:
    """But for what the robot does while it settles."""
    domain, paper = domain_of(env_id), {"AntDirection-v0": 200, "AntGoal-v0": -350, "HalfCheetahVelocity-v0": -350}
    env = LocomotionEnv(domain, "eval", reset_noise_scale=0.0)
    tasks = domain.make_tasks().tasks("eval")
    returns = []
    for task in tasks:
        env.reset(seed=0, options={"task": task})
        returns.append(sum(env.step(np.zeros(domain.action_dim, np.float32))[1] for _ in range(200)))
    known = domain.make_tasks().reference_returns(tasks)["doing nothing"]
    np.testing.assert_allclose(returns, known, rtol=0.1, atol=10)
    assert known.mean() == pytest.approx(paper[env_id])


def test_only_ant_direction_ends_early() -> None:
    for env_id in PAPER:
        env = make_meta_vec_env(env_id, 4, seed=0, backend="dummy", env_kwargs={"horizon": 60})
        env.reset()
        rng, lengths = np.random.default_rng(0), []
        for _ in range(130):
            _, _, dones, infos = env.step(actions(rng, env))
            lengths += [infos[i]["episode_lengths"] for i in np.flatnonzero(dones)]
        assert lengths and (np.array(lengths).min() < 60) == (env_id == "AntDirection-v0")


def assert_equal(batched: BatchedLocomotion, singles: list[LocomotionEnv], n_steps: int) -> int:
    """All that is observed, bit for bit, over whole episodes of the same seeds and tasks; return the episodes that ended."""
    n, rng, ended = batched.num_envs, np.random.default_rng(0), 0
    tasks = np.resize(batched.task_distribution.representatives("train", n), (n, batched.task_distribution.task_dim))
    batched.seed(range(3, 3 + n))
    states = batched.reset(np.arange(n), tasks)
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=3 + i, options={"task": tasks[i]})[0], states[i])
    for _ in range(n_steps):
        chosen = rng.uniform(-1, 1, (n, batched.domain.action_dim)).astype(np.float32)
        step = batched.step(chosen)
        for i, env in enumerate(singles):
            state, reward, terminated, _, _ = env.step(chosen[i])
            np.testing.assert_array_equal(state, step.states[i])
            np.testing.assert_array_equal(env.position, batched.positions[i])
            assert (reward, terminated) == (step.rewards[i], step.terminated[i])
            if terminated or step.truncated[i]:
                ended += 1
                np.testing.assert_array_equal(
                    env.reset(options={"task": tasks[i]})[0], batched.reset(np.array([i]), tasks[i][None])[0]
                )
    batched.close()
    return ended


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("with_batch", [True, False])
@pytest.mark.parametrize("env_id", IDS)
def test_the_backends_are_equal_on_any_number_of_threads(
    env_id: str, with_batch: bool, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_batch:
        monkeypatch.setattr(mujoco_backend, "has_batch", lambda: False)
    domain, n = domain_of(env_id), 3
    batched = BatchedLocomotion(n, domain, 40, n_threads)
    assert assert_equal(batched, [LocomotionEnv(domain) for _ in range(n)], 90) >= 2 * n


@pytest.mark.parametrize("env_id", IDS)
def test_who_is_healthy_is_what_gymnasium_says(env_id: str) -> None:
    domain = domain_of(env_id)
    env = LocomotionEnv(domain)
    env.reset(seed=0)
    one, rng, found = base(env), np.random.default_rng(0), set()
    for _ in range(200):
        one.data.qpos[:] = one.init_qpos + rng.uniform(0, 0.7) * rng.uniform(-1, 1, one.model.nq)
        one.data.qvel[:] = rng.uniform(-60, 60) * rng.standard_normal(one.model.nv)
        healthy = bool(domain.healthy(np.concatenate([one.data.qpos, one.data.qvel])[None], one)[0])
        assert healthy == getattr(one, "is_healthy", True)
        found.add(healthy)
    assert len(found) == 1 + hasattr(one, "is_healthy")


@pytest.mark.parametrize("backend", ["batched", "dummy"])
@pytest.mark.parametrize("env_id", IDS)
def test_an_unstable_simulation_is_an_error_with_its_task(
    env_id: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log
    env = make_meta_vec_env(env_id, 2, seed=0, backend=backend)
    env.reset()
    rng = np.random.default_rng(0)
    env.step(actions(rng, env))
    task = re.escape(str(env.get_attr("task")[1].tolist()))
    if backend == "batched":
        env.backend._simulations.coordinates[1, -1] = 1e12  # type: ignore[attr-defined]
        where = "worker 1"
    else:
        base(env.envs[1]).data.qvel[-1] = 1e12  # type: ignore[attr-defined]
        where = "an environment"
    with pytest.raises(ValueError, match=rf"{where} became unstable in step 2 .*{task}.*mjWARN_BADQVEL"):
        env.step(actions(rng, env))


def test_threads_sleep_between_steps_and_end_with_the_environments() -> None:
    env = make_meta_vec_env("AntGoal-v0", 4, seed=0)
    physics: Any = BatchedLocomotion(4, domain_of("AntGoal-v0"), num_threads=3)
    physics.reset(np.arange(4), np.zeros((4, 2)))
    physics.step(actions(np.random.default_rng(0), env))
    threads = set(physics._simulations._executor._threads)
    assert 1 <= len(threads) <= 2  # one that has nothing to do yet takes the next one's work
    used = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - used < 0.1
    physics.close()
    assert not any(thread.is_alive() for thread in threads)


def test_there_are_as_many_threads_as_torch_has_at_most_one_a_worker() -> None:
    before = th.get_num_threads()
    try:
        th.set_num_threads(3)
        made = [make_meta_vec_env("AntGoal-v0", n) for n in (2, 5)]
        assert [env.backend.num_threads for env in made] == [2, 3]  # type: ignore[attr-defined]
    finally:
        th.set_num_threads(before)


@pytest.mark.parametrize("observe_task", [False, True])
@pytest.mark.parametrize("env_id", IDS)
def test_simulations_go_on_where_they_were(env_id: str, observe_task: bool) -> None:
    def make() -> Any:
        env = make_meta_vec_env(env_id, 2, seed=4, env_kwargs={"horizon": 15, "observe_task": observe_task})
        env.reset()
        return env

    def walk(env: VecEnv, n_steps: int, seed: int) -> list[Any]:
        rng = np.random.default_rng(seed)
        return [np.hstack([part.reshape(2, -1) for part in env.step(actions(rng, env))[:3]]) for _ in range(n_steps)]  # type: ignore[union-attr]

    whole, other = make(), make()
    walk(whole, 22, 0)
    state = unpack(pack(vec_env_state.get_state(whole)), "a file")  # type: ignore[arg-type]
    walk(other, 7, 1)
    assert vec_env_state.fits(other, state)
    vec_env_state.set_state(other, state)
    np.testing.assert_array_equal(walk(whole, 50, 2), walk(other, 50, 2))


def test_states_of_another_mujoco_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_meta_vec_env("HalfCheetahVelocity-v0", 1, seed=4)
    env.reset()
    state = vec_env_state.get_state(env)
    assert vec_env_state.fits(env, state)
    monkeypatch.setattr("mujoco.__version__", "2.0")
    assert not vec_env_state.fits(env, state)


def test_there_is_no_state_in_the_midst_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    env: Any = make_meta_vec_env("AntGoal-v0", 2, seed=0)
    env.reset()
    assert vec_env_state.get_state(env) is not None
    monkeypatch.setattr(env.backend._simulations, "_work", interrupt)
    with pytest.raises(KeyboardInterrupt):
        env.step(np.zeros((2, 8), np.float32))
    assert vec_env_state.get_state(env) is None


def test_gymnasium_s_own_options_reach_both_backends() -> None:
    starts: list[Any] = []
    for backend in ("batched", "dummy", "auto"):
        kwargs = {"reset_noise_scale": 0.0}
        env = make_meta_vec_env("HalfCheetahVelocity-v0", 2, seed=0, backend=backend, env_kwargs=kwargs)
        starts.append(env.reset())
        with pytest.raises(ValueError, match="frame_skip=2: rewards, states and time steps are the domain's own"):
            make_meta_vec_env("HalfCheetahVelocity-v0", 2, backend=backend, env_kwargs={"frame_skip": 2})
    assert backend_of(env) == "batched"
    np.testing.assert_array_equal(starts[0][0], starts[0][1])
    np.testing.assert_array_equal(starts[0], starts[1])


@pytest.mark.parametrize("option", ["frame_skip", "ctrl_cost_weight", "healthy_reward", "include_cfrc_ext_in_observation"])
def test_options_that_the_domain_would_not_heed_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=2: rewards, states and time steps are the domain's own"):
        gym.make("AntGoal-v0", **{option: 2})  # type: ignore[arg-type]


@pytest.mark.parametrize("base_id", ["Ant-v5", "HalfCheetah-v5"])
def test_reward_terms_are_those_of_gymnasium(base_id: str) -> None:
    env = gym.make(base_id, exclude_current_positions_from_observation=False, ctrl_cost_weight=1.0)
    env.reset(seed=0)
    rng, shape = np.random.default_rng(0), env.action_space.shape
    for _ in range(30):
        chosen = rng.uniform(-1, 1, shape)
        raw, _, _, _, info = env.step(chosen)
        np.testing.assert_allclose(control_cost(chosen), -info["reward_ctrl"], atol=1e-6)
        if base_id == "Ant-v5":
            np.testing.assert_allclose(contact_cost(raw), -info["reward_contact"], atol=1e-6)


def test_the_first_start_state_does_not_tell_the_task() -> None:
    """Tasks and start states drawn from the same numbers would go together in the first episode after seeding."""
    env = gym.make("HalfCheetahVelocity-v0")
    agree = []
    for seed in range(40):
        _, info = env.reset(seed=seed)
        agree.append((info["task"][0] > 1.75) == (env.get_wrapper_attr("position")[0] > 0.0))
    assert 8 <= sum(agree) <= 32


@pytest.mark.parametrize("env_id", IDS)
def test_meta_episodes_are_those_of_environments_one_by_one(env_id: str) -> None:
    walks: list[list[Any]] = []
    for backend in ("batched", "dummy"):
        env = make_meta_vec_env(env_id, 2, seed=7, backend=backend, env_kwargs={"horizon": 12})
        walks.append([env.reset()])
        rng = np.random.default_rng(0)
        for _ in range(60):
            walks[-1] += [*env.step(actions(rng, env))[:3], np.array(env.get_attr("task"))]
        assert len(np.unique(np.concatenate(walks[-1][4::4]), axis=0)) > 2
    for ours, theirs in zip(*walks, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_each_episode_starts_anew_where_its_own_task_continues() -> None:
    env = make_meta_vec_env("AntGoal-v0", 2, seed=0, backend="batched", env_kwargs={"horizon": 5})
    obs: Any = env.reset()
    task = env.get_attr("task")[0]
    for step in range(1, 10):
        obs, _, dones, infos = env.step(np.ones((2, 8), np.float32))
        np.testing.assert_array_equal(env.get_attr("task")[0], task)
        if step == 5:
            assert np.abs(obs[0, :2]).max() < 0.11 and not dones.any()
            assert not np.array_equal(obs[0, :107], infos[0]["terminal_state"])
    _, _, dones, infos = env.step(np.ones((2, 8), np.float32))
    assert dones.all() and infos[0]["episode_lengths"].tolist() == [5, 5]


def test_without_mujoco_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mujoco_backend, "has_mujoco", lambda: False)
    with pytest.raises(ImportError, match=r"\.\[mujoco\]"):
        BatchedLocomotion(1, domain_of(IDS[2]))


def test_an_unknown_domain_is_named() -> None:
    with pytest.raises(ValueError, match=r"Humanoid-v0.*AntGoal-v0"):
        domain_of("Humanoid-v0")


@pytest.mark.parametrize("env_id", ["AntGoal-v0", "HalfCheetahVelocity-v0"])
def test_the_training_tasks_nearest_to_the_test_tasks_are_held_out(env_id):
    whole, rng = DOMAINS[env_id].make_tasks(), np.random.default_rng(0)
    assert whole.hold_out(0) is whole and "validation" not in whole.splits
    tasks = whole.hold_out(6)
    assert "validation" not in whole.splits and unseen_split(tasks) == "validation"
    low, middle_low, middle_high, high = (0.0, 0.8, 2.6, 3.0) if env_id == "AntGoal-v0" else (0.0, 0.4, 3.1, 3.5)
    train = np.linalg.norm([tasks.sample("train", rng) for _ in range(500)], axis=-1)
    assert ((train >= low) & (train <= middle_low) | (train >= middle_high) & (train <= high)).all()
    held_out = np.linalg.norm(tasks.tasks("validation"), axis=-1)
    assert len(held_out) == 6 and tasks.is_finite("validation")
    before = np.linalg.norm([whole.sample("train", rng) for _ in range(500)], axis=-1)
    for value in held_out:
        assert middle_low < value < middle_high  # no longer trained on
        assert np.abs(before - value).min() < 0.05  # but before
    sampled = np.linalg.norm([tasks.sample("validation", rng) for _ in range(50)], axis=-1)
    assert ((sampled > middle_low) & (sampled < middle_high)).all()
    np.testing.assert_array_equal(tasks.tasks("eval"), whole.tasks("eval"))
    with pytest.raises(ValueError, match="validation_tasks=-1"):
        whole.hold_out(-1)


@pytest.mark.parametrize("backend", ["batched", "dummy"])
def test_environments_hold_training_tasks_out(backend):
    env = make_meta_vec_env("HalfCheetahVelocity-v0", 1, seed=0, backend=backend, env_kwargs={"validation_tasks": 4})
    assert len(env.get_attr("task_distribution")[0].tasks("validation")) == 4
    env.close()
    env = make_meta_vec_env("AntDirection-v0", 1, seed=0, backend=backend, env_kwargs={"validation_tasks": 1})
    assert len(env.get_attr("task_distribution")[0].tasks("train")) == 3
    env.close()


@pytest.mark.parametrize("env_id", BODIES)
def test_rewards_for_running_are_those_of_gymnasium(env_id: str) -> None:
    """But for the ant's velocity, which gymnasium takes from the torso's frame, one integration step behind."""
    domain = domain_of(env_id)
    env, ended = LocomotionEnv(domain), 0
    env.reset(seed=0)
    one, rng = base(env), np.random.default_rng(0)
    assert one.dt == pytest.approx(domain.timestep)
    step, told = one.step, []

    def recorded(action: np.ndarray) -> Any:
        told.append(step(action))
        return told[-1]

    one.step = recorded
    for _ in range(150):
        before = one.data.qpos[0]
        _, reward, terminated, _, _ = env.step(rng.uniform(-1, 1, domain.action_dim).astype(np.float32))
        _, expected, ends, _, info = told[-1]
        if domain.base_id == "Ant-v5":
            expected += (one.data.qpos[0] - before) / one.dt - info["x_velocity"]
        assert reward == pytest.approx(expected, abs=1e-9) and terminated == ends
        if terminated:
            ended += 1
            env.reset()
    assert (ended > 0) == domain.terminates


@pytest.mark.parametrize("env_id", BODIES)
def test_states_of_runners_are_gymnasium_s_without_the_place(env_id: str) -> None:
    env = LocomotionEnv(domain_of(env_id))
    state, _ = env.reset(seed=3)
    options: dict[str, Any] = {"include_cfrc_ext_in_observation": False} if "Ant" in env_id else {}
    own, _ = gym.make(domain_of(env_id).base_id, **options).reset(seed=start_seed(3))
    np.testing.assert_array_equal(state, own.astype(np.float32))


def bodies(env_id: str, task: Any) -> tuple[Any, Any]:
    """The model of a task, and gymnasium's."""
    env = LocomotionEnv(domain_of(env_id))
    env.reset(seed=0, options={"task": task})
    return base(env).model, gym.make(domain_of(env_id).base_id).unwrapped.model  # type: ignore[attr-defined]


@pytest.mark.parametrize(("env_id", "task"), [("HopperMass-v0", [3.2]), ("WalkerMass-v0", [0.3])])
def test_masses_are_those_of_a_body_of_another_density(env_id: str, task: list[float]) -> None:
    """Against a model that MuJoCo compiles with all densities times the factor."""
    import mujoco

    model, original = bodies(env_id, task)
    np.testing.assert_allclose(model.body_mass, original.body_mass * task[0])
    spec = mujoco.MjSpec.from_file(base(LocomotionEnv(domain_of(env_id))).fullpath)
    for geometry in spec.geoms:
        geometry.density *= task[0]
    compiled = spec.compile()
    for name in (
        "body_mass",
        "body_inertia",
        "body_subtreemass",
        "body_invweight0",
        "dof_invweight0",
        "dof_M0",
        "dof_damping",
    ):
        np.testing.assert_allclose(getattr(model, name), getattr(compiled, name), rtol=1e-6, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("env_id", ["HalfCheetahMassDamping-v0", "AntMassDamping-v0"])
def test_mass_and_damping_are_the_task_s_and_do_not_pile_up(env_id: str) -> None:
    env = LocomotionEnv(domain_of(env_id))
    for task in ([0.75, 1.25], [1.55, 0.45]):
        env.reset(seed=0, options={"task": task})
        _, original = bodies(env_id, task)
        np.testing.assert_allclose(base(env).model.body_mass, original.body_mass * task[0])
        np.testing.assert_allclose(base(env).model.dof_damping, original.dof_damping * task[1])
        assert original.dof_damping.max() > 0


@pytest.mark.parametrize("leg", range(4))
def test_a_crippled_leg_does_not_move_and_the_others_do(leg: int) -> None:
    model, original = bodies("AntCrippled-v0", [leg])
    dead = [original.joint(name).id for name in (f"hip_{leg + 1}", f"ankle_{leg + 1}")]
    for actuator in range(8):
        torque = model.actuator_gear[actuator, 0]
        assert torque == (0 if original.actuator_trnid[actuator, 0] in dead else original.actuator_gear[actuator, 0])
    env = LocomotionEnv(domain_of("AntCrippled-v0"))
    env.reset(seed=0, options={"task": [leg]})
    env.reset(seed=0, options={"task": [(leg + 1) % 4]})
    assert (base(env).model.actuator_gear[:, 0] == 0).sum() == 2  # the first leg is well again


@pytest.mark.parametrize("backend", ["batched", "dummy"])
@pytest.mark.parametrize(
    ("env_id", "task", "expected"),
    [
        ("HopperMass-v0", [0.0], "a factor of all masses greater than 0"),
        ("WalkerMass-v0", [-1.0], "a factor of all masses greater than 0"),
        ("WalkerMass-v0", [1.0, 2.0], "expected 1 numbers"),
        ("HalfCheetahMassDamping-v0", [1.0, 0.0], "factors of masses and of damping greater than 0"),
        ("AntMassDamping-v0", [np.nan, 1.0], "expected finite numbers"),
        ("AntCrippled-v0", [4], r"one of the ant's legs: \[0\], \[1\], \[2\] or \[3\]"),
        ("AntCrippled-v0", [0.5], "expected whole numbers"),
    ],
)
def test_bodies_that_there_are_not_are_refused(env_id: str, task: list[float], expected: str, backend: str) -> None:
    env = make_meta_vec_env(env_id, 1, backend=backend)
    env.set_options({"task": task})
    with pytest.raises(ValueError, match=f"task=.*{expected}"):
        env.reset()


def test_factors_come_from_the_ranges_of_their_split() -> None:
    train, test = sample("HopperMass-v0", "train")[:, 0], sample("HopperMass-v0", "test")[:, 0]
    assert (((train >= 0.25) & (train < 0.5)) | ((train >= 3) & (train < 3.5))).all()
    assert test.min() >= 0.5 and test.max() < 3
    known = {tuple(task) for task in sample("AntMassDamping-v0", "train").tolist()}
    assert len(known) == 25 and {mass for mass, _ in known} == {0.75, 0.85, 1.0, 1.15, 1.25}
    unseen = sample("AntMassDamping-v0", "test")
    low, high = (unseen >= 0.4) & (unseen < 0.5), (unseen >= 1.5) & (unseen < 1.6)
    assert (low | high).all() and (low[:, 0] & high[:, 1]).mean() == pytest.approx(0.25, abs=0.03)
    whole = sample("AntMassDamping-v0", "all")
    assert whole.min() >= 0.4 and whole.max() < 1.6 and whole.mean() == pytest.approx(1.0, abs=0.02)
    tasks = DOMAINS["AntMassDamping-v0"].make_tasks()
    assert unseen_split(tasks) == "eval" and len(tasks.tasks("eval")) == 4
    assert unseen_split(tasks.hold_out(5)) == "validation" and len(tasks.hold_out(5).tasks("train")) == 20


def test_workers_have_bodies_of_their_own_and_get_new_ones() -> None:
    """With each task, the sampled ones after those that were asked for."""
    env: Any = make_meta_vec_env("HopperMass-v0", 2, seed=0, backend="batched", env_kwargs={"horizon": 3})
    env.set_options([{"task": [0.3]}, {"task": [3.2]}])
    env.reset()
    models, original = env.backend._simulations._models, env.backend._simulations._original
    for _ in range(8):
        env.step(np.ones((2, 3), np.float32))
        for model, task in zip(models, env.get_attr("task"), strict=True):
            np.testing.assert_allclose(model.body_mass, original.body_mass * task[0])
    assert len({float(task[0]) for task in env.get_attr("task")} & {0.3, 3.2}) == 0


@pytest.mark.filterwarnings("ignore:.*observation space:UserWarning")
@pytest.mark.parametrize("env_id", BODIES)
def test_runners_are_environments_as_sb3_and_this_library_want_them(env_id: str) -> None:
    env = gym.make(env_id)
    check_env(env)
    check_task_env(env, with_reset=True)


@pytest.mark.parametrize("env_id", ["AntDirection-v0", "AntMassDamping-v0", "HopperMass-v0"])
def test_another_integrator_is_another_physics_on_both_backends(env_id: str) -> None:
    import mujoco

    domain, n = domain_of(env_id), 2
    singles = [LocomotionEnv(domain, integrator="euler") for _ in range(n)]
    own = LocomotionEnv(domain)
    rk4, euler = (base(env).model.opt.integrator for env in (own, singles[0]))
    assert (rk4, euler) == (mujoco.mjtIntegrator.mjINT_RK4, mujoco.mjtIntegrator.mjINT_EULER)
    assert assert_equal(BatchedLocomotion(n, domain, 20, integrator="euler"), singles, 45) >= 2 * n
    states = []
    for env in (own, singles[0]):
        env.reset(seed=0)
        states.append(env.step(np.ones(domain.action_dim, np.float32))[0])
    assert 1e-5 < np.abs(states[0] - states[1]).max() < 10


@pytest.mark.parametrize("backend", ["batched", "dummy"])
def test_the_integrator_is_an_option_of_the_registered_environments(backend: str) -> None:
    made = {}
    for name in ("euler", None):
        made[name] = make_meta_vec_env("AntGoal-v0", 1, seed=0, backend=backend, env_kwargs={"integrator": name})
        made[name].reset()
    rng = np.random.default_rng(0)
    one, other = (np.asarray(env.step(actions(rng, env))[0]) for env in made.values())
    assert not np.array_equal(one, other)
    if backend == "batched":  # dummies have no state
        assert not vec_env_state.fits(made[None], vec_env_state.get_state(made["euler"]))
    with pytest.raises(ValueError, match="integrator='fast': use one of euler, implicit, implicitfast, rk4"):
        make_meta_vec_env("AntGoal-v0", 1, backend=backend, env_kwargs={"integrator": "fast"})


def test_a_copy_has_the_integrator_and_the_bodies() -> None:
    env = LocomotionEnv(domain_of("HopperMass-v0"), integrator="euler")
    env.reset(seed=0)
    copied = copy.deepcopy(env)
    assert base(copied).model.opt.integrator == base(env).model.opt.integrator
    for one in (env, copied):
        one.reset(seed=1, options={"task": [0.4]})
    np.testing.assert_array_equal(base(copied).model.body_mass, base(env).model.body_mass)
    step = np.ones(3, np.float32)
    np.testing.assert_array_equal(env.step(step)[0], copied.step(step)[0])


@pytest.mark.parametrize("env_id", ["AntGoal-v0", "WalkerMass-v0"])
def test_pictures_are_of_the_worker_and_change_nothing(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, bare = (make_meta_vec_env(env_id, 2, seed=0, env_kwargs={"horizon": 30}) for _ in range(2))
    one: Any = drawn.backend._base  # type: ignore[attr-defined]
    # Without a driver for graphics: where the robot is that gymnasium would draw.
    monkeypatch.setattr(one, "render", lambda: one.data.qpos[: drawn.backend.domain.position_dim].copy())  # type: ignore[attr-defined]
    for env in (drawn, bare):
        env.reset()
    rng = np.random.default_rng(0)
    for _ in range(40):
        chosen = actions(rng, drawn)
        np.testing.assert_array_equal(drawn.step(chosen)[0], bare.step(chosen)[0])  # type: ignore[arg-type]
        np.testing.assert_array_equal(drawn.get_images(), drawn.get_attr("position"))


@pytest.mark.parametrize(("logfile", "is_written"), [("MUJOCO_LOG.TXT", False), ("mine.txt", True)])
def test_no_file_is_written_to_the_working_directory_unless_somebody_named_one(logfile, is_written, tmp_path, monkeypatch):
    mujoco = pytest.importorskip("mujoco", minversion="4.0")
    monkeypatch.chdir(tmp_path)
    before, config = mujoco.MjLogConfig.get(), mujoco.MjLogConfig.get()
    config.logfile, config.logto_file = logfile, True
    mujoco.MjLogConfig.set(config)
    try:
        LocomotionEnv(DOMAINS["HalfCheetahVelocity-v0"]).close()  # whose model makes MuJoCo warn
        assert [path.name for path in tmp_path.iterdir()] == ([logfile] if is_written else [])
    finally:
        mujoco.MjLogConfig.set(before)
