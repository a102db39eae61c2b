"""Benchmarks of gradient-based algorithms: estimates against exact meta-gradients, and where the time goes."""

import pandas as pd
import pytest
import torch as th

from benchmarks import adaptation_speed
from benchmarks.meta_gradients import (
    EXACT,
    THROUGH_STEPS,
    biases,
    centred_cosine,
    draw_biases,
    draw_off_policy,
    main,
    off_policy,
    sampled_meta_gradient,
)
from sb3_ldm import ProMP
from sb3_ldm.gradient.tabular import meta_gradient, random_mdp


def test_scores_are_cosines_of_what_differs_from_the_mean():
    one = th.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=th.float64)
    assert centred_cosine(one, 3.0 * one + 7.0) == pytest.approx(1.0)
    assert centred_cosine(one, -one) == pytest.approx(-1.0)
    assert centred_cosine(one, th.ones(2, 2, dtype=th.float64)) == 0.0


def test_scores_fall_with_the_distance_from_the_data():
    found = off_policy([0], shares=(0.0, 0.8), numbers=())
    score = found.set_index(["derivative", "share", "estimator"])["score"]
    assert score["gradient", 0.0, "loaded_dice"] > 0.8 and score["Hessian", 0.0, "taypo2"] > 0.5
    assert score["gradient", 0.8, "lvc"] < score["gradient", 0.0, "lvc"]
    assert score["gradient", 0.0, "loaded_dice"] > score["gradient", 0.0, "dice"]  # the baseline's worth
    assert len(draw_off_policy(found).axes) == 4


def test_noisy_steps_with_exact_derivatives_come_to_the_meta_gradient():
    generator = th.Generator().manual_seed(0)
    mdp, logits = random_mdp(5, 3, generator), th.zeros(5, 3, dtype=th.float64)
    exact = meta_gradient(mdp, logits, 1.0, 2)
    found = sampled_meta_gradient(mdp, logits, EXACT, 1.0, 2, 3000, generator)
    assert centred_cosine(found, exact) > 0.99


def test_the_bias_of_hessians_shows_through_several_steps():
    found = biases([0], repeats=12, settings=[(7.0, 3, 64)])
    bias = found.set_index("estimator")["bias"]
    assert set(bias.index) == set(THROUGH_STEPS) and found["variance"].gt(0.0).all()
    assert bias["lvc"] > 0.05 and bias["lvc"] > 2 * max(abs(bias["loaded_dice"]), abs(bias[EXACT]))
    assert len(draw_biases(found).axes) == 6


def test_tables_and_figures_are_written(tmp_path, monkeypatch):
    table = off_policy([0], shares=(), numbers=(10,))
    monkeypatch.setattr("benchmarks.meta_gradients.EXPERIMENTS", {"off_policy": (lambda seeds: table, draw_off_policy)})
    main(["--seeds", "1", "--results", str(tmp_path), "--out", str(tmp_path)])
    assert len(pd.read_csv(tmp_path / "off_policy.csv")) == len(table)
    assert (tmp_path / "off_policy.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_one_stacked_call_is_faster_than_many(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setattr(adaptation_speed, "ALGORITHMS", {"promp": ProMP})
    adaptation_speed.main(["--rounds", "1", "--episodes", "2", "--horizon", "3", "--out", str(tmp_path / "speed.csv")])
    rows = pd.read_csv(tmp_path / "speed.csv").set_index("quantity")
    assert rows.loc["times single calls", "median"] > 8.0
    assert 0.0 < rows.loc["share of time in physics", "median"] < 1.0
