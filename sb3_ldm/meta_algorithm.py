"""What every algorithm on meta-episodes has beside its learning: environments that fit, and training that goes on exactly."""

import inspect
import io
import pathlib
import zipfile
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_ldm.checks import check_integer, check_positive, warn_user
from sb3_ldm.data.model_file import check_model_file, with_present_names
from sb3_ldm.data.training_state import (
    ENTRY,
    State,
    normalizer_state,
    pack,
    random_state,
    read_state,
    set_normalizer_state,
    set_random_state,
)
from sb3_ldm.envs import make_meta_vec_env
from sb3_ldm.envs import vec_env_state as vec_state
from sb3_ldm.envs.copying import CopiedEnv, is_copied_as_it_runs
from sb3_ldm.envs.inspection import Watch, check_workers, refuse_gymnasium_vector_env
from sb3_ldm.envs.meta_episode import MetaEpisodeLayout, observation_layout
from sb3_ldm.envs.steps import normalization_problem, normalizes_observations
from sb3_ldm.options import check_options

_LARGEST_SEED = 2**32 - 1

SelfMetaAlgorithm = TypeVar("SelfMetaAlgorithm", bound="MetaAlgorithm")


def made_env(
    env: GymEnv | str, n_envs: int | None, default: int, options: Any, env_kwargs: dict[str, Any] | None = None
) -> GymEnv:
    """
    :param env: that was given
    :param n_envs: how many to make of an id
    :param default: how many these are if ``n_envs`` is None
    :param options: of the algorithm; ``seed`` and ``verbose`` are those of the environments
    :param env_kwargs: of environments that are made
    :return: the env that was given, or several of an id
    :raises ValueError: if there is ``n_envs`` and an env
    """
    if isinstance(env, str):
        number = default if n_envs is None else n_envs
        return make_meta_vec_env(env, number, options.get("seed"), env_kwargs=env_kwargs, verbose=options.get("verbose", 0))
    if n_envs is not None:
        raise ValueError(f"n_envs={n_envs} is for an env that is an id: leave it out, the env has a number of its own.")
    return env


class MetaAlgorithm(BaseAlgorithm):
    """
    An algorithm of SB3 on meta-episodes: its environments are looked at, nobody else moves them while it learns, and a model
    that is loaded or copied goes on as if it had not been stopped. It comes before SB3's class among the bases.
    """

    _watch: Watch | None = None
    #: Whether it was trained with normalised observations, which is saved; None before the first call of learn.
    trained_normalized: bool | None = None
    #: Where training was when the model that was loaded was saved, until it goes on.
    _saved_state: State | None = None
    _seeds_at_loading: list[int | None] | None = None
    _is_stepping = False  #: whether the environments are ahead of what is known of them
    #: The seed that random streams of subclasses began with, which is saved with the model.
    _streams_seed: list[int | None] | None = None

    @property
    def layout(self) -> MetaEpisodeLayout:
        """Where state, previous action, previous reward and done flag stand in an observation."""
        # The env's, as a model may be loaded with longer or shorter meta-episodes than it was made with.
        return observation_layout(self.observation_space if self.env is None else self.env.observation_space)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        refuse_gymnasium_vector_env(env)
        wrapped = BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        check_workers(wrapped)
        return wrapped

    def _setup_model(self) -> None:
        # A model that is loaded with another seed begins its random streams anew, as SB3's global ones do.
        self._continues_streams = self._streams_seed in (None, [self.seed])
        self._streams_seed = [self.seed]
        super()._setup_model()  # type: ignore[safe-super]

    @classmethod
    def load(
        cls: type[SelfMetaAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool | None = None,
        **kwargs: Any,
    ) -> SelfMetaAlgorithm:
        """
        Load a model from a file of :meth:`save`; see :meth:`stable_baselines3.common.base_class.BaseAlgorithm.load`.

        ``learn(..., reset_num_timesteps=False)`` then goes on as if the run had not been stopped, bit for bit where it was
        saved at the end or the start of a rollout (in the midst of one, what there was of it is not trained on): with the
        global random streams, and with the environments where they were, if ``env`` was made in the same way. It cannot where
        environments do not tell their states, as those of MuJoCo one by one do not, whose states are in C; then these are
        reset, as they are if they are seeded after loading. A buffer of meta-episodes is loaded by itself.

        :param path: the file, or its path
        :param env: environments to go on in; None to predict alone, or to give some with :meth:`set_env`
        :param device: device of the networks
        :param custom_objects: in place of what the file cannot be read without
        :param print_system_info: whether to print what it was saved with
        :param force_reset: True to begin with a reset of the environments in any case; False to leave environments that run
            where they are, which is where the model knows them to be
        :param kwargs: parameters to change
        :return: the model
        :raises ValueError: if the file is damaged, or the model of another algorithm, which is named
        """
        saved = check_model_file(path, cls)
        check_options(cls, inspect.signature(cls.__init__), kwargs, saved)
        forced = force_reset is not False
        model = super().load(path, env, device, custom_objects, print_system_info, forced, **kwargs)
        if force_reset is None:
            model._last_obs = None  # without environments it would not be dropped
        if model._continues_streams:
            model._saved_state = read_state(path)
            if model._saved_state is not None and (force_reset or (force_reset is False and model._env_runs())):
                model._saved_state["env"] = None
        model._seeds_at_loading = model._env_seeds()
        return model

    def set_parameters(
        self,
        load_path_or_dict: str | pathlib.Path | io.BufferedIOBase | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Take parameters; see :meth:`stable_baselines3.common.base_class.BaseAlgorithm.set_parameters`.

        :param load_path_or_dict: file of a model, its path, or parameters by name
        :param exact_match: whether it must have all parameters; False also takes what fits of another algorithm's file
        :param device: that they are loaded to
        :raises ValueError: if the file is damaged, or the model of another algorithm, which is named
        """
        if not isinstance(load_path_or_dict, dict):
            if exact_match:
                check_model_file(load_path_or_dict, type(self))
            _, load_path_or_dict, _ = load_from_zip_file(load_path_or_dict, load_data=False, device=device)
        super().set_parameters(with_present_names(load_path_or_dict), exact_match, device)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model, and where training is, to go on there: see :meth:`load`.

        :param path: file, or its path
        :param exclude: attributes to leave out besides the usual ones
        :param include: attributes to save that are left out otherwise
        """
        file = io.BytesIO()
        super().save(file, exclude, include)
        state = self._saved_state if self._saved_state is not None else self._training_state()
        if state is not None:
            with zipfile.ZipFile(file, "a") as archive:
                archive.writestr(ENTRY, pack(state))
        target = open_path(path, "w", suffix="zip")
        target.write(file.getbuffer())
        if target is not path:
            target.close()

    @property
    def resumes(self) -> bool:
        """Whether training that goes on now begins where the environments were when the model that was loaded was saved."""
        if self._saved_state is None or self.env is None or self._is_seeded_anew():
            return False
        return vec_state.fits(self.env, self._saved_state["env"])

    def _env_runs(self) -> bool:
        return self.env is not None and any(task is not None for task in self.env.get_attr("task"))

    def _env_seeds(self) -> list[int | None] | None:
        return None if self.env is None else list(self.env.unwrapped._seeds)

    def _is_seeded_anew(self) -> bool:
        """Whether somebody seeded the environments after loading, and so wants others."""
        seeds, before = self._env_seeds(), self._seeds_at_loading
        return seeds is not None and before is not None and seeds != before and any(seed is not None for seed in seeds)

    def _training_state(self) -> State | None:
        """What :meth:`save` does not save else; None before training has begun."""
        if self._last_obs is None or self.env is None:
            return None
        assert self._last_episode_starts is not None
        return {
            "random": random_state(self.device),
            "last_obs": np.asarray(self._last_obs),
            "last_episode_starts": np.asarray(self._last_episode_starts),
            "normalizer": normalizer_state(self._vec_normalize_env),
            "env": None if self._is_stepping else vec_state.get_state(self.env),
        }

    def _resume(self, state: State) -> None:
        """Put the environments where they were, and what was known of them."""
        assert self.env is not None
        vec_state.set_state(self.env, state["env"])
        if self._vec_normalize_env is not None and state["normalizer"] is not None:
            set_normalizer_state(self._vec_normalize_env, state["normalizer"])
        self._last_obs, self._last_episode_starts = state["last_obs"], state["last_episode_starts"]

    def __getstate__(self) -> dict[str, Any]:
        """For ``copy`` and ``pickle``: the copy has environments of its own, or none; and it logs anew."""
        state = dict(self.__dict__)
        state["env"] = CopiedEnv(state.get("env"))
        for name in ("_logger", "_vec_normalize_env"):
            state.pop(name, None)
        return state | {"_custom_logger": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.env = state["env"].env
        self._vec_normalize_env = unwrap_vec_normalize(self.env) if self.env is not None else None
        if self.env is None or not is_copied_as_it_runs(self.env):
            self._last_obs = None

    def set_random_seed(self, seed: int | None = None) -> None:
        if seed is not None:
            check_integer("seed", seed, 0, "or None")
            if seed > _LARGEST_SEED:
                raise ValueError(f"seed={seed}: use at most {_LARGEST_SEED}, the largest of NumPy.")
        super().set_random_seed(seed)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        self._seeds_at_loading = self._env_seeds()
        if hasattr(self, "policy"):  # else the model is not set up yet
            self._warn_of_cuts()
            self._warn_of_normalization()

    def _warn_of_cuts(self) -> None:
        """Warn of meta-episodes that training cuts."""

    def _warn_of_normalization(self) -> None:
        if self.trained_normalized is not None and self.env is not None:
            problem = normalization_problem(self.trained_normalized, self.env)
            if problem is not None:
                warn_user(problem)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        resumes = self.resumes and not reset_num_timesteps
        goes_on = not self._is_seeded_anew() and not reset_num_timesteps
        state, self._saved_state = self._saved_state, None
        if self._watch is not None and self._watch.env is self.env and self._watch.has_moved:
            self._last_obs = None  # somebody evaluated on them since: begin with a reset
        if state is not None and resumes:
            self._resume(state)
        if self.env is not None:
            self._warn_of_normalization()
            self.trained_normalized = normalizes_observations(self.env)
        prepared = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert self.env is not None
        self._watch = Watch(self.env)
        if state is not None and goes_on:
            set_random_state(state["random"], self.device)
        return prepared

    def _check_not_evaluated_on(self) -> None:
        if self._last_obs is None or (self._watch is not None and self._watch.has_moved):
            raise ValueError(
                "A callback evaluated the agent on the environments that it is trained in: use environments of their own."
            )

    def learn(
        self: SelfMetaAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMetaAlgorithm:
        """
        Train; see :meth:`stable_baselines3.common.base_class.BaseAlgorithm.learn`.

        :param total_timesteps: steps of all workers together
        :param callback: called at every step, or several
        :param log_interval: rollouts between two lines of the log
        :param tb_log_name: name of the run in the TensorBoard log; None for the name of the class
        :param reset_num_timesteps: False to go on with the steps that there were
        :param progress_bar: whether to show one
        :return: the model
        :raises ValueError: if there is no environment, or training diverges
        """
        name = type(self).__name__ if tb_log_name is None else tb_log_name
        check_positive("total_timesteps", total_timesteps)
        if self.env is None:
            raise ValueError(f"env=None: {type(self).__name__} has no environment to learn in, give it one with set_env.")
        with self._computing():
            return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)  # type: ignore[safe-super]

    def _computing(self) -> AbstractContextManager[None]:
        """What training is done in."""
        return nullcontext()

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # A last rollout that goes beyond the budget must not make a linear schedule's learning rate negative.
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_watch", "_saved_state", "_seeds_at_loading", "_is_stepping"]

    def _env_actions(self, actions: np.ndarray) -> np.ndarray:
        """What the environment is given for the policy's actions: Box actions are unscaled or clipped to their bounds."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)
