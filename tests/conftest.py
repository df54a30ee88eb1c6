"""Fixtures that several folders use: a one-thread torch (two cores run the whole suite), a small
trained-shape model folder, and tiny random image models as diffusers makes them."""

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("DAEDAL_HISTORY", "0")
os.environ.setdefault("DAEDAL_PROVENANCE", "0")  # no test makes keys in the user's folder
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

TOWER = dict(
    intermediate_size=37,
    num_hidden_layers=3,
    num_attention_heads=4,
    projection_dim=32,
    hidden_act="quick_gelu",
)
BLOCKS = dict(
    block_out_channels=(16, 32),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
)
SHAPE = dict(
    block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, attention_head_dim=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
XL = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=32 + 6 * 8,
)
XL |= dict(transformer_layers_per_block=(1, 2), use_linear_projection=True)
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TOLERANCE = 0.5 / 255 + 1e-3  # half a level: ours are rounded to bytes


@pytest.fixture(scope="session")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of clips of six frames."""
    from daedal import checkpoints
    from daedal.checkpoints import resolve
    from daedal.data.tokenizer import Tokenizer
    from daedal.networks.media import MediaConfig, MediaTransformer

    made = tmp_path_factory.mktemp("clips") / "tiny"
    tokenizer = Tokenizer.load(resolve("house/image"))
    torch.manual_seed(0)
    network = MediaTransformer(
        MediaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, token_size=768, axes=3, patch_size=16,
            vocab_size=tokenizer.vocab_size, text_layers=1, text_length=12, time_layers=1, frames=6, sample_size=32,
        )
    ).init_weights(0)  # fmt: skip
    for p in network.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    checkpoints.save(network, made)
    tokenizer.save(made)
    settings = {"steps": 2, "guidance_scale": 2.0, "words": ["a", "red", "circle", "moves"]}
    (made / "generation_config.json").write_text(json.dumps(settings))
    return made


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers whichever run before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random 2-layer Llama with a trained byte-level tokenizer, as a folder."""
    from daedal import checkpoints
    from daedal.data.tokenizer import Tokenizer
    from daedal.networks import build, config_from_dict
    from daedal.train.recipe.base import ModelRecipe
    from daedal.worlds import tales

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = Tokenizer.train(
        tales(300), 400, ("<|bos|>", "<|eos|>"), bos="<|bos|>", eos="<|eos|>", add_bos=True
    )
    config = ModelRecipe(depth=2, context=64).config(
        tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids[0]
    )
    network = build(config_from_dict(config)).init_weights(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(
            parameter,
            std=0.3 if parameter.dim() > 1 else 0.1,
            generator=torch.Generator().manual_seed(parameter.numel()),
        )
    checkpoints.save(network, folder)
    tokenizer.save(folder)
    return folder


class Zoo:
    """Builders of parts, and the two sides of a comparison."""

    def __init__(self, diffusers: ModuleType, transformers: ModuleType, folder: Path) -> None:
        self.diffusers, self.transformers, self.folder = diffusers, transformers, folder
        self.words, self.pieces = self.clip_tokenizer(), self.t5_tokenizer()

    def clip_tokenizer(self) -> Any:
        """A CLIP tokenizer of single characters and a few merges."""
        alphabet = [chr(i) for i in range(33, 127)]
        merges = ["a t</w>", "c at</w>", "o g</w>", "d og</w>", "r e", "re d</w>"]
        pieces = [
            *alphabet,
            *(c + "</w>" for c in alphabet),
            *(m.replace(" ", "") for m in merges),
            "<|startoftext|>",
            "<|endoftext|>",
        ]
        (self.folder / "vocab.json").write_text(
            json.dumps({piece: i for i, piece in enumerate(pieces)})
        )
        (self.folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        return self.transformers.CLIPTokenizer(
            str(self.folder / "vocab.json"), str(self.folder / "merges.txt"), model_max_length=77
        )

    def t5_tokenizer(self) -> Any:
        special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
        words = [
            ("▁", -2.0),
            *((f"▁{word}", -1.0) for word in ("a", "cat", "red", "dog")),
            *((c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz,.()"),
        ]
        return self.transformers.T5Tokenizer(vocab=[*special, *words], extra_ids=0)

    def tower(self, projected: bool = False, width: int = 32) -> Any:
        vocab = len(self.words)
        ends = dict(
            vocab_size=vocab, eos_token_id=vocab - 1, bos_token_id=vocab - 2, pad_token_id=vocab - 1
        )
        config = self.transformers.CLIPTextConfig(hidden_size=width, **ends, **TOWER)
        return varied(
            (
                self.transformers.CLIPTextModelWithProjection
                if projected
                else self.transformers.CLIPTextModel
            )(config)
        )

    def t5(self, width: int = 32) -> Any:
        config = self.transformers.T5Config(
            vocab_size=len(self.pieces),
            d_model=width,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
        return varied(self.transformers.T5EncoderModel(config))

    def vae(self, channels: int = 4, **options: Any) -> Any:
        return self.diffusers.AutoencoderKL(
            **{
                "latent_channels": channels,
                "norm_num_groups": 8,
                "sample_size": 32,
                **BLOCKS,
                **options,
            }
        ).eval()

    def unet(self, xl: bool = False, channels: int = 4, **options: Any) -> Any:
        more = {**(XL if xl else {}), **options}
        text = dict(cross_attention_dim=64 if xl else 32)
        return self.diffusers.UNet2DConditionModel(
            sample_size=16, in_channels=channels, out_channels=4, **{**SHAPE, **text, **more}
        ).eval()

    def stable_diffusion(self, xl: bool = False, channels: int = 4) -> dict[str, Any]:
        torch.manual_seed(0)
        common = {
            "unet": self.unet(xl, channels),
            "vae": self.vae(),
            "text_encoder": self.tower(),
            "tokenizer": self.words,
        }
        if xl:
            return common | {
                "text_encoder_2": self.tower(projected=True),
                "tokenizer_2": self.words,
            }
        return common | {"safety_checker": None, "feature_extractor": None}

    def theirs(self, pipe: Any, prompt: str, seeds: list[int], **options: Any) -> np.ndarray:
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        size = {} if "strength" in options else {"height": 32, "width": 32}
        return pipe(
            [prompt] * len(seeds),
            generator=generators,
            **{"num_inference_steps": 4, **size, "output_type": "np", **options},
        ).images

    def ours(self, pipeline: Any, prompt: str, **options: Any) -> np.ndarray:
        made = pipeline.results(prompt, **{"steps": 4, "width": 32, "height": 32, **options})
        return np.stack([picture.pixels for picture in made]) / 255

    @torch.no_grad()
    def shaken(self, module: Any, by: float = 0.05) -> Any:
        """Zero convolutions are zero before training."""
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
        return module.eval()

    def encode_means(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let their codec give the mean of its posterior, as ours does, and not draw from it."""
        vae = importlib.import_module("diffusers.models.autoencoders.vae")
        monkeypatch.setattr(
            vae.DiagonalGaussianDistribution,
            "sample",
            lambda posterior, generator=None: posterior.mode(),
        )

    def same(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        assert ours.std() > 0.01, "a flat picture proves nothing"
        assert np.abs(ours - theirs).max() < TOLERANCE

    def picture(self, seed: int = 0, side: int = 32) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)

    def mask(self, side: int = 32) -> np.ndarray:
        """Not on the latents' grid."""
        mask = np.zeros((side, side), bool)
        mask[5:21, 7:31] = True
        return mask


@torch.no_grad()
def varied(module: Any) -> Any:
    """Norms and biases of trained models are not all one and zero."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(
        pytest.importorskip("diffusers"),
        pytest.importorskip("transformers"),
        tmp_path_factory.mktemp("words"),
    )


@pytest.fixture(scope="session")
def real_benchmark() -> ModuleType:
    """benchmarks/real.py: the published models' two sides, and how they are measured."""
    return benchmark("real")


@pytest.fixture(scope="session")
def gpu_benchmark() -> ModuleType:
    """benchmarks/gpu.py: every figure of a GPU."""
    return benchmark("gpu")


def benchmark(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    assert spec and spec.loader
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
