"""Stable Audio's autoencoder and networks against diffusers, both ways, on random small models; a
sound decoded in pieces is the sound decoded whole."""

import diffusers
import pytest
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks import oobleck

OOBLECK = dict(encoder_hidden_size=8, downsampling_ratios=[2, 4], channel_multiples=[1, 2], decoder_channels=8, decoder_input_channels=4, audio_channels=2, sampling_rate=800)  # fmt: skip
DIT = dict(sample_size=12, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4, num_key_value_attention_heads=2, out_channels=4, cross_attention_dim=24, time_proj_dim=16, global_states_input_dim=48, cross_attention_input_dim=24)  # fmt: skip


def saved(model, folder, std=0.2):
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        torch.nn.init.normal_(tensor, std=std)
        if name.endswith("weight_g"):
            tensor.abs_().add_(0.3)
    model.eval().save_pretrained(folder)
    return model, checkpoints.load(folder, dtype=torch.float32)


@pytest.fixture(scope="module", params=["even", "odd"])
def vae(request, tmp_path_factory):
    odd = dict(downsampling_ratios=[3, 2]) if request.param == "odd" else {}
    model = diffusers.AutoencoderOobleck(**OOBLECK | odd)
    return saved(model, tmp_path_factory.mktemp("oobleck"))


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    return saved(diffusers.StableAudioDiTModel(**DIT), tmp_path_factory.mktemp("dit"))


@torch.inference_mode()
def test_the_autoencoder_is_diffusers(vae, tmp_path):
    theirs, ours = vae
    x = torch.randn(2, 2, 10 * ours.factor)
    wanted = theirs.encode(x).latent_dist.mode()
    torch.testing.assert_close(ours.encode(x), wanted, rtol=1e-4, atol=1e-4)
    made = theirs.decode(wanted).sample
    found = ours.decode(wanted)
    assert found.shape == (2, 2, wanted.shape[-1] * ours.factor)
    torch.testing.assert_close(found[..., : made.shape[-1]], made, rtol=1e-4, atol=1e-4)
    checkpoints.save(ours, tmp_path)
    again = diffusers.AutoencoderOobleck.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again.decode(wanted).sample, made, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_pieces_are_the_whole(vae, monkeypatch):
    _, ours = vae
    latents = torch.randn(1, 4, 150)
    whole = ours.decoder(latents)
    monkeypatch.setattr(oobleck, "AT_ONCE", 20)
    pieces = list(ours.pieces(latents))
    assert len(pieces) == 8
    made = torch.cat(pieces, -1)
    torch.testing.assert_close(made[..., : whole.shape[-1]], whole, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_transformer_is_diffusers(dit, tmp_path):
    theirs, ours = dit
    x, time, text = torch.randn(3, 4, 12), torch.rand(3), torch.randn(3, 7, 24)
    times = torch.randn(3, 48)
    rope = get_1d_rotary_pos_embed(4, 13, use_real=True, repeat_interleave_real=False)

    def asked(model):
        return model(
            x, time, encoder_hidden_states=text, global_hidden_states=times[:, None], rotary_embedding=rope
        ).sample  # fmt: skip

    wanted = asked(theirs)
    found = ours(x, time, ours.text_keys(text), times)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    checkpoints.save(ours, tmp_path)
    again = diffusers.StableAudioDiTModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(asked(again), wanted)
    assert ours.flops(12, 7) > 0


@pytest.mark.parametrize("width", [24, 20])
@torch.inference_mode()
def test_times_are_diffusers(width, tmp_path):
    theirs = StableAudioProjectionModel(width, 24, 0, 512)
    theirs, ours = saved(theirs, tmp_path)
    text, start, end = torch.randn(2, 5, width), torch.tensor([0.0, 3.0]), torch.tensor([9.0, 600])
    wanted = theirs(text, start, end)
    found, times = ours(text, start, end)
    torch.testing.assert_close(found, wanted.text_hidden_states)
    torch.testing.assert_close(times[:, :1], wanted.seconds_start_hidden_states)
    torch.testing.assert_close(times[:, 1:], wanted.seconds_end_hidden_states)


def test_ratios_without_multiples():
    with pytest.raises(DaedalError, match="channel_multiples has 3 entries for 2"):
        oobleck.OobleckConfig(downsampling_ratios=(2, 4), channel_multiples=(1, 2, 4))
