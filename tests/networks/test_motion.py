"""AnimateDiff's motion modules in a U-Net against diffusers, both ways, on random small models."""

import diffusers
import pytest
import torch

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.motion import MotionAdapter, UNetMotionModel, moved

UNET = dict(
    block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=20,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), sample_size=8,
    attention_head_dim=4,
)  # fmt: skip
ADAPTER = dict(
    block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8,
    motion_max_seq_length=6,
)  # fmt: skip


@pytest.mark.parametrize("middle", [True, False])
@torch.no_grad()
def test_a_unet_with_motion_modules_agrees_with_diffusers(middle, tmp_path):
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**UNET)
    adapter = diffusers.MotionAdapter(**ADAPTER, use_motion_mid_block=middle)
    for p in [*unet.parameters(), *adapter.parameters()]:
        p.data += 0.1 * torch.randn(p.shape)
    theirs = diffusers.UNetMotionModel.from_unet2d(unet, adapter).eval()
    for name, network in dict(unet=unet, adapter=adapter, motion=theirs).items():
        network.save_pretrained(tmp_path / name)
    x, text = torch.randn(2, 4, 5, 8, 12), torch.randn(2, 7, 20)
    time = torch.tensor([17, 801])
    rows = text.repeat_interleave(5, 0)  # one a frame
    wanted = theirs(x, time, rows).sample

    def made(network):
        frames = x.transpose(1, 2).flatten(0, 1)
        made = network(frames, time.repeat_interleave(5), rows, frames=5)
        return made.unflatten(0, (2, 5)).transpose(1, 2)

    ours = checkpoints.load(tmp_path / "motion", dtype=torch.float32)
    parts = [checkpoints.load(tmp_path / name, dtype=torch.float32) for name in ("unet", "adapter")]
    assert isinstance(ours, UNetMotionModel) and isinstance(parts[1], MotionAdapter)
    checkpoints.save(ours, tmp_path / "ours")
    checkpoints.save(parts[1], tmp_path / "our adapter")
    for network in (ours, moved(*parts)):
        assert (made(network) - wanted).abs().max() < 1e-4
    again = diffusers.UNetMotionModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(x, time, rows).sample, wanted)
    adapter_again = diffusers.MotionAdapter.from_pretrained(tmp_path / "our adapter")
    for name, value in adapter.state_dict().items():
        assert torch.equal(adapter_again.state_dict()[name], value), name
    with pytest.raises(DaedalError, match="8 frames are more than the 6"):
        ours(torch.randn(8, 4, 8, 12), time[:1], text[:1].expand(8, -1, -1), frames=8)
    parts[1].config = type(parts[1].config)(
        **{**vars(parts[1].config), "block_out_channels": (8, 16)}
    )
    with pytest.raises(DaedalError, match=r"block_out_channels \(8, 16\), this one has \(16, 32\)"):
        moved(*parts)
