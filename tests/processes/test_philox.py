"""Philox against the published known answers, and the normals a GPU is known to draw."""

import numpy as np
import torch

from daedal.processes.imaging import seeded_noise
from daedal.processes.philox import cuda_normal, philox


def test_known_answers_of_random123() -> None:
    answers = {
        (0, 0): ("6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"),
        (0xFFFFFFFF, 2**64 - 1): ("408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"),
    }
    for (word, seed), known in answers.items():
        assert (
            tuple(f"{x:08x}" for x in philox(np.full((4, 1), word, np.uint32), seed)[:, 0]) == known
        )


def test_the_first_normals_of_seed_zero_on_a_gpu() -> None:
    assert torch.allclose(
        cuda_normal(0, 0, (5,)),
        torch.tensor([-0.9247, -0.4253, -2.6438, 0.1452, -0.1209]),
        atol=1e-4,
    )
    x = cuda_normal(7, 2, (200_000,)).double()
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01 and abs((x**4).mean() - 3) < 0.1


def test_whose_noise_a_seed_means() -> None:
    seeds, shape = [5, 6], (4, 3, 3)
    assert torch.equal(
        seeded_noise(seeds, shape, like="diffusers")()[1],
        torch.randn(shape, generator=torch.Generator().manual_seed(6)),
    )
    assert torch.equal(
        seeded_noise(seeds, shape, like="comfy")(),
        torch.randn((2, *shape), generator=torch.Generator().manual_seed(5)),
    )
    webui = seeded_noise(seeds, shape, like="webui")
    assert torch.equal(webui()[1], cuda_normal(6, 0, shape)) and torch.equal(
        webui()[0], cuda_normal(5, 1, shape)
    )
