"""Independent pieces of work on threads of their own, one each. Layers that share every product among
all threads wait for the slowest at each of them; pieces wait once."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor


def side_by_side(work: Callable[[Tensor], Tensor], pieces: Sequence[Tensor]) -> list[Tensor]:
    """`work` of each piece, without gradients."""
    threads = torch.get_num_threads()
    if threads == 1 or len(pieces) == 1:
        return [work(piece) for piece in pieces]

    def alone(piece: Tensor) -> Tensor:
        with torch.inference_mode(piece.is_inference()), torch.no_grad():
            return work(piece)

    return list(_pool(threads).map(alone, pieces))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """So many threads that compute alone. What one of them sets is also what threads to come begin
    with, so the number is set back once all have begun."""
    pool = ThreadPoolExecutor(threads, "daedal-piece", initializer=lambda: torch.set_num_threads(1))
    begun = threading.Barrier(threads)
    list(pool.map(lambda _: begun.wait(), range(threads)))
    torch.set_num_threads(threads)
    return pool
