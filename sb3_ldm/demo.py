"""
Write a page to play with: ``python -m sb3_ldm.demo`` makes ``demo.html``, which needs no server and no network.

Whoever opens it hides the goal in any cell of the gridworld and watches LDM and RL2 search for it side by side, with what LDM
believes. Everything is recorded beforehand, of the agents that come with the package.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from string import ascii_letters, digits
from typing import TYPE_CHECKING, Any

from sb3_ldm.command import CommandParser, run_command
from sb3_ldm.files import replacing
from sb3_ldm.registry import get_algorithm
from sb3_ldm.version import PACKAGE

if TYPE_CHECKING:
    import numpy as np
    from stable_baselines3.common.vec_env import VecEnv

    from sb3_ldm.evaluation import MetaLearner

ALGORITHMS = ("ldm", "rl2")
ENV_ID = "GridNavi-v0"
TEMPLATE = PACKAGE / "demo.html"
#: Numbers from 0 to 63, a letter each.
LETTERS = ascii_letters + digits + "-_"


def main(arguments: list[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    :raises ValueError: if an agent does not come with the package
    :raises OSError: if the page cannot be written
    """
    parser = CommandParser("demo", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("demo.html"), help="file to write (default: %(default)s)")
    parser.add_argument("--deterministic", action="store_true", help="take the most likely actions instead of sampling them")
    parser.add_argument("--seed", type=int, default=0, help="of sampled actions (default: %(default)s)")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    page = pretrained_page(options.deterministic, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.output) as file:
        file.write_text(page, encoding="utf-8")
    print(f"Wrote {options.output} ({options.output.stat().st_size / 1000:.0f} kB): open it in a browser.")


def pretrained_page(deterministic: bool = False, seed: int = 0) -> str:
    """
    :param deterministic: whether the agents take their most likely actions
    :param seed: of sampled actions
    :return: the page with the agents that come with the package
    :raises ValueError: if one does not
    """
    from sb3_ldm.zoo.pretrained import about_pretrained, load_pretrained

    told = {algo: about_pretrained(algo, ENV_ID) for algo in ALGORITHMS}
    agents: dict[str, Any] = {algo: load_pretrained(algo, ENV_ID, device="cpu") for algo in ALGORITHMS}
    runs = "; ".join(
        f"{get_algorithm(algo).label} for {one['timesteps']:,} steps (seed {one['seed']}, "
        f"{_rank(len(one['chosen_from']['seeds']))})"
        for algo, one in told.items()
    )
    return demo_page(agents, deterministic, seed, f"The agents were trained on the training goals alone: {runs}.")


def _rank(n_seeds: int) -> str:
    """Which one it is of as many."""
    if n_seeds == 1:
        return "the only one"
    return f"the median one of {n_seeds}" if n_seeds % 2 == 1 else f"the worse of both in the middle of {n_seeds}"


def demo_page(agents: "Mapping[str, MetaLearner]", deterministic: bool = False, seed: int = 0, about: str = "") -> str:
    """
    :param agents: two agents for the gridworld by the names of their algorithms
    :param deterministic: whether they take their most likely actions
    :param seed: of sampled actions
    :param about: what is said of them
    :return: the page, an HTML file without references
    """
    data = json.dumps(demo_data(agents, deterministic, seed, about), separators=(",", ":"), ensure_ascii=False)
    return TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", data.replace("</", "<\\/"))


def demo_data(
    agents: "Mapping[str, MetaLearner]", deterministic: bool = False, seed: int = 0, about: str = ""
) -> dict[str, Any]:
    """
    Record each agent once on each goal; parameters as of :func:`demo_page`.

    :return: what the page shows: of every goal its cell, split and best possible return; of every agent a text for each goal
        with a letter for each cell of its path (``N (H + 1)``), and where it shows beliefs another one with a letter for the
        belief of each cell after each transition (``(N H + 1) 49``, see :func:`belief_levels`)
    """
    from sb3_ldm.envs import gridworld, make_meta_vec_env
    from sb3_ldm.envs.meta_episode import observation_layout

    tasks = gridworld.grid_navi_tasks()
    split_of = {tuple(goal): split for split in ("train", "test") for goal in tasks.tasks(split)}
    goals = tasks.tasks("all")
    env = make_meta_vec_env(ENV_ID, len(goals), seed=seed)
    layout = observation_layout(env.observation_space)
    sampled = f"Their actions are sampled (seed {seed}); with another seed they go other ways."
    kind = "They take their most likely actions." if deterministic else sampled
    best = tasks.reference_returns(goals, layout.max_episode_steps)["best possible"]
    return {
        "size": gridworld.SIZE,
        "horizon": layout.max_episode_steps,
        "episodes": layout.episodes_per_task,
        "goal_reward": gridworld.GOAL_REWARD,
        "step_reward": gridworld.STEP_REWARD,
        "letters": LETTERS,
        "goals": [
            {"cell": int(gridworld.cell_index(goal)), "split": split_of[tuple(goal)], "best": round(float(value), 1)}
            for goal, value in zip(goals, best, strict=True)
        ],
        "agents": [
            {"label": get_algorithm(algo).label, **record(agent, env, goals, deterministic, seed)}
            for algo, agent in agents.items()
        ],
        "about": f"{about} {kind}".strip(),
    }


def record(agent: "MetaLearner", env: "VecEnv", goals: "np.ndarray", deterministic: bool, seed: int) -> dict[str, list[str]]:
    """
    :param agent: the agent
    :param env: gridworlds to run it in
    :param goals: cells, ``(n, 2)``
    :param deterministic: whether it takes its most likely actions
    :param seed: of sampled actions
    :return: its ``paths`` and, if it shows them, its ``beliefs``, see :func:`demo_data`
    """
    import numpy as np

    from sb3_ldm.data.probes import get_probes, visited_probes
    from sb3_ldm.envs.meta_episode import observation_layout
    from sb3_ldm.evaluation import ShowsBeliefs, record_meta

    layout, probes = observation_layout(env.observation_space), get_probes(env)
    batch = record_meta(agent, env, goals, deterministic, seed)
    recorded = {"paths": spelled(visited_probes(batch, layout, probes))}
    if isinstance(agent, ShowsBeliefs):
        times = np.arange(layout.meta_episode_steps + 1)
        recorded["beliefs"] = spelled(belief_levels(agent.belief_maps(batch, probes, times)))
    return recorded


def belief_levels(rewards: "np.ndarray") -> "np.ndarray":
    """
    :param rewards: that are expected, ``(...)``
    :return: 0 for a step's reward, 63 for the goal's; of its square root, so that what is spread over many cells is seen, too
    """
    import numpy as np

    from sb3_ldm.envs.gridworld import GOAL_REWARD, STEP_REWARD

    share = (rewards - STEP_REWARD) / (GOAL_REWARD - STEP_REWARD)
    return np.rint((len(LETTERS) - 1) * np.sqrt(np.clip(share, 0.0, 1.0))).astype(int)


def spelled(numbers: "np.ndarray") -> list[str]:
    """
    :param numbers: from 0 to 63, ``(n, ...)``
    :return: a text for each row
    """
    return ["".join(LETTERS[number] for number in row.ravel()) for row in numbers]


if __name__ == "__main__":
    sys.exit(run_command(main))
