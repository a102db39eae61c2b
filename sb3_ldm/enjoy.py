"""
Watch a trained agent on unseen tasks: ``python -m sb3_ldm.enjoy --algo ldm --env GridNavi-v0``.

``--pretrained`` takes the agent that comes with the package; ``--split`` names the tasks; ``--video FILE`` records a
meta-episode on each of some of them (``--n-tasks``), which needs no display. Returns are printed for each meta-episode.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_ldm.checks import check_installed, check_integer
from sb3_ldm.command import run_command

if TYPE_CHECKING:
    from sb3_ldm.envs.tasks import TaskDistribution
    from sb3_ldm.zoo.trained import Played, TrainedAgent

#: Options that a video has no use for, and their defaults.
_NOT_OF_VIDEOS = {
    "n_timesteps": 1000,
    "n_envs": 1,
    "no_render": False,
    "norm_reward": False,
    "reward_log": "",
    "progress": False,
}
_N_TASKS = 5


def _parser() -> argparse.ArgumentParser:
    from sb3_ldm.zoo.options import REFUSED_IN_SHOWS, Parser, add_agent_options

    own = {"unseen tasks and videos": dict.fromkeys(("--pretrained", "--split", "--video", "--n-tasks"))}
    parser = Parser("enjoy", description=__doc__, refused=REFUSED_IN_SHOWS, sections=own)
    add_agent_options(parser)
    actions = parser.others.add_mutually_exclusive_group()
    actions.add_argument("--stochastic", action="store_true", help="sample actions")
    actions.add_argument("--deterministic", action="store_true", help="take the most likely actions, as by default")
    parser.add_argument("--pretrained", action="store_true", help="the agent that comes with the package, no run's")
    parser.add_argument("--split", help="tasks to show; by default test, or eval where test has infinitely many")
    parser.add_argument("--video", type=Path, help="file to record to, such as agent.mp4")
    parser.add_argument("--n-tasks", type=int, help=f"tasks in the video at most, evenly chosen (default: {_N_TASKS})")
    parser.add_argument("-n", "--n-timesteps", type=int, default=1000, help="steps of each environment (default: %(default)s)")
    parser.add_argument("--n-envs", type=int, default=1, help="number of environments (default: %(default)s)")
    parser.add_argument("--no-render", action="store_true", help="show nothing, print the returns alone")
    parser.add_argument("--norm-reward", action="store_true", help="sum rewards as the agent's VecNormalize makes them")
    parser.add_argument("--reward-log", default="", help="folder for a monitor.csv with a row a meta-episode")
    parser.add_argument("--verbose", type=int, default=1, help="0 to print the summary alone")
    parser.add_argument("-P", "--progress", action="store_true", help="show a progress bar")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    :raises ValueError: if there is no such run or split, or an option has no use
    :raises ImportError: if what a video needs is not installed
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or sys.platform != "linux"
    if not has_display:
        # MuJoCo reads it when it is imported; without EGL's drivers, MUJOCO_GL=osmesa renders in software.
        os.environ.setdefault("MUJOCO_GL", "egl")
    options = _parser().parse_args(arguments)
    _check_options(options)

    import gymnasium as gym
    import torch as th

    from sb3_ldm.envs import check_env_kwargs
    from sb3_ldm.envs.tasks import unseen_split
    from sb3_ldm.zoo.pretrained import find_pretrained
    from sb3_ldm.zoo.trained import find_trained

    if options.num_threads > 0:
        th.set_num_threads(options.num_threads)
    check_env_kwargs(options.env, options.env_kwargs)
    if options.pretrained:
        agent = find_pretrained(options.algo, options.env)
    else:
        which = {"best": options.load_best, "last_checkpoint": options.load_last_checkpoint}
        agent = find_trained(options.algo, options.env, options.folder, options.exp_id, **which)
    if options.norm_reward and agent.statistics is None:
        raise ValueError("--norm-reward has no use: the agent was trained without a VecNormalize.")
    env_kwargs = {**agent.env_kwargs, **options.env_kwargs}
    tasks = gym.make(options.env, **env_kwargs).get_wrapper_attr("task_distribution")
    split = tasks.validate_split(options.split or options.env_kwargs.get("task_split") or unseen_split(tasks))
    env_kwargs["task_split"] = split
    if options.video is not None:
        _record(options, agent, tasks, split, env_kwargs)
        return
    if not has_display and not options.no_render:
        print("There is no display to show it on: --video agent.mp4 records it, --no-render is for the returns alone.")
    _show(options, agent, env_kwargs, render=has_display and not options.no_render)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what has no use, and look for what is needed."""
    from sb3_ldm.zoo.options import OF_RUNS, refuse_given

    check_integer("n_timesteps", options.n_timesteps, 1)
    check_integer("n_envs", options.n_envs, 1)
    if options.pretrained:
        refuse_given(options, OF_RUNS, "--pretrained")
    if options.video is None:
        if options.n_tasks is not None:
            raise ValueError("--n-tasks has no use without --video.")
        return
    refuse_given(options, _NOT_OF_VIDEOS, "--video")
    options.n_tasks = _N_TASKS if options.n_tasks is None else options.n_tasks
    check_integer("n_tasks", options.n_tasks, 1)
    check_installed("video", "imageio", "PIL", *(["imageio_ffmpeg"] if options.video.suffix != ".gif" else []))


def _show(options: argparse.Namespace, agent: "TrainedAgent", env_kwargs: dict[str, Any], render: bool) -> None:
    """Run the agent, in a window or not, and print its returns."""
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import VecEnv
    from tqdm import tqdm

    from sb3_ldm.envs import make_meta_vec_env
    from sb3_ldm.zoo.trained import load_agent, normalized, play

    print(f"Loading {agent.model}")
    model = load_agent(agent, options.algo, options.device, options.custom_objects)
    set_random_seed(options.seed)
    made = {**env_kwargs, "render_mode": "human"} if render else env_kwargs
    where = options.reward_log or None
    env: VecEnv = make_meta_vec_env(options.env, options.n_envs, options.seed, "dummy", made, monitor_dir=where)
    env = normalized(env, agent, options.norm_reward)
    steps: Iterable[int] = range(options.n_timesteps)
    played = []
    try:
        for one in play(model, env, tqdm(steps) if options.progress else steps, not options.stochastic, render):
            played.append(one)
            if options.verbose > 0:
                _print_one(one)
    except KeyboardInterrupt:
        pass
    finally:
        _summarize(played, env.observation_space, options.n_timesteps)
        env.close()


def _print_one(one: "Played") -> None:
    print(f"Episode Reward: {one.total:.2f}")
    print("Episode Length", one.length)
    print(f"  task {one.task}, returns of its episodes: {', '.join(f'{value:.2f}' for value in one.returns)}")


def _summarize(played: list["Played"], space: Any, n_timesteps: int) -> None:
    import numpy as np

    from sb3_ldm.envs.meta_episode import observation_layout

    if not played:
        n_steps = observation_layout(space).meta_episode_steps
        print(f"No meta-episode has ended in -n {n_timesteps} steps: they have up to {n_steps}.")
        return
    totals, lengths = [one.total for one in played], [one.length for one in played]
    successes = [one.success for one in played if one.success is not None]
    if successes:
        print(f"Success rate: {100 * np.mean(successes):.2f}%")
    print(f"{len(played)} Episodes")
    print(f"Mean reward: {np.mean(totals):.2f} +/- {np.std(totals):.2f}")
    print(f"Mean episode length: {np.mean(lengths):.2f} +/- {np.std(lengths):.2f}")
    print(f"Mean returns of the episodes of a task: {np.round(np.mean([one.returns for one in played], axis=0), 2)}")


def _record(
    options: argparse.Namespace, agent: "TrainedAgent", tasks: "TaskDistribution", split: str, env_kwargs: dict[str, Any]
) -> None:
    """Record the agent on some tasks of the split."""
    import numpy as np

    from sb3_ldm.zoo.trained import load_agent
    from sb3_ldm.zoo.video import record_video

    shown = tasks.representatives(split, options.n_tasks)
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(options.n_tasks, len(shown))).round().astype(int))]
    print(f"Loading {agent.model}")
    model = load_agent(agent, options.algo, options.device, options.custom_objects)
    record_video(model, options.env, shown, options.video, agent.statistics, env_kwargs, not options.stochastic, options.seed)
    print(f"Recorded {options.algo} on {len(shown)} {split} tasks of {options.env} in {options.video}")


if __name__ == "__main__":
    sys.exit(run_command(main))
