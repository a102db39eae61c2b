"""What constructors take: each option once, told by every class that hands it on."""

import inspect
import sys
import typing
from pathlib import Path

import pytest
from helpers import Bandit, vec_env

import sb3_ldm
from sb3_ldm import LDM, RL2, Mixreg, VariBAD
from sb3_ldm.algorithms.ldm.imagination import ImaginationConfig, ImaginationOptions
from sb3_ldm.on_policy import VAEPPO, PPOOptions, SequencePPO, VAEOptions
from sb3_ldm.on_policy.options import Auto
from sb3_ldm.options import takes_options_of

ALGORITHMS = (RL2, Mixreg, LDM, VariBAD)
NOT_HANDED_ON = ("policy", "env", "_init_setup_model")
SMALL = {"device": "cpu", "policy_kwargs": {"lstm_hidden_size": 8}}


@pytest.mark.parametrize(
    ("options", "owner"),
    [(PPOOptions, SequencePPO), (VAEOptions, VAEPPO), (ImaginationOptions, ImaginationConfig)],
)
def test_options_that_editors_know_are_those_that_there_are(options, owner):
    parameters = inspect.signature(owner).parameters
    there_are = {name: one.annotation for name, one in parameters.items() if name not in NOT_HANDED_ON}
    known = typing.get_type_hints(options)
    assert {name: without_auto(one) for name, one in known.items()} == {k: without_auto(v) for k, v in there_are.items()}


def without_auto(annotation):
    """A type that an option has once it is chosen."""
    kinds = [one for one in typing.get_args(annotation) if one != Auto]
    return set(kinds) if len(kinds) > 1 else kinds[0] if kinds and Auto in typing.get_args(annotation) else annotation


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_option_is_documented_once(algorithm):
    for name in inspect.signature(algorithm).parameters:
        assert algorithm.__doc__.count(f":param {name}: ") == 1, name
    assert algorithm.__doc__.rstrip().rpartition("\n")[2].startswith(":raises ValueError:") or algorithm is RL2


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (RL2, {"learning_rate": 1e-4, "n_steps": 16, "batch_size": 32, "n_epochs": 2, "gamma": 0.9, "gae_lambda": 0.8}),
        (Mixreg, {"mixreg_alpha": 0.5, "learning_rate": 1e-4, "n_steps": 16}),
        (LDM, {"mixture_ratio": 0.5, "imagination_starts": 100, "beta": 2.0, "n_partners": 3}),
        (VariBAD, {"rl_loss_through_encoder": True, "dropout_rate": 0.3, "latent_dim": 3, "kl_weight": 0.5}),
    ],
)
def test_options_may_be_given_by_position(algorithm, options):
    model = algorithm("MlpLstmPolicy", vec_env(Bandit, 4), *options.values(), **SMALL)
    assert {name: getattr(model, name) for name in options} == options
    with pytest.raises(TypeError, match=next(iter(options))):
        algorithm("MlpLstmPolicy", vec_env(Bandit, 4), *options.values(), **{next(iter(options)): 1})


def test_defaults_of_a_class_are_those_of_its_signature():
    changed = ("policy", "env", "policy_kwargs", "vae_kwargs", "device", "n_envs")  # by the constructor
    for algorithm in ALGORITHMS:
        model = algorithm("MlpLstmPolicy", vec_env(Bandit, 4), device="cpu", _init_setup_model=False)
        for name, one in inspect.signature(algorithm).parameters.items():
            if name in vars(model) and name not in changed:
                assert vars(model)[name] == one.default, name


def test_a_class_of_ones_own_may_hand_options_on():
    @takes_options_of(LDM, beta=2.0)
    class Mine(LDM):
        """
        Mine.

        :param bonus: what is added
        """

        def __init__(self, policy, env, bonus=0.0, *, _init_setup_model=True, **options):
            super().__init__(policy, env, _init_setup_model=_init_setup_model, **options)
            self.bonus = bonus

    assert list(inspect.signature(Mine).parameters)[:4] == ["policy", "env", "bonus", "mixture_ratio"]
    assert ":param bonus: what is added\n" in Mine.__doc__ and ":param beta: " in Mine.__doc__
    assert Mine("MlpLstmPolicy", vec_env(Bandit, 4), 1.0, **SMALL).beta == 2.0
    assert Mine("MlpLstmPolicy", vec_env(Bandit, 4), beta=3.0, **SMALL).beta == 3.0
    with pytest.raises(TypeError, match="Mine has no option bonnus: did you mean bonus"):
        Mine("MlpLstmPolicy", vec_env(Bandit, 4), bonnus=1.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_gradient_step_is_at_most_five_frames_below_learn(algorithm):
    package, stacks = Path(sb3_ldm.__file__).parent, []
    model = algorithm("MlpLstmPolicy", vec_env(Bandit, 4), **SMALL)
    optimizers = [model.policy.optimizer, *([model.vae.optimizer] if hasattr(model, "vae") else [])]

    def look(*_):
        frame, names = sys._getframe(), []
        while frame is not None:
            if package in Path(frame.f_code.co_filename).parents:
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        stacks.append((names[-1], names[1:-1][::-1], len(names)))

    for optimizer in optimizers:
        optimizer.register_step_pre_hook(look)
    model.learn(32)
    assert len(stacks) >= len(optimizers) and {first for first, *_ in stacks} == {"learn"}
    assert max(number for *_, number in stacks) <= 5, stacks


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_is_logged_by_the_name_of_its_class(algorithm, tmp_path):
    pytest.importorskip("tensorboard")
    model = algorithm("MlpLstmPolicy", vec_env(Bandit, 4), tensorboard_log=str(tmp_path), **SMALL)
    model.learn(1)
    model.learn(1, tb_log_name="mine")
    assert {path.name for path in tmp_path.iterdir()} == {f"{algorithm.__name__}_1", "mine_1"}
