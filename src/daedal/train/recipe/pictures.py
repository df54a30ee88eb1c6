"""Recipes on pictures: codecs, towers, raters, priors over codes, GANs, and fine-tuning of open
models. The media transformer's are in flow.py."""

import math
from typing import Any, Literal, Self

from pydantic import model_validator

from daedal.data.contents import DataPath
from daedal.train.recipe.base import (
    Count,
    Fixed,
    FixedPresence,
    ModelRecipe,
    OptimizerRecipe,
    Run,
    Section,
    Share,
    Whole,
)


class PictureSource(Section):
    """`path`: "scenes" (generated; "scenes:several" of one kind, "scenes:unseen"), a folder of
    pictures, or a parquet file with columns image and caption; `where` keeps rows whose columns
    have one of the given values; `weight` is its share of the samples; `dense` the share of its
    captions that go on with what the pixels show; `plain` lays transparent pictures of a parquet
    file on white only."""

    path: DataPath
    where: dict[str, str | list[str]] = {}
    weight: float = 1.0
    dense: float = 0.0
    plain: bool = False


class PictureData(Section):
    train: list[PictureSource]
    validation: list[PictureSource] = []
    captions: Count = 20_000  # for the tokenizer


class PictureRun(Run):
    """What the tasks on pictures share; their networks are convolutions and small towers, for which
    AdamW is the default."""

    data: Fixed[PictureData]
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=0.001, weight_decay=0.01)

    @model_validator(mode="after")
    def fits_one_device(self) -> Self:
        if self.parallel == "fsdp":
            raise ValueError(f"task: {self.task} does not shard its weights; use parallel: ddp")  # type: ignore[attr-defined]
        return self


class CodecRecipe(Section):
    """An autoencoder: `kind` kl (continuous latents) or vq (codes); `options` are
    AutoencoderKLConfig or VQModelConfig fields. `fsq_levels` fix the codes on a grid of so many
    values a channel. Or `start`: a trained folder to go on from."""

    kind: Literal["kl", "vq"] = "kl"
    side: Count = 64  # pixels
    options: dict[str, Any] = {}
    fsq_levels: tuple[int, ...] = ()
    start: str | None = None

    def config(self) -> dict[str, Any]:
        """config.json: halvings from `block_out_channels`, one residual block a level, no attention
        (64 cells see each other by convolution)."""
        channels = self.options.get("block_out_channels", [32, 64, 96, 128])
        levels = self.fsq_levels
        codes = {"vq_embed_dim": len(levels), "num_vq_embeddings": math.prod(levels)}
        return {
            "block_out_channels": channels, "down_block_types": ["DownEncoderBlock2D"] * len(channels), "sample_size": self.side,
            "up_block_types": ["UpDecoderBlock2D"] * len(channels), "norm_num_groups": 8, "mid_block_add_attention": False,
            **self.options, **(codes if levels else {}),
        }  # fmt: skip

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if self.fsq_levels and self.kind == "kl":
            raise ValueError("fsq_levels fix the codes of kind: vq; a kl autoencoder has none")
        return self


class AutoencodeRecipe(PictureRun):
    """An image codec (daedal.train.autoencode). The weights stand beside an `error` of weight 1,
    all of them means. Without `perceptual` and `adversarial` no critic is trained."""

    task: Literal["autoencode"] = "autoencode"
    evaluate_pictures: Count = 100  # of the validation sources
    model: Fixed[CodecRecipe] = CodecRecipe()
    error: Literal["l1", "l2"] = "l1"  # l2 is what PSNR measures; l1 keeps edges sharper
    perceptual: float = 0.1  # distance in the critic's features
    adversarial: FixedPresence[float] = 0.05
    # the step at which the codec starts to listen to the critic, which learns from the first
    adversarial_from: Whole = 1000
    game: Literal["hinge", "logistic", "relativistic"] = "hinge"
    critic_width: Fixed[Count] = 32
    kl: float = 1e-5
    # kl: of a scaled latent's picture against the scaled picture (EQ-VAE)
    equivariance: float = 0.25
    commitment: float = 0.25  # vq
    codebook_decay: Share = 0.99  # vq: of the average that a code is
    revive_every: Count = 100  # vq: steps after which unused codes move to where vectors are


class TowersRecipe(Section):
    """CLIP: two towers of `depth` layers, in heads of 64; `text` and `vision` are CLIPTextConfig
    and CLIPVisionConfig fields."""

    side: Count = 64  # pixels
    depth: Count = 4
    width: Count = 256
    text_length: Count = 24
    text: dict[str, Any] = {}
    vision: dict[str, Any] = {}
    start: str | None = None

    def config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """config.json of the text tower and of the vision tower (patches an eighth of a side)."""
        both = {
            "hidden_size": self.width, "intermediate_size": 4 * self.width, "projection_dim": self.width, "num_hidden_layers": self.depth,
            "num_attention_heads": max(1, self.width // 64),
        }  # fmt: skip
        vision = both | {"image_size": self.side, "patch_size": self.side // 8}
        text = both | {"max_position_embeddings": self.text_length}
        return text | self.text, vision | self.vision


class ContrastRecipe(PictureRun):
    """CLIP on captioned pictures (daedal.train.contrast)."""

    task: Literal["contrast"] = "contrast"
    evaluate_pictures: Count = 100  # of the validation sources
    model: Fixed[TowersRecipe] = TowersRecipe()
    vocab_size: Fixed[Count] = 2048
    # training pictures are shifted and scaled by up to this share of a side and turned by up to so
    # many radians
    jitter: float = 0.0
    optimizer: OptimizerRecipe = OptimizerRecipe(name="muon", adam_lr=0.001, weight_decay=0.1)


class RateRecipe(ContrastRecipe):
    """A preference model (daedal.train.rate). Sources are files of pairs (chosen, rejected,
    caption), or scenes:larger and scenes:redder."""

    task: Literal["rate"] = "rate"  # type: ignore[assignment]
    jitter: Literal[0.0] = 0.0  # type: ignore[assignment]


class PriorRecipe(PictureRun):
    """A decoder over the codes of the VQ autoencoder `codec`, after a caption (daedal.train.prior)."""

    task: Literal["prior"] = "prior"
    evaluate_pictures: Count = 100  # of the validation sources
    codec: Fixed[str]
    model: Fixed[ModelRecipe] = ModelRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    vocab_size: Fixed[Count] = 2048  # of captions
    text_length: Fixed[Count] = 24
    drop_caption: Share = 0.1  # for classifier-free guidance
    prompts: list[str] = []
    guidance_scale: float = 2.0
    temperature: float = 1.0
    top_k: Whole = 0


class GanRecipe(PictureRun):
    """A GAN on pictures (daedal.train.gan); `options` are fields of the generator's config,
    `critic_options` of the discriminator's."""

    task: Literal["gan"] = "gan"
    kind: Fixed[Literal["stylegan2", "stylegan3", "biggan"]] = "stylegan2"
    side: Fixed[Count] = 32  # pixels
    classes: Fixed[list[str]] = []  # words of captions; none: no classes
    options: Fixed[dict[str, Any]] = {}
    critic_options: Fixed[dict[str, Any]] = {}
    game: Literal["relativistic", "logistic", "hinge"] = "relativistic"
    gamma: float = 1.0  # of R1 and R2 (R3GAN); the one knob to tune for a set of pictures
    path_length: float = 0.0  # StyleGAN2's 2.0; not needed with the relativistic game
    orthogonal: float = 0.0  # BigGAN's 1e-4
    augment_target: Share = 0.0  # 0.6 adapts augmentation to small sets (ADA); 0: none
    optimizer: OptimizerRecipe = OptimizerRecipe(
        name="adamw", adam_lr=0.002, weight_decay=0.0, betas=(0.0, 0.99), warmup=20
    )

    @model_validator(mode="after")
    def has_classes(self) -> Self:
        if self.kind == "biggan" and not self.classes:
            raise ValueError(
                "BigGAN is class-conditional: give classes, the words of the captions that name them"
            )
        return self


class AdaptModel(Section):
    """`start`: a diffusers folder or its Hub name. Of LoRAs `rank`, `alpha` (None: the rank),
    `targets`, names that layers end in, and whether CLIP's `text_encoders` learn too; of a new word
    its `token`, the word whose meaning it starts from, and how many `vectors` it has."""

    start: str
    rank: Count = 16
    alpha: float | None = None
    targets: list[str] = ["to_q", "to_k", "to_v", "to_out.0"]
    text_encoders: bool = False
    rslora: bool = False
    dora: bool = False
    token: str | None = None
    initializer: str | None = None
    vectors: Count = 1


class AdaptRecipe(PictureRun):
    """Fine-tuning of an open image model (daedal.train.adapt)."""

    task: Literal["adapt"] = "adapt"
    # full: all weights of the denoiser
    method: Fixed[Literal["lora", "dreambooth", "textual_inversion", "controlnet", "full"]] = "lora"
    model: Fixed[AdaptModel]
    side: Fixed[int | None] = None  # pixels; None: what the model was made for
    prompt: str | None = None  # for every picture, in place of its caption
    # what a thing is one of (DreamBooth): pictures of it are painted before training and learned
    # beside
    class_prompt: str | None = None
    class_pictures: Count = 100
    prior_weight: float = 1.0
    # controlnet: drawn from the picture, or a column of the data that names another picture
    condition: str = "edges"
    drop_caption: Share = 0.0  # share of captions left empty, for classifier-free guidance
    # cap of a level's weight (min-SNR; Hang et al. 2023), 5 for models of 1000 times
    snr_gamma: float | None = None
    # noise that is the same in all cells of a channel, so that dark and bright pictures are learned
    offset_noise: float = 0.0
    prompts: list[str] = []
    sample_steps: Count = 20
    guidance_scale: float = 5.0
    rows: Count = 4
    micro_rows: Count = 1
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=1e-4, weight_decay=0.0)

    @model_validator(mode="after")
    def is_whole(self) -> Self:
        if self.method == "dreambooth" and not self.prompt:
            raise ValueError(
                "dreambooth needs a prompt with a rare word for the thing, such as 'a photo of sks dog'"
            )
        if self.method == "textual_inversion" and not (self.model.token and self.model.initializer):
            raise ValueError(
                "textual inversion needs model.token, the new word, and model.initializer, a word near it"
            )
        if self.model.text_encoders and self.method not in ("lora", "dreambooth"):
            raise ValueError(
                f"model.text_encoders goes with method lora or dreambooth, not {self.method}"
            )
        if not self.optimizer.adam_lr:
            raise ValueError(
                "fine-tuning needs optimizer.adam_lr: 1e-4 suits a LoRA, 5e-3 a word, 1e-5 a ControlNet or all weights"
            )
        return self
