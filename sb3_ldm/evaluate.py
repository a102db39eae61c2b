"""
Tell a trained agent's returns, episode by episode: ``python -m sb3_ldm.evaluate logs/ldm/GridNavi-v0_1``.

It runs meta-episodes on every task of each split, or on 20 tasks of one that has infinitely many, and learns nothing. The
agent is that of a run's folder, a file of its own, or the latest one of ``--algo`` and ``--env``; ``--json FILE`` writes down
what the table shows, and the returns on each task.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_ldm.checks import check_integer
from sb3_ldm.command import run_command
from sb3_ldm.files import replacing

if TYPE_CHECKING:
    from rich.table import Table

    from sb3_ldm.envs.tasks import TaskDistribution
    from sb3_ldm.results import MetaEvaluation
    from sb3_ldm.zoo.options import Parser
    from sb3_ldm.zoo.trained import TrainedAgent

_STDOUT = Path("-")


def _parser() -> "Parser":
    from sb3_ldm.evaluation import N_MADE
    from sb3_ldm.zoo.options import DEFAULTS, REFUSED_IN_SHOWS, Parser, add_agent_options

    own: dict[str, dict[str, str | None]] = {
        "evaluation": dict.fromkeys(
            ("AGENT", "--pretrained", "--statistics", "--split", "--repeats", "--deterministic", "--n-envs", "--json")
        ),
    }
    own["evaluation"] |= {
        "--algo": f"its algorithm (default: the run's, or {DEFAULTS['--algo']})",
        "--env": f"environment (default: the run's, or {DEFAULTS['--env']})",
    }
    parser = Parser(
        "evaluate", usage="%(prog)s [options] [AGENT]", description=__doc__, refused=REFUSED_IN_SHOWS, sections=own
    )
    parser.add_argument("AGENT", nargs="?", type=Path, help="folder of a run, or file of an agent")
    parser.add_argument("--pretrained", action="store_true", help="the agent that comes with the package, no run's")
    parser.add_argument("--statistics", type=Path, metavar="FILE", help="of the agent's VecNormalize (default: the run's)")
    parser.add_argument(
        "--split", nargs="+", metavar="NAME", help="tasks (default: all splits that differ, without their union, all)"
    )
    parser.add_argument("--repeats", type=int, default=1, help="meta-episodes on each task (default: %(default)s)")
    parser.add_argument("--deterministic", action="store_true", help="take the most likely actions instead of sampling them")
    parser.add_argument("--n-envs", type=int, default=N_MADE, help="number of environments (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write it to this file; - for the standard output")
    add_agent_options(parser)
    parser.set_defaults(algo=None, env=None)  # of AGENT's run, if it is one
    return parser


def main(arguments: list[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    :raises ValueError: if there is no such agent or split, or an option has no use
    """
    options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    for name, least in (("repeats", 1), ("n_envs", 1), ("seed", 0)):
        check_integer(name, getattr(options, name), least)

    import torch as th
    from rich.console import Console

    agent = _find(options)
    if options.num_threads > 0:
        th.set_num_threads(options.num_threads)
    results = _evaluate(options, agent)
    told = _told(options, agent, results)
    Console(stderr=options.json == _STDOUT).print(_table(told))
    text = json.dumps(told, indent=2, default=str) + "\n"
    if options.json == _STDOUT:
        print(text, end="")
    elif options.json is not None:
        with replacing(options.json) as file:
            file.write_text(text, encoding="utf-8")


def _find(options: argparse.Namespace) -> "TrainedAgent":
    """The agent, by whatever it is named; the options get its algorithm and its environment."""
    from sb3_ldm.zoo.options import DEFAULTS, OF_RUNS, refuse_given
    from sb3_ldm.zoo.pretrained import find_pretrained
    from sb3_ldm.zoo.trained import find_saved, find_trained

    which = {"best": options.load_best, "last_checkpoint": options.load_last_checkpoint, "statistics": options.statistics}
    if options.statistics is not None and not options.statistics.is_file():
        raise ValueError(f"statistics={str(options.statistics)!r}: there is no such file.")
    if options.AGENT is not None:
        refuse_given(options, {"pretrained": False, "folder": "logs", "exp_id": 0}, str(options.AGENT))
        options.algo, options.env, agent, packages = find_saved(options.AGENT, options.algo, options.env, **which)
        for package in packages:
            importlib.import_module(package)
    else:
        options.algo, options.env = options.algo or DEFAULTS["--algo"], options.env or DEFAULTS["--env"]
        if options.pretrained:
            refuse_given(options, {**OF_RUNS, "statistics": None}, "--pretrained")
            agent = find_pretrained(options.algo, options.env)
        else:
            agent = find_trained(options.algo, options.env, options.folder, options.exp_id, **which)
    return agent


def _evaluate(options: argparse.Namespace, agent: "TrainedAgent") -> "dict[str, MetaEvaluation]":
    """What the agent does on each split, the same whichever other splits there are."""
    from rich.console import Console

    from sb3_ldm.envs import check_env_kwargs, make_meta_vec_env
    from sb3_ldm.evaluation import evaluate_meta, task_distribution_of
    from sb3_ldm.zoo.trained import load_agent, normalized

    check_env_kwargs(options.env, options.env_kwargs)
    made = make_meta_vec_env(options.env, options.n_envs, options.seed, env_kwargs={**agent.env_kwargs, **options.env_kwargs})
    try:
        tasks = task_distribution_of(made)
        splits = _differing(tasks) if options.split is None else [tasks.validate_split(one) for one in options.split]
        if options.json not in (None, _STDOUT):
            options.json.parent.mkdir(parents=True, exist_ok=True)
        env = normalized(made, agent)
        model = load_agent(agent, options.algo, options.device, options.custom_objects)
        results = {}
        console = Console(stderr=True)
        for split in splits:
            model.set_random_seed(options.seed)  # also what algorithms draw besides actions
            with console.status(f"{options.algo} on {split} tasks of {options.env}"):
                results[split] = evaluate_meta(model, env, split, None, options.repeats, options.deterministic, options.seed)
        return results
    finally:
        made.close()


def _differing(tasks: "TaskDistribution") -> list[str]:
    """All splits but ``all``, those with the same tasks as one before left out."""
    splits: dict[bytes, str] = {}
    for split in tasks.splits:
        if split != "all":
            listed = np.ascontiguousarray(tasks.tasks(split)).tobytes() if tasks.is_finite(split) else split.encode()
            splits.setdefault(listed, split)
    return list(splits.values())


def _told(options: argparse.Namespace, agent: "TrainedAgent", results: "Mapping[str, MetaEvaluation]") -> dict[str, Any]:
    """What is written down as JSON."""
    return {
        "algo": options.algo,
        "env": options.env,
        "env_kwargs": {**agent.env_kwargs, **options.env_kwargs},
        "agent": str(agent.model),
        "actions": "most likely" if options.deterministic else "sampled",
        "repeats": options.repeats,
        "n_envs": options.n_envs,
        "seed": options.seed,
        "splits": {split: _summary(result) for split, result in results.items()},
    }


def _summary(result: "MetaEvaluation") -> dict[str, Any]:
    """Means over repetitions of a task, then over tasks; a column an episode."""
    tasks, returns = result.per_task(result.returns)
    successes = None if result.successes is None else result.per_task(result.successes)[1]
    return {
        "n_tasks": len(tasks),
        "mean_returns": returns.mean(axis=0).tolist(),
        "sd_returns": returns.std(axis=0).tolist(),
        "n_reached": None if successes is None else successes.sum(axis=0).tolist(),
        "tasks": tasks.tolist(),
        "returns": returns.tolist(),
        "successes": None if successes is None else successes.tolist(),
    }


def _table(told: Mapping[str, Any]) -> "Table":
    from rich.table import Table

    title = f"{told['algo']} on {told['env']}, {told['actions']} actions, seed {told['seed']}"
    table = Table("split", "tasks", "episode", title=title)
    for name in ("return", "sd over tasks", "goals reached"):
        table.add_column(name, justify="right")
    for split, one in told["splits"].items():
        for k, (mean, sd) in enumerate(zip(one["mean_returns"], one["sd_returns"], strict=True)):
            reached = "-" if one["n_reached"] is None else f"{one['n_reached'][k]:.1f} of {one['n_tasks']}"
            first = (split, str(one["n_tasks"])) if k == 0 else ("", "")
            table.add_row(*first, str(k + 1), f"{mean:.2f}", f"{sd:.2f}", reached)
        table.add_section()
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))
