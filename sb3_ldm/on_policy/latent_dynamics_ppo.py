"""Recurrent PPO with an auxiliary latent dynamics network: what LDM and variBAD have in common."""

import io
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Unpack

from sb3_ldm.checks import check_integer, check_number, warn_user
from sb3_ldm.data.array_file import with_suffix
from sb3_ldm.data.meta_episodes import MetaEpisodeBatch, MetaEpisodeBuffer
from sb3_ldm.envs.tasks import TaskProbes
from sb3_ldm.inference.belief_maps import belief_maps
from sb3_ldm.inference.latent_dynamics import NETWORK_OPTIONS, LatentDynamics
from sb3_ldm.on_policy.options import PPOOptions
from sb3_ldm.on_policy.policies import MetaLstmPolicy
from sb3_ldm.on_policy.recording_vec_env import RecordingVecEnv
from sb3_ldm.on_policy.sequence_ppo import SequencePPO
from sb3_ldm.options import takes_options_of


class StreamSeeds(NamedTuple):
    """
    Seeds of the random streams that are added to recurrent PPO, so that none of them depends on what another draws.

    :param imagination: of LDM's imaginary tasks
    :param vae: of samples and dropout in the ELBO
    :param batches: of the meta-episodes that updates are made of
    :param network: of the latent dynamics network's parameters
    :param buffer: of which meta-episodes the buffer keeps
    """

    imagination: int
    vae: int
    batches: int
    network: int
    buffer: int


@takes_options_of(SequencePPO)
class LatentDynamicsPPO(SequencePPO):
    """
    :class:`~sb3_ldm.on_policy.SequencePPO` that gathers true meta-episodes while it collects rollouts, and trains a
    latent dynamics network on them after each of its own updates.

    :param policy: the policy to use
    :param env: a meta-episode environment: a registered id, an env or a VecEnv, normalised or not
    :param dropout_rate: p_drop, dropout on the decoder's inputs other than the latent model
    :param latent_dim: dimension of the latent model m
    :param kl_weight: weight of the KL terms of the ELBO, whose reconstruction is a sum over the meta-episode
    :param n_elbo_terms: random ELBO terms per update, an unbiased estimate; None for all
    :param n_decoded_steps: random decoded steps per update, the same; with None for both, memory grows with the square of a
        meta-episode's length
    :param reward_likelihood: ``"bernoulli"`` for rewards that take two values, ``"gaussian"`` for any
    :param bernoulli_rewards: the two values, lower first
    :param decoder_inputs: what the decoder sees beside m, out of ``"state"``, ``"action"``, ``"next_state"``
    :param vae_kwargs: the network's own options (``encoder_hidden_size``, ``encoder_embeddings``, ``decoder_embeddings``,
        ``decoder_layers``, ``dropout_place``, ``standardize_states``), see
        :class:`~sb3_ldm.inference.LatentDynamics`
    :param vae_learning_rate: learning rate of the latent dynamics network, or its schedule
    :param vae_buffer_size: meta-episodes in the latent dynamics network's buffer
    :param vae_buffer_keeps: the ``"latest"`` meta-episodes, or a ``"uniform"`` sample of all that there were
    :param vae_batch_size: meta-episodes per update
    :param vae_updates: updates per rollout; 0 freezes the network
    :raises ValueError: if the env has no meta-episodes, or a parameter is out of its range
    """

    #: Attributes that hold random streams of their own, which are saved with the model.
    generators: ClassVar[tuple[str, ...]] = ("_vae_generator",)
    latent_dynamics: LatentDynamics
    replay_buffer: MetaEpisodeBuffer

    def __init__(
        self,
        policy: str | type[MetaLstmPolicy],
        env: GymEnv | str,
        dropout_rate: float = 0.5,
        latent_dim: int = 32,
        kl_weight: float = 1.0,
        n_elbo_terms: int | None = 16,
        n_decoded_steps: int | None = 50,
        reward_likelihood: str = "gaussian",
        bernoulli_rewards: Sequence[float] = (0.0, 1.0),
        decoder_inputs: Sequence[str] = ("state", "action", "next_state"),
        vae_kwargs: dict[str, Any] | None = None,
        vae_learning_rate: float | Schedule = 1e-3,
        vae_buffer_size: int = 10_000,
        vae_buffer_keeps: str = "latest",
        vae_batch_size: int = 25,
        vae_updates: int = 2,
        *,
        _init_setup_model: bool = True,
        **options: Unpack[PPOOptions],
    ):
        super().__init__(policy, env, _init_setup_model=False, **options)
        self.dropout_rate = dropout_rate
        self.latent_dim = latent_dim
        self.kl_weight = kl_weight
        self.n_elbo_terms = n_elbo_terms
        self.n_decoded_steps = n_decoded_steps
        self.reward_likelihood = reward_likelihood
        self.bernoulli_rewards = bernoulli_rewards
        self.decoder_inputs = decoder_inputs
        self.vae_kwargs = {} if vae_kwargs is None else vae_kwargs
        self.vae_learning_rate = vae_learning_rate
        self.vae_buffer_size = vae_buffer_size
        self.vae_buffer_keeps = vae_buffer_keeps
        self.vae_batch_size = vae_batch_size
        self.vae_updates = vae_updates
        #: The env that rollouts are collected in, around the user's; None without an env.
        self.recording_env: RecordingVecEnv | None = None
        self._vae_generator: th.Generator | None = None
        self._vae_rng: np.random.Generator | None = None
        self._generator_states: dict[str, th.Tensor] = {}

        if _init_setup_model:
            self._setup_model()

    @property
    def n_recorded(self) -> int:
        """Number of workers, the first ones, whose meta-episodes the latent dynamics network is trained on."""
        return self.n_envs

    def _setup_model(self) -> None:
        super()._setup_model()
        seeds = self._stream_seeds(self.seed)
        if not self._continues_streams:
            self._generator_states, self._vae_rng = {}, None
        self._make_generators(seeds)
        for name, state in self._generator_states.items():
            generator = getattr(self, name)
            # A state saved on another kind of device has another form; the streams then start anew.
            if state.shape == generator.get_state().shape:
                generator.set_state(state)
        # Forked, so that the policy's random stream does not know of the latent dynamics network.
        with th.random.fork_rng(devices=[]):
            # Not th.manual_seed, which would seed the GPUs' streams too: the policy samples its actions from them.
            th.default_generator.manual_seed(seeds.network)
            self.latent_dynamics = self._make_latent_dynamics().to(self.device)
        self._buffer_seed = seeds.buffer
        self.replay_buffer = self._make_replay_buffer()
        self._setup_recording_env()

    @staticmethod
    def _stream_seeds(seed: int | None) -> StreamSeeds:
        return StreamSeeds(*np.random.SeedSequence(seed).generate_state(len(StreamSeeds._fields)).tolist())

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        if seed is not None and self._vae_generator is not None:  # else the model is being set up
            self._seed_streams(self._stream_seeds(seed))

    def _seed_streams(self, seeds: StreamSeeds) -> None:
        """Begin the random streams of what is added to recurrent PPO anew."""
        assert self._vae_generator is not None
        self._vae_generator.manual_seed(seeds.vae)
        self._vae_rng = np.random.default_rng(seeds.batches)
        self._buffer_seed = seeds.buffer
        self.replay_buffer.seed(self._buffer_seed)

    def _make_replay_buffer(self) -> MetaEpisodeBuffer:
        return MetaEpisodeBuffer(self.vae_buffer_size, self.layout, self.n_recorded, self.vae_buffer_keeps, self._buffer_seed)

    def _make_generators(self, seeds: StreamSeeds) -> None:
        """Random streams of what is added to recurrent PPO; NumPy's is kept where a saved model brought its own."""
        self._vae_generator = th.Generator(self.device).manual_seed(seeds.vae)
        if self._vae_rng is None:
            self._vae_rng = np.random.default_rng(seeds.batches)

    def _make_latent_dynamics(self, **kwargs: Any) -> LatentDynamics:
        return LatentDynamics(
            self.layout,
            latent_dim=self.latent_dim,
            dropout_rate=self.dropout_rate,
            kl_weight=self.kl_weight,
            n_elbo_terms=self.n_elbo_terms,
            n_decoded_steps=self.n_decoded_steps,
            reward_likelihood=self.reward_likelihood,
            bernoulli_rewards=self.bernoulli_rewards,
            decoder_inputs=self.decoder_inputs,
            learning_rate=FloatSchedule(self.vae_learning_rate)(1.0),
            **self.vae_kwargs,
            **kwargs,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.env is None:
            self.recording_env = None
        elif self.recording_env is not None:
            self.replay_buffer.agent_view = self.agent_view(self.env)
            self.recording_env.set_venv(self.env)

    def _setup_recording_env(self) -> None:
        """Wrap the user's env, for collecting rollouts only."""
        if self.env is None:
            self.recording_env = None
            return
        self.replay_buffer.agent_view = self.agent_view(self.env)
        self.recording_env = self._make_recording_env(self.env)

    def agent_view(self, env: VecEnv) -> Callable[[np.ndarray], np.ndarray] | None:
        """
        :param env: where meta-episodes come from
        :return: what the agent is shown of its observations ``(..., obs_dim)``, which an encoder that is the policy's must be
            shown, too; None if the encoder sees states
        """
        return None

    def belief_maps(self, batch: MetaEpisodeBatch, probes: TaskProbes, times: np.ndarray) -> np.ndarray:
        """What is expected of every possible task, see :func:`~sb3_ldm.inference.belief_maps.belief_maps`."""
        return belief_maps(self.latent_dynamics, batch, probes, times)

    def _make_recording_env(self, env: VecEnv) -> RecordingVecEnv:
        return RecordingVecEnv(env, self.replay_buffer, self.latent_dynamics)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name, least in (("latent_dim", 1), ("vae_buffer_size", 1), ("vae_batch_size", 1), ("vae_updates", 0)):
            check_integer(name, getattr(self, name), least)
        if self.vae_batch_size > self.vae_buffer_size:
            warn_user(
                f"vae_batch_size={self.vae_batch_size}: a buffer of vae_buffer_size={self.vae_buffer_size} meta-episodes has "
                f"fewer, and each is drawn more than once. Use at most {self.vae_buffer_size}, or a larger buffer."
            )
        if not callable(self.vae_learning_rate):
            check_number("vae_learning_rate", self.vae_learning_rate, 0.0)
        unknown = sorted(self.vae_kwargs.keys() - set(NETWORK_OPTIONS))
        if unknown:
            raise ValueError(f"vae_kwargs has {', '.join(unknown)}: use some of {', '.join(NETWORK_OPTIONS)}.")

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        if self.replay_buffer.layout != self.layout:
            if len(self.replay_buffer) > 0:
                warn_user(
                    f"{len(self.replay_buffer)} meta-episodes in the buffer are dropped: those of the new environment have "
                    f"another layout, {self.layout}."
                )
            self.replay_buffer = self._make_replay_buffer()
        self.replay_buffer.set_workers(self.n_recorded)
        self._setup_recording_env()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        obs_before, state = self._last_obs, self._saved_state
        resumes = self.resumes and not reset_num_timesteps
        prepared = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert self.recording_env is not None
        recording = None if state is None or reset_num_timesteps else state["recording"]
        recalled = recording is not None and self._recall(recording, resumes)
        if not recalled and (self._last_obs is not obs_before or not self.recording_env.started):
            self._start_recording()
        return prepared

    def _recall(self, recording: dict[str, Any], resumes: bool) -> bool:
        """
        Recall what was known of the meta-episodes.

        :param recording: from :meth:`RecordingVecEnv.get_state`
        :param resumes: whether the environments are where they were, or begin anew
        :return: whether recording goes on with the meta-episodes that run
        """
        assert self.recording_env is not None
        fits = resumes and self.recording_env.fits(recording)
        if fits:
            self.recording_env.set_state(recording)
        return fits

    def _training_state(self) -> dict[str, Any] | None:
        state = super()._training_state()
        if state is not None:
            started = self.recording_env is not None and self.recording_env.started
            state["recording"] = self.recording_env.get_state() if started else None  # type: ignore[union-attr]
        return state

    def _start_recording(self) -> None:
        assert self.recording_env is not None
        self.recording_env.start(self._last_obs, self._last_episode_starts)  # type: ignore[arg-type]

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert self.recording_env is not None and self.recording_env.venv is env
        return super().collect_rollouts(self.recording_env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        super().train()
        assert self._vae_rng is not None
        learning_rate = FloatSchedule(self.vae_learning_rate)(self._current_progress_remaining)
        update_learning_rate(self.latent_dynamics.optimizer, learning_rate)
        parts = self.latent_dynamics.update(
            self.replay_buffer, self.vae_batch_size, self.vae_updates, self._vae_rng, self._vae_generator, self._n_threads
        )
        for name, value in parts.items():
            self.logger.record(f"latent_dynamics/{name}", value)
        self.logger.record("latent_dynamics/meta_episodes", len(self.replay_buffer))
        self.logger.record("latent_dynamics/learning_rate", learning_rate)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        self._generator_states = {name: getattr(self, name).get_state() for name in self.generators}
        super().save(path, exclude, include)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the buffer of meta-episodes to its own file, as SB3 does with replay buffers (``CheckpointCallback`` too): arrays
        alone, which nothing is run to read, with a checksum.

        :param path: its path, or a file that is open for writing and reading
        """
        if not isinstance(path, (str, pathlib.Path)):
            self.replay_buffer.save(path)
            return
        path = with_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w+b") as file:
            self.replay_buffer.save(file)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Load a buffer of meta-episodes, with its size; between two calls of :meth:`learn`.

        :param path: file, or its path
        :raises ValueError: if the file is damaged, or its meta-episodes have another layout than the model's
        """
        if isinstance(path, (str, pathlib.Path)):
            path = path if pathlib.Path(path).is_file() else with_suffix(path)
            with pathlib.Path(path).open("rb") as file:
                buffer = MetaEpisodeBuffer.load(file, path)
        else:
            buffer = MetaEpisodeBuffer.load(path, path)
        if buffer.layout != self.layout:
            raise ValueError(f"{path} holds no meta-episodes of the model's layout {self.layout}.")
        if buffer.capacity != self.vae_buffer_size:
            warn_user(
                f"vae_buffer_size={self.vae_buffer_size}: the buffer of {path} holds up to {buffer.capacity} meta-episodes, "
                "and goes on to do so."
            )
        buffer.set_workers(self.n_recorded)
        buffer.keeps = self.vae_buffer_keeps
        self.replay_buffer = buffer
        self._setup_recording_env()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "latent_dynamics", "recording_env", *self.generators]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "latent_dynamics", "latent_dynamics.optimizer"], variables
