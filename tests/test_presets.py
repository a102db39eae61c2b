"""Hyperparameter files as what the classes take."""

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.utils import LinearSchedule

from sb3_ldm import make_meta_vec_env
from sb3_ldm.zoo.configs import ZOO_KEYS, available_configs, load_preset, read_preset
from sb3_ldm.zoo.registration import ALGORITHMS, register

PRESETS = [
    (name, env_id) for name, path in available_configs().items() for env_id in yaml.safe_load(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("name", "env_id"), PRESETS)
def test_the_class_takes_every_preset(name: str, env_id: str) -> None:
    register()
    env = make_meta_vec_env("GridNavi-v0" if env_id == "default" else env_id, read_preset(name, env_id)["n_envs"], seed=0)
    preset = load_preset(name, env_id)
    model = ALGORITHMS[name.split("-")[0]](**preset, env=env, device="cpu")
    assert not preset.keys() & set(ZOO_KEYS)
    assert not any(isinstance(value, str) and value.startswith(("lin_", "dict(")) for value in preset.values())
    rate, raw = model.learning_rate, read_preset(name, env_id).get("learning_rate")
    if raw is None:  # the class's own
        return
    assert isinstance(rate, LinearSchedule) == isinstance(raw, str)
    at_start = rate if isinstance(rate, float) else rate(1.0)
    assert at_start == (float(raw.removeprefix("lin_")) if isinstance(raw, str) else raw)
    if isinstance(rate, LinearSchedule):
        assert rate(0.5) == pytest.approx(at_start / 2) and rate(0.0) == 0.0


@pytest.mark.parametrize(("name", "env_id"), [("ldm", "GridNavi-v0"), ("varibad-paper", "GridNavi-v0")])
def test_an_agent_of_a_preset_can_be_trained_and_saved(name: str, env_id: str, tmp_path) -> None:
    env = make_meta_vec_env(env_id, read_preset(name, env_id)["n_envs"], seed=0)
    preset = load_preset(name, env_id)
    model = ALGORITHMS[name.split("-")[0]](**preset, env=env, seed=0, device="cpu")
    model.save(tmp_path / "agent")
    other = type(model).load(tmp_path / "agent", device="cpu")
    obs = env.reset()
    assert isinstance(obs, np.ndarray)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], other.predict(obs, deterministic=True)[0])
    if name == "varibad-paper":
        assert model.policy.optimizer_class is th.optim.RMSprop


def test_a_schedule_that_is_none_is_named(tmp_path) -> None:
    path = tmp_path / "mine.yml"
    for value in ("cos_1e-3", "lin_", "1e-3"):  # YAML reads the last one as text
        path.write_text(yaml.safe_dump({"default": {"learning_rate": value}}))
        with pytest.raises(ValueError, match=rf"learning_rate='{value}': use a number, or lin_NUMBER"):
            load_preset(path, "GridNavi-v0")
