"""Recurrent PPO with a VAE beside it, the latent dynamics network: what LDM and variBAD have in common."""

import io
import pathlib
import warnings
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
from sb3_ldm.inference.networks import DECODER_INPUTS
from sb3_ldm.inference.vae import NETWORK_OPTIONS, RewardVAE, check_finite
from sb3_ldm.on_policy.automatic import (
    AUTO,
    NETWORK_SETTINGS,
    buffer_size,
    decoder_settings,
    distinct_rewards,
    encoder_settings,
)
from sb3_ldm.on_policy.options import Auto, PPOOptions
from sb3_ldm.on_policy.policies import MetaLstmPolicy
from sb3_ldm.on_policy.recording_vec_env import RecordingVecEnv
from sb3_ldm.on_policy.sequence_ppo import SequencePPO
from sb3_ldm.options import takes_options_of

_N_NEWEST = 32  #: meta-episodes that the VAE is tested on before it is trained on them


class StreamSeeds(NamedTuple):
    """
    Seeds of the random streams that are added to recurrent PPO, so that none of them depends on what another draws.

    :param imagination: of LDM's imaginary tasks
    :param vae: of samples and dropout in the ELBO
    :param batches: of the meta-episodes that updates are made of
    :param network: of the VAE's parameters
    :param buffer: of which meta-episodes the buffer keeps
    """

    imagination: int
    vae: int
    batches: int
    network: int
    buffer: int


@takes_options_of(SequencePPO)
class VAEPPO(SequencePPO):
    """
    :class:`~sb3_ldm.on_policy.SequencePPO` that gathers true meta-episodes while it collects rollouts, and trains a
    latent dynamics network (the paper's name) on them after each of its own updates: a VAE, which its options call it.

    What ``reward_likelihood="auto"`` stands for is found from the rewards of the first meta-episodes, and the other options
    that are ``"auto"`` follow from it; until then the network is not trained. As attributes they then have their values.
    Should rewards of two values take a third one later, the network begins anew.

    :param policy: the policy to use
    :param env: a meta-episode environment: a registered id, an env or a VecEnv, normalised or not
    :param dropout_rate: p_drop, dropout on the decoder's inputs other than the latent model; ``"auto"`` is 0.7 for rewards of
        two values, 0.2 for others
    :param latent_dim: dimension of the latent model m; ``"auto"`` is 32 or 5, likewise
    :param kl_weight: weight of the KL terms of the ELBO, whose reconstruction is a sum over the meta-episode
    :param n_elbo_terms: random ELBO terms per update, an unbiased estimate; None for all
    :param n_decoded_steps: random decoded steps per update, the same; with None for both, memory grows with the square of a
        meta-episode's length
    :param reward_likelihood: ``"bernoulli"`` for rewards that take two values, ``"gaussian"`` for any; ``"auto"`` for what
        they are found to be
    :param bernoulli_rewards: the two values, lower first; ``"auto"`` for those that are found, 0 and 1 where nothing is
    :param decoder_inputs: what the decoder sees beside m, out of ``"state"``, ``"action"``, ``"next_state"``; ``"auto"`` for
        all, but for the next state alone where states recur, as on a grid, and are found to tell the reward
    :param vae_kwargs: the network's own options (``encoder_hidden_size``, ``encoder_embeddings``, ``decoder_embeddings``,
        ``decoder_layers``, ``dropout_place``, ``standardize_states``), see
        :class:`~sb3_ldm.inference.RewardVAE`; sizes that they leave open follow from the state's, and with
        ``reward_likelihood="auto"`` states are standardised where they do not recur
    :param vae_learning_rate: learning rate of the VAE, or its schedule; ``"auto"`` is 0.001 or 0.002, likewise
    :param vae_buffer_size: meta-episodes in the VAE's buffer; ``"auto"`` for 20,000, or as many as 256 MB
        hold
    :param vae_buffer_keeps: the ``"latest"`` meta-episodes, or a ``"uniform"`` sample of all that there were; ``"auto"`` is
        the first for rewards of two values, the second for others
    :param vae_batch_size: meta-episodes per update; ``"auto"`` is 25 or 16, likewise
    :param vae_updates: updates per rollout; 0 freezes the network; ``"auto"`` is 6 or 12, likewise
    :param vae_max_updates: updates per rollout as long as the network explains nothing of the rewards of meta-episodes that it
        was not trained on; from there on the fewer the more it explains, down to ``vae_updates``. None for always as many
    :raises ValueError: if the env has no meta-episodes, or a parameter is out of its range
    """

    #: Attributes that hold random streams of their own, which are saved with the model.
    generators: ClassVar[tuple[str, ...]] = ("_vae_generator",)
    vae: RewardVAE
    replay_buffer: MetaEpisodeBuffer

    def __init__(
        self,
        policy: str | type[MetaLstmPolicy],
        env: GymEnv | str,
        dropout_rate: float | Auto = AUTO,
        latent_dim: int | Auto = AUTO,
        kl_weight: float = 1.0,
        n_elbo_terms: int | None = 8,
        n_decoded_steps: int | None = 128,
        reward_likelihood: str = AUTO,
        bernoulli_rewards: Sequence[float] | Auto = AUTO,
        decoder_inputs: Sequence[str] | Auto = AUTO,
        vae_kwargs: dict[str, Any] | None = None,
        vae_learning_rate: float | Auto | Schedule = AUTO,
        vae_buffer_size: int | Auto = AUTO,
        vae_buffer_keeps: str = AUTO,
        vae_batch_size: int | Auto = AUTO,
        vae_updates: int | Auto = AUTO,
        *,
        vae_max_updates: int | None = None,
        _init_setup_model: bool = True,
        **options: Unpack[PPOOptions],
    ):
        super().__init__(policy, env, _init_setup_model=False, **options)
        # What is "auto" gets its value in _choose_options.
        self.dropout_rate: float = dropout_rate  # type: ignore[assignment]
        self.latent_dim: int = latent_dim  # type: ignore[assignment]
        self.kl_weight = kl_weight
        self.n_elbo_terms = n_elbo_terms
        self.n_decoded_steps = n_decoded_steps
        self.reward_likelihood = reward_likelihood
        self.bernoulli_rewards: Sequence[float] = bernoulli_rewards  # type: ignore[assignment]
        self.decoder_inputs: Sequence[str] = decoder_inputs
        self.vae_kwargs = {} if vae_kwargs is None else vae_kwargs
        self.vae_learning_rate: float | Schedule = vae_learning_rate  # type: ignore[assignment]
        self.vae_buffer_size: int = vae_buffer_size  # type: ignore[assignment]
        self.vae_buffer_keeps = vae_buffer_keeps
        self.vae_batch_size: int = vae_batch_size  # type: ignore[assignment]
        self.vae_updates: int = vae_updates  # type: ignore[assignment]
        self.vae_max_updates = vae_max_updates
        #: Share of the variance of rewards that the network explained in the last meta-episodes before it was trained on them;
        #: None if it was never asked.
        self.explained_variance: float | None = None
        #: The env that rollouts are collected in, around the user's; None without an env.
        self.recording_env: RecordingVecEnv | None = None
        self._vae_generator: th.Generator | None = None
        self._vae_rng: np.random.Generator | None = None
        self._generator_states: dict[str, th.Tensor] = {}
        #: Options that follow from the rewards, and the distinct rewards so far, of which two or three tell what they are.
        self._found_options: list[str] = []
        self._seen_rewards = np.zeros(0)

        if _init_setup_model:
            self._set_up()

    @property
    def latent_dynamics(self) -> RewardVAE:
        """The former name of ``vae``."""
        warnings.warn(f"{type(self).__name__}.latent_dynamics is called vae now.", DeprecationWarning, stacklevel=2)
        return self.vae

    @property
    def finds_rewards(self) -> bool:
        """Whether it is found out, and may be found to be otherwise, what rewards there are."""
        return "reward_likelihood" in self._found_options

    @property
    def knows_rewards(self) -> bool:
        """Whether the VAE has the reward likelihood that was given or found."""
        return self.reward_likelihood != AUTO

    def _choose_options(self) -> None:
        super()._choose_options()
        if self.reward_likelihood == AUTO:
            self._found_options = ["reward_likelihood"]
            for name in ("bernoulli_rewards", "decoder_inputs"):
                if getattr(self, name) == AUTO:
                    self._found_options.append(name)
            if "standardize_states" not in self.vae_kwargs:
                self._found_options.append("standardize_states")
        # For the time being; it is not trained before rewards are known.
        settings = self._settings_of(self.reward_likelihood)
        others = {"bernoulli_rewards": (0.0, 1.0), "decoder_inputs": DECODER_INPUTS}
        chosen = self._choose(settings | others | {"vae_buffer_size": buffer_size(self.layout)})
        if self.finds_rewards:
            self._found_options += [name for name in chosen if name in settings]
        self.vae_kwargs = self._encoder_settings() | self.vae_kwargs

    def _encoder_settings(self) -> dict[str, Any]:
        return encoder_settings(self.layout)

    def _settings_of(self, reward_likelihood: str) -> dict[str, Any]:
        """Options that follow from the reward likelihood; of one that is not known yet, those of any rewards."""
        return NETWORK_SETTINGS.get(reward_likelihood, NETWORK_SETTINGS["gaussian"])

    def _check_rewards(self, rewards: np.ndarray) -> None:
        """Refuse rewards that cannot be modelled; take notice of them where it is to be found what they are."""
        if self.finds_rewards:
            check_finite(rewards)
            if len(self._seen_rewards) < 3:
                self._seen_rewards = distinct_rewards(self._seen_rewards, rewards)
        else:
            self.vae.check_rewards(rewards)

    def _find_rewards(self) -> None:
        """Choose the reward likelihood, and what follows from it, by the rewards so far."""
        if not self.finds_rewards or len(self._seen_rewards) < 2 or len(self.replay_buffer) == 0:
            return
        found = "bernoulli" if len(self._seen_rewards) == 2 else "gaussian"
        if found == self.reward_likelihood:
            return
        if self.knows_rewards:
            warn_user(
                f"Rewards took two values and now a third one, {self._seen_rewards.tolist()}: the VAE "
                "begins anew, with reward_likelihood='gaussian'."
            )
        self.reward_likelihood = found
        settings = self._settings_of(found)
        if found == "bernoulli":
            settings = settings | {"bernoulli_rewards": tuple(float(str(np.float32(reward))) for reward in self._seen_rewards)}
        inputs, by_states = decoder_settings(self.replay_buffer)
        settings = settings | {"decoder_inputs": inputs}
        for name in settings.keys() & set(self._found_options):
            setattr(self, name, settings[name])
        if "standardize_states" in self._found_options:
            self.vae_kwargs = self.vae_kwargs | by_states
        if self.verbose >= 1:
            told = {name: getattr(self, name) for name in settings} | {"vae_kwargs": self.vae_kwargs}
            print(f"Rewards: reward_likelihood={found!r}, {', '.join(f'{name}={value!r}' for name, value in told.items())}")
        self.replay_buffer.keeps = self.vae_buffer_keeps
        self.explained_variance = None
        self._build_vae()
        self._renew_recording()

    def _renew_recording(self) -> None:
        """Let what is around the environments know of the VAE that has been made anew."""

    @property
    def n_recorded(self) -> int:
        """Number of workers, the first ones, whose meta-episodes the VAE is trained on."""
        return self.n_envs

    def _setup_model(self) -> None:
        super()._setup_model()
        seeds = self._stream_seeds(self.seed)
        if not self._continues_streams:
            self._generator_states, self._vae_rng = {}, None
        self._make_generators(seeds)
        self._network_seed = seeds.network
        for name, state in self._generator_states.items():
            generator = getattr(self, name)
            # A state saved on another kind of device has another form; the streams then start anew.
            if state.shape == generator.get_state().shape:
                generator.set_state(state)
        self._build_vae()
        self._buffer_seed = seeds.buffer
        self.replay_buffer = self._make_replay_buffer()
        self._setup_recording_env()

    def _build_vae(self) -> None:
        # Forked, so that the policy's random stream does not know of the VAE.
        with th.random.fork_rng(devices=[]):
            # Not th.manual_seed, which would seed the GPUs' streams too: the policy samples its actions from them.
            th.default_generator.manual_seed(self._network_seed)
            self.vae = self._make_vae().to(self.device)

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

    def _make_vae(self, **kwargs: Any) -> RewardVAE:
        return RewardVAE(
            self.layout,
            latent_dim=self.latent_dim,
            dropout_rate=self.dropout_rate,
            kl_weight=self.kl_weight,
            n_elbo_terms=self.n_elbo_terms,
            n_decoded_steps=self.n_decoded_steps,
            reward_likelihood=self.reward_likelihood if self.knows_rewards else "gaussian",
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
        return belief_maps(self.vae, batch, probes, times)

    def _make_recording_env(self, env: VecEnv) -> RecordingVecEnv:
        return RecordingVecEnv(env, self.replay_buffer, self._check_rewards)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name, least in (("latent_dim", 1), ("vae_buffer_size", 1), ("vae_batch_size", 1), ("vae_updates", 0)):
            check_integer(name, getattr(self, name), least)
        if self.vae_batch_size > self.vae_buffer_size:
            warn_user(
                f"vae_batch_size={self.vae_batch_size}: a buffer of vae_buffer_size={self.vae_buffer_size} meta-episodes has "
                f"fewer, and each is drawn more than once. Use at most {self.vae_buffer_size}, or a larger buffer."
            )
        if self.vae_max_updates is not None:
            fewest = f"or None; vae_updates={self.vae_updates} are the fewest"
            check_integer("vae_max_updates", self.vae_max_updates, self.vae_updates, fewest)
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
        self._find_rewards()
        if not self.knows_rewards:
            return
        assert self._vae_rng is not None
        self._look_at_newest()
        learning_rate = FloatSchedule(self.vae_learning_rate)(self._current_progress_remaining)
        update_learning_rate(self.vae.optimizer, learning_rate)
        n_updates = self._updates_needed()
        parts = self.vae.update(
            self.replay_buffer, self.vae_batch_size, n_updates, self._vae_rng, self._vae_generator, self._n_threads
        )
        for name, value in parts.items():
            self.logger.record(f"vae/{name}", value)
        self.logger.record("vae/meta_episodes", len(self.replay_buffer))
        self.logger.record("vae/is_bernoulli", float(self.reward_likelihood == "bernoulli"))
        self.logger.record("vae/learning_rate", learning_rate)
        self.logger.record("vae/updates", n_updates)
        if self.explained_variance is not None:
            self.logger.record("vae/explained_variance", self.explained_variance)

    def _look_at_newest(self) -> None:
        """See how well the network tells the rewards of meta-episodes that it has not been trained on."""
        newest = self.replay_buffer.take_newest()
        if len(newest) > 0:
            batch = self.replay_buffer.get(newest[-_N_NEWEST:], self.device)
            explained = self.vae.explained_variance(batch)
            if np.isfinite(explained):  # else all rewards were the same
                self.explained_variance = explained

    def _updates_needed(self) -> int:
        """Updates of the VAE after this rollout."""
        if self.vae_max_updates is None:
            return self.vae_updates
        unknown = 1.0 if self.explained_variance is None else float(np.clip(1.0 - self.explained_variance, 0.0, 1.0))
        return self.vae_updates + round(unknown * (self.vae_max_updates - self.vae_updates))

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
        return [*super()._excluded_save_params(), "vae", "recording_env", *self.generators]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "vae", "vae.optimizer"], variables
