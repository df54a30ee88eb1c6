"""The normal numbers that CUDA draws, on any machine: Philox4x32-10 (Salmon et al. 2011) and
Box-Muller.

A GPU thread draws element i of a tensor from counter (draw, 0, i, 0) under the key (seed), so a
picture's noise can be made again without a GPU. It holds for tensors of up to a few hundred
thousand values (one a thread), which latents are."""

import numpy as np
import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)


def philox(counter: np.ndarray, seed: int) -> np.ndarray:
    """counter (4, N) uint32 and a 64-bit seed -> 4 x N random uint32, after ten rounds."""
    a, b, c, d = (word.astype(np.uint64) for word in counter)
    keys = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        first, second = np.uint64(MULTIPLIERS[0]) * a, np.uint64(MULTIPLIERS[1]) * c
        a = second >> np.uint64(32) ^ b ^ np.uint64(keys[0])
        b = second & LOW
        c = first >> np.uint64(32) ^ d ^ np.uint64(keys[1])
        d = first & LOW
        keys = [key + step & 0xFFFFFFFF for key, step in zip(keys, WEYL, strict=True)]
    return np.stack([a, b, c, d]).astype(np.uint32)


def cuda_normal(seed: int, draw: int, shape: tuple[int, ...]) -> Tensor:
    """What `torch.randn(shape)` gives on a GPU as call number `draw` (from 0) after
    `manual_seed(seed)`: fp32."""
    count = int(np.prod(shape))
    counter = np.zeros((4, count), np.uint32)
    counter[0], counter[2] = draw, np.arange(count)
    one, two = philox(counter, seed)[:2].astype(np.float32)
    radius = np.sqrt(-2 * np.log(one * np.float32(2**-32) + np.float32(2**-33)))
    return torch.from_numpy(
        radius * np.sin(two * np.float32(2 * np.pi * 2**-32) + np.float32(np.pi * 2**-32))
    ).view(shape)
