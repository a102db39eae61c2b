"""Imaginary tasks: what the mixture workers are rewarded for (paper section 3.3)."""

from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch as th
from typing_extensions import TypedDict

from sb3_ldm.algorithms.ldm.mixture import choose_far, choose_novel, mix_beliefs, sample_mixture_weights
from sb3_ldm.checks import check_integer, is_number
from sb3_ldm.data import Transitions
from sb3_ldm.inference import BeliefEncoder, Bernoulli, RewardVAE
from sb3_ldm.on_policy.automatic import AUTO
from sb3_ldm.on_policy.options import Auto

MIXTURE_WEIGHTS = ("per_worker", "per_dimension")
MIXED_BELIEFS = ("mean", "sample")
MIXTURE_TIMES = ("current", "final")
IMAGINARY_REWARDS = ("mean", "sample", "threshold")
IMAGINATION_DROPOUTS = ("off", "step", "meta_episode")

_WEAKEST = 0.3  #: least spread of an imaginary task's rewards, by that of known ones
_N_MASKS_COMPARED = 8  #: masks that candidates are judged by on average, where there is a new one at every step

#: What is believed of the normal workers' tasks, and which of them have finished a meta-episode.
_BELIEFS = ("mu", "logvar", "final_mu", "final_logvar", "finished")

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ImaginationConfig:
    """
    How imaginary tasks are made.

    :param beta: degree of extrapolation of the mixture weights
    :param n_partners: normal workers that each mixture worker mixes, at most as many as there are (the paper mixes all)
    :param mixture_weights: one weight ``per_worker`` (the paper) or independent weights ``per_dimension`` (the release)
    :param mixed_belief: mix the beliefs' ``mean`` or a ``sample`` of them, for current beliefs a new one at every step, for
        final ones one per meta-episode
    :param mixture_time: mix the ``current`` beliefs (the paper), or the ``final`` ones of the partners' last meta-episodes,
        which makes the imaginary task stationary; where meta-episodes end at different times, a partner that begins its next
        one changes a mixture of current beliefs under way
    :param imaginary_reward: the decoder's ``mean``; for the Bernoulli likelihood also a ``sample``, or a ``threshold`` at
        p = 1/2, both of which only take the two values of true rewards
    :param imagination_dropout: dropout of the decoder while imagining: ``off``, a new mask every ``step`` or one mask per
        ``meta_episode``; a decoder that was trained with much dropout promises little without
    :param n_candidates: mixtures drawn for each imaginary task; above 1 (``final`` beliefs only) one of them is kept: where
        rewards take two values, the first whose goals are not those of known tasks, else that whose rewards are least like
        those of any of the normal workers' beliefs; they are compared on true transitions, with the dropout of their
        meta-episode, or on average over masks where it is drawn at every step
    :param require_goal: an imaginary task must ask for something: promise the high reward for some of the normal workers'
        transitions, or where rewards take any value differ between these by 0.3 times as much as those that are believed in; a
        mixture worker whose task does not gets the true rewards (``final`` beliefs only)
    """

    beta: float = 1.0
    n_partners: int = 14
    mixture_weights: str = "per_worker"
    mixed_belief: str = "mean"
    mixture_time: str = "current"
    imaginary_reward: str = "mean"
    imagination_dropout: str = "step"
    n_candidates: int = 1
    require_goal: bool = False

    @property
    def compares(self) -> bool:
        """Whether imaginary tasks are compared with experience before they are used."""
        return self.n_candidates > 1 or self.require_goal

    def validate(self, reward_likelihood: str) -> None:
        """
        :param reward_likelihood: of the VAE; ``"auto"`` if it is to be found
        :raises ValueError: if a parameter is out of its range
        """
        choices = {
            "mixture_weights": MIXTURE_WEIGHTS,
            "mixed_belief": MIXED_BELIEFS,
            "mixture_time": MIXTURE_TIMES,
            "imaginary_reward": IMAGINARY_REWARDS,
            "imagination_dropout": IMAGINATION_DROPOUTS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {list(allowed)}.")
        if not is_number(self.beta) or self.beta <= 0.0:
            raise ValueError(f"beta={self.beta}: the degree of extrapolation must be positive; 1 is a convex mixture.")
        check_integer("n_partners", self.n_partners, 1, "the normal workers that a mixture worker mixes")
        check_integer("n_candidates", self.n_candidates, 1, "the mixtures drawn for an imaginary task")
        if self.compares and self.mixture_time != "final":
            raise ValueError(
                f"n_candidates={self.n_candidates} and require_goal={self.require_goal} need mixture_time='final', not "
                f"{self.mixture_time!r}: only then are imaginary tasks known in advance."
            )
        if self.imaginary_reward != "mean" and reward_likelihood not in ("bernoulli", AUTO):
            raise ValueError(
                f"imaginary_reward={self.imaginary_reward!r} needs reward_likelihood='bernoulli', not {reward_likelihood!r}."
            )


class ImaginationOptions(TypedDict, total=False):
    """Fields of :class:`ImaginationConfig`, by name and type, for constructors that hand them on."""

    beta: float
    n_partners: int | Auto
    mixture_weights: str
    mixed_belief: str
    mixture_time: str
    imaginary_reward: str
    imagination_dropout: str
    n_candidates: int | Auto
    require_goal: bool | Auto


IMAGINATION_OPTIONS = tuple(option.name for option in fields(ImaginationConfig))

#: What ``"auto"`` stands for where rewards take two values, or any.
IMAGINATION_SETTINGS: dict[str, dict[str, Any]] = {
    "bernoulli": {
        "n_partners": 3,
        "mixture_weights": "per_dimension",
        "imaginary_reward": "threshold",
        "imagination_dropout": "meta_episode",
        "n_candidates": 32,
        "require_goal": True,
    },
    "gaussian": {
        "n_partners": 14,
        "mixture_weights": "per_worker",
        "imaginary_reward": "mean",
        "imagination_dropout": "off",
        "n_candidates": 1,
        "require_goal": False,
    },
}


class ImaginaryTasks(NamedTuple):
    """
    What stays fixed in meta-episodes of imaginary tasks.

    :param weights: of the mixtures, ``(n, n_normal, 1 or latent_dim)``
    :param latents: mixed final beliefs, ``(n, latent_dim)``; None where current beliefs are mixed at every step
    :param mask: the decoder's dropout factors, ``(n, dropout_dim)``; None unless they are drawn per meta-episode
    """

    weights: th.Tensor
    latents: th.Tensor | None
    mask: th.Tensor | None

    def take(self, chosen: th.Tensor) -> "ImaginaryTasks":
        """:return: some of the tasks, by their indices"""
        return ImaginaryTasks(*(None if part is None else part[chosen] for part in self))  # type: ignore[arg-type]

    def put(self, places: np.ndarray, others: "ImaginaryTasks") -> None:
        """Put other tasks in the places of some of these."""
        for mine, new in zip(self, others, strict=True):
            if mine is not None and new is not None:
                mine[places] = new


class Imagination:
    """
    The state of the imaginary tasks: beliefs of the normal workers, mixture weights of the mixture workers.

    :param vae: the latent dynamics network: encoder-v and reward decoder
    :param n_normal: number of normal workers
    :param n_mixture: number of mixture workers
    :param config: how imaginary tasks are made
    :param generator: source of randomness, on the device of ``vae``
    """

    def __init__(
        self,
        vae: RewardVAE,
        n_normal: int,
        n_mixture: int,
        config: ImaginationConfig,
        generator: th.Generator,
    ):
        assert isinstance(vae.encoder, BeliefEncoder), f"{vae.encoder} does not encode transitions"
        self.vae = vae
        self.encoder = vae.encoder
        self.n_normal, self.n_mixture = n_normal, n_mixture
        self.config = config
        self.generator = generator
        self.device = generator.device
        self._pending: list[Arrays] = []
        self._finished = th.zeros(n_normal, dtype=th.bool, device=generator.device)

    @property
    def has_final_beliefs(self) -> bool:
        """Whether every normal worker has finished a meta-episode: else there would be priors among the final beliefs."""
        return bool(self._finished.all())

    def get_state(self) -> dict[str, Any]:
        """:return: beliefs and imaginary tasks, as arrays and tensors"""
        beliefs = {name: getattr(self, f"_{name}") for name in _BELIEFS}
        return {
            "made": self._made,
            "pending": list(self._pending),
            "encoder_states": self._encoder_states,
            "tasks": tuple(self.tasks),
            **{name: belief.clone() for name, belief in beliefs.items()},
        }

    def fits(self, state: dict[str, Any]) -> bool:
        """
        :param state: from :meth:`get_state`
        :return: whether it is that of as many workers, with the same options
        """
        return state["made"] == self._made

    @property
    def _made(self) -> list[Any]:
        return [self.n_normal, self.n_mixture, self.vae.latent_dim, *map(str, astuple(self.config))]

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`, which fits
        """
        self._pending = list(state["pending"])
        self._encoder_states = tuple(part.to(self.device) for part in state["encoder_states"])
        self.tasks = ImaginaryTasks(*[None if part is None else part.to(self.device) for part in state["tasks"]])  # type: ignore[arg-type]
        for name in _BELIEFS:
            setattr(self, f"_{name}", state[name].to(self.device))

    def set_final_beliefs(self, state: dict[str, Any]) -> None:
        """
        Mix the final beliefs of before, where meta-episodes begin anew.

        :param state: from :meth:`get_state`, of as many normal workers
        """
        for name in ("final_mu", "final_logvar", "finished"):
            setattr(self, f"_{name}", state[name].to(self.device))

    @th.no_grad()
    def start(self, experience: Transitions | None = None) -> np.ndarray:
        """
        Begin new meta-episodes with all workers.

        :param experience: see :meth:`new_tasks`
        :return: whether each mixture worker got an imaginary task, ``(n_mixture,)``
        """
        self._pending = []
        self._encoder_states = self.encoder.initial_states(self.n_normal)
        self._mu, self._logvar = self.encoder.belief(self._encoder_states[0][-1])
        if not self._finished.any():
            self._final_mu, self._final_logvar = self._mu.clone(), self._logvar.clone()
        self.tasks, has_task = self._draw(self.n_mixture, experience)
        return has_task

    @th.no_grad()
    def new_tasks(self, workers: np.ndarray, experience: Transitions | None = None) -> np.ndarray:
        """
        Draw new mixture weights (and what else stays fixed in a meta-episode).

        :param workers: indices of the mixture workers that begin a meta-episode
        :param experience: transitions of training tasks that candidates are compared with
        :return: whether each of the workers got an imaginary task, ``(len(workers),)``
        """
        tasks, has_task = self._draw(len(workers), experience)
        self.tasks.put(workers, tasks)
        return has_task

    def _draw(self, number: int, experience: Transitions | None) -> tuple[ImaginaryTasks, np.ndarray]:
        """Tasks, and whether each will do."""
        will_do = np.full(number, not self.config.require_goal)
        if experience is None:
            return self._sample_tasks(number), will_do
        tasks, has_goal = self._choose(self._sample_tasks(number * self.config.n_candidates), experience)
        return tasks, will_do | has_goal

    def _sample_tasks(self, number: int) -> ImaginaryTasks:
        if self.config.mixture_time == "final":
            weights, latents = self.sample_final_mixtures(number, self.generator)
        else:
            weights, latents = self._sample_weights(number, self.generator), None
        return ImaginaryTasks(weights, latents, self._lasting_mask(number, self.generator))

    def _lasting_mask(self, number: int, generator: th.Generator) -> th.Tensor | None:
        """Dropout factors for meta-episodes, where they are drawn once for each."""
        if self.config.imagination_dropout != "meta_episode":
            return None
        return self.vae.dropout_mask((number,), generator)

    def _choose(self, candidates: ImaginaryTasks, experience: Transitions) -> tuple[ImaginaryTasks, np.ndarray]:
        """One of every ``n_candidates`` tasks, and whether it asks for something."""
        assert candidates.latents is not None
        likelihood = self.vae.likelihood
        transitions = experience.states, experience.actions, experience.next_states
        promised = self._promised(candidates.latents, transitions, candidates.mask, self.generator, _N_MASKS_COMPARED)
        promised = promised.unflatten(0, (-1, self.config.n_candidates))
        if isinstance(likelihood, Bernoulli):
            is_high = th.as_tensor(experience.rewards > likelihood.middle, device=self.device)
            choice = choose_novel(promised, is_high, likelihood.low, likelihood.high)
            asks = (promised.amax(2) > likelihood.middle).gather(1, choice.unsqueeze(1)).squeeze(1)
        else:
            known = self._promised(self._final_mu, transitions, None, self.generator, _N_MASKS_COMPARED)
            choice, asks = choose_far(promised, known, _WEAKEST)
        chosen = choice + th.arange(len(choice), device=self.device) * self.config.n_candidates
        return candidates.take(chosen), asks.cpu().numpy()

    @th.no_grad()
    def rewards(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """
        Rewards of the mixture workers' transitions in their imaginary tasks.

        :param states: s_t, ``(n_mixture, state_dim)``
        :param actions: a_t, one-hot or vector, ``(n_mixture, action_dim)``
        :param next_states: s_{t+1}, ``(n_mixture, state_dim)``
        :return: r^_{t+1}, ``(n_mixture,)``
        """
        model, mask = self.vae, self.tasks.mask
        if self.config.imagination_dropout == "step":
            mask = model.dropout_mask((self.n_mixture,), self.generator)
        outputs = model.decoder(self.mixed_latents(), self._encode_steps((states, actions, next_states), mask))
        if self.config.imaginary_reward == "mean":
            return model.likelihood.mean(outputs).cpu().numpy()
        if self.config.imaginary_reward == "sample":
            return self._two_rewards.sample(outputs, self.generator).cpu().numpy()
        return self._two_rewards.threshold(outputs).cpu().numpy()

    @property
    def _two_rewards(self) -> Bernoulli:
        likelihood = self.vae.likelihood
        assert isinstance(likelihood, Bernoulli), f"{likelihood} has no two rewards"
        return likelihood

    def mixed_latents(self) -> th.Tensor:
        """:return: m^_t of every mixture worker, ``(n_mixture, latent_dim)``"""
        if self.tasks.latents is not None:
            return self.tasks.latents
        return mix_beliefs(self.tasks.weights, self._latents(self._mu, self._logvar, self.generator))

    @property
    def final_means(self) -> th.Tensor:
        """Means of the beliefs at the ends of the normal workers' last meta-episodes, ``(n_normal, latent_dim)``."""
        return self._final_mu

    @th.no_grad()
    def sample_final_mixtures(self, n_mixtures: int, generator: th.Generator) -> tuple[th.Tensor, th.Tensor]:
        """
        Mixtures of the beliefs at the ends of the normal workers' last meta-episodes, as in Figure 4.

        :param n_mixtures: number of mixtures
        :param generator: source of randomness, so that looking does not change what training draws
        :return: weights ``(n_mixtures, n_normal, 1 or latent_dim)`` and latent models ``(n_mixtures, latent_dim)``
        """
        weights = self._sample_weights(n_mixtures, generator)
        shape = (n_mixtures, *self._final_mu.shape)
        return weights, mix_beliefs(
            weights, self._latents(self._final_mu.expand(shape), self._final_logvar.expand(shape), generator)
        )

    @th.no_grad()
    def promises(self, transitions: Transitions, generator: th.Generator) -> np.ndarray:
        """
        What the mixture workers' imaginary tasks promise for each of some transitions (``final`` beliefs only).

        :param transitions: some
        :param generator: source of the masks that are drawn at every step
        :return: ``(n_mixture, n_transitions)``
        """
        steps = transitions.states, transitions.actions, transitions.next_states
        return self._promised(self.mixed_latents(), steps, self.tasks.mask, generator).cpu().numpy()

    @th.no_grad()
    def expected_rewards(
        self,
        latents: th.Tensor,
        states: np.ndarray,
        actions: np.ndarray,
        next_states: np.ndarray,
        generator: th.Generator,
    ) -> np.ndarray:
        """
        What each latent model promises for each of some transitions, with the dropout that imagination has; where it has a new
        mask at every step, on average over masks.

        :param latents: ``(n_latents, latent_dim)``
        :param states: ``(n_transitions, state_dim)``
        :param actions: one-hot or vector, ``(n_transitions, action_dim)``
        :param next_states: ``(n_transitions, state_dim)``
        :param generator: source of randomness
        :return: ``(n_latents, n_transitions)``
        """
        mask = self._lasting_mask(len(latents), generator)
        return self._promised(latents, (states, actions, next_states), mask, generator).cpu().numpy()

    def _promised(
        self, latents: th.Tensor, transitions: Arrays, mask: th.Tensor | None, generator: th.Generator, n_masks: int = 32
    ) -> th.Tensor:
        """
        :param latents: ``(n_latents, latent_dim)``
        :param transitions: states, actions and next states
        :param mask: dropout factors that each latent model keeps, ``(n_latents, dropout_dim)``
        :param generator: source of the masks that are drawn at every step
        :param n_masks: of these, how many to average over
        :return: rewards that the latent models promise, ``(n_latents, n_transitions)``
        """
        model = self.vae
        if self.config.imagination_dropout == "step":
            return model.predict(latents, transitions, generator, n_masks)
        steps = self._encode_steps(transitions, None if mask is None else mask.unsqueeze(1))
        return model.likelihood.mean(model.decoder(latents.unsqueeze(1), steps))

    def _encode_steps(self, transitions: Arrays, mask: th.Tensor | None) -> th.Tensor:
        states, actions, next_states = (th.as_tensor(array, device=self.device) for array in transitions)
        return self.vae.decoder.encode_steps(states, actions, next_states, mask)

    @th.no_grad()
    def observe(self, next_states: np.ndarray, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray) -> None:
        """
        Update the normal workers' beliefs with one true transition each.

        :param next_states: s_{t+1}, ``(n_normal, state_dim)``
        :param actions: a_t, one-hot or vector, ``(n_normal, action_dim)``
        :param rewards: r_{t+1}, ``(n_normal,)``
        :param dones: whether the meta-episode ended, ``(n_normal,)``
        """
        if self.n_mixture == 0:
            return
        self._pending.append((next_states, actions, rewards))
        # Final beliefs are needed at the ends alone: until then transitions wait, to be encoded in one fused call.
        if self.config.mixture_time == "current" or dones.any():
            self._encode_pending()
        if dones.any():
            self._end_meta_episodes(th.as_tensor(dones, device=self.device))

    def _encode_pending(self) -> None:
        next_states, actions, rewards = (
            th.as_tensor(np.stack(arrays), dtype=th.float32, device=self.device) for arrays in zip(*self._pending, strict=True)
        )
        self._pending.clear()
        outputs, self._encoder_states = self.encoder(next_states, actions, rewards, self._encoder_states)
        self._mu, self._logvar = self.encoder.belief(outputs[-1])

    def _end_meta_episodes(self, ended: th.Tensor) -> None:
        """Keep the beliefs of the workers whose meta-episode ended, and put them back to the prior, m_0."""
        self._final_mu[ended], self._final_logvar[ended] = self._mu[ended], self._logvar[ended]
        self._finished |= ended
        for states in self._encoder_states:
            states[:, ended] = 0.0
        self._mu[ended], self._logvar[ended] = self.encoder.belief(self._encoder_states[0][-1, ended])

    def _sample_weights(self, n_mixture: int, generator: th.Generator) -> th.Tensor:
        per_dimension = self.config.mixture_weights == "per_dimension"
        return sample_mixture_weights(
            n_mixture,
            self.n_normal,
            min(self.config.n_partners, self.n_normal),
            self.config.beta,
            generator,
            n_dimensions=self.vae.latent_dim if per_dimension else 1,
            device=self.device,
        )

    def _latents(self, mu: th.Tensor, logvar: th.Tensor, generator: th.Generator) -> th.Tensor:
        if self.config.mixed_belief == "mean":
            return mu
        return mu + th.exp(0.5 * logvar) * th.randn(mu.shape, generator=generator, device=self.device)
