"""Wan against diffusers, a whole clip of four steps, on random small models."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.cogvideo import pipeline_cogvideox_image2video
from diffusers.pipelines.ltx import pipeline_ltx_image2video
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from safetensors.torch import save_file

import daedal
from daedal import checkpoints
from daedal.engine.store import STORE
from daedal.errors import DaedalError
from daedal.media import audio

PROMPT, NEGATIVE = "a cat walks on a bench", "blurry"


SEEN = dict(in_channels=12)  # the latents, of which frames are given, and the given ones
WITH_CLIP = SEEN | dict(image_dim=32, added_kv_proj_dim=24)
CODEC = dict(
    base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
    latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0],
)  # fmt: skip
LARGE_CELLS = CODEC | dict(
    is_residual=True, patch_size=2, in_channels=12, out_channels=12, decoder_base_dim=16, scale_factor_spatial=16,
)  # fmt: skip


def eye() -> Any:
    """CLIP's tower of pictures."""
    return transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=2,
            hidden_act="gelu",
        )
    ).eval()  # fmt: skip


def wan(
    zoo: Any,
    two: bool = False,
    scheduler: Any = None,
    shape: dict[str, Any] | None = None,
    codec: dict[str, Any] = CODEC,
    **options: Any,
) -> Any:
    """A pipeline of Wan; of a `shape` one that starts from a picture."""
    torch.manual_seed(0)
    text = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=len(zoo.pieces), d_model=20, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).eval()  # fmt: skip

    def network(seed: int) -> Any:
        torch.manual_seed(seed)
        made = diffusers.WanTransformer3DModel(
            **dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=20, freq_dim=32, ffn_dim=40,
                   num_layers=2) | (shape or {}),
        ).eval()  # fmt: skip
        for p in made.parameters():
            p.data += 0.1 * torch.randn(p.shape)
        return made

    coder = diffusers.AutoencoderKLWan(**codec).eval()
    scheduler = scheduler or diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        num_train_timesteps=1000,
        flow_shift=3.0,
    )
    more = dict(transformer_2=network(2), boundary_ratio=0.875) if two else {}
    if shape is None:
        return diffusers.WanPipeline(
            zoo.pieces, text, coder, scheduler, network(1), **more, **options
        )
    if "image_dim" in shape:
        sizes = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        more |= dict(image_encoder=eye(), image_processor=transformers.CLIPImageProcessor(**sizes))
    return diffusers.WanImageToVideoPipeline(
        zoo.pieces, text, coder, scheduler, transformer=network(1), **more, **options
    )


@pytest.mark.parametrize("case", ["unipc", "euler", "two experts"])
def test_a_clip_is_that_of_diffusers(case: str, zoo: Any, tmp_path: Any) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0) if case == "euler" else None
    theirs = wan(zoo, case == "two experts", scheduler)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    asked = dict(num_inference_steps=4, guidance_scale=5.0, height=32, width=48, num_frames=9)
    wanted = theirs(
        PROMPT, NEGATIVE, **asked, output_type="np", generator=torch.Generator().manual_seed(7)
    ).frames[0]
    pipeline = daedal.load(str(tmp_path), dtype="fp32")
    clip = pipeline(
        PROMPT, negative=NEGATIVE, steps=4, guidance_scale=5.0, size="48x32", seconds=0.5625, fps=16, seed=7
    )  # fmt: skip
    assert clip.frames.shape == wanted.shape == (9, 32, 48, 3)
    assert np.abs(clip.frames / 255 - wanted).max() < 0.5 / 255 + 1e-3


def test_a_clip_with_a_lora_is_that_of_diffusers(zoo: Any, tmp_path: Any) -> None:
    """Under the authors' names, for the expert that the file is named for; without it all is as before."""
    theirs = wan(zoo, two=True)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "wan")
    torch.manual_seed(3)
    layers = {"blocks.0.self_attn.q": 24, "blocks.1.cross_attn.o": 24, "blocks.1.ffn.2": 40}
    original = {}
    for name, width in layers.items():
        original[f"diffusion_model.{name}.lora_down.weight"] = torch.randn(4, width) / 2
        original[f"diffusion_model.{name}.lora_up.weight"] = torch.randn(24, 4) / 2
        original[f"diffusion_model.{name}.alpha"] = torch.tensor(2.0)
    save_file(original, tmp_path / "high_noise.safetensors")
    asked = dict(num_inference_steps=4, guidance_scale=5.0, height=32, width=48, num_frames=9)
    call = partial(theirs, PROMPT, NEGATIVE, **asked, output_type="np")
    plain = call(generator=torch.Generator().manual_seed(7)).frames[0]
    theirs.load_lora_weights(tmp_path / "high_noise.safetensors")
    wanted = call(generator=torch.Generator().manual_seed(7)).frames[0]
    assert np.abs(wanted - plain).max() > 0.02
    pipeline = daedal.load(str(tmp_path / "wan"), dtype="fp32")
    film = partial(
        pipeline, PROMPT, negative=NEGATIVE, steps=4, guidance_scale=5.0, size="48x32", seconds=0.5625, fps=16, seed=7
    )  # fmt: skip
    clip = film(lora=f"{tmp_path / 'high_noise.safetensors'}:1")
    assert np.abs(clip.frames / 255 - wanted).max() < 0.5 / 255 + 1e-3
    assert "high_noise.safetensors#" in clip.recipe["settings"]["lora"][0]
    before = film()
    assert np.abs(before.frames / 255 - plain).max() < 0.5 / 255 + 1e-3
    (tmp_path / "high_noise.safetensors").rename(tmp_path / "both.safetensors")
    both = film(lora=tmp_path / "both.safetensors")
    assert not np.array_equal(both.frames, clip.frames)
    with pytest.raises(DaedalError, match="no layer of"):
        save_file(
            {"blocks.7.attn1.to_q.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors"
        )
        film(lora=tmp_path / "x.safetensors")
    assert np.array_equal(film().frames, before.frames)


def test_lengths_sizes_and_first_frames(zoo: Any, tmp_path: Any) -> None:
    wan(zoo).save_pretrained(tmp_path)
    pipeline = daedal.load(str(tmp_path), dtype="fp32")
    picture = np.full((32, 48, 3), (200, 40, 60), np.uint8)
    handle = pipeline.start(PROMPT, steps=2, size="50x33", seconds=0.5, seed=1, init=picture, n=2)
    assert "9 frames" in " ".join(handle.remarks) and "48x32" in " ".join(handle.remarks)
    events = list(handle)
    assert [e.done for e in events] == [1, 2] and events[0].preview().shape == (2, 4, 6, 3)
    first, second = handle.results()
    assert np.array_equal(first.frames[0], picture) and first.frames.shape == (9, 32, 48, 3)
    assert not np.array_equal(first.frames[1], second.frames[1])
    tone = np.sin(np.arange(24000) / 10).astype(np.float32)[None]
    handle = pipeline.start(PROMPT, steps=1, size="48x32", seconds=5 / 16, sound=(tone, 16000))
    assert "1.50 s is cut to the clip's 0.31 s" in " ".join(handle.remarks)
    path = handle.results()[0].save(tmp_path / "a.mp4")
    heard, rate = audio.open_audio(path)
    assert heard.shape[1] / rate == pytest.approx(5 / 16, abs=0.1) and np.abs(heard).max() > 0.5
    with pytest.raises(DaedalError, match="cannot be given loop; it takes init"):
        pipeline(PROMPT, loop=True)


def test_other_pipelines_of_clips_are_named(tmp_path: Any) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "MochiPipeline"}')
    with pytest.raises(DaedalError, match="holds a MochiPipeline; of the open models of clips"):
        daedal.load(str(tmp_path))


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


FIRST, LAST = noise(1, 32, 48, 3), noise(2, 32, 48, 3)
STARTS: dict[str, dict[str, Any]] = {
    "picture": dict(shape=WITH_CLIP),
    "first and last": dict(shape=WITH_CLIP | dict(pos_embed_seq_len=2 * 257)),
    "two experts": dict(shape=SEEN, two=True),
    "two experts, first and last": dict(shape=SEEN, two=True),
    "times of tokens": dict(shape={}, codec=LARGE_CELLS, expand_timesteps=True),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_clip_from_pictures_is_that_of_diffusers(
    case: str, zoo: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    # theirs needs ftfy, which mends prompts that are not broken here
    monkeypatch.setattr(pipeline_wan_i2v, "prompt_clean", str.strip)
    theirs = wan(zoo, **STARTS[case])
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    pictures = {"init": FIRST} | ({"last": LAST} if "last" in case else {})
    asked = dict(num_inference_steps=4, guidance_scale=5.0, height=32, width=64, num_frames=9)
    if case != "times of tokens":
        asked["width"] = 48
    else:
        pictures["init"] = noise(1, 32, 64, 3)
    names = {"init": "image", "last": "last_image"}
    theirs_of = {names[name]: Image.fromarray(picture) for name, picture in pictures.items()}
    wanted = theirs(
        **theirs_of, prompt=PROMPT, negative_prompt=NEGATIVE, **asked, output_type="np",
        generator=torch.Generator().manual_seed(7),
    ).frames[0]  # fmt: skip
    pipeline = daedal.load(str(tmp_path), dtype="fp32")
    clip = pipeline(
        PROMPT, negative=NEGATIVE, steps=4, guidance_scale=5.0, size=f"{asked['width']}x32", seconds=0.5625, fps=16, seed=7, **pictures
    )  # fmt: skip
    assert np.array_equal(clip.frames[0], pictures["init"])
    made = slice(1, -1 if "last" in case else None)  # what is given is given back to the bit
    assert np.abs(clip.frames[made] / 255 - wanted[made]).max() < 0.5 / 255 + 1e-3
    needed = "init and last" if case == "first and last" else "init"
    if case != "times of tokens":
        with pytest.raises(DaedalError, match=f"starts from pictures; give {needed} too"):
            pipeline(PROMPT, steps=2)
    if case == "picture":
        with pytest.raises(DaedalError, match="cannot be given last; it takes init"):
            pipeline(PROMPT, **pictures, last=LAST)


TOLD = dict(
    timestep_conditioning=True, decoder_inject_noise=(True, False, True, True), upsample_residual=(True,) * 3, upsample_factor=(2,) * 3,
)  # fmt: skip


def ltx(zoo: Any, kind: Any, **codec: Any) -> Any:
    """A pipeline of LTX-Video."""
    torch.manual_seed(0)
    network = diffusers.LTXVideoTransformer3DModel(
        in_channels=6, out_channels=6, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, num_layers=2,
        caption_channels=32,
    )  # fmt: skip
    coder = diffusers.AutoencoderKLLTXVideo(
        **dict(
            latent_channels=6, block_out_channels=(8, 16, 32), down_block_types=("LTXVideoDownBlock3D",) * 3,
            decoder_block_out_channels=(8, 16, 32), layers_per_block=(1,) * 4, decoder_layers_per_block=(1,) * 4,
            spatio_temporal_scaling=(True,) * 3, decoder_spatio_temporal_scaling=(True,) * 3, patch_size=2,
            decoder_inject_noise=(False,) * 4, downsample_type=("conv",) * 3, upsample_residual=(False,) * 3, upsample_factor=(1,) * 3,
        ) | codec
    )  # fmt: skip
    coder.latents_mean.normal_()
    for name, p in [*network.named_parameters(), *coder.named_parameters()]:
        p.data += 0.1 * torch.randn(p.shape) * ("multiplier" not in name)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096, shift_terminal=0.1,
    )  # fmt: skip
    return kind(scheduler, coder.eval(), zoo.t5(), zoo.pieces, network.eval())


@pytest.mark.parametrize("case", ["0.9", "0.9.1", "0.9.1 from a picture"])
def test_a_clip_of_ltx_is_that_of_diffusers(
    case: str, zoo: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    start = {"init": noise(1, 32, 64, 3)} if "picture" in case else {}
    kind = diffusers.LTXImageToVideoPipeline if start else diffusers.LTXPipeline
    theirs = ltx(zoo, kind, **({} if case == "0.9" else TOLD))
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    # theirs draws a sample where ours takes the mean
    mean = partial(pipeline_ltx_image2video.retrieve_latents, sample_mode="argmax")
    monkeypatch.setattr(pipeline_ltx_image2video, "retrieve_latents", mean)
    decode = theirs.vae.decode
    monkeypatch.setattr(
        theirs.vae, "decode", lambda *a, **k: (torch.manual_seed(0), decode(*a, **k))[1]
    )
    asked = dict(num_inference_steps=4, guidance_scale=3.0, height=32, width=64, num_frames=17)
    level = {} if case == "0.9" else dict(decode_timestep=0.05, decode_noise_scale=0.025)
    picture = {"image": Image.fromarray(start["init"])} if start else {}
    wanted = theirs(
        prompt=PROMPT, negative_prompt=NEGATIVE, **asked, **level, **picture, frame_rate=24, output_type="np",
        generator=torch.Generator().manual_seed(7),
    ).frames[0]  # fmt: skip
    pipeline = daedal.load(str(tmp_path), dtype="fp32")
    clip = pipeline(
        PROMPT, negative=NEGATIVE, steps=4, guidance_scale=3.0, size="64x32", seconds=17 / 24, fps=24, seed=7, **start
    )  # fmt: skip
    made = slice(1 if start else 0, None)
    assert clip.frames.shape == wanted.shape == (17, 32, 64, 3)
    assert np.abs(clip.frames[made] / 255 - wanted[made]).max() < 0.5 / 255 + 1e-3


ROTARY = dict(use_rotary_positional_embeddings=True)
COGS: dict[str, dict[str, Any]] = {
    "2B": {},
    "5B": ROTARY,
    "1.5": ROTARY | dict(patch_size_t=2, patch_bias=False),
    "5B from a picture": ROTARY | dict(in_channels=8, use_learned_positional_embeddings=True),
    "1.5 from a picture": ROTARY | dict(patch_size_t=2, patch_bias=False, in_channels=8, ofs_embed_dim=24),
}  # fmt: skip


def cogvideox(zoo: Any, case: str) -> Any:
    """A pipeline of CogVideoX."""
    torch.manual_seed(0)
    network = diffusers.CogVideoXTransformer3DModel(
        **dict(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=24, text_embed_dim=32,
            num_layers=2, sample_width=6, sample_height=4, sample_frames=9,
        ) | COGS[case]
    )  # fmt: skip
    codec = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4, scaling_factor=0.7,
        invert_scale_latents=case == "1.5 from a picture",
    )  # fmt: skip
    for p in [*network.parameters(), *codec.parameters()]:
        p.data += 0.1 * torch.randn(p.shape)
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        snr_shift_scale=3.0 if case == "2B" else 1.0,
    )  # fmt: skip
    starts = "picture" in case
    kind = diffusers.CogVideoXImageToVideoPipeline if starts else diffusers.CogVideoXPipeline
    return kind(zoo.pieces, zoo.t5(), codec.eval(), network.eval(), scheduler)


@pytest.mark.parametrize("case", COGS)
def test_a_clip_of_cogvideox_is_that_of_diffusers(
    case: str, zoo: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    theirs = cogvideox(zoo, case)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    mean = partial(pipeline_cogvideox_image2video.retrieve_latents, sample_mode="argmax")
    monkeypatch.setattr(pipeline_cogvideox_image2video, "retrieve_latents", mean)
    start = {"init": FIRST} if "picture" in case else {}
    picture = {"image": Image.fromarray(FIRST)} if start else {}
    asked = dict(num_inference_steps=4, guidance_scale=6.0, height=32, width=48, num_frames=9)
    wanted = theirs(
        prompt=PROMPT, negative_prompt=NEGATIVE, **asked, **picture, output_type="np",
        generator=torch.Generator().manual_seed(7),
    ).frames[0]  # fmt: skip
    pipeline = daedal.load(str(tmp_path), dtype="fp32")
    handle = pipeline.start(
        PROMPT, negative=NEGATIVE, steps=4, guidance_scale=6.0, size="48x32", seconds=0.8, fps=10, seed=7, **start
    )  # fmt: skip
    assert "9 frames" in " ".join(handle.remarks)
    clip = handle.results()[0]
    made = slice(1 if start else 0, None)
    assert clip.frames.shape == wanted.shape == (9, 32, 48, 3)
    assert np.abs(clip.frames[made] / 255 - wanted[made]).max() < 0.5 / 255 + 1e-3
    if not start:
        with pytest.raises(DaedalError, match="cannot be given init; it takes words alone"):
            pipeline(PROMPT, init=FIRST)


def test_parts_work_one_after_another_in_the_room_of_the_largest(
    zoo: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    wan(zoo, two=True).save_pretrained(tmp_path)
    for key, _, _ in STORE.models():  # of other tests
        STORE.drop(key)
    pipeline = daedal.load(str(tmp_path), dtype="fp32")
    asked = dict(steps=4, size="48x32", seconds=0.3, seed=1)
    wanted = pipeline(PROMPT, **asked)
    sizes = {key: size for key, size, _ in STORE.models() if str(tmp_path) in str(key)}
    assert len(sizes) == 4 and STORE.used >= sum(sizes.values())
    others = STORE.used - sum(sizes.values())
    monkeypatch.setattr(STORE, "_budget", others + max(sizes.values()))
    loads, load = [], checkpoints.load

    def counted(folder: Any, *options: Any) -> Any:
        loads.append(Path(folder).name)
        assert STORE.used <= STORE.budget
        return load(folder, *options)

    STORE.make_room(0)
    monkeypatch.setattr(checkpoints, "load", counted)
    assert np.array_equal(pipeline(PROMPT, **asked).frames, wanted.frames)
    assert {"text_encoder", "transformer", "transformer_2"} <= set(loads)
    assert loads.index("transformer_2") > loads.index("text_encoder")
    assert STORE.used <= STORE.budget


@pytest.mark.parametrize("whole", [True, False])
def test_a_clip_of_animatediff_is_that_of_diffusers(whole: bool, zoo: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), sample_size=16,
    )  # fmt: skip
    adapter = diffusers.MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8,
    )  # fmt: skip
    for p in adapter.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        steps_offset=1,
        clip_sample=False,
    )
    parts = dict(vae=zoo.vae(), text_encoder=zoo.tower(), tokenizer=zoo.words, scheduler=scheduler)
    theirs = diffusers.AnimateDiffPipeline(unet=unet, motion_adapter=adapter, **parts)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    if not whole:  # a folder of Stable Diffusion and one of motion modules
        unet.save_pretrained(tmp_path / "unet")
        index = json.loads((tmp_path / "model_index.json").read_text())
        index["unet"] = ["diffusers", "UNet2DConditionModel"]
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    wanted = theirs(
        PROMPT, negative_prompt=NEGATIVE, num_frames=5, num_inference_steps=4, guidance_scale=7.5, height=32, width=48, output_type="np",
        generator=torch.Generator().manual_seed(7),
    ).frames[0]  # fmt: skip
    pipeline = daedal.load(str(tmp_path), dtype="fp32")
    clip = pipeline(
        PROMPT, negative=NEGATIVE, steps=4, guidance_scale=7.5, size="48x32", seconds=5 / 8, fps=8, seed=7
    )  # fmt: skip
    assert clip.frames.shape == wanted.shape == (5, 32, 48, 3)
    assert np.abs(clip.frames / 255 - wanted).max() < 0.5 / 255 + 1e-3


def test_a_clip_is_gone_on_from(zoo: Any, tmp_path: Any) -> None:
    ltx(zoo, diffusers.LTXPipeline).save_pretrained(tmp_path)
    pipeline = daedal.load(str(tmp_path), dtype="fp32")
    asked = dict(steps=2, size="64x32", fps=16, seed=3)
    first = noise(1, 32, 64, 3)
    started = pipeline(PROMPT, init=first, seconds=17 / 16, **asked).frames
    handle = pipeline.start(PROMPT, extend=first[None], seconds=1, **asked)
    assert not handle.remarks and np.array_equal(handle.results()[0].frames, started)
    clip = noise(2, 14, 32, 64, 3)  # of which the last nine are read
    longer = pipeline(PROMPT, extend=clip, seconds=0.5, **asked).frames
    assert longer.shape == (14 + 8, 32, 64, 3) and np.array_equal(longer[:14], clip)
    alone = pipeline(PROMPT, extend=clip[5:], seconds=0.5, **asked).frames
    assert np.array_equal(alone[9:], longer[14:])
