"""AudioLDM 2's networks, saved here and opened by diffusers."""

import torch
from diffusers.pipelines.audioldm2.modeling_audioldm2 import (
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
)

from daedal import checkpoints
from tests.networks.test_clap import randomised
from tests.systems.sounds import UNET


@torch.inference_mode()
def test_the_unet_both_ways(tmp_path):
    theirs = AudioLDM2UNet2DConditionModel(**UNET, cross_attention_dim=([None, 24, 20],) * 2).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs")
    checkpoints.save(ours, tmp_path / "ours")
    again = AudioLDM2UNet2DConditionModel.from_pretrained(tmp_path / "ours").eval()
    x, time = torch.randn(2, 4, 10, 8), torch.tensor([7, 300])
    first, second, there = torch.randn(2, 8, 24), torch.randn(2, 5, 20), torch.ones(2, 5)
    there[1, 3:] = 0
    told = dict(encoder_hidden_states=first, encoder_hidden_states_1=second)
    wanted = theirs(x, time, **told, encoder_attention_mask_1=there).sample
    found = ours(x, time, text_kv=ours.keys_of(first, second, there))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    made = again(x, time, **told, encoder_attention_mask_1=there).sample
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_projection_both_ways(tmp_path):
    theirs = randomised(AudioLDM2ProjectionModel(12, 20, 24))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = checkpoints.load(tmp_path / "theirs")
    checkpoints.save(ours, tmp_path / "ours")
    again = AudioLDM2ProjectionModel.from_pretrained(tmp_path / "ours").eval()
    first, second, there = torch.randn(2, 1, 12), torch.randn(2, 5, 20), torch.ones(2, 5).long()
    there[0, 2:] = 0
    wanted = theirs(first, second, there.new_ones(2, 1), there)
    states, exists = ours(first, second, there)
    torch.testing.assert_close(states, wanted.hidden_states)
    assert torch.equal(exists.long(), wanted.attention_mask)
    same = again(first, second, there.new_ones(2, 1), there).hidden_states
    torch.testing.assert_close(same, wanted.hidden_states)
