"""Make the fastest vectorised environment there is for an environment id."""

import importlib
import inspect
import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ldm.checks import check_integer, check_names, nearest
from sb3_ldm.envs.batched_meta_vec_env import BatchedMetaVecEnv
from sb3_ldm.envs.interrupts import make_undisturbed
from sb3_ldm.envs.monitor import MetaMonitor

BACKENDS = ("auto", "batched", "dummy", "subproc")

#: Called with the number of environments and the keyword arguments that ``gym.make`` would get.
BatchedConstructor = Callable[..., VecEnv]


class _BatchedBackend(NamedTuple):
    constructor: BatchedConstructor
    is_available: Callable[[], bool]
    options: Collection[str] | None  #: None for all
    needs: str  #: how to install what it needs
    entry_point: Any  #: of the environment that it stands for

    def has_all(self, env_kwargs: dict[str, Any]) -> bool:
        return self.options is None or set(env_kwargs) <= set(self.options)


_batched: dict[str, _BatchedBackend] = {}


def register_batched_backend(
    env_id: str,
    constructor: BatchedConstructor,
    available: Callable[[], bool] | None = None,
    options: Collection[str] | None = None,
    needs: str = "",
) -> None:
    """
    Offer a natively batched backend for an environment id.

    :param env_id: a registered gymnasium id
    :param constructor: called as ``constructor(n_envs, **env_kwargs)``; must accept ``render_mode``
    :param available: whether what it needs is installed, so that ``"auto"`` may choose it; None if it needs nothing
    :param options: names of the ``env_kwargs`` that it has, so that ``"auto"`` leaves others to gymnasium; None for all
    :param needs: where it is not available, what to install
    :raises ValueError: if the constructor cannot be called
    """
    if not callable(constructor):
        raise ValueError(f"constructor={constructor!r}: give what is called as constructor(n_envs, **env_kwargs).")
    entry_point = _entry_point(env_id)
    _batched[env_id] = _BatchedBackend(constructor, available or (lambda: True), options, needs, entry_point)


def _entry_point(env_id: str) -> Any:
    """What makes the environment that an id is registered for now, None if it is not."""
    return gym.registry[env_id].entry_point if env_id in gym.registry else None


def spec_of(env_id: str) -> EnvSpec:
    """
    :param env_id: id of an environment, ``module:Env-v0`` to import the module first
    :return: its spec
    :raises ValueError: if there is none, with the nearest ids
    """
    if not isinstance(env_id, str):
        raise ValueError(f"env_id={env_id!r}: give the registered id of an environment.")
    module, _, bare = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(bare)
    except (gym.error.Error, ImportError) as error:
        near = nearest(bare, list(gym.registry))
        hint = near if near.startswith("did") else f"import the module that registers it ({error})"
        raise ValueError(f"env_id={env_id!r} is not registered: {hint}") from error


def check_env_kwargs(env_id: str, env_kwargs: Any) -> None:
    """
    :param env_id: a registered id
    :param env_kwargs: keyword arguments of its environment
    :raises ValueError: if there is no such id, or the environment does not take one of them, with the nearest one; where it
        hands on what it does not know, this is only found out when it is made
    """
    own = _own_kwargs(env_id)
    hands_on = _HANDS_ON in own
    of_gym = [name for name in inspect.signature(gym.make).parameters if name not in ("id", "kwargs")]
    check_names(f"env_kwargs of {env_id}", env_kwargs, [*own, *of_gym, *(env_kwargs if hands_on else ())])


_HANDS_ON = "**"  #: in place of the names of options that an environment hands on


def _own_kwargs(env_id: str) -> list[str]:
    """What an environment is told."""
    entry_point = spec_of(env_id).entry_point
    try:
        creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        parameters = inspect.signature(creator).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # compiled, or none
        return [_HANDS_ON]
    is_any = [one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters]
    named = [one.name for one, hands_on in zip(parameters, is_any, strict=True) if not hands_on and one.name != "env_id"]
    return [*dict.fromkeys([*named, "render_mode"]), *([_HANDS_ON] if any(is_any) else [])]


def make_meta_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    backend: str = "auto",
    env_kwargs: dict[str, Any] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    start_index: int = 0,
    verbose: int = 0,
    monitor_dir: str | Path | None = None,
) -> VecEnv:
    """
    Make a monitored ``VecEnv`` of meta-episodes.

    Every backend gives the same tasks and the same results for the same seed.

    :param env_id: a registered gymnasium id that makes meta-episodes, for instance ``"GridNavi-v0"``
    :param n_envs: number of environments
    :param seed: environment ``i`` is seeded with ``seed + i`` at the first reset, as in SB3; with seeds that are closer than
        ``n_envs`` other workers meet some of the same tasks
    :param backend: ``"batched"`` steps all environments at once, where the family offers it; ``"dummy"`` one after the
        other; ``"subproc"`` in one process each; ``"auto"`` takes ``"batched"`` where there is one that has all of
        ``env_kwargs`` and what it needs is installed, else ``"dummy"``
    :param env_kwargs: keyword arguments of the environment, for instance ``{"task_split": "test"}``
    :param vec_env_kwargs: keyword arguments of ``DummyVecEnv`` or ``SubprocVecEnv``
    :param start_index: added to the seed of the action space, like in SB3
    :param verbose: 1 to print which backend it is, see also :func:`backend_of`
    :param monitor_dir: folder in which ``monitor.csv`` gets a row a meta-episode, for SB3's ``load_results`` and
        ``plot_results``, see :class:`~sb3_ldm.envs.monitor.MetaMonitor`; None to write none
    :return: the vectorised environment
    :raises ValueError: if there is no such id or backend, the family has no batched one, the environment does not take one of
        ``env_kwargs``, or a number is none
    """
    check_integer("n_envs", n_envs, 1)
    check_integer("start_index", start_index, 0)
    if seed is not None:
        check_integer("seed", seed, 0)
    if env_id in gym.registry or env_id not in _batched:  # a batched backend may be all that there is
        check_env_kwargs(env_id, env_kwargs or {})
    try:
        env = _make(env_id, n_envs, seed, backend, env_kwargs or {}, vec_env_kwargs, start_index, verbose)
    except TypeError as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unexpected is None or unexpected[1] not in (env_kwargs or {}):
            raise
        own = [name for name in _own_kwargs(env_id) if name not in (unexpected[1], _HANDS_ON)]
        check_names(f"env_kwargs of {env_id}", {unexpected[1]: (env_kwargs or {})[unexpected[1]]}, own)
    return env if monitor_dir is None else MetaMonitor(env, monitor_dir)


def _make(
    env_id: str,
    n_envs: int,
    seed: int | None,
    backend: str,
    env_kwargs: dict[str, Any],
    vec_env_kwargs: dict[str, Any] | None,
    start_index: int,
    verbose: int,
) -> VecEnv:
    chosen = _choose_backend(env_id, backend, vec_env_kwargs, env_kwargs)
    if verbose >= 1:
        print(f"{env_id}: {n_envs} environments, backend {chosen!r}{_faster(env_id, chosen)}")
    if chosen == "batched":
        return _make_batched(env_id, n_envs, seed, env_kwargs, start_index)
    # A spec carries its entry point, so that a worker process needs no registry.
    make_env: Any = partial(make_undisturbed, spec_of(env_id)) if chosen == "subproc" else env_id
    return make_vec_env(
        make_env,
        n_envs,
        seed=seed,
        start_index=start_index,
        env_kwargs=env_kwargs,
        vec_env_cls=SubprocVecEnv if chosen == "subproc" else DummyVecEnv,
        vec_env_kwargs=vec_env_kwargs,
    )


def backend_of(env: VecEnv) -> str:
    """
    :param env: vectorised environments, maybe wrapped
    :return: what steps them: ``"batched"``, ``"dummy"``, ``"subproc"``, or the name of another class
    """
    names = {BatchedMetaVecEnv: "batched", DummyVecEnv: "dummy", SubprocVecEnv: "subproc"}
    return next((name for cls, name in names.items() if isinstance(env.unwrapped, cls)), type(env.unwrapped).__name__)


def _faster(env_id: str, chosen: str) -> str:
    """What would be faster than the chosen backend, but is not installed."""
    batched = _batched_backend(env_id)
    if chosen == "batched" or batched is None or batched.is_available():
        return ""
    return f" ('batched' would be faster; it needs {batched.needs or 'what is not installed'})"


def _batched_backend(env_id: str) -> _BatchedBackend | None:
    """The batched backend of the environment that the id is registered for now."""
    batched = _batched.get(env_id)
    return batched if batched is not None and batched.entry_point in (None, _entry_point(env_id)) else None


def _choose_backend(env_id: str, backend: str, vec_env_kwargs: dict[str, Any] | None, env_kwargs: dict[str, Any]) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} does not exist, use one of {', '.join(BACKENDS)}")
    if backend == "batched":
        if _batched_backend(env_id) is None:
            offered = ", ".join(sorted(_batched)) or "none"
            raise ValueError(f"backend='batched' is not offered for env_id={env_id!r} (only for: {offered}), use 'auto'")
        if vec_env_kwargs:
            raise ValueError(f"vec_env_kwargs={vec_env_kwargs!r} has no use with backend='batched', leave it out")
    if backend == "auto":
        batched = _batched_backend(env_id)
        fits = batched is not None and not vec_env_kwargs and batched.has_all(env_kwargs) and batched.is_available()
        return "batched" if fits else "dummy"
    return backend


def _make_batched(env_id: str, n_envs: int, seed: int | None, env_kwargs: dict[str, Any], start_index: int) -> VecEnv:
    # SB3's make_vec_env renders to arrays by default, too.
    venv = _batched[env_id].constructor(n_envs, **{"render_mode": "rgb_array", **env_kwargs})
    if seed is not None:
        venv.action_space.seed(seed + start_index)
    venv.seed(seed)
    return venv
