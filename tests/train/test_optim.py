"""Muon: the update is orthogonal, its size follows the stated rule, and it descends; parameters are
split as documented."""

import torch
from torch import nn

from daedal.networks import build, config_from_dict
from daedal.networks.autoencoder import AutoencoderKL, AutoencoderKLConfig
from daedal.train.optim import Muon, matrices_and_rest, orthogonal
from daedal.train.recipe.base import ModelRecipe


def test_orthogonal_factor_of_the_svd():
    torch.manual_seed(0)
    for shape in [(3, 16, 40), (40, 16), (16, 16)]:
        m = torch.randn(shape)
        u, _, vh = torch.linalg.svd(m, full_matrices=False)
        ours = orthogonal(m)
        assert (ours * (u @ vh)).sum() / (u @ vh).square().sum() > 0.9  # direction
        singular = torch.linalg.svdvals(ours)
        assert singular.max() < 1.3 and singular.median() > 0.7


def test_step_length_does_not_depend_on_the_gradient():
    for scale in (1e-4, 1.0, 1e4):
        p = nn.Parameter(torch.zeros(32, 8))
        p.grad = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)) * scale
        Muon([p], lr=0.1).step()
        # sqrt(32 / 8) = 2
        assert 0.8 * 0.1 * 2 < torch.linalg.matrix_norm(p.detach(), 2) < 1.3 * 0.1 * 2


def test_a_kernel_is_the_matrix_that_meets_its_patches():
    """A 1 x 1 convolution moves as the linear of the same weights and gradient does, and a 3 x 3
    one as the linear of unfolded patches."""
    torch.manual_seed(0)
    for shape in [(8, 16, 1, 1), (16, 4, 3, 3), (64, 2, 3, 3)]:
        kernel = nn.Parameter(torch.randn(shape))
        matrix, beside = (
            nn.Parameter(kernel.detach().flatten(1)),
            nn.Parameter(torch.randn(kernel[0].numel(), 5)),
        )
        kernel.grad, beside.grad = torch.randn(shape), torch.randn(beside.shape)
        matrix.grad = kernel.grad.flatten(1).clone()
        Muon([kernel, beside], lr=0.1, weight_decay=0.1).step()
        Muon([matrix], lr=0.1, weight_decay=0.1).step()
        torch.testing.assert_close(kernel.flatten(1), matrix)


def test_decays_and_descends():
    torch.manual_seed(0)
    target, p = torch.randn(8, 8), nn.Parameter(torch.randn(8, 8))
    optimizer = Muon([p], lr=0.05, weight_decay=0.01)
    losses = []
    for _ in range(200):
        loss = (p - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.02 * losses[0]


def test_who_trains_what():
    network = build(config_from_dict(ModelRecipe(depth=1).config(100, 0, 1)))
    matrices, rest = matrices_and_rest(network)
    assert len(matrices) == 7 and all(p.dim() == 2 for p in matrices)
    assert {id(p) for p in rest} >= {
        id(network.embed_tokens.weight),
        id(network.lm_head.weight),
        id(network.norm.weight),
    }
    assert len(matrices) + len(rest) == len(list(network.parameters()))


def test_hidden_kernels_of_a_codec_are_matrices():
    """All convolutions of residual blocks and of resampling; not those that read pixels or latents,
    or write them."""
    codec = AutoencoderKL(AutoencoderKLConfig(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
        mid_block_add_attention=False,
    ))  # fmt: skip
    matrices, rest = (set(map(id, part)) for part in matrices_and_rest(codec))
    edges = {
        id(p)
        for name, p in codec.named_parameters()
        if p.dim() == 4 and ("conv_in" in name or "coder.conv_out" in name or "quant_conv" in name)
    }
    kernels = {id(p) for p in codec.parameters() if p.dim() == 4}
    assert len(edges) == 6 and matrices == kernels - edges and edges <= rest
