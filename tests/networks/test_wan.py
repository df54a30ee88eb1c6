"""Wan's transformer against diffusers, both ways, on random small models."""

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.wan import PICTURE, TEXT, WanConfig, WanTransformer3DModel

SMALL = dict(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=20, freq_dim=32, ffn_dim=40,
    num_layers=2,
)  # fmt: skip
CASES = {
    "words": SMALL,
    "unnormed": SMALL | dict(cross_attn_norm=False, patch_size=(1, 2, 1), attention_head_dim=12),
    "picture": SMALL | dict(in_channels=9, image_dim=24, added_kv_proj_dim=32),
    "two pictures": SMALL | dict(in_channels=9, image_dim=24, added_kv_proj_dim=32, pos_embed_seq_len=2 * PICTURE),
    "levels": SMALL,
}  # fmt: skip


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        matrix = parameter.dim() > 1 and "table" not in name and "pos_embed" not in name
        spread = 0.7 / parameter[0].numel() ** 0.5 if matrix else 0.1
        mean = 0.0 if matrix or "table" in name else 0.3
        torch.nn.init.normal_(parameter, mean=mean, std=spread, generator=g)
    return module.eval()


def inputs(case):
    g, c = torch.Generator().manual_seed(0), CASES[case]
    x = torch.randn(2, c["in_channels"], 3, 4, 6, generator=g)
    text = torch.randn(2, TEXT, c["text_dim"], generator=g)
    count = 4 if case == "two pictures" else 2
    picture = torch.randn(count, PICTURE, 24, generator=g) if "image_dim" in c else None
    time = torch.tensor([17.0, 801.0])
    if case == "levels":
        time = torch.randint(0, 1000, (2, 3 * 2 * 3), generator=g).float()
    return x, time, text, picture


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_wan_agrees_with_diffusers(case, tmp_path):
    theirs = randomised(diffusers.WanTransformer3DModel(**CASES[case]))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs", dtype=torch.float32)
    assert isinstance(ours, WanTransformer3DModel)
    x, time, text, picture = inputs(case)
    wanted = theirs(x, time, text, picture).sample
    got = ours(x, time, text, picture)
    assert got.shape == wanted.shape == (2, 4, 3, 4, 6)
    assert (got - wanted).abs().max() < 1e-4 * max(1, wanted.abs().max())
    once = ours(x, time, text, tokens=ours.text_tokens(text, picture))
    assert torch.equal(once, got)
    checkpoints.save(ours, tmp_path / "ours")
    again = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(x, time, text, picture).sample, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch_and_flops_are_counted():
    ours = randomised(WanTransformer3DModel(parse(WanConfig, SMALL | {"_class_name": "x"})))
    x, time, text, _ = inputs("words")
    both = ours(x, time, text)
    torch.testing.assert_close(ours(x[1:], time[1:], text[1:]), both[1:], atol=1e-5, rtol=1e-4)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ours(x[:1], time[:1], text[:1])
    assert counter.get_total_flops() == ours.flops(3, 4, 6)


def test_what_does_not_fit_is_said():
    ours = WanTransformer3DModel(parse(WanConfig, CASES["picture"]))
    x, time, text, _ = inputs("picture")
    with pytest.raises(DaedalError, match="reads a picture beside the words"):
        ours(x, time, text)
    with pytest.raises(DaedalError, match=r"cannot be cut into patches"):
        ours(x[..., :5], time, text, torch.zeros(2, PICTURE, 24))
    with pytest.raises(DaedalError, match="qk_norm='layer'"):
        parse(WanConfig, SMALL | {"qk_norm": "layer"})
