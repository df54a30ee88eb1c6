"""DiT against diffusers, both ways, on random small models."""

import json

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.dit import DiTConfig, DiTTransformer2DModel
from daedal.nn.dit import unpatchify

SMALL = dict(
    num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8, num_embeds_ada_norm=10
)
CASES = {
    "dit": SMALL | dict(out_channels=8),
    "no-sigma": SMALL | dict(attention_bias=False, patch_size=4, norm_eps=1e-2),
}


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        spread = 0.7 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
        torch.nn.init.normal_(
            parameter, mean=0.0 if parameter.dim() > 1 else 0.3, std=spread, generator=g
        )
    return module.eval()


def close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


def inputs(height=8, width=8):
    x = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([3, 801]), torch.tensor([4, 10])  # the last class is none


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    theirs, folder = (
        randomised(diffusers.DiTTransformer2DModel(**CASES[request.param])),
        tmp_path_factory.mktemp("dit"),
    )
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


@torch.inference_mode()
@pytest.mark.parametrize("size", [8, 16, 12])
def test_prediction(pair, size):
    theirs, ours = pair
    expected = theirs(*inputs(size, size)).sample
    assert expected.std() > 0.05
    close(ours(*inputs(size, size)), expected)
    close(
        ours(inputs(size, size)[0].contiguous(memory_format=torch.channels_last), *inputs()[1:]),
        expected,
    )


@torch.inference_mode()
def test_our_folder_opens_in_diffusers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=10_000)
    again = diffusers.DiTTransformer2DModel.from_pretrained(
        tmp_path / "out", low_cpu_mem_usage=False
    ).eval()
    close(again(*inputs()).sample, theirs(*inputs()).sample)
    assert all(
        torch.equal(tensor, theirs.state_dict()[name])
        for name, tensor in again.state_dict().items()
    )
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
def test_the_published_folder(pair, tmp_path):
    """Its class has the name that all of diffusers' transformers had then, and its config their
    keys, without those of later versions."""
    theirs, ours = pair
    theirs.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text()) | dict(
        _class_name="Transformer2DModel", cross_attention_dim=None
    )
    raw |= dict(num_vector_embeds=None, only_cross_attention=False, use_linear_projection=False)
    if raw["norm_eps"] == 1e-5:
        del raw["norm_eps"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    again = checkpoints.load(tmp_path)
    assert isinstance(again, DiTTransformer2DModel) and again.config == ours.config
    assert torch.equal(again(*inputs()), ours(*inputs()))
    (tmp_path / "config.json").write_text(json.dumps(raw | dict(norm_type="ada_norm")))
    with pytest.raises(
        DaedalError, match="norm_type 'ada_norm' is not one of ada_norm_zero, ada_norm_single"
    ):
        checkpoints.load(tmp_path)


@torch.inference_mode()
def test_oblong_latents(pair):
    """diffusers lays the tokens of any latents out as a square; before that they are the same."""
    theirs, ours = pair
    tokens = []
    hook = theirs.proj_out_2.register_forward_hook(lambda module, args, out: tokens.append(out))
    theirs(*inputs(8, 32))
    hook.remove()
    close(ours(*inputs(8, 32)), unpatchify(tokens[0], ours.config.patch_size, 8, 32))


@torch.inference_mode()
def test_half_precision_weights_and_activations(pair):
    _, ours = pair
    x, time, labels = inputs()
    exact, mixed = ours(x, time, labels), ours(x.bfloat16(), time, labels)
    assert mixed.dtype == torch.bfloat16
    assert (mixed - exact).norm() < 0.03 * exact.norm()


def test_training_starts_from_nothing():
    ours = DiTTransformer2DModel(parse(DiTConfig, SMALL)).init_weights(0)
    assert not ours(*inputs()).any() and all(p.isfinite().all() for p in ours.parameters())


def test_gradients_reach_every_parameter():
    ours = randomised(DiTTransformer2DModel(parse(DiTConfig, SMALL)))
    ours(*inputs()).square().mean().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_flops_are_those_of_a_real_call(pair):
    _, ours = pair
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(*(t[:1] for t in inputs()))
    assert ours.flops(8, 8) == counter.get_total_flops()


def test_published_size():
    """DiT-XL/2 has 675 million parameters (table 1) when its one embedding of time and class is not
    repeated in every block."""
    with torch.device("meta"):
        dit = DiTTransformer2DModel(parse(DiTConfig, dict(out_channels=8)))
    repeated = sum(
        p.numel()
        for name, p in dit.named_parameters()
        if ".emb." in name and ".0.norm1" not in name
    )
    assert round((sum(p.numel() for p in dit.parameters()) - repeated) / 1e6) == 675


def test_latents_that_cannot_be_cut_get_one_sentence(pair):
    with pytest.raises(DaedalError, match="9 x 8 cells cannot be cut into patches of"):
        pair[1](*inputs(9, 8))
