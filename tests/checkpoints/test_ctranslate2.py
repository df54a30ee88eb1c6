"""CTranslate2's Whisper folders as its own converter writes them, of every type of weights."""

import json

import ctranslate2
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

from daedal.checkpoints import ctranslate2 as folders
from daedal.errors import DaedalError
from tests.networks.test_whisper import SMALL

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder that transformers wrote, and its model. Words are numbers."""
    torch.manual_seed(1)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**SMALL)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.1)
    folder = tmp_path_factory.mktemp("hf")
    model.generation_config.alignment_heads = [[1, 0], [2, 1]]
    model.generation_config.lang_to_id = {"<|en|>": 102}
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(100)} | {t: 100 + i for i, t in enumerate(SPECIAL)}
    words |= {f"<|{i}|>": 105 + i for i in range(15)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder, model


@pytest.mark.parametrize(
    "kind,most",
    [("float32", 1e-5), ("float16", 3e-3), ("bfloat16", 3e-2), ("int8", 3e-2), ("int8_float16", 3e-2), ("int16", 3e-2)],
)  # fmt: skip
@torch.inference_mode()
def test_every_kind_of_weights(theirs, tmp_path, kind, most):
    source, model = theirs
    convert(source, tmp_path / "ct2", kind)
    raw = json.loads((tmp_path / "ct2" / "config.json").read_text())
    ours = folders.load(tmp_path / "ct2", raw, torch.float32)
    mel, tokens = torch.randn(1, 8, 40), torch.randint(3, 120, (1, 7))
    expected = model(input_features=mel, decoder_input_ids=tokens).logits
    found = ours(tokens, ours.cache(ours.encode(mel), 1))
    assert (found - expected).abs().mean() <= most * expected.abs().mean()


@torch.inference_mode()
def test_states_are_those_of_their_runtime(theirs, tmp_path):
    convert(theirs[0], tmp_path / "ct2", "float32")
    mel = torch.randn(1, 8, 40)
    runtime = ctranslate2.models.Whisper(str(tmp_path / "ct2"), compute_type="float32")
    states = np.array(runtime.encode(ctranslate2.StorageView.from_array(mel.numpy())))
    ours = folders.load(tmp_path / "ct2", {}, torch.float32)
    torch.testing.assert_close(ours.encode(mel), torch.from_numpy(states), rtol=1e-3, atol=1e-3)


def test_a_file_that_is_cut_off(theirs, tmp_path):
    convert(theirs[0], tmp_path / "ct2", "float16")
    file = tmp_path / "ct2" / "model.bin"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DaedalError, match="cut off"):
        folders.read(file)


def convert(source, out, kind):
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(source)).convert(str(out), quantization=kind)
