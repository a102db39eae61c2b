"""
How near do estimates of meta-gradients come to the exact ones, on random tabular problems?

``python -m benchmarks.meta_gradients`` repeats two experiments, in minutes of one core, and writes a table and figure of each
to ``benchmarks/results/meta_gradients/`` and ``benchmarks/figures/meta_gradients/``; ``--figures`` draws the tables that are.

- ``off_policy`` (Tang et al. 2021, https://arxiv.org/abs/2106.13125): the centred cosine of gradients and Hessians with the
  exact ones, where trajectories are of the uniform policy: by the policy's distance from it, and by their number.
- ``biases`` (Liu et al. 2022, https://arxiv.org/abs/2112.15400): bias and variance of the gradient through inner steps, by
  the size of these steps, their number, and the trajectories of each. ``exact`` has exact derivatives everywhere, and inner
  steps of sampled gradients: what is left is the bias of a value of a noisy mean, the compositional one.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch as th
from matplotlib.figure import Figure
from torch.func import grad, hessian

from benchmarks.tables import RESULTS
from sb3_ldm.figures.draw import save_figure
from sb3_ldm.gradient.estimators import ESTIMATORS
from sb3_ldm.gradient.tabular import (
    TabularMDP,
    estimate,
    meta_gradient,
    policy_of,
    random_mdp,
    sample_trajectories,
    state_values,
    value,
)

FOLDER = RESULTS / "meta_gradients"
FIGURES = RESULTS.parent / "figures" / "meta_gradients"
HORIZON = 20
#: How far the policy is from the uniform one; at 1 it would be deterministic.
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
TRAJECTORIES = (10, 30, 100, 300, 1000)
MANY, FAR = 1000, 0.5  #: trajectories, and share, where the other is varied
DERIVATIVES: dict[str, Callable[..., Any]] = {"gradient": grad, "Hessian": hessian}
OFF_POLICY = ("dice", "loaded_dice", "lvc", "taypo2", "v_trace")  #: plain MAML's loss does not know of a behaviour

STEP_SIZES, N_STEPS, BATCHES = (1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0), (1, 2, 3, 4, 5, 6), (2, 4, 8, 16, 32, 64, 128, 256)
STEP_SIZE, BATCH = 3.0, 32  #: where others are varied
EXACT = "exact"
THROUGH_STEPS = ("plain", "lvc", "taypo2", "loaded_dice", EXACT)
LABELS = {
    "plain": "plain MAML",
    "dice": "DiCE",
    "loaded_dice": "loaded DiCE",
    "lvc": "LVC (first order)",
    "taypo2": "TayPO (second order)",
    "v_trace": "V-trace",
    EXACT: "exact, noisy steps",
}
COLOURS = dict(zip(LABELS, ("#6b8e23", "#999999", "#555555", "#4a90a4", "#d1495b", "#c2a83e", "#000000"), strict=True))


def centred_cosine(one: th.Tensor, two: th.Tensor) -> float:
    """
    :param one: any shape
    :param two: of the same shape
    :return: cosine of the angle between what both differ from their means by
    """
    one, two = (part.flatten() - part.mean() for part in (one, two))
    return float(one @ two / (one.norm() * two.norm()).clamp_min(1e-300))


def policy_far_off(generator: th.Generator, shape: tuple[int, int], share: float) -> th.Tensor:
    """
    :param generator: of random numbers
    :param shape: ``(n_states, n_actions)``
    :param share: of a random deterministic policy in a mixture with the uniform one
    :return: logits of the mixture, ``(n_states, n_actions)``
    """
    chosen = th.randint(shape[1], (shape[0],), generator=generator)
    sure = th.nn.functional.one_hot(chosen, shape[1]).double()
    return (share * sure + (1.0 - share) / shape[1]).log()


def off_policy(seeds: Iterable[int], shares: Sequence[float] = SHARES, numbers: Sequence[int] = TRAJECTORIES) -> pd.DataFrame:
    """
    :param seeds: a random problem each
    :param shares: of the deterministic policy, with :data:`MANY` trajectories
    :param numbers: of trajectories, at the share :data:`FAR`
    :return: a row for each seed, setting, derivative and estimator, with its score
    """
    rows = []
    settings = list(dict.fromkeys([*((share, MANY) for share in shares), *((FAR, number) for number in numbers)]))
    for seed in seeds:
        mdp = random_mdp(10, 5, th.Generator().manual_seed(seed))
        uniform = policy_of(th.zeros(10, 5, dtype=th.float64))
        for share, n in settings:
            generator = th.Generator().manual_seed(1000 + seed)
            logits = policy_far_off(generator, (10, 5), share)
            values = state_values(mdp, uniform)
            noise = th.randn(10, dtype=th.float64, generator=generator)
            critic = values + noise / noise.norm() * values.norm()
            trajectories = sample_trajectories(mdp, uniform, n, HORIZON, generator)
            for name in OFF_POLICY:

                def estimated(theta: th.Tensor, of: Any = (name, trajectories, uniform, mdp.gamma, critic)) -> th.Tensor:
                    return estimate(ESTIMATORS[of[0]], theta, *of[1:])

                for derivative, take in DERIVATIVES.items():
                    exact = take(lambda theta, mdp=mdp: value(mdp, theta, HORIZON))(logits)
                    score = centred_cosine(take(estimated)(logits), exact)
                    rows.append((seed, share, n, derivative, name, score))
    return pd.DataFrame(rows, columns=["seed", "share", "trajectories", "derivative", "estimator", "score"])


def sampled_meta_gradient(
    mdp: TabularMDP, logits: th.Tensor, name: str, step_size: float, n_steps: int, batch: int, generator: th.Generator
) -> th.Tensor:
    """
    :param mdp: the problem
    :param logits: initial ones, ``(n_states, n_actions)``
    :param name: of the estimator that inner steps follow and that is differentiated, or :data:`EXACT`
    :param step_size: of the inner steps
    :param n_steps: how many
    :param batch: trajectories of each, and of the outer gradient
    :param generator: of random numbers
    :return: the gradient of the value after the steps, ``(n_states, n_actions)``
    """
    theta = logits.clone().requires_grad_()
    now = theta

    def sampled(at: th.Tensor, estimator: str) -> th.Tensor:
        behaviour = policy_of(at).detach()
        trajectories = sample_trajectories(mdp, behaviour, batch, HORIZON, generator)
        return estimate(ESTIMATORS[estimator], at, trajectories, behaviour, mdp.gamma, state_values(mdp, behaviour))

    for _ in range(n_steps):
        if name == EXACT:
            noisy = th.autograd.grad(sampled(now, "plain"), now, retain_graph=True)[0]
            true = th.autograd.grad(value(mdp, now), now, create_graph=True)[0]
            step = true + (noisy - true).detach()
        else:
            step = th.autograd.grad(sampled(now, name), now, create_graph=True)[0]
        now = now + step_size * step
    outer = value(mdp, now) if name == EXACT else sampled(now, name)
    return th.autograd.grad(outer, theta)[0]


def biases(seeds: Iterable[int], repeats: int = 40, settings: Sequence[tuple[float, int, int]] | None = None) -> pd.DataFrame:
    """
    :param seeds: a random problem each
    :param repeats: estimates of each setting
    :param settings: step sizes, numbers of steps and of trajectories; None for all
    :return: a row for each seed, setting and estimator: the cosine of the mean with the exact meta-gradient, and its squared
        bias and its variance as shares of the exact one's square
    """
    if settings is None:
        varied = [*((size, 1, BATCH) for size in STEP_SIZES), *((STEP_SIZE, n, BATCH) for n in N_STEPS)]
        settings = list(dict.fromkeys([*varied, *((STEP_SIZE, 1, batch) for batch in BATCHES)]))
    rows = []
    for seed in seeds:
        generator = th.Generator().manual_seed(seed)
        mdp = random_mdp(20, 5, generator)
        logits = th.randn(20, 5, dtype=th.float64, generator=generator)
        for size, n_steps, batch in settings:
            exact = meta_gradient(mdp, logits, size, n_steps)
            for name in THROUGH_STEPS:
                found = th.stack(
                    [sampled_meta_gradient(mdp, logits, name, size, n_steps, batch, generator) for _ in range(repeats)]
                )
                variance = found.var(0).sum()
                # The mean's own noise is no bias.
                bias = (found.mean(0) - exact).square().sum() - variance / repeats
                square = exact.square().sum()
                scores = centred_cosine(found.mean(0), exact), float(bias / square), float(variance / square)
                rows.append((seed, size, n_steps, batch, name, *scores))
    columns = ["seed", "step_size", "n_steps", "trajectories", "estimator", "cosine", "bias", "variance"]
    return pd.DataFrame(rows, columns=columns)


def _lines(axes: Any, found: pd.DataFrame, along: str, quantity: str, names: Sequence[str]) -> None:
    for name in names:
        own = found[found["estimator"] == name].groupby(along)[quantity]
        mean, error = own.mean(), own.sem().fillna(0.0)
        axes.plot(mean.index, mean, color=COLOURS[name], label=LABELS[name], marker=".")
        axes.fill_between(mean.index, mean - error, mean + error, color=COLOURS[name], alpha=0.15, linewidth=0)


def draw_off_policy(found: pd.DataFrame) -> Figure:
    """:return: scores of gradients and Hessians, by the policy's distance and by the number of trajectories"""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    for row, derivative in zip(axes, DERIVATIVES, strict=True):
        own = found[found["derivative"] == derivative]
        _lines(row[0], own[own["trajectories"] == MANY], "share", "score", OFF_POLICY)
        _lines(row[1], own[own["share"] == FAR], "trajectories", "score", OFF_POLICY)
        row[0].set_ylabel(f"{derivative}: centred cosine")
        row[1].set_xscale("log")
    axes[1, 0].set_xlabel(f"distance of the policy from the data's, {MANY:,} trajectories")
    axes[1, 1].set_xlabel(f"trajectories, at a distance of {FAR:g}")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def draw_biases(found: pd.DataFrame) -> Figure:
    """:return: cosine of the mean and variance of meta-gradients, by step size, number of steps and of trajectories"""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col", sharey="row")
    parts = (
        ("step_size", found[(found["n_steps"] == 1) & (found["trajectories"] == BATCH)], "step size"),
        ("n_steps", found[(found["step_size"] == STEP_SIZE) & (found["trajectories"] == BATCH)], "inner steps"),
        ("trajectories", found[(found["n_steps"] == 1) & (found["step_size"] == STEP_SIZE)], "trajectories of a step"),
    )
    for column, (along, own, label) in zip(axes.T, parts, strict=True):
        _lines(column[0], own, along, "cosine", THROUGH_STEPS)
        _lines(column[1], own, along, "variance", THROUGH_STEPS)
        column[1].set_yscale("log")
        column[1].set_xlabel(label)
    axes[1, 2].set_xscale("log")
    axes[0, 0].set_ylabel("cosine of the mean with the exact one")
    axes[1, 0].set_ylabel("variance / square of the exact one")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


EXPERIMENTS: dict[str, tuple[Callable[..., pd.DataFrame], Callable[[pd.DataFrame], Figure]]] = {
    "off_policy": (off_policy, draw_off_policy),
    "biases": (biases, draw_biases),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """:param arguments: the command line, that of the process by default"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=[], metavar="EXPERIMENT", help=f"{', '.join(EXPERIMENTS)}; all")
    parser.add_argument("--seeds", type=int, default=6, help="random problems (default: %(default)s)")
    parser.add_argument("--figures", action="store_true", help="draw the tables that there are")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the tables (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the figures (default: %(default)s)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(EXPERIMENTS)}")
    th.set_num_threads(1)
    for name in options.experiments or EXPERIMENTS:
        run, draw = EXPERIMENTS[name]
        table = options.results / f"{name}.csv"
        if not options.figures:
            table.parent.mkdir(parents=True, exist_ok=True)
            run(range(options.seeds)).to_csv(table, index=False, float_format="%.4g", lineterminator="\n")
        options.out.mkdir(parents=True, exist_ok=True)
        save_figure(draw(pd.read_csv(table)), options.out / f"{name}.png")
        print(f"{table} and {options.out / name}.png")


if __name__ == "__main__":
    main()
