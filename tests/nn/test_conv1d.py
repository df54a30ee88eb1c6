"""Convolutions along time: both layouts agree, and a decoder in pieces is the decoder."""

import pytest
import torch

from daedal.nn import conv1d
from daedal.nn.conv1d import Conv1d, HifiGan, channels_last
from daedal.nn.side_by_side import side_by_side


def drawn(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


@pytest.mark.parametrize(
    "options", [{}, {"dilation": 3, "padding": 3}, {"groups": 4, "padding": 1}, {"stride": 2}]
)
def test_both_layouts_are_convolved_alike(options):
    conv, x = drawn(Conv1d(8, 12, 3, **options)), torch.randn(2, 8, 40)
    made = conv(channels_last(x))
    torch.testing.assert_close(made, conv(x), atol=1e-5, rtol=1e-5)
    assert conv1d.is_channels_last(made)
    plain = torch.nn.Conv1d(8, 12, 3, **options)
    plain.load_state_dict(conv.state_dict())
    torch.testing.assert_close(made, plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("paired", [True, False])
def test_a_decoder_in_pieces_is_the_decoder(paired, threads, monkeypatch):
    gan = drawn(HifiGan(6, 32, (4, 2, 2), (8, 4, 4), (3, 5), ((1, 2), (2, 3)), paired=paired))
    frames = torch.randn(1, 6, 150)
    whole = gan(frames).detach()
    assert whole.shape == (1, 1, 150 * 16)
    monkeypatch.setattr(conv1d, "AT_ONCE", 48)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            torch.testing.assert_close(gan(frames), whole, atol=1e-5, rtol=1e-4)
        with torch.inference_mode():
            torch.testing.assert_close(gan(frames), whole, atol=1e-5, rtol=1e-4)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_what_fails_in_a_piece_is_raised():
    def broken(piece):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        side_by_side(broken, [torch.ones(1), torch.ones(1)])
