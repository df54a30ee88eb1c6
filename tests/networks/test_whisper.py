"""Whisper against transformers, both ways, on random small models."""

import copy

import pytest
import torch
import transformers

from daedal import checkpoints
from daedal.nn.quantized import quantize_

SMALL = dict(
    vocab_size=120, num_mel_bins=8, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=2,
    encoder_ffn_dim=48, decoder_ffn_dim=64, max_source_positions=20, max_target_positions=24, decoder_start_token_id=2,
    pad_token_id=0, bos_token_id=1, eos_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
)  # fmt: skip


@pytest.fixture(scope="module", params=[True, False])
def pair(request, tmp_path_factory):
    """(transformers model, our network loaded from the folder it wrote)."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**SMALL, tie_word_embeddings=request.param)
    theirs = transformers.WhisperForConditionalGeneration(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.1)
    folder = tmp_path_factory.mktemp("hf")
    theirs.save_pretrained(folder)
    return theirs, checkpoints.load(folder, dtype=torch.float32)


@torch.inference_mode()
def test_logits_with_and_without_the_cache(pair):
    theirs, ours = pair
    mel, tokens = torch.randn(2, 8, 40), torch.randint(3, 120, (2, 11))
    expected = theirs(input_features=mel, decoder_input_ids=tokens).logits
    states = ours.encode(mel)
    torch.testing.assert_close(ours(tokens, ours.cache(states, 2)), expected, rtol=1e-4, atol=1e-4)
    cache = ours.cache(states, 2)
    parts = [ours(part, cache) for part in tokens.split([4, 1, 5, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_rows_of_one_sound_read_it_as_their_own(pair):
    """Three texts of each of two sounds, reordered as beam search does, equal each alone."""
    _, ours = pair
    states, tokens = ours.encode(torch.randn(2, 8, 40)), torch.randint(3, 120, (6, 7))
    cache = ours.cache(states, 6)
    ours(tokens[:, :6], cache)
    order = [1, 1, 0, 5, 4, 3]
    cache.reorder(order)
    last = ours(tokens[order, 6:], cache)
    for i, row in enumerate(order):
        alone = ours(tokens[row : row + 1], ours.cache(states[row // 3, None], 1))
        torch.testing.assert_close(last[i, 0], alone[0, -1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_greedy_tokens(pair):
    theirs, ours = pair
    mel = torch.randn(1, 8, 40)
    expected = theirs.generate(mel, max_new_tokens=15, do_sample=False, return_timestamps=False)
    cache, token, made = ours.cache(ours.encode(mel), 1), torch.tensor([[2]]), []
    for _ in range(15):
        token = ours(token, cache).argmax(-1)
        made.append(token.item())
        if made[-1] == 1:
            break
    found = expected[0].tolist()
    assert made == (found[1:] if found[0] == 2 else found)[: len(made)] and len(made) > 3


@torch.inference_mode()
def test_attention_to_the_sound_is_transformers(pair):
    theirs, ours = pair
    mel, tokens = torch.randn(2, 8, 40), torch.randint(3, 120, (2, 6))
    theirs.set_attn_implementation("eager")
    expected = theirs(
        input_features=mel, decoder_input_ids=tokens, output_attentions=True
    ).cross_attentions
    cache = ours.cache(ours.encode(mel), 2)
    cache.weights = []
    ours(tokens, cache)
    torch.testing.assert_close(cache.weights, list(expected), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_our_folder_opens_in_transformers(pair, tmp_path):
    theirs, ours = pair
    checkpoints.save(ours, tmp_path)
    again = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.tie_word_embeddings == theirs.config.tie_word_embeddings
    mel, tokens = torch.randn(1, 8, 40), torch.randint(3, 120, (1, 5))
    torch.testing.assert_close(
        again(input_features=mel, decoder_input_ids=tokens).logits,
        theirs(input_features=mel, decoder_input_ids=tokens).logits,
    )


@torch.inference_mode()
def test_packed_decoder_is_near(pair):
    _, ours = pair
    mel, tokens = torch.randn(1, 8, 40), torch.randint(3, 120, (1, 8))
    plain = ours(tokens, ours.cache(ours.encode(mel), 1))
    packed = copy.deepcopy(ours)
    quantize_(packed.decoder, 8)
    near = packed(tokens, packed.cache(packed.encode(mel), 1))
    assert (near - plain).abs().mean() < 0.05 * plain.abs().mean()
