"""The MuJoCo domains: tasks, rewards, and two backends that agree."""

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm import make_meta_vec_env
from sb3_ldm.envs import envpool_backend, factory
from sb3_ldm.envs.envpool_backend import BatchedLocomotion, has_envpool
from sb3_ldm.envs.locomotion import DOMAINS, LocomotionEnv, contact_cost, control_cost, domain_of
from sb3_ldm.envs.tasks import unseen_split

IDS = list(DOMAINS)
needs_envpool = pytest.mark.skipif(not has_envpool(), reason="EnvPool is not installed")


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
    assert len(some) == (7 if not tasks.is_finite("train") else 4)
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


@pytest.mark.parametrize("env_id", IDS)
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


@pytest.mark.parametrize("env_id", IDS)
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
    for env_id in IDS:
        env = make_meta_vec_env(env_id, 4, seed=0, backend="dummy", env_kwargs={"horizon": 60})
        env.reset()
        rng, lengths = np.random.default_rng(0), []
        for _ in range(130):
            _, _, dones, infos = env.step(actions(rng, env))
            lengths += [infos[i]["episode_lengths"] for i in np.flatnonzero(dones)]
        assert lengths and (np.array(lengths).min() < 60) == (env_id == "AntDirection-v0")


@needs_envpool
@pytest.mark.parametrize("env_id", IDS)
def test_the_backends_agree(env_id: str) -> None:
    """From the states that EnvPool reached, one step of gymnasium leads to the same states and rewards."""
    domain, n = domain_of(env_id), 3
    pool, env = BatchedLocomotion(n, domain), LocomotionEnv(domain)
    pool.seed([0] * n)
    tasks = domain.make_tasks().representatives("train", n)[:n]
    pool.reset(np.arange(n), tasks)
    env.reset(seed=0)
    one, rng = base(env), np.random.default_rng(0)
    n_positions = one.model.nq
    n_coordinates = n_positions + one.model.nv
    for _ in range(25):
        before = pool._raw.copy()
        chosen = rng.uniform(-1, 1, (n, domain.action_dim)).astype(np.float32)
        batched = pool.step(chosen)
        assert not batched.terminated.any()
        for i in range(n):
            env.reset(options={"task": tasks[i]})
            one.set_state(before[i, :n_positions], before[i, n_positions:n_coordinates])
            env._raw = before[i]
            state, reward, terminated, _, _ = env.step(chosen[i])
            # The contact solver starts from its last solution, which a state that was set does not have.
            raw = env._raw
            assert raw is not None
            np.testing.assert_allclose(raw[:n_positions], pool._raw[i, :n_positions], atol=5e-3)
            np.testing.assert_allclose(raw[:n_coordinates], pool._raw[i, :n_coordinates], atol=0.2)
            np.testing.assert_array_equal(state, domain.states(raw).astype(np.float32))
            np.testing.assert_array_equal(batched.states[i], domain.states(pool._raw[i]).astype(np.float32))
            assert reward == pytest.approx(batched.rewards[i], abs=0.05)
            assert not terminated


@needs_envpool
def test_the_half_cheetah_s_backends_agree_to_the_last_digits() -> None:
    domain = domain_of("HalfCheetahVelocity-v0")
    pool, env = BatchedLocomotion(1, domain), LocomotionEnv(domain)
    pool.seed([0])
    task = np.array([3.2])
    pool.reset(np.arange(1), task[None])
    env.reset(seed=0, options={"task": task})
    base(env).set_state(pool._raw[0, :9], pool._raw[0, 9:])
    env._raw = pool._raw[0]
    rng = np.random.default_rng(0)
    for _ in range(30):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        batched = pool.step(action[None])
        state, reward, _, _, _ = env.step(action)
        np.testing.assert_allclose(state, batched.states[0], atol=1e-6)
        assert reward == pytest.approx(batched.rewards[0], abs=1e-6)


@needs_envpool
@pytest.mark.parametrize("env_id", ["AntDirection-v0", "AntGoal-v0"])
def test_an_ant_s_first_step_agrees_to_the_last_digits(env_id: str) -> None:
    """Later steps depend on the contact solver's last solution, in which both differ."""
    import mujoco

    domain = domain_of(env_id)
    pool, env = BatchedLocomotion(4, domain), LocomotionEnv(domain)
    pool.seed([0, 1, 2, 3])
    tasks = domain.make_tasks().representatives("train", 4)
    pool.reset(np.arange(4), tasks)
    start = pool._raw.copy()
    chosen = np.random.default_rng(0).uniform(-1, 1, (4, domain.action_dim)).astype(np.float32)
    batched = pool.step(chosen)
    one = base(env)
    n_positions = one.model.nq
    for i in range(4):
        env.reset(seed=0, options={"task": tasks[i]})
        mujoco.mj_resetData(one.model, one.data)
        one.set_state(start[i, :n_positions], start[i, n_positions : n_positions + one.model.nv])
        env._raw = start[i]
        state, reward, _, _, _ = env.step(chosen[i])
        assert env._raw is not None and not np.array_equal(env._raw, start[i])
        # Contacts are solved up to a tolerance, which both MuJoCos reach in their own way.
        np.testing.assert_allclose(env._raw, pool._raw[i], atol=5e-6)
        np.testing.assert_allclose(state, batched.states[i], atol=5e-6)
        assert reward == pytest.approx(batched.rewards[i], abs=1e-6)


# Where EnvPool says an ant is, its kinematics have not seen the last of the step.
@needs_envpool
@pytest.mark.parametrize(("env_id", "atol"), list(zip(IDS, (0.2, 0.01, 1e-6), strict=True)))
def test_task_rewards_are_those_of_envpool_s_own_terms(env_id: str, atol: float) -> None:
    domain, n = domain_of(env_id), 4
    pool = BatchedLocomotion(n, domain)
    pool.seed([0, 1, 2, 3])
    tasks = domain.make_tasks().representatives("train", n)
    pool.reset(np.arange(n), tasks)
    step = pool._pool.step
    rng = np.random.default_rng(0)
    for _ in range(20):
        chosen = rng.uniform(-1, 1, (n, domain.action_dim)).astype(np.float32)
        last = step(chosen.astype(np.float64))
        pool._pool.step = lambda actions, last=last: last
        batched, info = pool.step(chosen), last[-1]
        pool._pool.step = step
        order = info["env_id"]
        terms = {name: np.empty(n) for name in info if np.shape(info[name]) == (n,)}
        for name, values in terms.items():
            values[order] = info[name]
        squared = (chosen.astype(np.float64) ** 2).sum(1)
        contacts = terms.get("reward_contact", np.zeros(n))
        if env_id == "AntDirection-v0":
            angle = tasks[:, 0]
            along = terms["x_velocity"] * np.cos(angle) + terms["y_velocity"] * np.sin(angle)
            expected = along - 0.5 * squared + contacts + 1.0
        elif env_id == "AntGoal-v0":
            distance = np.abs(terms["x_position"] - tasks[:, 0]) + np.abs(terms["y_position"] - tasks[:, 1])
            expected = -distance - 0.1 * squared + contacts
        else:
            expected = -np.abs(terms["x_velocity"] - tasks[:, 0]) - 0.05 * squared
        np.testing.assert_allclose(batched.rewards, expected, atol=atol)
        if batched.terminated.any():
            break


@pytest.mark.parametrize("option", ["frame_skip", "ctrl_cost_weight", "healthy_reward", "include_cfrc_ext_in_observation"])
def test_options_that_the_domain_would_not_heed_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=2: rewards, states and time steps are the domain's own"):
        gym.make("AntGoal-v0", **{option: 2})  # type: ignore[arg-type]


@needs_envpool
@pytest.mark.parametrize("base_id", ["Ant-v5", "HalfCheetah-v5"])
def test_reward_terms_are_those_of_envpool(base_id: str) -> None:
    import envpool

    options: dict[str, Any] = {"terminate_when_unhealthy": False} if base_id == "Ant-v5" else {}
    options |= {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 1.0}
    pool = envpool.make(base_id, env_type="gymnasium", num_envs=2, seed=0, **options)
    raw, _ = pool.reset()
    rng = np.random.default_rng(0)
    for _ in range(30):
        chosen = rng.uniform(-1, 1, (2, *pool.action_space.shape))
        raw, _, _, _, info = pool.step(chosen)
        np.testing.assert_allclose(control_cost(chosen), -info["reward_ctrl"], atol=1e-6)
        if base_id == "Ant-v5":
            np.testing.assert_allclose(contact_cost(raw), -info["reward_contact"], atol=1e-6)


@needs_envpool
@pytest.mark.parametrize("env_id", IDS)
def test_the_same_seed_gives_the_same_meta_episodes_on_any_number_of_threads(env_id: str) -> None:
    def walk(threads: int) -> list[np.ndarray]:
        env = make_meta_vec_env(env_id, 3, seed=5, backend="batched", env_kwargs={"horizon": 20})
        env.backend.num_threads = threads  # type: ignore[attr-defined]
        first: Any = env.reset()
        rng, seen = np.random.default_rng(0), [first]
        for _ in range(50):
            obs, rewards, dones, _ = env.step(actions(rng, env))
            seen += [obs, rewards, dones, np.array(env.get_attr("task"))]
        env.close()
        return seen

    for one, two in zip(walk(1), walk(2), strict=True):
        np.testing.assert_array_equal(one, two)


def has_all_cores() -> bool:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    return len(cores) > 1 and cores == set(range(os.cpu_count() or 0))


@needs_envpool
@pytest.mark.skipif(not has_all_cores(), reason="needs Linux and all of several cores")
@pytest.mark.parametrize("fills", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
def test_threads_have_a_core_each_where_they_fill_the_machine(
    fills: bool, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads() -> set[int]:
        return {int(path.name) for path in Path("/proc/self/task").iterdir()}

    def refuse(*_: Any) -> None:
        raise PermissionError("not here")

    if not allowed:
        monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(envpool_backend, "fills_machine", lambda num_threads: fills)
    before, policy = threads(), os.sched_getscheduler(0)
    env = make_meta_vec_env("HalfCheetahVelocity-v0", 2, seed=0)
    env.reset()
    assert os.sched_getscheduler(0) == policy
    started = threads() - before
    assert {os.sched_getscheduler(thread) for thread in started} == {os.SCHED_BATCH if fills and allowed else policy}
    on_one_core = [thread for thread in started if len(os.sched_getaffinity(thread)) == 1]
    assert len(on_one_core) == (env.backend.num_threads if fills else 0)  # type: ignore[attr-defined]
    env.close()


def test_some_of_the_cores_are_not_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert [envpool_backend.fills_machine(threads) for threads in (1, 3, 4, 8)] == [False, False, True, True]
    for some in ({2, 3}, {2, 3, 4, 5}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, some=some: some, raising=False)
        assert not envpool_backend.fills_machine(4)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert not envpool_backend.fills_machine(4)


def test_the_first_start_state_does_not_tell_the_task() -> None:
    """Tasks and start states drawn from the same numbers would go together in the first episode after seeding."""
    env = gym.make("HalfCheetahVelocity-v0")
    agree = []
    for seed in range(40):
        _, info = env.reset(seed=seed)
        agree.append((info["task"][0] > 1.75) == (env.get_wrapper_attr("position")[0] > 0.0))
    assert 8 <= sum(agree) <= 32


@needs_envpool
@pytest.mark.parametrize("env_id", IDS)
def test_both_backends_draw_the_same_tasks(env_id: str) -> None:
    tasks = []
    for backend in ("batched", "dummy"):
        env = make_meta_vec_env(env_id, 2, seed=7, backend=backend, env_kwargs={"horizon": 2})
        env.reset()
        drawn = [env.get_attr("task")]
        for _ in range(8):
            env.step(actions(np.random.default_rng(0), env))
            drawn.append(env.get_attr("task"))
        tasks.append(np.array(drawn))
        assert len(np.unique(tasks[-1][:, 0], axis=0)) > 1
    np.testing.assert_array_equal(tasks[0], tasks[1])


@needs_envpool
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


def test_without_envpool_the_other_backend_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(factory._batched, IDS[2], factory._batched[IDS[2]]._replace(is_available=lambda: False))
    monkeypatch.setattr("sb3_ldm.envs.envpool_backend.has_envpool", lambda: False)
    env = make_meta_vec_env(IDS[2], 1)
    assert type(env).__name__ == "DummyVecEnv"
    with pytest.raises(ImportError, match=r"\.\[envpool\]"):
        make_meta_vec_env(IDS[2], 1, backend="batched")


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
    if backend == "batched":
        pytest.importorskip("envpool")
    env = make_meta_vec_env("HalfCheetahVelocity-v0", 1, seed=0, backend=backend, env_kwargs={"validation_tasks": 4})
    assert len(env.get_attr("task_distribution")[0].tasks("validation")) == 4
    env.close()
    env = make_meta_vec_env("AntDirection-v0", 1, seed=0, backend=backend, env_kwargs={"validation_tasks": 1})
    assert len(env.get_attr("task_distribution")[0].tasks("train")) == 3
    env.close()
