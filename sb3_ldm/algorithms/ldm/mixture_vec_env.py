"""A VecEnv in which some sub-environments, the mixture workers, are rewarded by imagination."""

from collections import deque
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_ldm.algorithms.ldm.imagination import Imagination
from sb3_ldm.data import MetaEpisodeBuffer, Transitions
from sb3_ldm.on_policy import RecordingVecEnv

N_COMPARED = 128  #: transitions with, and as many without, the high reward that candidates are compared on


class MixtureVecEnv(RecordingVecEnv):
    """
    The last ``n_mixture`` sub-environments are mixture workers: their reward, and the reward slot of their observations, come
    from the decoder. Transitions of the other, normal workers update the beliefs and enter the buffer.

    A ``VecNormalize`` below is looked through: the latent dynamics network sees original states and rewards, imaginary rewards
    are normalised with its running statistics, which they do not update. A mixture worker's true reward stays in
    ``info["true_reward"]``, its Monitor record in ``info["true_episode"]`` and its success in ``info["true_is_success"]``;
    no network is trained on them, but a ``VecNormalize`` below counts them in its statistics.

    :param venv: vectorised meta-episode environments
    :param imagination: makes the imaginary rewards
    :param buffer: gathers the normal workers' meta-episodes
    :param stats_window_size: imaginary meta-episodes over which the logged returns are averaged
    """

    def __init__(self, venv: VecEnv, imagination: Imagination, buffer: MetaEpisodeBuffer, stats_window_size: int = 100):
        super().__init__(venv, buffer, imagination.latent_dynamics)
        self.imagination = imagination
        self.n_normal = imagination.n_normal
        self.n_mixture = imagination.n_mixture
        self.imaginary_returns: deque[np.ndarray] = deque(maxlen=stats_window_size)
        #: Time steps of all workers together until meta-episodes that begin are imaginary.
        self.waits: float = 0
        self.final_tasks: list[Any] = [None] * self.n_normal
        self.restart_stream()

    @property
    def normalizer(self) -> VecNormalize | None:
        """What normalises observations and rewards, if anything does."""
        return unwrap_vec_normalize(self.venv)

    def restart_stream(self) -> None:
        """Draw what imaginary tasks are compared with as if nothing had been drawn yet, by the seed of the imagination."""
        self._rng = np.random.default_rng(self.imagination.generator.initial_seed())

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {
            "episode": self._episode.copy(),
            "returns": self._returns.copy(),
            "imaginary_returns": list(self.imaginary_returns),
            "final_tasks": list(self.final_tasks),
            "rng": self._rng.bit_generator.state,
            "imagining": self.imagining.copy(),
            "imagination": self.imagination.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._episode, self._returns = state["episode"].copy(), state["returns"].copy()
        self.imaginary_returns.extend(state["imaginary_returns"])
        self.final_tasks = state["final_tasks"]
        self._rng.bit_generator.state = state["rng"]
        self.imagining = state["imagining"].copy()
        self.imagination.set_state(state["imagination"])

    def start(self, obs: np.ndarray, episode_starts: np.ndarray | None = None) -> None:
        super().start(obs, episode_starts)
        self._episode = np.zeros(self.n_mixture, dtype=np.int64)
        self._returns = np.zeros((self.n_mixture, self.layout.episodes_per_task))
        self.imaginary_returns.clear()
        has_task = self.imagination.start(self._experience() if self._can_imagine else None)
        self.imagining = has_task & self._can_imagine

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        step = self.record(obs, rewards, dones, infos)
        self.waits -= self.num_envs
        normal, mixture = slice(0, self.n_normal), slice(self.n_normal, self.num_envs)
        if self.n_mixture > 0 and self.imagining.any():
            imaginary = self.imagination.rewards(step.states[mixture], step.actions[mixture], step.next_states[mixture])
            obs, rewards = obs.copy(), rewards.copy()
            self._imagine(imaginary, obs, rewards, dones, infos, step.rewards)
            self._record_returns(imaginary, step.episode_ends[mixture], dones[mixture])
        self.imagination.observe(step.next_states[normal], step.actions[normal], step.rewards[normal], dones[normal])
        if dones[mixture].any():
            has_task = self.imagination.new_tasks(np.flatnonzero(dones[mixture]), self._experience())
            self.imagining[dones[mixture]] = has_task & self._can_imagine
        for i in np.flatnonzero(dones[normal]):
            self.final_tasks[i] = infos[i].get("task")
        return obs, rewards, dones, infos

    @property
    def _can_imagine(self) -> bool:
        # Before there are final beliefs, there would be nothing to mix but the prior.
        return self.waits <= 0 and (self.imagination.config.mixture_time == "current" or self.has_final_beliefs)

    def _experience(self) -> Transitions | None:
        """Transitions of training tasks by which imaginary tasks are chosen, half of them with a high reward if possible."""
        config, model = self.imagination.config, self.imagination.latent_dynamics
        if not config.compares or self.waits > 0 or len(self.buffer) == 0 or self.n_mixture == 0:
            return None
        drawn = self.buffer.sample_transitions(8 * N_COMPARED, self._rng)
        is_high = drawn.rewards > model.middle
        kept = np.concatenate([np.flatnonzero(is_high)[:N_COMPARED], np.flatnonzero(~is_high)[:N_COMPARED]])
        return Transitions(*(array[kept] for array in drawn))

    @property
    def has_final_beliefs(self) -> bool:
        """Whether there are beliefs at the ends of meta-episodes to mix and look at."""
        return self.imagination.has_final_beliefs

    def mean_imaginary_returns(self) -> np.ndarray | None:
        """:return: mean imaginary return of each episode index ``(episodes_per_task,)``, None before the first one ended"""
        return np.mean(self.imaginary_returns, axis=0) if self.imaginary_returns else None

    def _imagine(
        self,
        imaginary: np.ndarray,
        obs: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
        true_rewards: np.ndarray,
    ) -> None:
        """Put the imaginary rewards wherever an imagining worker's true reward stood, in place."""
        slots = self._reward_slots(imaginary)
        normalized = imaginary if self.normalizer is None else self.normalizer.normalize_reward(imaginary)
        rewards[self.n_normal :][self.imagining] = normalized[self.imagining]
        # After the end of a meta-episode the observation is the next one's first: it has no previous reward.
        running = ~dones[self.n_normal :] & self.imagining
        obs[self.n_normal :, self.layout.reward_index][running] = slots[running]
        for i in np.flatnonzero(self.imagining):
            info = infos[self.n_normal + i]
            info["true_reward"] = float(true_rewards[self.n_normal + i])
            if "terminal_observation" in info:
                info["terminal_observation"] = info["terminal_observation"].copy()
                info["terminal_observation"][self.layout.reward_index] = slots[i]
            # SB3 logs these two; a mixture worker was not trained for them.
            for name in ("episode", "is_success"):
                if name in info:
                    info[f"true_{name}"] = info.pop(name)

    def _reward_slots(self, imaginary: np.ndarray) -> np.ndarray:
        """What the policy finds in the reward slot of its observation for a reward."""
        if self.normalizer is None:
            return imaginary
        rows = np.zeros((len(imaginary), self.layout.dim), dtype=np.float32)
        rows[:, self.layout.reward_index] = imaginary
        normalized = self.normalizer.normalize_obs(rows)
        assert isinstance(normalized, np.ndarray)
        return normalized[:, self.layout.reward_index]

    def _record_returns(self, imaginary: np.ndarray, episode_ends: np.ndarray, dones: np.ndarray) -> None:
        # There are more only where somebody else has reset the environments.
        episode = np.minimum(self._episode, self.layout.episodes_per_task - 1)
        self._returns[np.arange(self.n_mixture), episode] += imaginary * self.imagining
        self._episode += episode_ends
        for worker in np.flatnonzero(dones):
            if self.imagining[worker]:
                self.imaginary_returns.append(self._returns[worker].copy())
            self._returns[worker] = 0.0
            self._episode[worker] = 0
