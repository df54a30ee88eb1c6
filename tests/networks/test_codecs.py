"""EnCodec and DAC against transformers, both ways, on random small models; and what a codec owes:
the length comes back, a batch is its rows, a causal encoder's beginning does not know the end."""

import pytest
import torch
import transformers

from daedal import checkpoints
from daedal.errors import DaedalError

ENCODEC = dict(hidden_size=16, num_filters=4, codebook_size=32, sampling_rate=800, upsampling_ratios=[4, 2], target_bandwidths=[0.5, 1.0, 2.0])  # fmt: skip
SHAPES = {
    "24 kHz": ENCODEC,
    "32 kHz": ENCODEC | dict(use_causal_conv=False, use_conv_shortcut=False, upsampling_ratios=[5, 2], target_bandwidths=[1.2]),
    "48 kHz": ENCODEC | dict(audio_channels=2, use_causal_conv=False, normalize=True, norm_type="time_group_norm", chunk_length_s=0.5, overlap=0.02),
}  # fmt: skip
DAC = dict(encoder_hidden_size=4, downsampling_ratios=[2, 4], decoder_hidden_size=16, n_codebooks=3, codebook_size=32, codebook_dim=4)  # fmt: skip


def random(model, folder, std=0.3):
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "inited" not in name:
            torch.nn.init.normal_(tensor, std=std)
            if name.endswith("alpha"):  # small ones would magnify what rounding leaves
                tensor.abs_().add_(0.5)
    model.eval().save_pretrained(folder)
    return model, checkpoints.load(folder, dtype=torch.float32)


@pytest.fixture(scope="module", params=SHAPES)
def encodec(request, tmp_path_factory):
    config = transformers.EncodecConfig(**SHAPES[request.param])
    return random(transformers.EncodecModel(config), tmp_path_factory.mktemp("encodec"))


@pytest.fixture(scope="module")
def dac(tmp_path_factory):
    model = transformers.DacModel(transformers.DacConfig(**DAC))
    return random(model, tmp_path_factory.mktemp("dac"), 0.15)


def sound(model, length=1203, batch=2):
    channels = getattr(model.config, "audio_channels", 1)
    return torch.randn(batch, channels, length, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_encodec_is_transformers(encodec):
    theirs, ours = encodec
    x, bandwidth = sound(theirs), theirs.config.target_bandwidths[-1]
    expected = theirs.encode(x, bandwidth=bandwidth)
    codes = ours.encode(x, bandwidth)
    pad = expected.last_frame_pad_length
    for i, chunk in enumerate(codes.chunks):
        theirs_chunk = expected.audio_codes[i]
        short = pad if i == len(codes.chunks) - 1 else 0
        assert torch.equal(chunk, theirs_chunk[..., : theirs_chunk.shape[-1] - short])
    made = theirs.decode(expected.audio_codes, expected.audio_scales, last_frame_pad_length=pad)
    found = ours.decode(codes)
    assert found.shape == x.shape
    torch.testing.assert_close(found, made.audio_values[..., : x.shape[-1]], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_our_encodec_opens_in_transformers(encodec, tmp_path):
    theirs, ours = encodec
    checkpoints.save(ours, tmp_path)
    again = transformers.EncodecModel.from_pretrained(tmp_path).eval()
    x = sound(theirs, 400)
    torch.testing.assert_close(again.encode(x).audio_codes, theirs.encode(x).audio_codes)
    reloaded = checkpoints.load(tmp_path)
    assert reloaded.config == ours.config
    torch.testing.assert_close(reloaded.encoder(x), ours.encoder(x))


@pytest.mark.parametrize("length", [1, 7, 399, 400, 801])
@torch.inference_mode()
def test_the_length_comes_back_and_a_batch_is_its_rows(encodec, dac, length):
    x = sound(encodec[0], length, 3)
    codes = encodec[1].encode(x)
    made = encodec[1].decode(codes)
    assert made.shape == x.shape
    alone = encodec[1].decode(encodec[1].encode(x[1:2]))
    torch.testing.assert_close(made[1:2], alone, rtol=1e-3, atol=1e-4)
    y = sound(dac[0], length, 3)
    assert dac[1].decode(dac[1].encode(y), length).shape == y.shape


@torch.inference_mode()
def test_a_causal_codec_does_not_know_the_end(tmp_path):
    _, ours = random(transformers.EncodecModel(transformers.EncodecConfig(**ENCODEC)), tmp_path)
    x = sound(ours, 800)
    whole, start = ours.encode(x).chunks[0], ours.encode(x[..., :400]).chunks[0]
    assert torch.equal(whole[..., :50], start)
    decoded = ours.decode(ours.encode(x))
    torch.testing.assert_close(
        decoded[..., :392], ours.decode(ours.encode(x[..., :400]))[..., :392], rtol=1e-4, atol=1e-5
    )


def test_what_a_codec_refuses(encodec):
    theirs, ours = encodec
    with pytest.raises(DaedalError, match="bandwidth 7 is not one of"):
        ours.encode(sound(theirs), 7)
    with pytest.raises(DaedalError, match="the sound has 3 channels"):
        ours.encode(torch.zeros(1, 3, 100))


@torch.inference_mode()
def test_dac_is_transformers(dac, tmp_path):
    theirs, ours = dac
    x = sound(theirs, 800)
    expected = theirs.encode(x)
    codes = ours.encode(x)
    assert torch.equal(codes, expected.audio_codes)
    assert torch.equal(ours.encode(x, books=2), codes[:, :2])
    made = theirs.decode(audio_codes=codes).audio_values
    torch.testing.assert_close(ours.decode(codes, 800)[:, 0], made, rtol=1e-3, atol=1e-4)
    checkpoints.save(ours, tmp_path)
    again = transformers.DacModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again.encode(x).audio_codes, codes)


@torch.inference_mode()
def test_three_spellings_of_weight_norm(dac, tmp_path):
    """`weight_g` and `weight_v` of old torch, parametrizations of new torch, folded weights."""
    theirs, ours = dac
    theirs.apply_weight_norm()
    theirs.save_pretrained(tmp_path / "normed")
    x = sound(theirs, 400)
    again = checkpoints.load(tmp_path / "normed", dtype=torch.float32)
    torch.testing.assert_close(again.encoder(x), ours.encoder(x), rtol=1e-3, atol=1e-4)
