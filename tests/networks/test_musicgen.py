"""MusicGen against transformers, both ways, on random small models: logits, greedy pieces with
guidance, continuation, stereo."""

import pytest
import torch
import transformers

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.systems.musicgen import MusicGen, composed, delayed, undelayed

T5 = dict(model_type="t5", vocab_size=64, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3)
CODEC = dict(model_type="encodec", hidden_size=16, num_filters=4, codebook_size=32, sampling_rate=800, upsampling_ratios=[4, 2], target_bandwidths=[2.0], use_causal_conv=False, use_conv_shortcut=False)  # fmt: skip
DECODER = dict(model_type="musicgen_decoder", vocab_size=32, num_codebooks=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, max_position_embeddings=64, pad_token_id=32, bos_token_id=32)  # fmt: skip
CASES = {
    "mono": DECODER,
    "stereo": DECODER | dict(num_codebooks=8, audio_channels=2),
    "as wide as its text": DECODER | dict(hidden_size=24, num_attention_heads=3),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.MusicgenConfig(
        text_encoder=T5, audio_encoder=CODEC, decoder=CASES[request.param]
    )
    theirs = transformers.MusicgenForConditionalGeneration(config).eval()
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point() and "inited" not in name:
            torch.nn.init.normal_(tensor, std=0.3)
    folder = tmp_path_factory.mktemp("musicgen")
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder, dtype=torch.float32)


def music_of(network):
    return MusicGen(network, Tokenizer.train(["a"], 300))


def done(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@torch.inference_mode()
def test_logits_with_and_without_the_cache(pair):
    theirs, ours = pair
    K = ours.lm.config.num_codebooks
    prompt, codes = torch.randint(2, 64, (2, 5)), torch.randint(0, 32, (2, K, 9))
    expected = theirs(input_ids=prompt, decoder_input_ids=codes.flatten(0, 1)).logits
    expected = expected.view(2, K, 9, -1)
    states = ours.read(prompt)
    torch.testing.assert_close(
        ours.lm(codes, ours.cache(states, 2, 9)), expected, rtol=1e-3, atol=1e-3
    )
    cache = ours.cache(states, 2, 9)
    parts = [ours.lm(part, cache) for part in codes.split([4, 1, 3, 1], 2)]
    torch.testing.assert_close(torch.cat(parts, 2), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@torch.inference_mode()
def test_greedy_pieces_are_transformers(pair, scale):
    theirs, ours = pair
    K, music = ours.lm.config.num_codebooks, music_of(ours)
    frames, steps = 10, 10 + max(ours.lm.config.delays) + 1
    prompt = torch.randint(2, 64, (1, 6), generator=torch.Generator().manual_seed(3))
    sound = theirs.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        guidance_scale=scale,
        max_length=steps,
        min_length=0,
        pad_token_id=32,
        decoder_start_token_id=32,
        bos_token_id=32,
        eos_token_id=None,
    )
    empty = torch.zeros(1, K, 0, dtype=torch.long)
    made = done(composed(music, ours.read(prompt), empty, frames, scale, 0.0, 0, torch.Generator()))
    assert made.shape == (1, K, frames)
    torch.testing.assert_close(music.sound(made), sound, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_it_goes_on_from_a_clip(pair):
    """What is given stays, and pieces drawn together are those drawn alone."""
    _, ours = pair
    music, K = music_of(ours), ours.lm.config.num_codebooks
    given = torch.randint(0, 32, (1, K, 4))
    states = ours.read(torch.tensor([[5, 6, 7]]))
    whole = done(composed(music, states, given, 9, 3.0, 0.0, 0, torch.Generator()))
    assert torch.equal(whole[:, :, :4], given)
    again = done(composed(music, states, whole[:, :, :6], 9, 3.0, 0.0, 0, torch.Generator()))
    assert torch.equal(again, whole)
    two = done(composed(music, states, given.expand(2, -1, -1), 9, 3.0, 0.0, 0, torch.Generator()))
    assert torch.equal(two[0], whole[0]) and torch.equal(two[1], whole[0])
    samples = music.sound(whole)
    assert samples.shape == (1, music.channels, 9 * 8)
    assert music.codes(samples).shape == whole.shape


def test_the_delay_pattern():
    codes = torch.arange(8).view(1, 2, 4)
    columns, open_ = delayed(codes, [0, 1], 6, 99)
    assert columns[0].tolist() == [[99, 0, 1, 2, 3, 99, 99, 99], [99, 99, 4, 5, 6, 7, 99, 99]]
    assert open_.int().tolist() == [[0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1, 1]]
    assert torch.equal(undelayed(columns, [0, 1], 4), codes)


@torch.inference_mode()
def test_our_folder_opens_in_transformers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path)
    again = transformers.MusicgenForConditionalGeneration.from_pretrained(tmp_path).eval()
    prompt, codes = (
        torch.randint(2, 64, (1, 4)),
        torch.randint(0, 32, (ours.lm.config.num_codebooks, 5)),
    )
    torch.testing.assert_close(
        again(input_ids=prompt, decoder_input_ids=codes).logits,
        theirs(input_ids=prompt, decoder_input_ids=codes).logits,
    )
