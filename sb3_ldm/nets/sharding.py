"""Use of several threads: shards of a minibatch go through the networks side by side."""

import concurrent.futures
import contextlib
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch as th

Shard = TypeVar("Shard")
Result = TypeVar("Result")
T = TypeVar("T")

#: Sequences in a shard. An LSTM is slow on fewer, and with more its activations do not fit into a core's cache.
MIN_SEQUENCES, MAX_SEQUENCES = 2, 16


def n_shards(n_sequences: int, n_threads: int) -> int:
    """
    :param n_sequences: sequences of a minibatch
    :param n_threads: threads that shards are computed on
    :return: into how many shards the minibatch is best cut
    """
    wanted = max(MIN_SEQUENCES, min(MAX_SEQUENCES, math.ceil(n_sequences / n_threads)))
    return max(1, min(math.ceil(n_sequences / wanted), n_sequences // MIN_SEQUENCES))


def even_slices(size: int, number: int) -> list[slice]:
    """
    :param size: length of what is cut
    :param number: of slices, at most ``size``
    :return: slices of nearly equal length, one behind the other
    """
    ends = [size * (i + 1) // number for i in range(number)]
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@contextlib.contextmanager
def one_thread_per_operation() -> Iterator[int]:
    """
    Let every operation of PyTorch run on one thread until the end of the ``with``.

    Operations of small recurrent networks gain little from more threads, and lose much where other threads want the cores.

    :return: the number of threads that operations were allowed before, for :func:`backward_in_shards`
    """
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield before
    finally:
        th.set_num_threads(before)


def backward_in_shards(
    loss: Callable[[Shard], tuple[th.Tensor, Result]],
    shards: Sequence[Shard],
    parameters: Sequence[th.nn.Parameter],
    n_threads: int,
) -> list[Result]:
    """
    Set the parameters' ``grad`` to the gradient of the sum of the shards' losses.

    The shards' gradients are added in the order of the shards, so that the result does not depend on chance.

    :param loss: loss of a shard (its part of the sum) and whatever else the caller wants to know of it; called from several
        threads, so it must not draw from a shared random stream
    :param shards: parts of a minibatch
    :param parameters: what the losses are differentiated by; those that no loss depends on, or that are frozen, get None
    :param n_threads: how many shards are computed at a time, on one thread each: the caller's and helpers
    :return: what ``loss`` gave besides the loss, in the order of the shards
    """
    pending = deque(enumerate(shards))
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = None

    def work() -> dict[int, tuple[tuple[th.Tensor | None, ...], Result]]:
        done: dict[int, tuple[tuple[th.Tensor | None, ...], Result]] = {}
        for i, shard in _taken(pending):
            value, result = loss(shard)
            done[i] = th.autograd.grad(value, trained, allow_unused=True) if trained else (), result
        return done

    helpers: list[concurrent.futures.Future[dict[int, tuple[tuple[th.Tensor | None, ...], Result]]]] = []
    try:
        for _ in range(min(n_threads, len(shards)) - 1):
            helpers.append(_threads(n_threads - 1, os.getpid()).submit(work))
        done = work()  # a thread that only waited would leave its core idle until the others were moved there
    finally:
        pending.clear()
        concurrent.futures.wait(helpers)
    for helper in helpers:
        done |= helper.result()
    computed = [done[i] for i in range(len(shards))]
    for parameter, *parts in zip(trained, *(parts for parts, _ in computed), strict=True):
        given = [part for part in parts if part is not None]
        parameter.grad = functools.reduce(th.Tensor.add_, given) if given else None
    return [result for _, result in computed]


def _taken(pending: deque[T]) -> Iterator[T]:
    """What is left of a deque, which several threads empty together: each item goes to one of them."""
    while True:
        try:
            item = pending.popleft()
        except IndexError:
            return
        yield item


def _use_one_thread() -> None:
    """Let operations of the thread that calls it run on itself alone, for good."""
    th.set_num_threads(1)
    th.get_num_threads()  # else a thread's first operation takes the number that the process has by then


@functools.lru_cache(maxsize=1)
def _threads(number: int, process: int) -> ThreadPoolExecutor:
    """
    :param number: of threads, each of which runs operations on itself alone
    :param process: id of the process, since a forked one has none of its parent's threads
    """
    pool = ThreadPoolExecutor(number, "sb3_ldm", initializer=_use_one_thread)
    with one_thread_per_operation():  # restores the process-wide setting, which the initializer overwrites
        list(pool.map(lambda _: None, range(number)))
    return pool
