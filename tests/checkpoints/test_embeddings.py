"""Textual-inversion embeddings: every kind of file, against diffusers, and what a bad one says."""

import pytest
import torch
import transformers
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

from daedal import checkpoints
from daedal.checkpoints.embeddings import Embedding, add_embedding, read_embedding, save_embedding
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.clip import CLIPTextModel, CLIPTextModelWithProjection
from daedal.networks.config import parse

CHARACTERS = sorted(ByteLevel.alphabet())
MERGES = [("c", "a"), ("ca", "t</w>"), ("t", "o"), ("to", "y</w>")]
WORDS = [
    *CHARACTERS,
    *(f"{c}</w>" for c in CHARACTERS),
    *("".join(m) for m in MERGES),
    "<|startoftext|>",
    "<|endoftext|>",
]
PROMPT = "A cat toy, <Cat>, and a <Cat>; my style"


def theirs():
    return transformers.CLIPTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)}, merges=MERGES
    )


@pytest.fixture
def tokenizer():
    ends = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    return Tokenizer(theirs()._tokenizer, roles=ends)


def tower(width=16, kind=CLIPTextModel, eos=None):
    config = dict(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    config |= dict(eos_token_id=eos or len(WORDS) - 1)
    return kind(parse(kind.config_class, config | {"projection_dim": width})).init_weights(0).eval()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def written(path, tensors):
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


def embedded(model, tokenizer, prompt):
    """(T, D): what the tower looks up for a prompt."""
    with torch.no_grad():
        return model.text_model.embeddings.token_embedding(torch.tensor(tokenizer.encode(prompt)))


# Files.

VECTORS = draw(3, 16)
A1111 = {
    "string_to_token": {"*": torch.tensor(265)},
    "string_to_param": {"*": torch.nn.Parameter(VECTORS)},
    "name": "<Cat>",
    "step": 7,
}


@pytest.mark.parametrize(
    ("name", "content", "token"),
    [
        ("my cat.safetensors", {"<Cat>": VECTORS}, "<Cat>"),
        ("my cat.safetensors", {"emb_params": VECTORS}, "my cat"),
        ("my cat.bin", {"<Cat>": VECTORS}, "<Cat>"),
        ("my cat.pt", A1111, "<Cat>"),
        (
            "my cat.pt",
            A1111 | {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(VECTORS)})},
            "<Cat>",
        ),
        ("my cat.pt", {"string_to_param": {"*": VECTORS}}, "my cat"),
    ],
    ids=[
        "diffusers",
        "A1111, safetensors",
        "diffusers, pickled",
        "A1111",
        "the first",
        "A1111 without a name",
    ],
)
def test_every_kind_of_file(name, content, token, tmp_path):
    path = written(tmp_path / name, content)
    read = read_embedding(path, allow_pickle=path.suffix != ".safetensors")
    assert (
        read.token == token
        and read.vectors.keys() == {16}
        and torch.equal(read.vectors[16], VECTORS)
    )
    assert read_embedding(path, token="other", allow_pickle=True).token == "other"
    if path.suffix != ".safetensors":
        with pytest.raises(DaedalError, match="pickled file, which can run code"):
            read_embedding(path)


def test_one_vector_and_two_towers(tmp_path):
    assert read_embedding(written(tmp_path / "a.safetensors", {"<Cat>": VECTORS[0]})).vectors[
        16
    ].shape == (1, 16)
    read = read_embedding(
        written(tmp_path / "cat.safetensors", {"clip_l": draw(2, 16), "clip_g": draw(2, 24)})
    )
    assert read.token == "cat" and read.vectors.keys() == {16, 24}


@pytest.mark.parametrize("widths", [(16,), (16, 24)], ids=["one tower", "two"])
def test_what_is_saved_is_read(widths, tmp_path):
    """Whatever the file is called."""
    vectors = {width: draw(2, width) for width in widths}
    save_embedding(Embedding("<Cat>", vectors), tmp_path / "learned_embeds.safetensors")
    read = read_embedding(tmp_path / "learned_embeds.safetensors")
    assert read.token == "<Cat>" and all(
        torch.equal(read.vectors[width], vectors[width]) for width in widths
    )


# In a model.


@pytest.mark.parametrize("count", [1, 3])
def test_as_diffusers_adds_it(count, tokenizer, tmp_path):
    """The same vectors come out of the same prompt."""
    path = written(tmp_path / "cat.safetensors", {"<Cat>": draw(count, 16)})
    model = tower()
    extended = add_embedding(
        read_embedding(path), {"text_encoder": model, "unet": None}, {"text_encoder": tokenizer}
    )["text_encoder"]

    config = transformers.CLIPTextConfig(
        **{k: v for k, v in vars(tower().config).items() if k != "projection_dim"}
    )
    other, words = transformers.CLIPTextModel(config), theirs()
    with torch.no_grad():
        other.get_input_embeddings().weight.copy_(
            tower().text_model.embeddings.token_embedding.weight
        )
    parts = dict(
        vae=None,
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline = StableDiffusionPipeline(text_encoder=other, tokenizer=words, **parts)
    pipeline.load_textual_inversion(path)
    # their tokens of one word
    ids = words(
        PROMPT.replace("<Cat>", " ".join(["<Cat>", *(f"<Cat>_{i}" for i in range(1, count))]))
    ).input_ids
    with torch.no_grad():
        expected = other.get_input_embeddings()(torch.tensor(ids))
    assert torch.equal(embedded(model, extended, PROMPT), expected)
    assert len(extended.encode(PROMPT)) == len(
        tokenizer.encode(PROMPT.replace("<Cat>", "x"))
    ) + 2 * (count - 1)


def test_the_token_is_found_only_where_it_is_meant(tokenizer, tmp_path):
    extended, model = tokenizer, tower()
    for i, token in enumerate(("cat", "<Dog>", "my style")):
        embedding = read_embedding(
            written(tmp_path / "a.safetensors", {"x": draw(2, 16) + i}), token=token
        )
        extended = add_embedding(embedding, {"text_encoder": model}, {"text_encoder": extended})[
            "text_encoder"
        ]
    first = len(WORDS)
    new = lambda text: [i for i in extended.encode(text, add_bos=False) if i >= first]  # noqa: E731
    # in any case, as the tokenizer lower-cases
    assert new("a cat, (cat) and catcat, cats, Cat") == [first, first + 1] * 3
    assert new("x<Dog>y <dog>") == [first + 2, first + 3] * 2
    assert new("my style; my styles; my  style") == [first + 4, first + 5]
    assert new("toy") == [] and extended.encode("a toy") == tokenizer.encode("a toy")
    assert tokenizer.vocab_size == first and extended.vocab_size == first + 6
    assert torch.equal(embedded(model, extended, "cat")[1:-1], draw(2, 16))


def test_two_towers_of_sdxl(tokenizer, tmp_path):
    parts = {"text_encoder": tower(16), "text_encoder_2": tower(24, CLIPTextModelWithProjection)}
    read = read_embedding(
        written(tmp_path / "cat.safetensors", {"clip_l": draw(2, 16), "clip_g": draw(2, 24)}),
        token="<Cat>",
    )
    words = add_embedding(read, parts, dict.fromkeys(parts, tokenizer) | {"other": tokenizer})
    assert words["other"] is tokenizer
    for role, width in (("text_encoder", 16), ("text_encoder_2", 24)):
        assert torch.equal(embedded(parts[role], words[role], "<Cat>")[1:-1], draw(2, width))


@torch.no_grad()
def test_pooling_still_finds_the_end_of_text(tokenizer, tmp_path):
    """Old configs mean the highest id, which a new token would be."""
    model, old = tower(), tower(eos=2)
    read = read_embedding(written(tmp_path / "cat.safetensors", {"<Cat>": VECTORS}))
    for each in (model, old):
        words = add_embedding(read, {"text_encoder": each}, {"text_encoder": tokenizer})[
            "text_encoder"
        ]
    tokens = torch.tensor([words.encode("a <Cat> toy")])
    assert torch.equal(old(tokens).pooled, old(tokens).last[:, -1]) and torch.equal(
        old(tokens).pooled, model(tokens).pooled
    )


def test_both_are_saved(tokenizer, tmp_path):
    model, before = tower(), tower().text_model.embeddings.token_embedding.weight
    model.bfloat16()
    read = read_embedding(written(tmp_path / "cat.safetensors", {"<Cat>": VECTORS}))
    words = add_embedding(read, {"text_encoder": model}, {"text_encoder": tokenizer})[
        "text_encoder"
    ]
    checkpoints.save(model, tmp_path / "tower")
    words.save(tmp_path / "words")
    again, reread = checkpoints.load(tmp_path / "tower"), Tokenizer.load(tmp_path / "words")
    assert (
        reread.encode(PROMPT)
        == words.encode(PROMPT)
        == transformers.AutoTokenizer.from_pretrained(tmp_path / "words")(PROMPT).input_ids
    )
    assert torch.equal(
        again.text_model.embeddings.token_embedding.weight, torch.cat([before, VECTORS]).bfloat16()
    )
    with pytest.raises(DaedalError, match="'<Cat>' has been added already"):
        add_embedding(read, {"text_encoder": again}, {"text_encoder": reread})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.safetensors",
            {"<Cat>": draw(2, 24)},
            "for text towers of width 24, and this model has 16",
        ),
        (
            "a.safetensors",
            {"clip_l": draw(2, 16), "clip_g": draw(2, 24)},
            "for text towers of width 16 and 24, and this model has 16",
        ),
        (
            "a.safetensors",
            {"a": draw(2, 16), "b": draw(3, 16)},
            r"holds a \(2, 16\), b \(3, 16\), not the vectors of one token",
        ),
        ("a.safetensors", {"conv": draw(2, 2, 2, 2)}, "is no textual-inversion embedding"),
        ("a.pt", {"state": "none"}, "holds no tensors"),
        ("a.pt", [1, 2], "holds a list, not tensors by name"),
    ],
)
def test_a_bad_file_gets_one_sentence(name, content, words, tokenizer, tmp_path):
    model = tower()
    with pytest.raises(DaedalError, match=words):
        add_embedding(
            read_embedding(written(tmp_path / name, content), allow_pickle=True),
            {"text_encoder": model},
            {"text_encoder": tokenizer},
        )
    assert len(model.text_model.embeddings.token_embedding.weight) == len(WORDS)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DaedalError, match="is not a file"):
        read_embedding(tmp_path / "absent.pt")
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(DaedalError, match="truncated or not safetensors"):
        read_embedding(tmp_path / "a.safetensors")
