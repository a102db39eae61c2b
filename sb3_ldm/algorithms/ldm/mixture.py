"""Mixtures of latent beliefs (paper section 3.3, Equation 1)."""

import torch as th


def mixture_weights(simplex: th.Tensor, beta: float) -> th.Tensor:
    """
    Equation 1: alpha = beta * Dirichlet(1, .., 1) - (beta - 1) / n. The weights sum to 1 for every beta.

    :param simplex: Dirichlet samples over n partners along the last dimension
    :param beta: degree of extrapolation; 1 keeps the mixture inside the convex hull of the partners' beliefs
    :return: mixture weights, same shape
    """
    return beta * simplex - (beta - 1.0) / simplex.shape[-1]


def sample_simplex(shape: tuple[int, ...], generator: th.Generator, device: th.device | str = "cpu") -> th.Tensor:
    """
    Dirichlet(1, .., 1) over the last dimension.

    :param shape: shape of the samples
    :param generator: source of randomness
    :param device: device of the generator and the samples
    :return: points of the simplex
    """
    exponentials = th.empty(shape, device=device).exponential_(generator=generator)
    return exponentials / exponentials.sum(-1, keepdim=True)


def sample_mixture_weights(
    n_mixture: int,
    n_normal: int,
    n_partners: int,
    beta: float,
    generator: th.Generator,
    n_dimensions: int = 1,
    device: th.device | str = "cpu",
) -> th.Tensor:
    """
    Weights of Equation 1 over a random subset of the normal workers, 0 for the others.

    :param n_mixture: number of mixture workers
    :param n_normal: number of normal workers
    :param n_partners: workers that each mixture worker mixes
    :param beta: degree of extrapolation
    :param generator: source of randomness
    :param n_dimensions: 1 for one weight per worker, the latent dimension for independent weights in each dimension
    :param device: device of the generator and the weights
    :return: shape ``(n_mixture, n_normal, n_dimensions)``; the weights sum to 1 over the normal workers
    """
    alpha = mixture_weights(sample_simplex((n_mixture, n_dimensions, n_partners), generator, device), beta)
    partners = th.rand((n_mixture, n_normal), generator=generator, device=device).argsort(dim=1)[:, :n_partners]
    weights = th.zeros(n_mixture, n_normal, n_dimensions, device=device)
    return weights.scatter(1, partners.unsqueeze(-1).expand(-1, -1, n_dimensions), alpha.transpose(1, 2))


def mix_beliefs(weights: th.Tensor, latents: th.Tensor) -> th.Tensor:
    """
    m^ = sum_i alpha_i m_i, Equation 1.

    :param weights: ``(n_mixture, n_normal, 1 or latent_dim)``
    :param latents: the normal workers' latent models, ``(n_normal, latent_dim)``, or a sample of them for each mixture worker,
        ``(n_mixture, n_normal, latent_dim)``
    :return: the mixture workers' latent models, ``(n_mixture, latent_dim)``
    """
    return (weights * latents).sum(1)


def choose_novel(rewards: th.Tensor, is_high: th.Tensor, low: float, high: float) -> th.Tensor:
    """
    For each worker its first candidate that promises the high reward for some transitions of the training tasks, but for none
    that had it there; where no candidate does, the one that comes nearest.

    :param rewards: expected rewards of transitions under each candidate, ``(n_workers, n_candidates, n_transitions)``
    :param is_high: whether a transition had the high reward in its training task, ``(n_transitions,)``
    :param low: the lower reward
    :param high: the higher reward
    :return: the chosen candidate of each worker, ``(n_workers,)``
    """
    middle, n_candidates = 0.5 * (low + high), rewards.shape[1]
    repeated = rewards.masked_fill(~is_high, low).amax(-1)
    elsewhere = rewards.masked_fill(is_high, low).amax(-1)
    is_novel = (elsewhere > middle) & (repeated < middle)
    # Differences of rewards are less than this step, so that the order among novel candidates is that of drawing.
    step = 4.0 * (high - low)
    preference = step * th.arange(n_candidates, 0, -1, device=rewards.device)
    return (elsewhere - repeated + is_novel * preference).argmax(1)


def choose_far(rewards: th.Tensor, known: th.Tensor, weakest: float) -> tuple[th.Tensor, th.Tensor]:
    """
    For each worker the candidate whose rewards are least like those of any known task, out of those that ask for something.

    Rewards are compared less what all known tasks have in common, by their correlation over transitions: half of a known
    task's rewards is as much alike as the whole.

    :param rewards: of transitions under each candidate, ``(n_workers, n_candidates, n_transitions)``
    :param known: of the transitions under what is believed of known tasks, ``(n_known, n_transitions)``
    :param weakest: standard deviation over transitions below which a candidate asks for nothing, by the median known one
    :return: the chosen candidate of each worker, and whether it asks for something, ``(n_workers,)`` each
    """
    common = known.mean(0)
    spreads, directions = _directions(known - common)
    own_spreads, own_directions = _directions(rewards - common)
    likeness = (own_directions @ directions.T).amax(-1)
    is_strong = own_spreads >= weakest * spreads.median().clamp(min=1e-6)  # where all that is known is the same, nothing is
    choice = (-likeness - 4.0 * ~is_strong).argmax(1)
    return choice, is_strong.gather(1, choice.unsqueeze(1)).squeeze(1)


def _directions(rewards: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Standard deviations over transitions, and rewards of mean 0 and length 1."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    length = centred.norm(dim=-1)
    return length / rewards.shape[-1] ** 0.5, centred / length.clamp(min=1e-8).unsqueeze(-1)
