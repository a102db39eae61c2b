"""
Watch a trained agent on unseen tasks: ``python -m sb3_ldm.enjoy --algo ldm --env GridNavi-v0``, with the options of rl_zoo3's
enjoy script and three more. ``--split`` names the tasks; ``--video FILE`` records a meta-episode on each of some of them
(``--n-tasks``), which needs no display. Returns are printed for each meta-episode.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_ldm.checks import check_installed, check_integer
from sb3_ldm.command import run_command
from sb3_ldm.registry import DEFAULT, get_algorithm

if TYPE_CHECKING:
    from sb3_ldm.envs.tasks import TaskDistribution
    from sb3_ldm.zoo.trained import Played, TrainedAgent

#: Options whose default differs from rl_zoo3's.
DEFAULTS = {"--algo": DEFAULT, "--env": "GridNavi-v0"}
_REFUSED = {"--load-checkpoint": "a run keeps one checkpoint, which --load-last-checkpoint shows"}
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
    from rl_zoo3.utils import StoreDict

    from sb3_ldm.zoo.options import Parser

    parser = Parser(prog="python -m sb3_ldm.enjoy", description=__doc__, refused=_REFUSED)
    parser.add_argument("--algo", default=DEFAULTS["--algo"], help="algorithm (default: %(default)s)")
    parser.add_argument("--env", default=DEFAULTS["--env"], help="environment (default: %(default)s)")
    parser.add_argument("-f", "--folder", default="logs", help="log folder (default: %(default)s)")
    parser.add_argument("--exp-id", type=int, default=0, help="number of the run (default: the latest with an agent)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model instead of the last")
    which.add_argument("--load-last-checkpoint", action="store_true", help="of a run that has not ended; else its best model")
    parser.add_argument("--load-checkpoint", type=int)
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--stochastic", action="store_true", help="sample actions")
    actions.add_argument("--deterministic", action="store_true", help="take the most likely actions, as by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env-kwargs", nargs="+", action=StoreDict, default={}, help="besides those of the run")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="modules that register the environment")
    parser.add_argument("--split", help="tasks to show; by default test, or eval where test has infinitely many")
    parser.add_argument("--video", type=Path, help="file to record to, such as agent.mp4")
    parser.add_argument("--n-tasks", type=int, help=f"tasks in the video at most, evenly chosen (default: {_N_TASKS})")
    parser.add_argument("-n", "--n-timesteps", type=int, default=1000, help="steps of each environment (default: %(default)s)")
    parser.add_argument("--n-envs", type=int, default=1, help="number of environments (default: %(default)s)")
    parser.add_argument("--no-render", action="store_true", help="show nothing, print the returns alone")
    parser.add_argument("--norm-reward", action="store_true", help="sum rewards as the agent's VecNormalize makes them")
    parser.add_argument("--reward-log", default="", help="folder for a monitor.csv with a row a meta-episode")
    parser.add_argument("--custom-objects", action="store_true", help="load an agent whose schedules cannot be loaded here")
    parser.add_argument("--device", default="cpu", help="of the agent (default: %(default)s)")
    parser.add_argument("--num-threads", type=int, default=-1, help="of PyTorch (default: its own)")
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
    from sb3_ldm.zoo.trained import find_trained

    if options.num_threads > 0:
        th.set_num_threads(options.num_threads)
    check_env_kwargs(options.env, options.env_kwargs)
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
    check_integer("n_timesteps", options.n_timesteps, 1)
    check_integer("n_envs", options.n_envs, 1)
    if options.video is None:
        if options.n_tasks is not None:
            raise ValueError("--n-tasks has no use without --video.")
        return
    given = [name for name, default in _NOT_OF_VIDEOS.items() if getattr(options, name) != default]
    if given:
        words = [f"--{name.replace('_', '-')}" for name in given]
        raise ValueError(f"--video has no use for {', '.join(words)}.")
    options.n_tasks = _N_TASKS if options.n_tasks is None else options.n_tasks
    check_integer("n_tasks", options.n_tasks, 1)
    check_installed("video", "imageio", "PIL", *(["imageio_ffmpeg"] if options.video.suffix != ".gif" else []))


def _load(options: argparse.Namespace, agent: "TrainedAgent") -> Any:
    algorithm = get_algorithm(options.algo).load()
    stand_ins = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    # Off-policy algorithms of SB3 make room for all that they could learn from.
    small = {"buffer_size": 1} if "buffer_size" in inspect.signature(algorithm).parameters else {}
    print(f"Loading {agent.model}")
    custom_objects = stand_ins if options.custom_objects else None
    return algorithm.load(agent.model, device=options.device, custom_objects=custom_objects, **small)


def _show(options: argparse.Namespace, agent: "TrainedAgent", env_kwargs: dict[str, Any], render: bool) -> None:
    """Run the agent, in a window or not, and print its returns."""
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize
    from tqdm import tqdm

    from sb3_ldm.envs import make_meta_vec_env
    from sb3_ldm.zoo.trained import play

    model = _load(options, agent)
    set_random_seed(options.seed)
    made = {**env_kwargs, "render_mode": "human"} if render else env_kwargs
    where = options.reward_log or None
    env: VecEnv = make_meta_vec_env(options.env, options.n_envs, options.seed, "dummy", made, monitor_dir=where)
    if agent.statistics is not None:
        env = VecNormalize.load(str(agent.statistics), env)
        env.training, env.norm_reward = False, options.norm_reward
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

    from sb3_ldm.zoo.video import record_video

    shown = tasks.representatives(split, options.n_tasks)
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(options.n_tasks, len(shown))).round().astype(int))]
    model = _load(options, agent)
    record_video(model, options.env, shown, options.video, agent.statistics, env_kwargs, not options.stochastic, options.seed)
    print(f"Recorded {options.algo} on {len(shown)} {split} tasks of {options.env} in {options.video}")


if __name__ == "__main__":
    sys.exit(run_command(main))
