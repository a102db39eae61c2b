"""A VecEnv in which some sub-environments, the mixture workers, are rewarded by imagination."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_ldm.algorithms.ldm.imagination import Imagination
from sb3_ldm.data import MetaEpisodeBuffer, Transitions
from sb3_ldm.envs.steps import Step, normalized_obs, normalized_rewards, normalizes_observations
from sb3_ldm.inference import Bernoulli, RewardLikelihood
from sb3_ldm.on_policy import RecordingVecEnv

N_COMPARED = 128  #: transitions with, and as many without, the high reward that candidates are compared on


def transitions_to_compare(buffer: MetaEpisodeBuffer, likelihood: RewardLikelihood, rng: np.random.Generator) -> Transitions:
    """
    :param buffer: meta-episodes of training tasks
    :param likelihood: of their rewards
    :param rng: source of randomness
    :return: transitions by which candidates are compared; of rewards that take two values half have the high one if possible
    """
    if not isinstance(likelihood, Bernoulli):
        return buffer.sample_transitions(2 * N_COMPARED, rng)
    drawn = buffer.sample_transitions(8 * N_COMPARED, rng)
    is_high = drawn.rewards > likelihood.middle
    kept = np.concatenate([np.flatnonzero(is_high)[:N_COMPARED], np.flatnonzero(~is_high)[:N_COMPARED]])
    return Transitions(*(array[kept] for array in drawn))


class MixtureVecEnv(RecordingVecEnv):
    """
    The last ``n_mixture`` sub-environments are mixture workers: their reward, and the reward slot of their observations, come
    from the decoder. Transitions of the other, normal workers update the beliefs and enter the buffer.

    A ``VecNormalize`` below is looked through: the VAE sees original states and rewards, imaginary rewards
    are normalised with its running statistics, which they do not update. A mixture worker's true reward stays in
    ``info["true_reward"]``, its Monitor record in ``info["true_episode"]`` and its success in ``info["true_is_success"]``;
    no network is trained on them, but a ``VecNormalize`` below counts them in its statistics.

    :param venv: vectorised meta-episode environments
    :param imagination: makes the imaginary rewards
    :param buffer: gathers the normal workers' meta-episodes
    :param stats_window_size: imaginary meta-episodes over which the logged returns are averaged
    :param may_imagine: whether meta-episodes that begin are imaginary, a given number of time steps of all workers together
        after those that the caller has counted; None if they always are
    :param check_rewards: called with true rewards; None for what the VAE can model
    """

    def __init__(
        self,
        venv: VecEnv,
        imagination: Imagination,
        buffer: MetaEpisodeBuffer,
        stats_window_size: int = 100,
        may_imagine: Callable[[int], bool] | None = None,
        check_rewards: Callable[[np.ndarray], None] | None = None,
    ):
        super().__init__(venv, buffer, check_rewards or imagination.vae.check_rewards)
        self.imagination = imagination
        self.n_normal = imagination.n_normal
        self.n_mixture = imagination.n_mixture
        self.imaginary_returns: deque[np.ndarray] = deque(maxlen=stats_window_size)
        self._may_imagine = may_imagine
        self.final_tasks: list[Any] = [None] * self.n_normal
        self.restart_stream()

    def set_imagination(self, imagination: Imagination) -> None:
        """
        Imagine in another way, from the next meta-episodes on.

        :param imagination: of as many workers
        """
        self.imagination = imagination
        imagination.start()
        self.imagining = np.zeros(self.n_mixture, dtype=bool)

    def restart_stream(self) -> None:
        """Draw what imaginary tasks are compared with as if nothing had been drawn yet, by the seed of the imagination."""
        self._rng = np.random.default_rng(self.imagination.generator.initial_seed())

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {
            "returns": self._returns.copy(),
            "imaginary_returns": list(self.imaginary_returns),
            "final_tasks": list(self.final_tasks),
            "rng": self._rng.bit_generator.state,
            "imagining": self.imagining.copy(),
            "imagination": self.imagination.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._returns = state["returns"].copy()
        self.imaginary_returns.extend(state["imaginary_returns"])
        self.final_tasks = state["final_tasks"]
        self._rng.bit_generator.state = state["rng"]
        self.imagining = state["imagining"].copy()
        self.imagination.set_state(state["imagination"])

    def start(self, obs: np.ndarray, episode_starts: np.ndarray | None = None) -> None:
        super().start(obs, episode_starts)
        self._returns = np.zeros((self.n_mixture, self.layout.episodes_per_task))
        self.imaginary_returns.clear()
        imagines = self._is_time(0) and self._can_imagine
        has_task = self.imagination.start(self._experience() if imagines else None)
        self.imagining = has_task & imagines

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        step = self.record(obs, rewards, dones, infos)
        normal, mixture = slice(0, self.n_normal), slice(self.n_normal, self.num_envs)
        actions = self.layout.encode_actions(step.actions)
        if self.n_mixture > 0 and self.imagining.any():
            imaginary = self.imagination.rewards(step.states[mixture], actions[mixture], step.next_states[mixture])
            obs, rewards, infos = self._imagine(imaginary, step, obs, rewards, infos)
            self._record_returns(imaginary, step.at.episode[mixture], dones[mixture])
        self.imagination.observe(step.next_states[normal], actions[normal], step.rewards[normal], dones[normal])
        if dones[mixture].any():
            is_time = self._is_time(self.num_envs)
            has_task = self.imagination.new_tasks(np.flatnonzero(dones[mixture]), self._experience() if is_time else None)
            self.imagining[dones[mixture]] = has_task & (is_time and self._can_imagine)
        for i in np.flatnonzero(dones[normal]):
            self.final_tasks[i] = step.tasks[i].copy()
        return obs, rewards, dones, infos

    def _is_time(self, timesteps: int) -> bool:
        return self._may_imagine is None or self._may_imagine(timesteps)

    @property
    def _can_imagine(self) -> bool:
        # Before there are final beliefs, there would be nothing to mix but the prior.
        return self.imagination.config.mixture_time == "current" or self.has_final_beliefs

    def _experience(self) -> Transitions | None:
        """Transitions of training tasks by which imaginary tasks are chosen."""
        if not self.imagination.config.compares or len(self.buffer) == 0 or self.n_mixture == 0:
            return None
        return transitions_to_compare(self.buffer, self.imagination.vae.likelihood, self._rng)

    @property
    def has_final_beliefs(self) -> bool:
        """Whether there are beliefs at the ends of meta-episodes to mix and look at."""
        return self.imagination.has_final_beliefs

    def mean_imaginary_returns(self) -> np.ndarray | None:
        """:return: mean imaginary return of each episode index ``(episodes_per_task,)``, None before the first one ended"""
        return np.mean(self.imaginary_returns, axis=0) if self.imaginary_returns else None

    def _imagine(
        self, imaginary: np.ndarray, step: Step, obs: np.ndarray, rewards: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """
        :param imaginary: rewards of the mixture workers, ``(n_mixture,)``
        :param step: what truly was
        :param obs: what the environments returned, and so on
        :return: the same with the imaginary rewards wherever an imagining worker's true reward stood, copied
        """
        obs, rewards, infos = obs.copy(), rewards.copy(), list(infos)
        shown, normalized = self._reward_slots(imaginary), normalized_rewards(self.venv, imaginary)
        for i in np.flatnonzero(self.imagining):
            worker = self.n_normal + i
            rewards[worker] = normalized[i]
            # After the end of a meta-episode the observation is the next one's first: it has no previous reward.
            if not step.dones[worker]:
                obs[worker, self.layout.reward_index] = shown[i]
            infos[worker] = self._imaginary_info(infos[worker], float(step.rewards[worker]), shown[i])
        return obs, rewards, infos

    def _imaginary_info(self, true_info: dict[str, Any], true_reward: float, shown: float) -> dict[str, Any]:
        info = true_info | {"true_reward": true_reward}
        for name in ("episode", "is_success"):  # SB3 logs these two; a mixture worker was not trained for them
            if name in info:
                info[f"true_{name}"] = info.pop(name)
        if "terminal_observation" in info:
            info["terminal_observation"] = info["terminal_observation"].copy()
            info["terminal_observation"][self.layout.reward_index] = shown
        return info

    def _reward_slots(self, imaginary: np.ndarray) -> np.ndarray:
        """What the policy finds in the reward slot of its observation for a reward."""
        if not normalizes_observations(self.venv):
            return imaginary
        rows = np.zeros((len(imaginary), self.layout.dim), dtype=np.float32)
        rows[:, self.layout.reward_index] = imaginary
        return normalized_obs(self.venv, rows)[:, self.layout.reward_index]

    def _record_returns(self, imaginary: np.ndarray, episodes: np.ndarray, dones: np.ndarray) -> None:
        self._returns[np.arange(self.n_mixture), episodes] += imaginary * self.imagining
        for worker in np.flatnonzero(dones):
            if self.imagining[worker]:
                self.imaginary_returns.append(self._returns[worker].copy())
            self._returns[worker] = 0.0
