"""Voices of other makers, and packed ones: MMS folders number letters as transformers does."""

import json

import pytest
import torch
import transformers

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.pipelines import registry
from daedal.pipelines.speech import load
from daedal.systems import voice as voices
from daedal.systems.voice import Manner, pitch_ratio


@pytest.fixture(scope="module")
def mms(tmp_path_factory):
    """A folder as MMS has them: letters, no uroman."""
    folder = tmp_path_factory.mktemp("mms")
    letters = ["k", *"abcdefghijlmnopqrstuvwxyz' "]
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    tokenizer = transformers.VitsTokenizer(
        folder / "vocab.json", pad_token="k", phonemize=False, is_uroman=False
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.VitsConfig(
        vocab_size=len(letters),
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=24,
        flow_size=8,
        upsample_initial_channel=32,
        num_speakers=2,
        speaker_embedding_size=4,
        upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        posterior_encoder_num_wavenet_layers=1,
        prior_encoder_num_wavenet_layers=1,
    )
    transformers.VitsModel(config).save_pretrained(folder)
    return folder, tokenizer


def test_letters_are_numbered_as_transformers_does(mms):
    folder, tokenizer = mms
    voice = load(folder, dtype="fp32")
    (sentence,) = voice.reader.sentences("Hello, 2 cats")
    wanted = tokenizer("hello two cats")["input_ids"]
    assert list(voice.voice.symbols(sentence.words).ids) == wanted


def test_an_mms_folder_speaks_with_each_of_its_speakers(mms):
    folder, _ = mms
    assert voices.holds(folder) and registry.medium_of(folder).name == "speech"
    voice = load(folder, dtype="fp32")
    one, two = (voice("Hello.", speaker=str(i), noise=0) for i in range(2))
    assert one.rate == 16000 and one.seconds > 0.01 and one.logged != two.logged
    with pytest.raises(DaedalError, match="'7' is not one of this voice's"):
        voice("Hello.", speaker="7")


def test_voices_of_other_scripts_are_refused(mms, tmp_path):
    folder, _ = mms
    for name in ("vocab.json", "config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"is_uroman": true}')
    with pytest.raises(DaedalError, match="romanised"):
        load(tmp_path)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_packed_voice_is_nearly_the_voice(bits, tmp_path):
    house = checkpoints.resolve("house/voice")
    voices.quantize(house, tmp_path / "packed", bits)
    own, packed = (load(place, dtype="fp32").voice for place in (house, tmp_path / "packed"))
    for name, tensor in own.vits.state_dict().items():
        off = (packed.vits.state_dict()[name] - tensor).norm() / tensor.norm().clamp(min=1e-6)
        assert off < (0.15 if bits == 4 else 0.02), name
    size = (tmp_path / "packed" / "model.safetensors").stat().st_size
    assert size < (10e6 if bits == 4 else 17e6)


def test_pitch_is_a_ratio_of_small_numbers():
    assert pitch_ratio(12) == 2 and pitch_ratio(-12) * 2 == 1 and pitch_ratio(0) == 1
    assert float(pitch_ratio(7)) == pytest.approx(1.5, abs=0.01)
    assert Manner() == Manner(1.0, 0.0, 1.0, None, None)
