"""
Watch a trained agent on unseen tasks: ``python -m sb3_ldm.enjoy --algo ldm --env GridNavi-v0``, with the options of rl_zoo3's
enjoy script and three more. ``--split`` names the tasks; ``--video FILE`` records a meta-episode on each of some of them
(``--n-tasks``), which needs no display.
"""

import argparse
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sb3_ldm.command import run_command

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from sb3_ldm.envs.tasks import TaskDistribution
    from sb3_ldm.zoo.video import TrainedAgent

#: Options whose default differs from rl_zoo3's.
DEFAULTS = {"--algo": "ldm", "--env": "GridNavi-v0"}


def _parser() -> argparse.ArgumentParser:
    from rl_zoo3.utils import StoreDict

    parser = argparse.ArgumentParser(
        prog="python -m sb3_ldm.enjoy",
        description=__doc__,
        epilog="All other options are those of rl_zoo3.enjoy: see python -m rl_zoo3.enjoy --help.",
    )
    parser.add_argument("--algo", default=DEFAULTS["--algo"], help="algorithm (default: %(default)s)")
    parser.add_argument("--env", default=DEFAULTS["--env"], help="environment (default: %(default)s)")
    parser.add_argument("-f", "--folder", default="logs", help="log folder (default: %(default)s)")
    parser.add_argument("--exp-id", type=int, default=0, help="number of the run (default: the latest)")
    parser.add_argument("--load-best", action="store_true", help="the best model instead of the last")
    parser.add_argument("--stochastic", action="store_true", help="sample actions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env-kwargs", nargs="+", action=StoreDict, default={}, help="besides those of the run")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="modules that register the environment")
    parser.add_argument("--split", help="tasks to show; by default test, or eval where test has infinitely many")
    parser.add_argument("--video", type=Path, help="file to record to, such as agent.mp4")
    parser.add_argument("--n-tasks", type=int, default=5, help="tasks in the video at most, evenly chosen")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    :raises ValueError: if there is no such run or split
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    has_display = bool(os.environ.get("DISPLAY")) or sys.platform != "linux"
    if not has_display:
        # MuJoCo reads it when it is imported; without EGL's drivers, MUJOCO_GL=osmesa renders in software.
        os.environ.setdefault("MUJOCO_GL", "egl")
    options, others = _parser().parse_known_args(arguments)

    import gymnasium as gym

    from sb3_ldm.envs.tasks import unseen_split
    from sb3_ldm.zoo import register
    from sb3_ldm.zoo.video import find_trained

    register()
    for package in options.gym_packages:
        importlib.import_module(package)
    agent = find_trained(options.algo, options.env, options.folder, options.exp_id, options.load_best)
    env_kwargs = {**agent.env_kwargs, **options.env_kwargs}
    tasks = gym.make(options.env, **env_kwargs).get_wrapper_attr("task_distribution")
    split = tasks.validate_split(options.split or options.env_kwargs.get("task_split") or unseen_split(tasks))
    env_kwargs["task_split"] = split
    if options.video is not None:
        if others:
            _parser().error(f"--video has no use for {' '.join(others)}")
        _record(options, agent, tasks, split, env_kwargs)
        return

    import rl_zoo3.enjoy

    if agent.statistics is not None:
        rl_zoo3.enjoy.create_test_env = _normalizing_by(agent.statistics)
    given = ["--algo", options.algo, "--env", options.env, "-f", options.folder, "--exp-id", str(options.exp_id)]
    given += ["--load-best"] * options.load_best + ["--stochastic"] * options.stochastic + ["--seed", str(options.seed)]
    if options.gym_packages:
        given += ["--gym-packages", *options.gym_packages]
    if not has_display and "--no-render" not in others:
        others = [*others, "--no-render"]
    sys.argv = [sys.argv[0], *given, *others, "--env-kwargs", *(f"{name}:{value!r}" for name, value in env_kwargs.items())]
    rl_zoo3.enjoy.enjoy()


def _normalizing_by(statistics: Path) -> "Callable[..., VecEnv]":
    """rl_zoo3's function with other statistics: its script takes the last ones for the best model too."""
    from rl_zoo3.utils import create_test_env

    def create(*args: Any, **kwargs: Any) -> "VecEnv":
        with TemporaryDirectory() as folder:
            shutil.copyfile(statistics, Path(folder) / "vecnormalize.pkl")
            return create_test_env(*args, **{**kwargs, "stats_path": folder})

    return create


def _record(
    options: argparse.Namespace, agent: "TrainedAgent", tasks: "TaskDistribution", split: str, env_kwargs: dict[str, Any]
) -> None:
    """Record the agent on some tasks of the split."""
    import numpy as np
    from rl_zoo3.utils import ALGOS

    from sb3_ldm.zoo.video import record_video

    shown = tasks.representatives(split, options.n_tasks)
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(options.n_tasks, len(shown))).round().astype(int))]
    model = ALGOS[options.algo].load(agent.model, device="cpu")
    record_video(model, options.env, shown, options.video, agent.statistics, env_kwargs, not options.stochastic, options.seed)
    print(f"Recorded {options.algo} on {len(shown)} {split} tasks of {options.env} in {options.video}")


if __name__ == "__main__":
    sys.exit(run_command(main))
