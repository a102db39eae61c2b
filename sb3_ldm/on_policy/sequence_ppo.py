"""RecurrentPPO that collects and trains on whole sequences: the core of every recurrent algorithm of this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from typing_extensions import Unpack

from sb3_ldm.checks import check_integer, check_number, check_positive, warn_user
from sb3_ldm.data.rollouts import SequenceRolloutBuffer, n_sequence_minibatches
from sb3_ldm.data.training_state import State
from sb3_ldm.envs.steps import normalizes_rewards
from sb3_ldm.memory import warn_if_too_large
from sb3_ldm.meta_algorithm import MetaAlgorithm, made_env
from sb3_ldm.nets.sharding import backward_in_shards, n_shards, one_thread_per_operation
from sb3_ldm.on_policy.automatic import AUTO, N_ENVS, policy_settings, ppo_settings
from sb3_ldm.on_policy.options import Auto, RecurrentPPOOptions
from sb3_ldm.on_policy.policies import MetaLstmPolicy, SeparateLstmPolicy
from sb3_ldm.on_policy.ppo_loss import PPOLoss, ppo_loss
from sb3_ldm.on_policy.reward_scale import RewardScale
from sb3_ldm.options import takes_options_of

_DIVERGED = "Training diverged (loss={loss}, or parameters that are not finite): lower learning_rate or max_grad_norm."


@takes_options_of(RecurrentPPO, gae_lambda=AUTO, target_kl=AUTO)
class SequencePPO(MetaAlgorithm, RecurrentPPO):
    """
    :class:`~sb3_contrib.RecurrentPPO` on meta-episodes, with the same loss and the same API.

    Options that are ``"auto"`` are chosen when the model is made, by the environment, and are attributes as those that are
    given.

    Minibatches are whole worker sequences and every sequence is one fused call of the LSTM, so a rollout is best made of
    whole meta-episodes: ``n_steps`` is one meta-episode unless given. On the CPU, ``torch.get_num_threads()`` shards of a
    minibatch are computed side by side while an operation has one thread (see :mod:`sb3_ldm.nets.sharding`).

    :param policy: the policy to use (``"MlpLstmPolicy"``, or a subclass of :class:`MetaLstmPolicy`)
    :param env: a meta-episode environment: a registered id, an env or a VecEnv (see :mod:`sb3_ldm.envs.meta_episode`)
    :param learning_rate: learning rate or its schedule; ``"auto"`` falls from 0.001, or 0.002 for Box actions, to 0.00001 in
        the course of :meth:`learn`: for short calls in a loop, with ``reset_num_timesteps=False``, give a number
    :param n_steps: steps per worker and rollout; None for one meta-episode
    :param batch_size: transitions per minibatch, rounded to whole sequences; ``"auto"`` for about 4,000, or a fourth of a
        smaller rollout, None for the whole rollout
    :param n_epochs: passes over a rollout
    :param gamma: discount factor; ``"auto"`` is 0.95, or 0.97 where episodes have 100 steps or more (the paper's)
    :param gae_lambda: factor of the generalised advantage estimator; ``"auto"`` is 0.95, or 0.9 for such episodes
    :param clip_range: clipping of the probability ratio
    :param clip_range_vf: clipping of the value function, None for no clipping
    :param normalize_advantage: whether to normalise the advantage per minibatch
    :param ent_coef: entropy coefficient or its schedule; ``"auto"`` is 0.05 for discrete actions, 0.001 for Box
    :param vf_coef: value loss coefficient
    :param max_grad_norm: maximum norm of the gradient
    :param use_sde: whether to use generalised state dependent exploration
    :param sde_sample_freq: steps between new noise matrices, -1 for once a rollout
    :param target_kl: KL divergence at which a rollout's updates stop, None for no limit; ``"auto"`` is 0.03 for Box actions
        alone
    :param scale_rewards: divide the rewards that the policy is trained on by the running deviation of their discounted sum;
        ``"auto"`` for Box actions, unless a ``VecNormalize`` does so
    :param n_envs: sub-environments that are made of an id; None for 64
    :param critic_observes_task: the critic is told the task besides the history (an asymmetric actor-critic, Pinto et al.
        2017), in training alone: to act nothing is told. As RL2 and LDM otherwise use no tasks, results are to name it
    :param task_coef: coefficient of the squared error with which a linear head tells the task from the LSTM's output (Humplik
        et al. 2019), as ``critic_observes_task`` in training alone; 0 for no such loss
    :param stats_window_size: episodes over which the logged returns are averaged
    :param tensorboard_log: folder of the TensorBoard log
    :param policy_kwargs: keyword arguments of the policy; what they leave open is chosen by the size of the state, see
        :func:`~sb3_ldm.on_policy.automatic.policy_settings`
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: seed of the pseudo random generators
    :param device: device of the networks
    :param _init_setup_model: whether to build the networks at once
    :raises ValueError: if the env has no meta-episodes, a parameter is out of its range, or training diverges
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpLstmPolicy": MetaLstmPolicy}
    policy_base: ClassVar[type[MetaLstmPolicy]] = MetaLstmPolicy  #: what policies must be subclasses of
    may_tell_task: ClassVar[bool] = True  #: whether there may be a ``critic_observes_task`` or a ``task_coef``
    policy: MetaLstmPolicy
    rollout_buffer: SequenceRolloutBuffer  # type: ignore[assignment]
    _last_lstm_states: RNNStates  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[MetaLstmPolicy],
        env: GymEnv | str,
        learning_rate: float | Auto | Schedule = AUTO,
        n_steps: int | None = None,
        batch_size: int | Auto | None = AUTO,
        n_epochs: int = 4,
        gamma: float | Auto = AUTO,
        *,
        ent_coef: float | Auto | Schedule = AUTO,
        scale_rewards: bool | Auto = AUTO,
        n_envs: int | None = None,
        critic_observes_task: bool = False,
        task_coef: float = 0.0,
        _init_setup_model: bool = True,
        **options: Unpack[RecurrentPPOOptions],
    ):
        super().__init__(
            policy,
            made_env(env, n_envs, N_ENVS, options),
            learning_rate,  # type: ignore[arg-type]
            n_steps,  # type: ignore[arg-type]
            batch_size,  # type: ignore[arg-type]
            n_epochs,
            gamma,  # type: ignore[arg-type]
            ent_coef=ent_coef,  # type: ignore[arg-type]
            _init_setup_model=False,
            **options,  # type: ignore[arg-type]
        )
        self._n_threads = 1
        self.scale_rewards = scale_rewards
        self._reward_scale: RewardScale | None = None
        self.critic_observes_task = critic_observes_task
        self.task_coef = task_coef
        if _init_setup_model:
            self._set_up()

    @property
    def policy_kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        """Keyword arguments of the policy: those that were given, which a model is saved with, and those that were chosen."""
        return self.__dict__["policy_kwargs"] | self.__dict__.get("_chosen_policy_kwargs", {})

    @policy_kwargs.setter
    def policy_kwargs(self, given: dict[str, Any]) -> None:
        self.__dict__["policy_kwargs"] = given

    def _set_up(self) -> None:
        """Make the networks of a new model."""
        if self.n_steps is None:
            self.n_steps = self.layout.meta_episode_steps
        self._check_n_steps()
        self._choose_options()
        self._setup_model()

    def _choose_options(self) -> None:
        """Put values in the place of what is ``"auto"``."""
        self._choose(ppo_settings(self.layout, self.action_space, self.n_steps, self.n_envs))
        normalized = self.env is not None and normalizes_rewards(self.env)
        self._choose({"scale_rewards": isinstance(self.action_space, spaces.Box) and not normalized})
        self._chosen_policy_kwargs = self._policy_settings(vars(self)["policy_kwargs"])

    def _choose(self, settings: dict[str, Any]) -> list[str]:
        """Take those of the settings that are ``"auto"`` so far, and tell which these were."""
        chosen = [name for name in settings if isinstance(getattr(self, name), str) and getattr(self, name) == AUTO]
        for name in chosen:
            setattr(self, name, settings[name])
        return chosen

    def _policy_settings(self, given: dict[str, Any]) -> dict[str, Any]:
        settings = policy_settings(self.layout, self.action_space, given)
        if not self.tells_task:
            return settings
        assert self.env is not None
        task_dim = self.env.get_attr("task_distribution", 0)[0].task_dim
        told = {"critic_observes_task": bool(self.critic_observes_task), "regresses_task": self.task_coef > 0.0}
        return settings | {"task_dim": task_dim} | told

    @property
    def tells_task(self) -> bool:
        """Whether the networks are told tasks in training."""
        return bool(self.critic_observes_task or self.task_coef)

    def _told(self, env: VecEnv) -> np.ndarray | None:
        """What the networks are told of the tasks now: each, followed by 1, ``(n_envs, task_dim + 1)``; None for nothing."""
        if not self.tells_task:
            return None
        tasks = np.array(env.get_attr("task"), dtype=np.float32)
        return np.concatenate([tasks, np.ones((len(tasks), 1), dtype=np.float32)], axis=1)

    def _told_kwargs(self, told: np.ndarray | None) -> dict[str, th.Tensor]:
        """The same for a policy, which need not know of it where nothing is told."""
        return {} if told is None else {"told": th.as_tensor(told, device=self.device)}

    def _setup_model(self) -> None:
        if self.policy_class is MetaLstmPolicy and not self.policy_kwargs.get("shared_lstm", True):
            self.policy_class = SeparateLstmPolicy
        if self.scale_rewards == AUTO:  # of a model that was saved when nothing was scaled
            self.scale_rewards = False
        self._check_parameters()
        super()._setup_model()
        if self.scale_rewards and self._reward_scale is None:
            self._reward_scale = RewardScale(self.gamma)
        if self.tells_task and self.policy.task_dim == 0:
            raise ValueError(
                f"critic_observes_task={self.critic_observes_task} and task_coef={self.task_coef}: the model that is loaded "
                "was made without, and its networks have no place for a task. Make a new one."
            )
        if self.tells_task and self.env is not None:
            # Of a model that is loaded, what it was saved with comes later.
            self.policy.set_task_scale(self.env.get_attr("task_distribution", 0)[0].representatives("train", 1000))
        self.rollout_buffer = self._make_rollout_buffer()
        self._warn_of_normalization()  # of a model that is loaded

    def _make_rollout_buffer(self) -> SequenceRolloutBuffer:
        return SequenceRolloutBuffer(**self._rollout_buffer_arguments())

    def _rollout_buffer_arguments(self) -> dict[str, Any]:
        return {
            "buffer_size": self.n_steps,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "device": self.device,
            "gae_lambda": self.gae_lambda,
            "gamma": self.gamma,
            "n_envs": self.n_envs,
            "told_dim": self.policy.task_dim + 1 if self.tells_task else 0,
        }

    def _check_parameters(self) -> None:
        """Refuse or warn about what cannot be meant; runs before any work."""
        base = self.policy_base
        if not issubclass(self.policy_class, base) or self.policy_class.needs_elbo != base.needs_elbo:
            raise ValueError(
                f"policy={self.policy_class}: use 'MlpLstmPolicy' or a subclass of {base.__name__}"
                f"{'' if base.needs_elbo else ' whose encoder the policy loss trains'}."
            )
        self._check_n_steps()
        check_number("task_coef", self.task_coef, 0.0)
        if self.tells_task and not self.may_tell_task:
            raise ValueError(
                f"critic_observes_task={self.critic_observes_task} and task_coef={self.task_coef}: {type(self).__name__} "
                "tells its networks no tasks, use RL2 or LDM."
            )
        if not isinstance(self.scale_rewards, bool):
            raise ValueError(f"scale_rewards={self.scale_rewards!r}: use True, False or 'auto'.")
        check_integer("n_epochs", self.n_epochs, 1)
        check_integer("stats_window_size", self._stats_window_size, 1)
        for name in ("gamma", "gae_lambda"):
            check_number(name, getattr(self, name), 0.0, 1.0)
        check_number("vf_coef", self.vf_coef)
        if not callable(self.ent_coef):  # a schedule
            check_number("ent_coef", self.ent_coef)
        check_positive("max_grad_norm", self.max_grad_norm)
        for name in ("target_kl", "clip_range", "clip_range_vf"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):  # a schedule
                check_positive(name, getattr(self, name))
        if not callable(self.learning_rate):
            check_number("learning_rate", self.learning_rate, 0.0)
        self._warn_of_cuts()
        self._check_memory()
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, 1)
            if self.batch_size < self.n_steps:
                raise ValueError(
                    f"batch_size={self.batch_size} is less than one sequence of n_steps={self.n_steps} transitions; "
                    f"use a multiple of {self.n_steps}, or None for the whole rollout."
                )
            n_minibatches = n_sequence_minibatches(self.n_envs, self.n_steps, self.batch_size)
            if n_minibatches * self.batch_size != self.n_envs * self.n_steps:
                warn_user(
                    f"batch_size={self.batch_size} does not divide a rollout of {self.n_envs} sequences of {self.n_steps} "
                    f"steps; it is cut into {n_minibatches} minibatches of whole sequences."
                )

    def _check_n_steps(self) -> None:
        why = f"as a rollout needs; a meta-episode has {self.layout.meta_episode_steps}"
        check_integer("n_steps", self.n_steps, 2, why)

    def _check_memory(self) -> None:
        """Warn of a rollout that does not fit into memory."""
        # Observations and the like as arrays, and once more as tensors.
        n_bytes = 2 * 4 * self.n_steps * self.n_envs * (self.layout.dim + self.layout.action_dim + 6)
        warn_if_too_large(
            f"n_steps={self.n_steps}: a rollout of as many steps of {self.n_envs} sub-environments",
            n_bytes,
            "Use fewer steps or sub-environments.",
        )

    def _warn_of_cuts(self) -> None:
        meta_episode = self.layout.meta_episode_steps
        if self.n_steps % meta_episode != 0:
            warn_user(
                f"n_steps={self.n_steps} cuts meta-episodes of {meta_episode} steps: credit across the cut comes from the "
                f"value estimate alone. Use a multiple of {meta_episode}, or None for one meta-episode."
            )

    def _training_state(self) -> State | None:
        state = super()._training_state()
        if state is not None:
            state["lstm_states"] = [tuple(states) for states in self._last_lstm_states]
        return state

    def _resume(self, state: State) -> None:
        super()._resume(state)
        states = [tuple(part.to(self.device) for part in one) for one in state["lstm_states"]]
        self._last_lstm_states = RNNStates(*states)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with one_thread_per_operation() as self._n_threads:
            yield

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Fill the buffer with ``n_rollout_steps`` steps of every worker.

        :param env: the training environment
        :param callback: called at each step and at both ends of the rollout
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps per worker
        :return: False if the callback stopped training
        """
        assert isinstance(rollout_buffer, SequenceRolloutBuffer), f"{rollout_buffer} does not hold whole sequences"
        self._check_not_evaluated_on()
        self.policy.set_training_mode(False)
        rollout_buffer.start(self._last_lstm_states)
        callback.on_rollout_start()
        if self.use_sde:  # after a checkpoint, whose random streams go on here
            self.policy.reset_noise(env.num_envs)

        told = self._told(env)
        for n_steps in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with th.no_grad():
                obs_tensor, episode_starts = self._policy_inputs()
                action_tensor, values, log_probs, lstm_states = self.policy(
                    obs_tensor, self._last_lstm_states, episode_starts, **self._told_kwargs(told)
                )
            actions = action_tensor.cpu().numpy()
            clipped_actions = self._env_actions(actions)
            self._is_stepping = True
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            if self._watch is not None:
                self._watch.look()
            self.num_timesteps += env.num_envs
            obs, starts = self._last_obs, self._last_episode_starts
            # Before the callback: where it stops training, the next call goes on from where the environments are.
            self._last_obs, self._last_episode_starts, self._last_lstm_states = new_obs, dones, lstm_states  # type: ignore[assignment]
            self._is_stepping = False
            trained_on = rewards if self._reward_scale is None else self._reward_scale.scaled(rewards, starts)  # type: ignore[arg-type]

            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._check_not_evaluated_on()

            if dones.any():
                self._update_info_buffer(infos, dones)
                trained_on = self._bootstrap_truncated(trained_on, dones, infos, lstm_states, told)
            rollout_buffer.add(obs, actions, trained_on, starts, values, log_probs, told)  # type: ignore[arg-type]
            if dones.any():  # tasks change with meta-episodes alone
                told = self._told(env)

        with th.no_grad():
            obs_tensor, episode_starts = self._policy_inputs()
            values = self.policy.predict_values(
                obs_tensor,
                self._last_lstm_states.vf,  # type: ignore[arg-type]
                episode_starts,
                **self._told_kwargs(told),
            )
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """Minimise PPO's loss on the rollout, in minibatches of whole sequences that shards of are computed side by side."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        scheduled = self.ent_coef if callable(self.ent_coef) else float(self.ent_coef)
        ent_coef = FloatSchedule(scheduled)(self._current_progress_remaining)
        check_number("ent_coef", ent_coef)
        losses: list[PPOLoss] = []
        continue_training = True
        for epoch in range(self.n_epochs):
            n_before = len(losses)
            for sequences in self.rollout_buffer.minibatches(self.batch_size):
                losses.append(self._backward(sequences, ent_coef, clip_range, clip_range_vf))
                if self.target_kl is not None and losses[-1].approx_kl > 1.5 * self.target_kl:
                    continue_training = False
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {losses[-1].approx_kl:.2f}")
                    break
                if not np.isfinite(losses[-1]).all():
                    raise ValueError(_DIVERGED.format(loss=losses[-1].total(ent_coef, self.vf_coef, self.task_coef)))
                nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
            self._n_updates += 1
            if not continue_training:
                break

        # Else an agent of no numbers would act on: sampling does not look at what it samples from.
        if not all(bool(th.isfinite(parameter).all()) for parameter in self.policy.parameters()):
            raise ValueError(_DIVERGED.format(loss=losses[-1].total(ent_coef, self.vf_coef, self.task_coef)))
        mean = PPOLoss(*np.mean(losses, axis=0))
        self.logger.record("train/entropy_loss", mean.entropy)
        self.logger.record("train/policy_gradient_loss", mean.policy)
        self.logger.record("train/value_loss", mean.value)
        self.logger.record("train/approx_kl", np.mean([loss.approx_kl for loss in losses[n_before:]]))
        self.logger.record("train/clip_fraction", mean.clip_fraction)
        self.logger.record("train/loss", losses[-1].total(ent_coef, self.vf_coef, self.task_coef))
        if self.task_coef:
            self.logger.record("train/task_loss", mean.task)
        buffer = self.rollout_buffer
        self.logger.record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if self._reward_scale is not None:
            self.logger.record("train/reward_scale", self._reward_scale.scale)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.detach().exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/ent_coef", ent_coef)
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def _backward(self, sequences: th.Tensor, ent_coef: float, clip_range: float, clip_range_vf: float | None) -> PPOLoss:
        """The loss of a minibatch of sequences, whose gradient is left in the policy's parameters."""
        advantages = self.rollout_buffer.tensors["advantages"][sequences]
        shift, scale = 0.0, 1.0
        if self.normalize_advantage and advantages.numel() > 1:
            shift, scale = advantages.mean().item(), advantages.std().item() + 1e-8

        def shard_loss(shard: th.Tensor) -> tuple[th.Tensor, np.ndarray]:
            batch = self.rollout_buffer.sequences(shard)
            actions = batch.actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else batch.actions
            inputs = batch.observations, actions, batch.lstm_states, batch.episode_starts
            error: th.Tensor | None = None
            if self.tells_task:
                values, log_prob, entropy, error = self.policy.evaluate_told(*inputs, self.rollout_buffer.told_of(shard))
            else:
                values, log_prob, entropy = self.policy.evaluate_actions(*inputs)
            loss = ppo_loss(
                values.flatten(),
                log_prob,
                entropy,
                batch.old_values,
                batch.old_log_prob,
                (batch.advantages - shift) / scale,
                batch.returns,
                clip_range,
                clip_range_vf,
            )
            if error is not None:
                loss = loss._replace(task=error)
            share = len(shard) / len(sequences)
            return share * loss.total(ent_coef, self.vf_coef, self.task_coef), share * th.stack(loss).detach().cpu().numpy()

        in_shards = self.device.type == "cpu" and self.policy.is_pure
        shards = sequences.tensor_split(n_shards(len(sequences), self._n_threads) if in_shards else 1)
        parts = backward_in_shards(shard_loss, shards, list(self.policy.parameters()), self._n_threads)
        return PPOLoss(*np.sum(parts, axis=0))

    def _policy_inputs(self) -> tuple[th.Tensor, th.Tensor]:
        """The last observations and episode starts on the policy's device."""
        assert isinstance(self._last_obs, np.ndarray) and self._last_episode_starts is not None
        obs = th.as_tensor(self._last_obs, device=self.device)
        return obs, th.as_tensor(self._last_episode_starts, device=self.device).float()

    def _bootstrap_truncated(
        self,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
        lstm_states: RNNStates,
        told: np.ndarray | None,
    ) -> np.ndarray:
        """Add the discounted value of the last observation where a time limit outside the meta-episode cut it."""
        truncated = [
            int(i) for i in np.flatnonzero(dones) if infos[i].get("TimeLimit.truncated") and "terminal_observation" in infos[i]
        ]
        if not truncated:
            return rewards
        terminal_obs = np.stack([infos[i]["terminal_observation"] for i in truncated])
        with th.no_grad():
            states = (lstm_states.vf[0][:, truncated].contiguous(), lstm_states.vf[1][:, truncated].contiguous())
            no_start = th.zeros(len(truncated), device=self.device)
            known = self._told_kwargs(None if told is None else told[truncated])
            values = self.policy.predict_values(th.as_tensor(terminal_obs, device=self.device), states, no_start, **known)
        rewards = rewards.copy()
        rewards[truncated] += self.gamma * values.flatten().cpu().numpy()
        return rewards
