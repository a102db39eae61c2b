"""Videos of trained agents."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_sb3 import EnvironmentName
from PIL import Image, ImageDraw
from rl_zoo3.utils import ALGOS, get_model_path
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ldm.common.evaluation import evaluate_meta
from sb3_ldm.common.meta_episode import observation_layout
from sb3_ldm.common.vec_env import make_meta_vec_env
from sb3_ldm.common.vec_env.transitions import original_obs, read_next_states


class FrameRecorder(VecEnvWrapper):
    """
    Takes a picture of the first sub-environment before each step, with its task and the episode's index and return so far.

    :param venv: environments with ``render_mode="rgb_array"``
    """

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.layout = observation_layout(venv.observation_space)
        self.frames: list[np.ndarray] = []  #: pictures, ``(height, width, 3)``, uint8

    def reset(self) -> VecEnvObs:
        self._episode, self._return = 1, 0.0
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        picture = self.venv.get_images()[0]
        assert picture is not None, "the environment was made without render_mode='rgb_array'"
        task = np.array2string(np.asarray(self.get_attr("task", 0)[0]), precision=2, floatmode="maxprec")
        self.frames.append(caption(picture, f"task {task}  episode {self._episode}  return {self._return:.1f}"))
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        _, ends = read_next_states(original_obs(self.venv, obs), dones, infos, self.layout)
        self._return += float(rewards[0])
        if ends[0]:
            self._episode, self._return = (1 if dones[0] else self._episode + 1), 0.0
        return obs, rewards, dones, infos


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """
    :param picture: ``(height, width, 3)``, uint8
    :param text: one line
    :return: the picture below a white line with the text; both sides even, as video encoders want them
    """
    height, width = picture.shape[:2]
    image = Image.new("RGB", (width + width % 2, height + 16 + height % 2), "white")
    image.paste(Image.fromarray(picture), (0, 16))
    ImageDraw.Draw(image).text((3, 2), text, fill="black")
    return np.asarray(image)


def load_trained(
    algo: str, env_id: str, folder: str, exp_id: int = 0, best: bool = False
) -> tuple[BaseAlgorithm, Path | None]:
    """
    Load an agent from a run's folder in the zoo's layout.

    :param algo: name of the algorithm
    :param env_id: id of the environment
    :param folder: the log folder
    :param exp_id: number of the run, 0 for the latest
    :param best: the best model of the evaluations instead of the last
    :return: the agent, and the statistics of its ``VecNormalize`` if it was trained with one
    :raises ValueError: if there is no such run
    """
    try:
        _, model_path, log_path = get_model_path(exp_id, folder, algo, EnvironmentName(env_id), load_best=best)
    except AssertionError as error:
        raise ValueError(f"folder={folder!r} has no trained {algo} for {env_id}: {error}") from None
    config = Path(log_path) / env_id / "config.yml"
    hyperparameters = yaml.unsafe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    statistics = Path(log_path) / env_id / "vecnormalize.pkl" if dict(hyperparameters).get("normalize") else None
    return ALGOS[algo].load(model_path, device="cpu"), statistics


def record_video(
    model: BaseAlgorithm,
    env_id: str,
    tasks: np.ndarray,
    path: Path,
    statistics: Path | None = None,
    deterministic: bool = True,
    seed: int = 0,
) -> None:
    """
    Record a meta-episode on each of some tasks.

    :param model: the agent
    :param env_id: the environment
    :param tasks: ``(n, task_dim)``
    :param path: the file; its ending says the format, such as ``.mp4`` or ``.gif``
    :param statistics: of the ``VecNormalize`` that it was trained with, None if it was trained without
    :param deterministic: whether the agent takes its most likely actions
    :param seed: of the environment and of the agent's actions
    """
    import imageio.v2

    env: VecEnv = make_meta_vec_env(env_id, 1, seed=seed, backend="dummy", env_kwargs={"render_mode": "rgb_array"})
    fps = int(env.get_attr("metadata", 0)[0].get("render_fps", 20))
    if statistics is not None:
        env = VecNormalize.load(str(statistics), env)
        env.training = env.norm_reward = False
    recorder = FrameRecorder(env)
    evaluate_meta(model, recorder, tasks=tasks, deterministic=deterministic, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Blocks of two pixels, as both sides are even: the encoder need not scale the pictures.
    options: dict[str, Any] = {"duration": 1000 / fps} if path.suffix == ".gif" else {"fps": fps, "macro_block_size": 2}
    imageio.v2.mimsave(path, list(recorder.frames), **options)
    recorder.close()
