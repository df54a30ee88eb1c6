"""CLAP and the vocoder of AudioLDM against transformers, both ways, on random small models."""

import numpy as np
import pytest
import torch
import transformers

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.processes.clap_scorer import FEATURES, ClapScorer

TEXT = dict(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=40, projection_dim=12)  # fmt: skip
AUDIO = dict(window_size=4, num_mel_bins=16, spec_size=64, hidden_size=32, projection_dim=12, depths=[2, 2], num_attention_heads=[2, 4], patch_embeds_hidden_size=16, patch_size=4)  # fmt: skip
GAN = dict(model_in_dim=16, sampling_rate=800, upsample_initial_channel=16, upsample_rates=[4, 2], upsample_kernel_sizes=[8, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]])  # fmt: skip


@torch.no_grad()
def randomised(model):
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            torch.nn.init.normal_(tensor, std=0.2)
            if "running_var" in name or name == "scale":
                tensor.abs_().add_(0.5)
    return model.eval()


def clap(folder):
    config = transformers.ClapConfig(text_config=TEXT, audio_config=AUDIO, projection_dim=12)
    theirs = randomised(transformers.ClapModel(config))
    theirs.save_pretrained(folder)
    return theirs


def texts():
    rows = [[0, 5, 9, 2], [0, 7, 2], [0, 33, 8, 12, 2]]
    padded = torch.tensor([row + [1] * (5 - len(row)) for row in rows])
    return torch.tensor([i for row in rows for i in row]), [len(row) for row in rows], padded


@pytest.mark.parametrize("frames", [256, 101])
@torch.inference_mode()
def test_clap_is_transformers(frames, tmp_path):
    theirs = clap(tmp_path)
    ours = checkpoints.load(tmp_path, dtype=torch.float32)
    mel, (tokens, sizes, padded) = torch.randn(2, frames, 16), texts()

    def asked(model):
        return model(input_ids=padded, attention_mask=padded.ne(1), input_features=mel[:, None])

    wanted = asked(theirs)
    torch.testing.assert_close(ours.embed_text(tokens, sizes), wanted.text_embeds, rtol=1e-4, atol=1e-4)  # fmt: skip
    torch.testing.assert_close(ours.embed_sounds(mel), wanted.audio_embeds, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(mel, tokens, sizes), wanted.logits_per_audio, rtol=1e-4, atol=1e-4)  # fmt: skip
    checkpoints.save(ours, tmp_path / "ours")
    again = transformers.ClapModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(asked(again).logits_per_text, wanted.logits_per_text)


@torch.inference_mode()
def test_the_text_tower_alone(tmp_path):
    config = transformers.ClapTextConfig(**TEXT)
    theirs = randomised(transformers.ClapTextModelWithProjection(config))
    theirs.save_pretrained(tmp_path)
    ours = checkpoints.load(tmp_path, dtype=torch.float32)
    tokens, sizes, padded = texts()
    wanted = theirs(padded, attention_mask=padded.ne(1)).text_embeds
    wanted = torch.nn.functional.normalize(wanted, dim=-1)
    torch.testing.assert_close(ours(tokens, sizes), wanted, rtol=1e-4, atol=1e-4)
    checkpoints.save(ours, tmp_path / "ours")
    again = transformers.ClapTextModelWithProjection.from_pretrained(tmp_path / "ours").eval()
    again = torch.nn.functional.normalize(again(padded, attention_mask=padded.ne(1)).text_embeds, dim=-1)  # fmt: skip
    torch.testing.assert_close(again, wanted)


@pytest.mark.parametrize("seconds", [0.9, 4.0, 10.0])
def test_what_it_makes_of_sounds(seconds):
    extractor = transformers.ClapFeatureExtractor(
        **{key: value for key, value in FEATURES.items() if key != "max_length_s"}, truncation="rand_trunc"
    )  # fmt: skip
    samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * 48000)).astype(np.float32)
    wanted = extractor(samples, sampling_rate=48000)["input_features"][0][0]
    found = ClapScorer(None, None, FEATURES).mel(samples)
    np.testing.assert_allclose(found, wanted, atol=1e-2)


def test_fused_models_are_refused(tmp_path):
    config = transformers.ClapConfig(text_config=TEXT, audio_config=AUDIO | {"enable_fusion": True})
    config.architectures = ["ClapModel"]
    config.save_pretrained(tmp_path)
    with pytest.raises(DaedalError, match=r"enable_fusion=True .* is not supported"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("normalised", [True, False])
@torch.inference_mode()
def test_the_vocoder_is_transformers(normalised, tmp_path):
    config = transformers.SpeechT5HifiGanConfig(**GAN, normalize_before=normalised)
    theirs = randomised(transformers.SpeechT5HifiGan(config))
    theirs.save_pretrained(tmp_path)
    ours = checkpoints.load(tmp_path, dtype=torch.float32)
    mel = torch.randn(2, 30, 16)
    wanted = theirs(mel)
    assert wanted.shape == (2, 30 * ours.config.hop)
    torch.testing.assert_close(ours(mel)[:, 0], wanted, rtol=1e-4, atol=1e-4)
    checkpoints.save(ours, tmp_path / "ours")
    again = transformers.SpeechT5HifiGan.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(mel), wanted)
