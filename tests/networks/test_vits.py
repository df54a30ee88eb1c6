"""VITS against transformers on random small models, both ways, and what its parts promise."""

import pytest
import torch
import transformers

from daedal import checkpoints
from daedal.networks.vits import VitsConfig, VitsModel, stretched
from daedal.nn.spline import spline

SMALL = dict(
    vocab_size=20,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=24,
    flow_size=8,
    spectrogram_bins=33,
    upsample_initial_channel=16,
    upsample_rates=[4, 2],
    upsample_kernel_sizes=[8, 4],
    resblock_kernel_sizes=[3, 5],
    resblock_dilation_sizes=[[1, 3], [1, 3]],
    prior_encoder_num_flows=2,
    prior_encoder_num_wavenet_layers=2,
    posterior_encoder_num_wavenet_layers=3,
    duration_predictor_num_flows=2,
    duration_predictor_filter_channels=12,
)
CASES = {
    "stochastic": {},
    "plain": dict(use_stochastic_duration_prediction=False),
    "speakers": dict(num_speakers=3, speaker_embedding_size=6),
    "dilated": dict(wavenet_dilation_rate=2, window_size=2),
    "even": dict(ffn_kernel_size=4),
}


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    """(transformers' model, ours loaded from the folder that it wrote)."""
    torch.manual_seed(0)
    config = transformers.VitsConfig(**SMALL | CASES[request.param])
    theirs = transformers.VitsModel(config).eval()
    for name, parameter in theirs.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    folder = tmp_path_factory.mktemp("vits")
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder)


def given(theirs):
    tokens = torch.tensor([[1, 5, 2, 9, 7, 3, 4, 4], [3, 2, 1, 7, 0, 0, 0, 0]])
    mask = torch.tensor([[1] * 8, [1] * 4 + [0] * 4])
    several = theirs.config.num_speakers > 1
    return tokens, mask, ({"speaker_id": torch.tensor([2, 0])} if several else {})


def speak(ours, tokens, mask, speaker_id=None, scale=1.0):
    speaker = None if speaker_id is None else ours.speaker(speaker_id)
    hidden, mean, log_std = ours.encode(tokens, mask)
    frames = ours.frames(hidden, mask, speaker, scale)
    return frames, ours.decode(ours.latents(mean, log_std, frames, speaker), speaker)


@torch.no_grad()
def test_the_same_speech_as_transformers(pair):
    theirs, ours = pair
    theirs.noise_scale = theirs.noise_scale_duration = 0.0
    tokens, mask, speaker = given(theirs)
    if speaker:  # transformers takes one speaker for a batch
        tokens, mask, speaker = tokens[:1], mask[:1], {"speaker_id": torch.tensor([2])}
    wanted = theirs(tokens, attention_mask=mask, **speaker)
    frames, samples = speak(ours, tokens, mask, **speaker)
    assert (frames.sum(1) * ours.config.hop).tolist() == wanted.sequence_lengths.tolist()
    torch.testing.assert_close(samples, wanted.waveform, atol=2e-5, rtol=1e-4)
    assert samples.abs().max() > 1e-3


@torch.no_grad()
def test_one_alone_is_as_in_a_batch(pair):
    theirs, ours = pair
    tokens, mask, speaker = given(theirs)
    _, both = speak(ours, tokens, mask, **speaker, scale=6.0)
    speaker = {key: value[1:] for key, value in speaker.items()}
    frames, alone = speak(ours, tokens[1:, :4], mask[1:, :4], **speaker, scale=6.0)
    inside = int(frames.sum()) * ours.config.hop - 40  # where the decoder hears no end
    assert inside > 0
    torch.testing.assert_close(both[1, :inside], alone[0, :inside], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_transformers_opens_what_is_saved(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path / "saved")
    again = transformers.VitsModel.from_pretrained(tmp_path / "saved").eval()
    for name, tensor in theirs.state_dict().items():
        if "original" not in name:
            torch.testing.assert_close(again.state_dict()[name], tensor)
    again.noise_scale = again.noise_scale_duration = 0.0
    tokens, _, speaker = given(theirs)
    speaker = {key: value[:1] for key, value in speaker.items()}
    _, samples = speak(ours, tokens[:1], torch.ones(1, 8), **speaker)
    torch.testing.assert_close(samples, again(tokens[:1], **speaker).waveform, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_posterior_and_the_flow_are_those_of_transformers(pair):
    theirs, ours = pair
    spectrogram, mask = torch.rand(2, 33, 11), torch.ones(2, 1, 11)
    mask[1, :, 7:] = 0
    speaker = ours.speaker(torch.tensor([1, 2])) if theirs.config.num_speakers > 1 else None
    _, wanted, wanted_log = theirs.posterior_encoder(spectrogram, mask, speaker)
    mean, log_std = ours.posterior_encoder(spectrogram, mask, speaker)
    torch.testing.assert_close(mean, wanted)
    torch.testing.assert_close(log_std, wanted_log)
    z = ours.flow(mean, mask, speaker)
    torch.testing.assert_close(z, theirs.flow(mean, mask, speaker))
    torch.testing.assert_close(ours.flow.inverse(z, mask, speaker), mean, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_bound_on_durations_is_that_of_transformers(pair, monkeypatch):
    theirs, ours = pair
    if not theirs.config.use_stochastic_duration_prediction:
        pytest.skip("the plain predictor has no bound")
    hidden, mask = torch.randn(2, 16, 8), torch.ones(2, 1, 8)
    frames = torch.randint(1, 9, (2, 1, 8)).float()
    speaker = ours.speaker(torch.tensor([1, 2])) if theirs.config.num_speakers > 1 else None
    e = torch.randn((2, 2, 8), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: e)
    wanted = theirs.duration_predictor(hidden, mask, speaker, durations=frames)
    noise = torch.Generator().manual_seed(1)
    bound = ours.duration_predictor.loss(hidden, mask, speaker, frames, noise)
    torch.testing.assert_close(bound, wanted, rtol=1e-4, atol=1e-4)


def test_a_seed_draws_the_same_speech_and_no_noise_needs_none():
    torch.manual_seed(0)
    vits = VitsModel(VitsConfig(**{k: tuple_of(v) for k, v in SMALL.items()}))
    for parameter in vits.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        hidden, mean, log_std = vits.encode(tokens)
        frames = vits.frames(hidden)

        def latents(seed):
            noise = torch.Generator().manual_seed(seed)
            return vits.latents(mean, log_std, frames, noise_scale=0.7, noise=noise)

        assert latents(1).equal(latents(1)) and not latents(1).equal(latents(2))
        assert vits(tokens).equal(vits(tokens))
    assert vits.flops(40) > 1.9 * vits.flops(20) > 0


def tuple_of(value):
    return tuple(map(tuple_of, value)) if isinstance(value, list) else value


def test_stretching_repeats_each_column_for_its_frames():
    x = torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]])
    made, mask = stretched(x, torch.tensor([[2, 0, 1], [1, 1, 0]]))
    assert made.tolist() == [[[1, 1, 3]], [[4, 5, 0]]]
    assert mask.tolist() == [[[1, 1, 1]], [[1, 1, 0]]]


def test_a_spline_is_undone_by_its_inverse_and_its_slope_is_the_derivative():
    torch.manual_seed(0)
    widths, heights, slopes = (torch.randn(200, n).double() for n in (10, 10, 9))
    x = torch.linspace(-7, 7, 200).double().requires_grad_()
    y, log_slope = spline(x, widths, heights, slopes, 5.0)
    (derivative,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope.exp(), derivative)
    back, inverse_slope = spline(y, widths, heights, slopes, 5.0, inverse=True)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_slope, -log_slope, atol=1e-6, rtol=1e-5)
    assert y[0] == x[0] and (y[1:] != x[1:]).any()
