"""Encoders of sentences: the states of transformers' classes, text by text, in both directions."""

import pytest
import torch

from daedal import checkpoints
from daedal.networks import build, config_from_dict
from daedal.networks.config import to_dict

SIZES = [3, 3, 7, 20]
SMALL = dict(
    vocab_size=50, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=40, pad_token_id=1,
)  # fmt: skip
FAMILIES = {
    "bert": dict(SMALL, hidden_act="gelu_new", pad_token_id=0), "roberta": dict(SMALL, type_vocab_size=1),
    "xlm-roberta": dict(SMALL, type_vocab_size=1), "mpnet": SMALL,
    "modernbert": dict(SMALL, local_attention=8, norm_eps=1e-6, pad_token_id=0),
}  # fmt: skip


def theirs(kind: str, suffix: str = "Model") -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **FAMILIES[kind])
    known = {"Model": "AutoModel", "ForMaskedLM": "AutoModelForMaskedLM"}
    model = getattr(transformers, known[suffix]).from_config(config).eval()
    for name, p in model.named_parameters():
        p.data.normal_(0, 0.3) if "norm" not in name.lower() else p.data.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("suffix", ["Model", "ForMaskedLM"])
def test_states_are_those_of_transformers(kind: str, suffix: str, tmp_path) -> None:
    """Also of files of models with a head, whose names have another prefix."""
    model = theirs(kind, suffix)
    model.save_pretrained(tmp_path)
    ours = checkpoints.load(tmp_path)
    texts = [torch.randint(5, 50, (1, size)) for size in SIZES]
    with torch.inference_mode():
        base = model.base_model
        want = torch.cat([base(text).last_hidden_state[0] for text in texts])
        got = ours(torch.cat(texts, 1)[0], SIZES)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    one = ours(texts[3][0], [20])
    torch.testing.assert_close(one, got[-20:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_transformers_opens_ours(kind: str, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = build(config_from_dict(theirs(kind).config.to_dict() | {"architectures": [NAMES[kind]]}))
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.3)
    checkpoints.save(ours, tmp_path)
    model, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not [k for k in report["missing_keys"] if "pooler" not in k]
    assert not report["unexpected_keys"]
    text = torch.randint(5, 50, (1, 9))
    with torch.inference_mode():
        want = model.eval()(text).last_hidden_state[0]
        torch.testing.assert_close(ours(text[0], [9]), want, rtol=1e-4, atol=1e-5)
    assert to_dict(ours.config)["model_type"] == kind
    assert ours.flops(16) > 2 * 16 * 4 * (4 * 32 * 32 + 2 * 32 * 48)


NAMES = {
    "bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel", "mpnet": "MPNetModel",
    "modernbert": "ModernBertModel",
}  # fmt: skip
