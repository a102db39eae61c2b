"""Make the fastest vectorised environment there is for an environment id."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ldm.checks import check_integer
from sb3_ldm.common.vec_env.batched_meta_vec_env import BatchedMetaVecEnv
from sb3_ldm.common.vec_env.interrupts import make_undisturbed

BACKENDS = ("auto", "batched", "dummy", "subproc")

#: Called with the number of environments and the keyword arguments that ``gym.make`` would get.
BatchedConstructor = Callable[..., VecEnv]


class _BatchedBackend(NamedTuple):
    constructor: BatchedConstructor
    is_available: Callable[[], bool]
    options: Collection[str] | None  #: None for all
    needs: str  #: how to install what it needs

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
    """
    _batched[env_id] = _BatchedBackend(constructor, available or (lambda: True), options, needs)


def make_meta_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    backend: str = "auto",
    env_kwargs: dict[str, Any] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    start_index: int = 0,
    verbose: int = 0,
) -> VecEnv:
    """
    Make a monitored ``VecEnv`` of meta-episodes.

    Every backend gives the same tasks for the same seed; on the gridworlds the same results, too. (Physics in other libraries
    draws other start states.)

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
    :return: the vectorised environment
    :raises ValueError: if there is no such backend, or the family has no batched one
    """
    check_integer("n_envs", n_envs, 1)
    chosen = _choose_backend(env_id, backend, vec_env_kwargs, env_kwargs or {})
    if verbose >= 1:
        print(f"{env_id}: {n_envs} environments, backend {chosen!r}{_faster(env_id, chosen)}")
    if chosen == "batched":
        return _make_batched(env_id, n_envs, seed, env_kwargs or {}, start_index)
    # A spec carries its entry point, so that a worker process needs no registry.
    make_env: Any = partial(make_undisturbed, gym.spec(env_id)) if chosen == "subproc" else env_id
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
    batched = _batched.get(env_id)
    if chosen == "batched" or batched is None or batched.is_available():
        return ""
    return f" ('batched' would be faster; it needs {batched.needs or 'what is not installed'})"


def _choose_backend(env_id: str, backend: str, vec_env_kwargs: dict[str, Any] | None, env_kwargs: dict[str, Any]) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} does not exist, use one of {', '.join(BACKENDS)}")
    if backend == "batched":
        if env_id not in _batched:
            offered = ", ".join(sorted(_batched)) or "none"
            raise ValueError(f"backend='batched' is not offered for env_id={env_id!r} (only for: {offered}), use 'auto'")
        if vec_env_kwargs:
            raise ValueError(f"vec_env_kwargs={vec_env_kwargs!r} has no use with backend='batched', leave it out")
    if backend == "auto":
        batched = _batched.get(env_id)
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
