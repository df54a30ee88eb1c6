"""Stable Audio against diffusers, a whole sound of some steps, on random small models; and what is
said of bad input."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers

import daedal
from daedal.errors import DaedalError
from daedal.evals.sound import evaluate
from daedal.media.audio import recipe_of, save_audio
from daedal.media.sound import resample
from daedal.pipelines.sound_params import SoundMeasuring
from tests.systems.sounds import audioldm, audioldm2, cosine, ear, stable_audio

PROMPT, NEGATIVE = "a cat walks", "dog"


@pytest.fixture(scope="module")
def folder(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("stable_audio")
    stable_audio(zoo, folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Any) -> Any:
    return daedal.load(str(folder), dtype="fp32")


def drawn_alike(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Let their solver draw from the generator that drew the first noise, as ours does."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn((1, 4, 12), generator=generator)

    class Sampler:
        def __init__(self, x: Any, **_: Any) -> None:
            self.shape = x.shape

        def __call__(self, *_: Any) -> Any:
            return torch.randn(self.shape, generator=generator)

    monkeypatch.setattr(cosine, "BrownianTreeNoiseSampler", Sampler)


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("options", [{}, dict(solver_order=1), dict(solver_type="heun")])
def test_a_sound_is_that_of_diffusers(
    negative: Any, options: Any, zoo: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = stable_audio(zoo, tmp_path, **options)
    drawn_alike(monkeypatch, 7)
    wanted = theirs(
        PROMPT, 0.1, num_inference_steps=6, guidance_scale=3.0, negative_prompt=negative, generator=torch.Generator().manual_seed(7)
    ).audios[0]  # fmt: skip
    ours = daedal.load(str(tmp_path), dtype="fp32")
    sound = ours(PROMPT, seconds=0.1, steps=6, guidance_scale=3.0, negative=negative or "", seed=7)
    assert sound.samples.shape == wanted.shape == (2, 80) and sound.rate == 800
    scale = float(wanted.abs().max())
    assert scale > 0.01
    np.testing.assert_allclose(sound.samples, wanted.numpy(), atol=1e-3 * scale, rtol=1e-3)


def test_files_recipes_and_several(pipeline: Any, tmp_path: Any) -> None:
    assert pipeline.medium.name == "sound"
    first, second = pipeline(PROMPT, steps=3, seed=1, n=2, seconds=0.05)
    assert np.allclose(pipeline(PROMPT, steps=3, seed=2, seconds=0.05).samples, second.samples, atol=1e-5)  # fmt: skip
    saved = first.save(tmp_path / "a.wav")
    assert recipe_of(saved)["settings"]["steps"] == 3
    again = pipeline.reproduce(recipe_of(saved))
    assert again.logged == first.logged
    events = [event.done for event in pipeline.stream(PROMPT, steps=3, seed=1)]
    assert events == [1, 2, 3]
    assert pipeline(PROMPT, steps=2, seed=1).seconds == pytest.approx(0.12)  # all it can make


def test_on_from_a_sound(pipeline: Any, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    file = save_audio(rng.normal(0, 0.1, (1, 4000)).astype(np.float32), tmp_path / "a.wav", 80000)
    near = pipeline(PROMPT, init=str(file), strength=0.4, steps=5, seed=1)
    far = pipeline(PROMPT, init=str(file), strength=1.0, steps=5, seed=1)
    assert near.samples.shape == (2, 40) and near.amount == 2 and far.amount == 5
    assert not np.allclose(near.samples, far.samples)
    assert pipeline.reproduce(near.recipe).logged == near.logged


def test_what_is_refused(pipeline: Any, folder: Any, tmp_path: Any) -> None:
    silent = save_audio(np.zeros((1, 800), np.float32), tmp_path / "silent.wav", 8000)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF0000WAVEjunk")
    for settings, reason in (
        (dict(seconds=20), r"seconds=20 is more than the 0.12 s that .* was trained to make"),
        (dict(init=str(silent)), "is silent: no sample reaches"),
        (dict(init=str(broken)), "is damaged, or no sound file"),
        (dict(init=str(tmp_path / "no.wav")), "cannot be read"),
        (dict(sampler="eulr"), "sampler 'eulr' is not known"),
    ):
        with pytest.raises(DaedalError, match=reason):
            pipeline(PROMPT, **settings)
    with pytest.raises(DaedalError, match="the prompt is empty"):
        pipeline(" ")
    with pytest.raises(DaedalError, match="there is no house model of sounds yet"):
        pipeline.medium.code.load("house/sound")
    (tmp_path / "model_index.json").write_text('{"_class_name": "LongCatAudioDiTPipeline"}')
    with pytest.raises(DaedalError, match="is a LongCatAudioDiTPipeline; Daedal makes sounds with"):
        daedal.load(str(tmp_path))


@pytest.mark.parametrize("negative", ["", "dog"])
@pytest.mark.parametrize("kind", ["audioldm", "audioldm2"])
def test_audioldm_is_that_of_diffusers(
    kind: str, negative: str, zoo: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = audioldm(tmp_path) if kind == "audioldm" else audioldm2(zoo, tmp_path)
    if kind == "audioldm2":
        theirs.language_model.config.max_new_tokens = 8
        monkeypatch.setattr(
            theirs, "generate_language_model", lambda states, attention_mask, max_new_tokens: gone_on(theirs, states, attention_mask)
        )  # fmt: skip
    asked = dict(num_inference_steps=4, guidance_scale=2.5, negative_prompt=negative or None)
    wanted = theirs(
        PROMPT, audio_length_in_s=0.2, **asked, generator=torch.Generator().manual_seed(3)
    ).audios[0]
    ours = daedal.load(str(tmp_path), dtype="fp32")
    sound = ours(PROMPT, seconds=0.2, steps=4, guidance_scale=2.5, negative=negative, seed=3)
    assert sound.samples.shape == (1, 160) and sound.rate == 800
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(
        sound.samples[0], wanted, atol=1e-3 * np.abs(wanted).max(), rtol=1e-3
    )
    assert ours(PROMPT, steps=2, seed=0).seconds == pytest.approx(32 * 2 * 8 / 800)
    with pytest.raises(DaedalError, match=r"seconds=2 is more than the 0.64 s"):
        ours(PROMPT, seconds=2)


def gone_on(pipe: Any, states: Any, mask: Any) -> Any:
    """Their loop without a cache, whose methods the newest transformers has renamed."""
    for _ in range(8):
        out = pipe.language_model(
            inputs_embeds=states, attention_mask=mask, output_hidden_states=True
        )
        states = torch.cat([states, out.hidden_states[-1][:, -1:]], 1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return states[:, -8:]


def test_audioldm_goes_on_from_a_sound(tmp_path: Any) -> None:
    audioldm(tmp_path / "model")
    ours = daedal.load(str(tmp_path / "model"), dtype="fp32")
    rng = np.random.default_rng(0)
    file = save_audio(rng.normal(0, 0.1, (2, 1000)).astype(np.float32), tmp_path / "a.wav", 4000)
    near = ours(PROMPT, init=str(file), strength=0.5, steps=4, seed=1)
    assert near.samples.shape == (1, 200) and near.amount == 2


def test_the_best_of_several(pipeline: Any, zoo: Any, tmp_path: Any) -> None:
    """Sounds are ranked as transformers' CLAP ranks them."""
    asked = dict(steps=2, seed=5, seconds=0.1)
    with pytest.raises(DaedalError, match="best_of=4 wants an ear that chooses"):
        pipeline(PROMPT, best_of=4, **asked)
    folder = str(ear(tmp_path / "ear"))
    with pytest.raises(DaedalError, match="best_of=2 is fewer than n=3"):
        pipeline(PROMPT, best_of=2, n=3, scorer=folder, **asked)
    every = pipeline(PROMPT, n=4, **asked)
    best = pipeline(PROMPT, best_of=4, n=2, scorer=folder, **asked)
    model = transformers.ClapModel.from_pretrained(folder).eval()
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    mono = [resample(sound.samples.mean(0), 800, 48000) for sound in every]
    inputs = extractor(mono, sampling_rate=48000, return_tensors="pt")
    text = transformers.RobertaTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
    with torch.no_grad():
        fits = model(**text, input_features=inputs["input_features"].float()).logits_per_text[0]
    order = fits.argsort(descending=True).tolist()
    for found, wanted in zip(best, order, strict=False):
        np.testing.assert_allclose(found.samples, every[wanted].samples, atol=1e-5)
    assert pipeline.reproduce(best[1].recipe).logged == best[1].logged
    audioldm2(zoo, tmp_path / "two")  # has its own
    assert daedal.load(str(tmp_path / "two"), dtype="fp32")(PROMPT, steps=1, best_of=2, seconds=0.1)


def test_what_is_measured(pipeline: Any, tmp_path: Any) -> None:
    (tmp_path / "captions.txt").write_text("a cat\n\nred dog\n")
    asked = SoundMeasuring(str(tmp_path / "captions.txt"), 3, str(ear(tmp_path / "ear")))
    report = evaluate(pipeline, asked)
    found = report.values["clap"]
    assert found["own caption"]["n"] == 3 and -1 <= found["own caption"]["value"] <= 1
    assert {"by chance", "own fits better"} < set(found)
    assert report.values["sounds"]["silent"]["value"] == 0
    with pytest.raises(DaedalError, match="there is no file"):
        evaluate(pipeline, SoundMeasuring(str(tmp_path / "none.txt")))


@pytest.mark.dtype
@pytest.mark.parametrize("kind", ["stable audio", "audioldm", "audioldm2"])
def test_in_what_the_machine_computes_best(kind: str, zoo: Any, tmp_path: Any) -> None:
    made = {"stable audio": lambda f: stable_audio(zoo, f), "audioldm": audioldm, "audioldm2": lambda f: audioldm2(zoo, f)}  # fmt: skip
    made[kind](tmp_path)
    asked = dict(steps=2, seed=1, seconds=0.1)
    exact = daedal.load(str(tmp_path), dtype="fp32")(PROMPT, **asked).samples
    rough = daedal.load(str(tmp_path), dtype="bf16")(PROMPT, **asked).samples
    assert rough.shape == exact.shape and np.isfinite(rough).all()
    assert np.abs(rough - exact).mean() < 0.2 * np.abs(exact).mean() + 0.02
    if kind == "audioldm2":
        assert daedal.load(str(tmp_path), dtype="bf16")(PROMPT, best_of=2, **asked)
