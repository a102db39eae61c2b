"""
Watch a trained agent on unseen tasks: ``python -m sb3_ldm.enjoy --algo ldm --env GridNavi-v0``, with the options of rl_zoo3's
enjoy script and two more. ``--split`` names the tasks; ``--video FILE`` records a meta-episode on each of some of them, which
needs no display.
"""

import argparse
import os
import sys
from pathlib import Path

#: Options whose default differs from rl_zoo3's.
DEFAULTS = {"--algo": "ldm", "--env": "GridNavi-v0"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sb3_ldm.enjoy", description=__doc__, add_help=False)
    parser.add_argument("--algo", default=DEFAULTS["--algo"])
    parser.add_argument("--env", default=DEFAULTS["--env"])
    parser.add_argument("-f", "--folder", default="logs")
    parser.add_argument("--exp-id", type=int, default=0)
    parser.add_argument("--load-best", action="store_true")
    parser.add_argument("--stochastic", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", help="tasks to show; by default test, or eval where test has infinitely many")
    parser.add_argument("--video", type=Path, help="file to record to, such as agent.mp4")
    parser.add_argument("--n-tasks", type=int, default=5, help="tasks in the video at most, evenly chosen")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """
    :param arguments: the command line, that of the process by default
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    has_display = bool(os.environ.get("DISPLAY")) or sys.platform != "linux"
    if not has_display:
        # MuJoCo reads it when it is imported.
        os.environ.setdefault("MUJOCO_GL", "egl")
    options, others = _parser().parse_known_args(arguments)

    import rl_zoo3.enjoy

    from sb3_ldm.envs.tasks import unseen_split
    from sb3_ldm.zoo import register

    register()
    import gymnasium as gym
    import numpy as np

    tasks = gym.make(options.env).get_wrapper_attr("task_distribution")
    split = tasks.validate_split(options.split or unseen_split(tasks))
    if options.video is None:
        given = ["--algo", options.algo, "--env", options.env, "-f", options.folder, "--exp-id", str(options.exp_id)]
        given += ["--load-best"] * options.load_best + ["--stochastic"] * options.stochastic + ["--seed", str(options.seed)]
        if not has_display and "--no-render" not in others:
            others = [*others, "--no-render"]
        if "--env-kwargs" not in others:
            others = [*others, "--env-kwargs", f"task_split:'{split}'"]
        sys.argv = [sys.argv[0], *given, *others]
        rl_zoo3.enjoy.enjoy()
        return

    from sb3_ldm.zoo.video import load_trained, record_video

    shown = tasks.representatives(split, options.n_tasks)
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(options.n_tasks, len(shown))).round().astype(int))]
    model, statistics = load_trained(options.algo, options.env, options.folder, options.exp_id, options.load_best)
    record_video(model, options.env, shown, options.video, statistics, not options.stochastic, options.seed)
    print(f"Recorded {options.algo} on {len(shown)} {split} tasks of {options.env} in {options.video}")


if __name__ == "__main__":
    main()
