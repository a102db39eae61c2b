"""Videos of trained agents."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.envs.meta_episode import observation_layout
from sb3_ldm.envs.steps import StepReader
from sb3_ldm.evaluation import MetaLearner, evaluate_meta
from sb3_ldm.files import replacing


class FrameRecorder(VecEnvWrapper):
    """
    Takes a picture of the first sub-environment before each step, with its task and the episode's index and return so far.

    :param venv: environments with ``render_mode="rgb_array"``
    :param write: called with every picture, ``(height, width, 3)``, uint8
    """

    def __init__(self, venv: VecEnv, write: Callable[[np.ndarray], None]):
        super().__init__(venv)
        self.reader = StepReader(observation_layout(venv.observation_space), self.num_envs)
        self.write = write

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        self._return = 0.0
        self.reader.start(self.venv, obs)
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        picture = self.venv.get_images()[0]
        assert picture is not None, "the environment was made without render_mode='rgb_array'"
        task = np.array2string(np.asarray(self.get_attr("task", 0)[0]), precision=2, floatmode="maxprec")
        episode = self.reader.clock.now.episode[0] + 1
        self.write(caption(picture, f"task {task}  episode {episode}  return {self._return:.1f}"))
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        step = self.reader.read(self.venv, self._actions, obs, rewards, dones, infos)
        self._return = 0.0 if step.episode_ends[0] else self._return + float(rewards[0])
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


def record_video(
    model: MetaLearner,
    env_id: str,
    tasks: np.ndarray,
    path: Path,
    statistics: Path | None = None,
    env_kwargs: dict[str, Any] | None = None,
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
    :param env_kwargs: of the environment
    :param deterministic: whether the agent takes its most likely actions
    :param seed: of the environment and of the agent's actions
    """
    import imageio.v2

    options = {**(env_kwargs or {}), "render_mode": "rgb_array"}
    env: VecEnv = make_meta_vec_env(env_id, 1, seed=seed, backend="dummy", env_kwargs=options)
    fps = int(env.get_attr("metadata", 0)[0].get("render_fps", 20))
    if statistics is not None:
        env = VecNormalize.load(str(statistics), env)
        env.training = env.norm_reward = False
    path.parent.mkdir(parents=True, exist_ok=True)
    # Blocks of two pixels, as both sides are even: the encoder need not scale the pictures.
    how: dict[str, Any] = {"duration": 1000 / fps} if path.suffix == ".gif" else {"fps": fps, "macro_block_size": 2}
    with replacing(path) as partial:
        writer: Any = imageio.v2.get_writer(partial, **how)
        with writer:
            evaluate_meta(model, FrameRecorder(env, writer.append_data), tasks=tasks, deterministic=deterministic, seed=seed)
    env.close()
