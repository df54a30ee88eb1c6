"""CLIP's towers against transformers, both ways, on random small models."""

import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.networks.clip import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
)
from daedal.networks.config import parse

EOS = 49
TEXT = dict(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, projection_dim=12,
    max_position_embeddings=10, bos_token_id=48, eos_token_id=EOS,
)  # fmt: skip
VISION = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    projection_dim=12,
    image_size=8,
    patch_size=4,
)
TEXTS = {
    "openai": dict(pad_token_id=EOS),
    "openclip": dict(hidden_act="gelu", pad_token_id=0),
    # as in the files of Stable Diffusion and SDXL: eos is none of the tokenizer's
    "legacy": dict(eos_token_id=2, bos_token_id=0),
}
TOKENS = torch.tensor([[48, 5, 6, EOS, EOS, EOS], [48, 7, 8, 9, 3, EOS]])


def randomised(module):
    g = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        spread = 0.7 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
        if name != "logit_scale":
            torch.nn.init.normal_(
                parameter, mean=0.5 if "norm" in name else 0.0, std=spread, generator=g
            )
    return module.eval()


def close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * max(1, b.abs().max().item()), (
        (a - b).abs().max()
    )


def images(size=8):
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def saved(theirs, folder):
    randomised(theirs).save_pretrained(folder)
    return theirs, checkpoints.load(folder)


def same_features(ours, out, projected):
    assert len(ours.hidden) == len(out.hidden_states) and out.last_hidden_state.std() > 0.05
    for mine, other in zip(ours.hidden, out.hidden_states, strict=True):
        close(mine, other)
    close(ours.last, out.last_hidden_state)
    close(ours.pooled, projected)


@pytest.fixture(params=TEXTS, scope="module")
def text_config(request):
    return transformers.CLIPTextConfig(**TEXT | TEXTS[request.param])


@torch.inference_mode()
def test_text_states_and_the_pooled_one(text_config, tmp_path):
    theirs, ours = saved(transformers.CLIPTextModel(text_config), tmp_path)
    out = theirs(TOKENS, output_hidden_states=True)
    same_features(ours(TOKENS), out, out.pooler_output)
    close(ours(TOKENS).pooled, ours(TOKENS).last[[0, 1], [3, 5]])


@torch.inference_mode()
def test_projected_text(text_config, tmp_path):
    theirs, ours = saved(transformers.CLIPTextModelWithProjection(text_config), tmp_path)
    out = theirs(TOKENS, output_hidden_states=True)
    same_features(ours(TOKENS), out, out.text_embeds)


@torch.inference_mode()
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_projected_images(act, tmp_path):
    theirs, ours = saved(
        transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**VISION, hidden_act=act)
        ),
        tmp_path,
    )
    out = theirs(images(), output_hidden_states=True)
    same_features(ours(images()), out, out.image_embeds)


def whole():
    text, vision = transformers.CLIPTextConfig(**TEXT), transformers.CLIPVisionConfig(**VISION)
    return transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12
        )
    )


@torch.inference_mode()
def test_contrastive_logits(tmp_path):
    theirs, ours = saved(whole(), tmp_path)
    out = theirs(TOKENS, images())
    close(ours(images(), TOKENS), out.logits_per_image)
    close(ours.embed_text(TOKENS), out.text_embeds)
    close(ours.embed_images(images()), out.image_embeds)


@torch.inference_mode()
@pytest.mark.parametrize(
    "name",
    ["CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModelWithProjection", "CLIPModel"],
)
def test_our_folder_opens_in_transformers(name, tmp_path):
    config = {"CLIPVisionModelWithProjection": transformers.CLIPVisionConfig(**VISION)}.get(
        name, transformers.CLIPTextConfig(**TEXT)
    )
    theirs, ours = saved(
        whole() if name == "CLIPModel" else getattr(transformers, name)(config), tmp_path / "in"
    )
    checkpoints.save(ours, tmp_path / "out", max_shard_bytes=8_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    again, info = getattr(transformers, name).from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values())
    assert all(
        torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in again.state_dict().items()
    )
    ours_raw, theirs_raw = (
        json.loads((tmp_path / end / "config.json").read_text()) for end in ("out", "in")
    )
    theirs_raw.setdefault("torch_dtype", theirs_raw.get("dtype"))  # what transformers 5 calls it
    assert all(theirs_raw[key] == value for key, value in ours_raw.items() if value is not None)
    assert checkpoints.load(tmp_path / "out").config == ours.config


@torch.inference_mode()
def test_files_of_every_era(tmp_path):
    """Until transformers 5 the tower's tensors had a prefix, once with a constant among them;
    config.json had keys of every model."""
    _, ours = saved(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)), tmp_path)
    expected = ours(TOKENS).last
    names = {
        name.removeprefix("text_model."): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    raw = json.loads((tmp_path / "config.json").read_text()) | dict(
        dropout=0.0, torch_dtype="float32", _name_or_path="x", top_k=50, prefix=None
    )
    (tmp_path / "config.json").write_text(json.dumps(raw))
    for prefix in ("", "text_model."):
        tensors = {prefix + name: tensor for name, tensor in names.items()} | {
            f"{prefix}embeddings.position_ids": torch.arange(10)[None]
        }
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        assert torch.equal(checkpoints.load(tmp_path)(TOKENS).last, expected)


def test_a_config_in_two_dictionaries():
    """The files of 2021 say everything twice; where the two differ transformers takes the second."""
    config = parse(
        CLIPConfig,
        {
            "text_config": TEXT,
            "text_config_dict": {"hidden_act": "gelu"},
            "vision_config": VISION,
            "model_type": "clip",
        },
    )
    assert config.text == CLIPTextConfig(
        **TEXT, hidden_act="gelu"
    ) and config.vision == CLIPVisionConfig(**VISION)


@torch.inference_mode()
def test_masked_tokens_are_not_read(tmp_path):
    theirs, ours = saved(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)), tmp_path)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    close(ours(TOKENS, mask).last[mask.bool()], theirs(TOKENS, mask).last_hidden_state[mask.bool()])
    left = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    assert ours(TOKENS, left).last.isfinite().all()
    changed = TOKENS.clone()
    changed[0, :2] = 11
    close(ours(changed, left).last[left.bool()], ours(TOKENS, left).last[left.bool()])


@torch.inference_mode()
def test_half_precision_weights_and_activations(tmp_path):
    _, ours = saved(whole(), tmp_path)
    exact = ours(images(), TOKENS)
    ours.text_model.compute_dtype = torch.bfloat16
    mixed = ours(images().bfloat16(), TOKENS)
    assert (mixed.float() - exact).norm() < 0.03 * exact.norm()
    assert (
        checkpoints.load(tmp_path, torch.bfloat16)(images().bfloat16(), TOKENS).float() - exact
    ).norm() < 0.03 * exact.norm()


def test_towers_learn_from_scratch():
    """Eight pictures and their captions, told apart in sixty steps."""
    clip = CLIPModel(
        CLIPConfig.of(CLIPTextConfig(**TEXT), CLIPVisionConfig(**VISION), projection_dim=12)
    ).init_weights(0)
    assert all(
        p.isfinite().all() for p in clip.parameters()
    ) and clip.scale.item() == pytest.approx(1 / 0.07, rel=1e-3)
    pictures = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    captions = torch.tensor([[48, i, 20 + i // 2, EOS] for i in range(8)])
    optimizer, label = torch.optim.Adam(clip.parameters(), 3e-3), torch.arange(8)
    for _ in range(60):
        logits = clip(pictures, captions)
        optimizer.zero_grad()
        (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)).backward()
        optimizer.step()
    assert (logits.argmax(1) == label).all() and (logits.argmax(0) == label).all()
    unread = {
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
    }
    assert {name for name, p in clip.named_parameters() if not p.grad.any()} <= unread


def test_flops_are_those_of_a_real_call():
    clip = CLIPModel(
        CLIPConfig.of(CLIPTextConfig(**TEXT), CLIPVisionConfig(**VISION), projection_dim=12)
    ).init_weights(0)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        clip(images()[:1], TOKENS[:1])
    assert clip.flops(TOKENS.shape[1]) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("config", "count"),
    [({"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}, 123_060_480), (dict(
        hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, hidden_act="gelu"), 693_021_440)],
    ids=["openai-L", "openclip-bigG"],
)  # fmt: skip
def test_published_sizes(config, count):
    with torch.device("meta"):
        clip = CLIPTextModel(parse(CLIPTextConfig, config))
    assert sum(p.numel() for p in clip.parameters()) == count


def test_inputs_that_do_not_fit_get_one_sentence():
    clip = CLIPModel(
        CLIPConfig.of(CLIPTextConfig(**TEXT), CLIPVisionConfig(**VISION))
    ).init_weights(0)
    with pytest.raises(DaedalError, match="11 tokens are more than the 10"):
        clip.embed_text(torch.zeros(1, 11, dtype=torch.long))
    with pytest.raises(DaedalError, match=r"9 x 9 pixels .* resize them to 8 x 8"):
        clip.embed_images(images(9))
