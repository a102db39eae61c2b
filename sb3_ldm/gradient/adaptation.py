"""Agents that adapt to a task by gradient steps on their parameters: the core of MAML, E-MAML and ProMP."""

import io
import pathlib
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ldm.checks import check_integer, check_names, check_number, check_positive
from sb3_ldm.envs.factory import check_env_kwargs
from sb3_ldm.envs.steps import check_whole, has_statistics, original_obs, original_rewards
from sb3_ldm.gradient.episodes import AdaptationBuffer, Credited, Episodes, credit
from sb3_ldm.gradient.estimators import ESTIMATORS
from sb3_ldm.gradient.memory import Memory
from sb3_ldm.gradient.policies import AdaptivePolicy, Parameters
from sb3_ldm.memory import warn_if_too_large
from sb3_ldm.meta_algorithm import MetaAlgorithm, made_env

N_ENVS = 40  #: tasks of an iteration, which are workers that a model makes of an environment's id
ADAPTATION_EPISODES = 20  #: before and after the update in these
_DIVERGED = "Training diverged ({what} not finite): lower {options}."


class Acting(NamedTuple):
    """Parameters, and what they make of the observations of the episodes that they have acted in, or might have."""

    parameters: Parameters  #: of each task, stacked
    outputs: th.Tensor  #: logits or means, ``(n_tasks, n_episodes, n_steps, n_outputs)``


class Batch(NamedTuple):
    """What an update learns from: the episodes before each gradient step, and those after the last."""

    rounds: list[Credited]  #: of the parameters before each inner step
    after: Credited  #: of the adapted ones
    behaviours: list[th.Tensor]  #: log probabilities by what has acted, of each round and of the last, ``(n, e, s)`` each
    acted: list[Acting]  #: what has acted, of each round and of the last

    def of_tasks(self, tasks: Any) -> "Batch":
        """:return: what was seen of some tasks, by index"""
        acted = [
            Acting({name: one[tasks] for name, one in acting.parameters.items()}, acting.outputs[tasks])
            for acting in self.acted
        ]
        return Batch(
            [seen.of_tasks(tasks) for seen in self.rounds],
            self.after.of_tasks(tasks),
            [behaviour[tasks] for behaviour in self.behaviours],
            acted,
        )


class GradientAdaptation(MetaAlgorithm, OnPolicyAlgorithm):
    """
    An agent that learns initial parameters from which gradient steps on a task's first episodes lead to good ones.

    A worker is a task: in the first ``adaptation_episodes`` episodes of a meta-episode it acts by initial parameters theta,
    then by theta' = theta + ``step_size`` times the gradient of what it has seen. Credit stays inside of an episode, whose
    baseline is linear in the state, its squares and the time, and is fitted to each task. The policy sees the state alone, and
    rewards are those of the environment, for advantages are standardised. An iteration is one meta-episode of each worker.

    :param policy: ``"MlpPolicy"``, or a subclass of :class:`~sb3_ldm.gradient.policies.AdaptivePolicy`
    :param env: a meta-episode environment: a registered id, an env or a VecEnv (see :mod:`sb3_ldm.envs.meta_episode`); of an
        id, meta-episodes have as many episodes after the update as before
    :param adaptation_episodes: episodes of a task before each gradient step; None for half of a meta-episode, or 20 where
        ``env`` is an id
    :param adaptation_steps: gradient steps in a meta-episode, each after as many episodes
    :param step_size: of the inner gradient steps
    :param estimator: of the value, whose gradient the inner steps follow, and which is differentiated once more:
        ``"plain"``, ``"lvc"``, ``"taypo2"``, ``"dice"``, ``"loaded_dice"`` or ``"v_trace"``, see
        :mod:`sb3_ldm.gradient.estimators`
    :param gamma: discount factor of the steps of an episode
    :param gae_lambda: factor of the generalised advantage estimator
    :param n_envs: sub-environments that are made of an id; None for 40
    :param stats_window_size: meta-episodes over which the logged returns are averaged
    :param tensorboard_log: folder of the TensorBoard log
    :param policy_kwargs: keyword arguments of the policy
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: seed of the pseudo random generators
    :param device: device of the networks
    :param _init_setup_model: whether to build the networks at once
    :raises ValueError: if the env has no meta-episodes or too few episodes in them, there is one worker alone, the policy is
        recurrent, a parameter is out of its range, or training diverges
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": AdaptivePolicy}
    policy: AdaptivePolicy  # type: ignore[assignment]
    rollout_buffer: AdaptationBuffer  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[AdaptivePolicy],
        env: GymEnv | str,
        adaptation_episodes: int | None = None,
        adaptation_steps: int = 1,
        step_size: float = 0.1,
        estimator: str = "plain",
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        n_envs: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        self._check_policy(policy)
        if isinstance(env, str):
            check_integer("adaptation_steps", adaptation_steps, 1)
            adaptation_episodes = ADAPTATION_EPISODES if adaptation_episodes is None else adaptation_episodes
            check_integer("adaptation_episodes", adaptation_episodes, 1)
        env_kwargs = self._env_kwargs(env, adaptation_episodes, adaptation_steps)
        super().__init__(
            policy,  # type: ignore[arg-type]
            made_env(env, n_envs, N_ENVS, {"seed": seed, "verbose": verbose}, env_kwargs),
            learning_rate=0.0,  # of an outer step that has one, by a subclass
            n_steps=1,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=0.0,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=AdaptationBuffer,  # type: ignore[arg-type]
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.adaptation_episodes = adaptation_episodes
        self.adaptation_steps = adaptation_steps
        self.step_size = step_size
        self.estimator = estimator
        #: Mean and variance by which a ``VecNormalize`` shows rewards, and its epsilon, for who predicts without it.
        self._shown_rewards: list[float] | None = None
        if _init_setup_model:
            self._set_up()

    def _set_up(self) -> None:
        """Look at what is given, and make the networks of a new model."""
        self._check_parameters()
        if self.adaptation_episodes is None:
            self.adaptation_episodes = max(1, self.layout.episodes_per_task // (self.adaptation_steps + 1))
        self._check_tasks()
        self._setup_model()

    @staticmethod
    def _env_kwargs(env: GymEnv | str, episodes: int | None, steps: int) -> dict[str, Any]:
        """As many episodes after the update as before each step, where the environment of an id takes their number."""
        if not isinstance(env, str):
            return {}
        assert episodes is not None
        wanted = {"episodes_per_task": episodes * (steps + 1)}
        try:
            check_env_kwargs(env, wanted)
        except ValueError:
            return {}
        return wanted

    def _check_policy(self, policy: Any) -> None:
        is_known = policy in self.policy_aliases if isinstance(policy, str) else _is_adaptive(policy)
        if not is_known:
            raise ValueError(
                f"policy={policy!r}: use 'MlpPolicy' or a subclass of AdaptivePolicy. What a recurrent policy has learned of "
                "a task is in its memory, and not in parameters that gradient steps adapt."
            )

    def _setup_model(self) -> None:
        self._check_parameters()
        self.n_steps = self.layout.meta_episode_steps
        super()._setup_model()

    def _check_parameters(self) -> None:
        """Refuse what cannot be meant; runs before any work."""
        check_integer("adaptation_steps", self.adaptation_steps, 1)
        if self.adaptation_episodes is not None:
            check_integer("adaptation_episodes", self.adaptation_episodes, 1)
        check_positive("step_size", self.step_size)
        check_names("estimator", {self.estimator: ""}, list(ESTIMATORS))
        check_integer("stats_window_size", self._stats_window_size, 1)
        for name in ("gamma", "gae_lambda"):
            check_number(name, getattr(self, name), 0.0, 1.0)
        if not callable(self.learning_rate):
            check_number("learning_rate", self.learning_rate, 0.0)

    def _check_tasks(self) -> None:
        """Refuse environments that there is nothing to learn in."""
        layout, n_before = self.layout, self.n_before
        if n_before >= layout.episodes_per_task:
            raise ValueError(
                f"adaptation_episodes={self.adaptation_episodes} and adaptation_steps={self.adaptation_steps} take {n_before} "
                f"episodes, but the environment has meta-episodes of {layout.episodes_per_task}, of which one at least must "
                f"be after the update: use fewer, or an environment with episodes_per_task={2 * n_before}."
            )
        if self.n_envs < 2:
            raise ValueError(
                f"n_envs={self.n_envs}: a worker is a task, and what is learned is what several tasks have in common; use at "
                "least 2, better 20 to 40."
            )
        n_bytes = 4 * self.n_envs * layout.meta_episode_steps * (layout.dim + 30 * 64)
        warn_if_too_large(
            f"meta-episodes of {layout.meta_episode_steps} steps of {self.n_envs} sub-environments, differentiated twice",
            n_bytes,
            "Use fewer episodes or sub-environments.",
        )

    @property
    def n_before(self) -> int:
        """Episodes of a meta-episode before the last gradient step."""
        assert self.adaptation_episodes is not None
        return self.adaptation_episodes * self.adaptation_steps

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self._check_tasks()  # of a model that is loaded
        self.n_steps = self.layout.meta_episode_steps
        self.rollout_buffer.n_envs = self.n_envs
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Fill the buffer with a meta-episode of every worker, which adapts on its way.

        :param env: the training environment
        :param callback: called at each step and at both ends of the rollout
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps of a meta-episode at most
        :return: False if the callback stopped training
        """
        buffer = self.rollout_buffer
        self._check_not_evaluated_on()
        self.policy.set_training_mode(False)
        buffer.reset(self.layout)
        assert self._last_episode_starts is not None
        if not self._last_episode_starts.all():  # meta-episodes of several lengths, or a rollout that was stopped
            self._last_obs, self._last_episode_starts = env.reset(), np.ones(env.num_envs, dtype=bool)  # type: ignore[assignment]
            assert self._watch is not None
            self._watch.look()
        parameters = _detached(self.policy.stacked(env.num_envs))
        n_steps = np.zeros(env.num_envs, dtype=np.int64)  # gradient steps of each worker so far
        act = self.policy.actor(parameters)
        callback.on_rollout_start()
        while not buffer.full:
            assert isinstance(self._last_obs, np.ndarray)
            with th.no_grad():
                drawn = act(th.as_tensor(self._last_obs, device=self.device), False)
            actions = drawn.cpu().numpy()
            self._is_stepping = True
            new_obs, rewards, dones, infos = env.step(self._env_actions(actions))
            if self._watch is not None:
                self._watch.look()
            self.num_timesteps += env.num_envs
            obs, self._last_obs, self._last_episode_starts = self._last_obs, new_obs, dones  # type: ignore[assignment]
            self._is_stepping = False

            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._check_not_evaluated_on()

            check_whole(dones, infos)
            if dones.any():
                self._update_info_buffer(infos, dones)
            ends = dones | (original_obs(env, new_obs)[:, self.layout.done_index] > 0.5)
            buffer.add(obs, actions, original_rewards(env, rewards), ends)
            if ends.any():
                parameters, n_steps = self._adapt_workers(parameters, n_steps)
                act = self.policy.actor(parameters)

        self._note_shown_rewards()
        returns = buffer.returns()
        self.logger.record("rollout/return_before", float(returns[:, : self.adaptation_episodes].mean()))
        self.logger.record("rollout/return_after", float(returns[:, self.n_before :].mean()))
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _adapt_workers(self, parameters: Parameters, n_steps: np.ndarray) -> tuple[Parameters, np.ndarray]:
        """Take the gradient steps of those workers whose episodes for it have ended."""
        assert self.adaptation_episodes is not None
        n_episodes = self.rollout_buffer.n_episodes
        due = (n_steps < self.adaptation_steps) & (n_episodes >= (n_steps + 1) * self.adaptation_episodes)
        for step in np.unique(n_steps[due]):
            workers = np.flatnonzero(due & (n_steps == step))
            first = step * self.adaptation_episodes
            episodes = self.rollout_buffer.episodes(first, first + self.adaptation_episodes, workers)
            parameters = self.adapted_to(episodes, parameters, workers)
        return parameters, n_steps + due

    def adapted_to(self, episodes: Episodes, parameters: Parameters, tasks: np.ndarray) -> Parameters:
        """
        A gradient step on what was seen of some tasks.

        :param episodes: of these tasks, whose actions were drawn by their parameters
        :param parameters: of all tasks, stacked
        :param tasks: indices of the tasks, ``(n,)``
        :return: parameters of all tasks, new ones for these
        """
        index = th.as_tensor(tasks, device=self.device)
        stepped, _ = self.inner_step({name: one[index] for name, one in parameters.items()}, self.credited(episodes))
        return {name: one.index_copy(0, index, stepped[name]) for name, one in parameters.items()}

    def credited(self, episodes: Episodes) -> Credited:
        """
        :param episodes: of several tasks
        :return: these with their advantages
        """
        return credit(episodes, episodes.observations[..., self.layout.state], self.gamma, self.gae_lambda)

    def inner_step(
        self, parameters: Parameters, seen: Credited, behaviour: th.Tensor | None = None, create_graph: bool = False
    ) -> tuple[Parameters, th.Tensor]:
        """
        ``theta' = theta + step_size * grad J(theta)`` of each task, J by the estimator, as a mean over steps.

        :param parameters: theta, stacked
        :param seen: what each task's parameters have done
        :param behaviour: log probabilities of the actions by what has drawn them, ``(n, e, s)``; None for theta itself
        :param create_graph: whether to differentiate through the step
        :return: theta', stacked; and the outputs of theta, ``(n, e, s, n_outputs)``
        """
        with th.enable_grad():
            if not create_graph:
                parameters = {name: one.detach().requires_grad_() for name, one in parameters.items()}
            outputs = self.policy.outputs(parameters, seen.episodes.observations)
            log_prob = self.policy.log_prob(parameters, outputs, seen.episodes.actions)
            value = self._estimate(log_prob, log_prob.detach() if behaviour is None else behaviour, seen)
            wanted = list(parameters.values())
            gradients = th.autograd.grad(value.sum(), wanted, create_graph=create_graph, materialize_grads=True)
        stepped = zip(parameters.items(), gradients, strict=True)
        adapted = {name: one + self.step_size * gradient for (name, one), gradient in stepped}
        return (adapted, outputs) if create_graph else (_detached(adapted), outputs.detach())

    def _estimate(self, log_prob: th.Tensor, behaviour: th.Tensor, seen: Credited) -> th.Tensor:
        """What the estimator says of each task, as a mean over its steps, ``(n,)``."""
        mask = seen.episodes.mask
        # Steps that there were not are as likely by all, so that no ratio knows of them.
        log_prob = th.where(mask, log_prob, behaviour)
        weights = th.ones(mask.shape[-1], device=self.device)
        of_episodes = ESTIMATORS[self.estimator](log_prob, behaviour, seen.returns, seen.values, weights)
        return of_episodes.sum(1) / mask.sum((1, 2))

    def log_prob(self, acting: Acting, seen: Credited) -> th.Tensor:
        """
        :param acting: parameters and their outputs
        :param seen: the episodes that these are of
        :return: log probabilities of the actions, ``(n, e, s)``
        """
        return self.policy.log_prob(acting.parameters, acting.outputs, seen.episodes.actions)

    def batch(self) -> Batch:
        """:return: the rollout, and what has acted in it"""
        assert self.adaptation_episodes is not None
        firsts = [step * self.adaptation_episodes for step in range(self.adaptation_steps + 1)]
        lasts = [*firsts[1:], self.layout.episodes_per_task]
        seen = [self.credited(self.rollout_buffer.episodes(first, last)) for first, last in zip(firsts, lasts, strict=True)]
        batch = Batch(seen[:-1], seen[-1], [], [])
        acted = self.adapted(batch, create_graph=False)
        behaviours = [self.log_prob(acting, one) for acting, one in zip(acted, seen, strict=True)]
        return batch._replace(behaviours=behaviours, acted=acted)

    def adapted(self, batch: Batch, create_graph: bool = True) -> list[Acting]:
        """
        :param batch: what was seen; without ``behaviours`` it is the parameters' own doing
        :param create_graph: whether to differentiate through the steps
        :return: the policy's parameters before each step, and after the last, on the episodes that are theirs
        """
        parameters, steps = self.policy.stacked(len(batch.after.returns)), []
        if not create_graph:
            parameters = _detached(parameters)
        for seen, behaviour in zip_longest(batch.rounds, batch.behaviours[: len(batch.rounds)]):
            stepped, outputs = self.inner_step(parameters, seen, behaviour, create_graph)
            steps.append(Acting(parameters, outputs))
            parameters = stepped
        with th.set_grad_enabled(create_graph):
            outputs = self.policy.outputs(parameters, batch.after.episodes.observations)
        return [*steps, Acting(parameters, outputs)]

    def _check_finite(self, what: str, value: th.Tensor, *options: str) -> None:
        if not bool(th.isfinite(value).all()):
            raise ValueError(_DIVERGED.format(what=what, options=" or ".join(options)))

    def _log_policy(self) -> None:
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if not self.policy.is_discrete:
            self.logger.record("train/std", self.policy.log_std.detach().exp().mean().item())

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """
        Act on observations, and adapt to the tasks of meta-episodes: after ``adaptation_episodes`` episodes the state has the
        parameters of each task.

        :param observation: shape ``(obs_dim,)`` or ``(n_envs, obs_dim)``
        :param state: what the last call returned; None at first
        :param episode_start: whether each environment begins a meta-episode, ``(n_envs,)``; None for no
        :param deterministic: whether to take the most likely actions. Where there is a ``state`` or an ``episode_start``,
            actions before the gradient steps are drawn nevertheless, for these learn from actions that vary
        :return: actions, and the state for the next call
        :raises ValueError: if observations have another shape than the observation space's, or ``state`` or ``episode_start``
            are of another number of environments
        """
        if isinstance(observation, tuple):
            raise ValueError("observation is a tuple: use obs, info = env.reset() and predict(obs).")
        self.policy.set_training_mode(False)
        tensor, is_vectorized = self.policy.obs_to_tensor(observation)
        assert isinstance(tensor, th.Tensor)
        obs = tensor.cpu().numpy()
        memory = Memory.empty(len(obs)) if state is None else state
        starts = np.zeros(len(obs), dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool).ravel()
        memory = memory.checked(len(obs)) if isinstance(memory, Memory) else Memory.refuse(memory)
        if len(starts) != len(obs):
            raise ValueError(
                f"episode_start={episode_start!r} is of {len(starts)} environments, but observation of {len(obs)}: give one "
                "bool for each"
            )
        memory = memory.noticed(starts, self._rewards_shown(obs), obs[:, self.layout.done_index] > 0.0)
        memory = self._recalled(memory)
        explores = memory.n_steps < self.adaptation_steps
        if state is None and episode_start is None:
            explores = np.zeros_like(explores)
        actions = self._drawn(memory, tensor, deterministic & ~explores)
        memory = memory.with_step(obs, actions, self.adaptation_steps)
        given = self._env_actions(actions)
        return (given if is_vectorized else given[0]), memory

    def _drawn(self, memory: Memory, obs: th.Tensor, deterministic: np.ndarray) -> np.ndarray:
        """Actions by each environment's parameters, the most likely ones of some, ``(n, ...)``."""

        def act(most_likely: bool) -> np.ndarray:
            if memory.parameters is None:
                return self.policy._predict(obs, most_likely).cpu().numpy()
            return self.policy.act(memory.parameters, obs, most_likely).cpu().numpy()

        with th.no_grad():
            if deterministic.all():
                return act(True)
            actions = act(False)
            if deterministic.any():
                actions[deterministic] = act(True)[deterministic]
        return actions

    def _recalled(self, memory: Memory) -> Memory:
        """Take the gradient steps of those tasks whose episodes for it have been seen."""
        assert self.adaptation_episodes is not None
        for task in memory.due(self.adaptation_episodes, self.adaptation_steps):
            if memory.parameters is None:
                memory = memory._replace(parameters=_detached(self.policy.stacked(memory.n_envs)))
            episodes = memory.episodes(task, self.adaptation_episodes, self.device)
            assert memory.parameters is not None
            parameters = self.adapted_to(episodes, memory.parameters, np.array([task]))
            memory = memory.adapted(task, parameters)
        initial = memory.forgotten
        if memory.parameters is not None and initial.any():
            index = th.as_tensor(initial, device=self.device)
            theta = dict(self.policy.named_parameters())
            shape = {name: (-1, *(1,) * one.ndim) for name, one in theta.items()}
            restored = {
                name: th.where(index.view(shape[name]), theta[name].detach(), one) for name, one in memory.parameters.items()
            }
            memory = memory._replace(parameters=restored)
        return memory

    def _note_shown_rewards(self) -> None:
        """Keep how a ``VecNormalize`` shows rewards, which predict must know."""
        normalizer = self._vec_normalize_env
        if normalizer is not None and normalizer.norm_obs and has_statistics(normalizer):
            rms, index = normalizer.obs_rms, self.layout.reward_index
            assert isinstance(rms, RunningMeanStd)
            self._shown_rewards = [float(rms.mean[index]), float(rms.var[index]), float(normalizer.epsilon)]

    def _rewards_shown(self, obs: np.ndarray) -> np.ndarray:
        """The environment's previous rewards, read from observations, ``(n,)``."""
        shown = obs[:, self.layout.reward_index]
        self._note_shown_rewards()
        if self._shown_rewards is None:
            return shown
        mean, variance, epsilon = self._shown_rewards
        return (shown * np.sqrt(variance + epsilon) + mean).astype(np.float32)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        self._note_shown_rewards()
        super().save(path, exclude, include)


def _is_adaptive(policy: Any) -> bool:
    return isinstance(policy, type) and issubclass(policy, AdaptivePolicy)


def _detached(parameters: Parameters) -> Parameters:
    return {name: one.detach().clone() for name, one in parameters.items()}
