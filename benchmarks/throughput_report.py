"""Tables and figures of :mod:`benchmarks.throughput`, made of its JSON alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.measuring import Record, Spread, spread
from sb3_ldm.figures import COLOURS
from sb3_ldm.results.summary import markdown_table

#: Algorithms of the JSON, for people.
NAMES = {
    "stock": "RecurrentPPO (sb3-contrib)",
    "stock_two": "RecurrentPPO, critic with an LSTM of its own (its default)",
    "rl2": "RL2",
    "ldm": "LDM, paper's choices",
    "ldm_zoo_2": "LDM, preset with 2 VAE updates",
    "ldm_zoo": "LDM, preset",
}

ENVIRONMENT, POLICY, IMAGINATION = "environment", "policy forward", "belief and imagination"
PPO_UPDATE, VAE_UPDATE, OTHER = "PPO update", "VAE update", "other"
PARTS = (ENVIRONMENT, POLICY, IMAGINATION, PPO_UPDATE, VAE_UPDATE, OTHER)


def frame_rates(record: Record) -> np.ndarray:
    """:return: frames/s of the whole loop in every round"""
    return record["frames"] / np.array(record["seconds"])


def train_rates(record: Record) -> np.ndarray:
    """:return: frames/s of ``train()`` alone in every round"""
    return record["frames"] / np.array(record["train_seconds"])


def select(records: Sequence[Record], **values: Any) -> list[Record]:
    """
    :param records: entries of the JSON
    :param values: what they must hold
    :return: those that do
    """
    return [record for record in records if all(record[name] == value for name, value in values.items())]


def fastest(records: Sequence[Record], rates: Callable[[Record], np.ndarray]) -> Record | None:
    """
    :param records: the same case with different threads
    :param rates: the speed that counts
    :return: the fastest by its median, None of none
    """
    return max(records, key=lambda record: float(np.median(rates(record))), default=None)


def shares(record: Record) -> dict[str, float]:
    """
    :param record: an entry of the breakdown
    :return: share of each part in the time of all rounds, summing to 1
    """
    seconds = {part: sum(sample[part] for sample in record["parts"]) for part in PARTS}
    total = sum(seconds.values())
    return {part: value / total for part, value in seconds.items()}


def part_spread(record: Record, part: str) -> Spread:
    """
    :param record: an entry of the breakdown
    :param part: one of :data:`PARTS`
    :return: its share over the rounds
    """
    return spread([sample[part] / sum(sample.values()) for sample in record["parts"]])


class Target(NamedTuple):
    """Something that should be reached, and what was."""

    name: str
    wanted: str
    measured: str
    met: bool | None  #: None if it was not measured, or is no target


def speed_target(
    result: Record,
    name: str,
    algo: str,
    n_envs: int,
    least: float | None,
    rates: Callable[[Record], np.ndarray] = frame_rates,
    stock_algo: str = "stock",
) -> Target:
    """
    Compare with stock in the same round, each with the number of threads that suits it best.

    :param result: the JSON
    :param name: what is compared
    :param algo: whose speed
    :param n_envs: number of workers
    :param least: the least ratio wanted, None if none is
    :param rates: the speed that counts
    :param stock_algo: what it is compared with
    :return: the target
    """
    wanted = "-" if least is None else f"at least {least:g}x"
    own, stock = (fastest(select(result["throughput"], algo=a, n_envs=n_envs), rates) for a in (algo, stock_algo))
    if own is None or stock is None:
        return Target(name, wanted, "not measured", None)
    ratio = spread(rates(own) / rates(stock))
    measured = f"{ratio.text()}x with {own['threads']} against {stock['threads']} thread(s)"
    return Target(name, wanted, measured, None if least is None else ratio.median >= least)


def targets(result: Record) -> list[Target]:
    """
    :param result: the JSON
    :return: all targets, judged by the medians
    """
    found = [
        speed_target(result, "RL2, `train()` alone, 16 workers", "rl2", 16, 5.0, train_rates),
        speed_target(result, "RL2, whole loop, 16 workers", "rl2", 16, 3.0),
        speed_target(result, "RL2, whole loop, 64 workers", "rl2", 64, 4.0),
        # What is mixed, and how large encoder-v is, the target leaves open.
        speed_target(result, f"{NAMES['ldm']}, whole loop, 64 workers", "ldm", 64, 3.0),
        speed_target(result, f"{NAMES['ldm_zoo_2']}, whole loop, 64 workers", "ldm_zoo_2", 64, 3.0),
        *(
            speed_target(result, f"{NAMES[algo]}, 64 workers, against two LSTMs", algo, 64, None, stock_algo="stock_two")
            for algo in ("rl2", "ldm", "ldm_zoo_2")
        ),
    ]
    ldm = fastest(select(result["throughput"], algo="ldm", n_envs=64), frame_rates)
    name, wanted = "LDM, 64 workers (an aim)", "25,000 frames/s"
    if ldm is None:
        found.append(Target(name, wanted, "not measured", None))
    else:
        rate = spread(frame_rates(ldm))
        found.append(Target(name, wanted, f"{rate.text(0)} with {ldm['threads']} thread(s)", rate.median >= 25_000))
    name, wanted = "LDM, 64 workers, neither tensor arithmetic nor environment", "at most 25%"
    threads = None if ldm is None else ldm["threads"]
    parts = select(result["breakdown"], algo="ldm", n_envs=64, threads=threads)
    if not parts:
        found.append(Target(name, wanted, "not measured", None))
    else:
        share = part_spread(parts[0], OTHER)
        percent = Spread(*(100 * value for value in share))
        found.append(Target(name, wanted, f"{percent.text(1)}% with {threads} thread(s)", share.median <= 0.25))
    memory = result["memory"]
    megabytes = memory["vae_buffer_bytes"] / 1e6
    name = f"VAE buffer, {memory['vae_buffer_size']:,} grid meta-episodes"
    return [*found, Target(name, "at most 40 MB", f"{megabytes:.1f} MB", megabytes <= 40.0)]


def target_table(result: Record) -> str:
    """:return: the targets, as Markdown"""
    verdicts = {True: "pass", False: "FAIL", None: "-"}
    rows = [[target.name, target.wanted, target.measured, verdicts[target.met]] for target in targets(result)]
    return markdown_table(["", "target", "median (extremes)", ""], rows)


def speed_table(result: Record) -> str:
    """:return: the comparison, as Markdown"""
    rows = []
    for record in result["throughput"]:
        same = {"n_envs": record["n_envs"], "threads": record["threads"]}
        [stock] = select(result["throughput"], algo="stock", **same)
        one = select(result["throughput"], algo=record["algo"], n_envs=record["n_envs"], threads=1)
        against_one = spread(frame_rates(record) / frame_rates(one[0])).text() if one else "-"
        rows.append(
            [
                str(record["n_envs"]),
                str(record["threads"]),
                NAMES[record["algo"]],
                spread(frame_rates(record)).text(0),
                spread(frame_rates(record) / frame_rates(stock)).text(),
                spread(1e3 * np.array(record["train_seconds"]) / record["rollouts"]).text(1),
                spread(train_rates(record) / train_rates(stock)).text(),
                against_one,
            ]
        )
    header = ["workers", "threads", "", "frames/s", "x stock", "`train()`, ms", "x stock's", "x one thread"]
    return markdown_table(header, rows)


def hardware_table(result: Record) -> str:
    """:return: how much of the update is the LSTM's arithmetic, as Markdown"""
    ppo, rows = result["algorithms"]["rl2"], []
    for record in select(result["throughput"], algo="rl2"):
        lstm = np.array(record["lstm_seconds"])
        steps = record["frames"] * ppo["n_epochs"]
        share = spread(100 * lstm / np.array(record["train_seconds"]))
        rows.append([str(record["n_envs"]), str(record["threads"]), spread(steps / lstm).text(0), f"{share.text(0)}%"])
    return markdown_table(
        ["workers", "threads", "`nn.LSTM` alone, steps/s forwards and backwards", "share of `train()`"], rows
    )


def breakdown_table(result: Record) -> str:
    """:return: where the time goes, as Markdown"""
    rows = []
    for record in result["breakdown"]:
        per_frame = 1e6 * np.array([sum(sample.values()) for sample in record["parts"]]) / record["frames"]
        percents = [f"{100 * share:.1f}%" for share in shares(record).values()]
        rows.append([NAMES[record["algo"]], str(record["threads"]), f"{np.median(per_frame):.1f}", *percents])
    return markdown_table(["", "threads", "us/frame", *PARTS], rows)


def memory_table(result: Record) -> str:
    """:return: peak memory, as Markdown"""
    peaks = result["memory"]["peak_bytes"]
    rows = [
        [NAMES.get(name, "imports alone"), f"{peak / 1e6:.0f}", f"{(peak - peaks['imports']) / 1e6:.0f}"]
        for name, peak in peaks.items()
    ]
    return markdown_table(["", "peak, MB", "above the imports, MB"], rows)


#: Axes of the scaling: name in the JSON, name for people.
AXES = {"n_envs": "workers", "episodes": "episodes in a meta-episode", "hidden": "hidden size"}


def scaling_along(result: Record, axis: str) -> list[Record]:
    """
    :param result: the JSON
    :param axis: a key of :data:`AXES`
    :return: the entries that differ from the base case along this axis only, in its order
    """
    config = result["config"]
    base = {"n_envs": config["profile_workers"], "episodes": config["episodes"], "hidden": config["hidden"]}
    base.pop(axis)
    wanted = {"n_envs": "scaling_workers", "episodes": "scaling_episodes", "hidden": "scaling_hidden"}[axis]
    records = [record for record in select(result["scaling"], **base) if record[axis] in config[wanted]]
    return sorted(records, key=lambda record: record[axis])


def scaling_table(result: Record, axis: str) -> str:
    """
    :param result: the JSON
    :param axis: a key of :data:`AXES`
    :return: frames/s along the axis, as Markdown
    """
    records = scaling_along(result, axis)
    columns = list(dict.fromkeys((record["algo"], record["threads"]) for record in records))
    rows = []
    for value in dict.fromkeys(record[axis] for record in records):
        cells = (select(records, algo=algo, threads=threads, **{axis: value}) for algo, threads in columns)
        rows.append([str(value), *(spread(frame_rates(found[0])).text(0) if found else "-" for found in cells)])
    return markdown_table([AXES[axis], *(f"{NAMES[algo]}, {threads} thread(s)" for algo, threads in columns)], rows)


def report(result: Record) -> str:
    """
    :param result: the JSON
    :return: all tables, as Markdown
    """
    config, machine, memory = result["config"], result["machine"], result["memory"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    steps = config["episodes"] * config["horizon"]
    ppo = result["algorithms"]["stock"]
    return "\n".join(
        [
            "# Throughput\n",
            f"Made by `{result['command']}` on {machine['cpu']} ({machine['n_cpus']} CPUs), commit {machine['commit']}, "
            f"{machine['date']}; {versions}; load average before: {machine['load_before']}. "
            "Every sample is in `throughput.json`.\n",
            f"All train on {result['env']} with {steps} steps per worker and rollout, {ppo['n_epochs']} epochs of "
            f"{result['n_minibatches']} minibatches, hidden size {config['hidden']}, and take turns in one run: medians, with "
            f"the extremes of {config['rounds']} rounds in brackets. Ratios are of the same round.\n",
            "## Targets\n",
            "Each algorithm with the number of threads that suits it best.\n",
            target_table(result),
            "## Frames per second\n",
            "Ratios to stock are at the same number of threads.\n",
            speed_table(result),
            "## How near to the matrix unit\n",
            "What the LSTM's own arithmetic takes, measured in the same rounds on as many sequences of random inputs: RL2's "
            "`train()` cannot be faster than this.\n",
            hardware_table(result),
            f"## Where the time goes, {config['profile_workers']} workers\n",
            "Shares of the loop. *Other* is what is neither a network call, nor an update, nor the environment: Python, "
            "NumPy, filling the buffers, putting the VAE's batches together, advantages, callbacks.\n",
            breakdown_table(result),
            f"## Memory, {memory['n_envs']} workers\n",
            f"Peak resident memory of a process after {memory['rollouts']} rollouts.\n",
            memory_table(result),
            "## Scaling, frames per second\n",
            *(scaling_table(result, axis) for axis in AXES),
        ]
    )


#: In figures, where there is little room.
_SHORT_NAMES = {
    **NAMES,
    "stock": "RecurrentPPO",
    "stock_two": "RecurrentPPO, 2 LSTMs",
    "ldm": "LDM, paper",
    "ldm_zoo_2": "LDM, preset, 2 updates",
}
_COLOUR = {
    "stock": "#8c8c8c",
    "stock_two": "#c4c4c4",
    "rl2": COLOURS["rl2"],
    "ldm": COLOURS["ldm"],
    "ldm_zoo_2": "#d9707d",
    "ldm_zoo": "#e8a0a9",
}
_PART_COLOUR = dict(zip(PARTS, ("#3a8f6b", "#2e6f9e", "#8d5fa8", "#d1495b", "#c98b1b", "#bdbdbd"), strict=True))
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
}
_LINES: tuple[Any, ...] = ("-", "--", ":", "-.")


def draw(result: Record) -> Figure:
    """
    :param result: the JSON
    :return: the comparison, the breakdown and the scaling
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(13.0, 7.0), layout="constrained")
        axes = figure.subplots(2, 3)
        workers = result["config"]["workers"]
        for axis, n_envs in zip(axes[0, :2], workers, strict=False):
            draw_speed(axis, result, n_envs)
        legend = axes[0, 0].legend(fontsize=7, loc="upper left", bbox_to_anchor=(0.0, -0.15), ncols=3)
        legend.set_in_layout(False)  # it may be wider than what it is below
        for axis in axes[0, len(workers) : 2]:
            axis.set_axis_off()
        draw_breakdown(axes[0, 2], result)
        for axis, name in zip(axes[1], AXES, strict=True):
            draw_scaling(axis, result, name)
    return figure


def draw_speed(axis: Axes, result: Record, n_envs: int) -> None:
    """
    Bars of frames/s, with the ratio to stock above each.

    :param axis: where to draw
    :param result: the JSON
    :param n_envs: number of workers
    """
    algos = result["config"]["algos"]
    width = 0.8 / len(algos)
    for group, threads in enumerate(result["config"]["threads"]):
        here = select(result["throughput"], n_envs=n_envs, threads=threads)
        [stock] = select(here, algo="stock")
        for i, algo in enumerate(algos):
            [record] = select(here, algo=algo)
            rate, x = spread(frame_rates(record)), group + (i - (len(algos) - 1) / 2) * width
            error = [[rate.median - rate.low], [rate.high - rate.median]]
            label = _SHORT_NAMES[algo] if group == 0 else None
            axis.bar(x, rate.median, 0.92 * width, yerr=error, color=_COLOUR[algo], ecolor="#2b2b2b", label=label)
            ratio = spread(frame_rates(record) / frame_rates(stock)).median
            axis.annotate(f"{ratio:.1f}x", (x, rate.high), (0, 2), textcoords="offset points", ha="center", fontsize=6)
    names = [f"{threads} thread{'s' if threads > 1 else ''}" for threads in result["config"]["threads"]]
    axis.set_xticks(range(len(names)), names)
    axis.set_title(f"Training loop, {n_envs} workers")
    axis.set_ylabel("frames/s")
    axis.grid(axis="y")
    axis.margins(y=0.12)


def draw_breakdown(axis: Axes, result: Record) -> None:
    """
    Stacked bars of the parts' shares.

    :param axis: where to draw
    :param result: the JSON
    """
    names = []
    for y, record in enumerate(result["breakdown"]):
        left = 0.0
        for part, share in shares(record).items():
            axis.barh(y, share, 0.7, left=left, color=_PART_COLOUR[part], label=part if y == 0 else None)
            left += share
        names.append(f"{_SHORT_NAMES[record['algo']]}, {record['threads']} thr.")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0.0, 1.0)
    axis.set_title(f"Time, {result['config']['profile_workers']} workers")
    axis.set_xlabel("share of the loop")
    axis.legend(fontsize=7, loc="upper right", bbox_to_anchor=(1.0, -0.15), ncols=3)


def draw_scaling(axis: Axes, result: Record, name: str) -> None:
    """
    Frames/s along an axis of the scaling.

    :param axis: where to draw
    :param result: the JSON
    :param name: a key of :data:`AXES`
    """
    records = scaling_along(result, name)
    threads = result["config"]["scaling_threads"]
    for algo in ("rl2", "ldm"):
        for style, number in zip(_LINES, threads, strict=False):
            line = select(records, algo=algo, threads=number)
            if not line:
                continue
            rates = [spread(frame_rates(record)) for record in line]
            medians = np.array([rate.median for rate in rates])
            error = np.abs(np.array([[rate.low, rate.high] for rate in rates]).T - medians)
            values = [record[name] for record in line]
            axis.errorbar(values, medians, error, color=_COLOUR[algo], linestyle=style, marker="o", markersize=3)
    values = sorted({record[name] for record in records})
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, [str(value) for value in values])
    axis.minorticks_off()
    axis.set_ylim(bottom=0.0)
    axis.grid()
    axis.set_title(f"Frames/s and {AXES[name]}")
    axis.set_xlabel(AXES[name])
    axis.set_ylabel("frames/s")
    handles = [Line2D([], [], color=_COLOUR[algo], label=_SHORT_NAMES[algo]) for algo in ("rl2", "ldm")]
    styles = zip(_LINES, threads, strict=False)
    handles += [Line2D([], [], color="#2b2b2b", linestyle=style, label=f"{number} thread(s)") for style, number in styles]
    axis.legend(handles=handles, fontsize=7)


def write_figures(result: Record, out: Path) -> None:
    """
    :param result: the JSON
    :param out: folder for ``throughput.md`` and ``throughput.png``
    """
    (out / "throughput.md").write_text(report(result), encoding="utf-8")
    draw(result).savefig(out / "throughput.png")
