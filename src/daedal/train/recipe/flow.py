"""Recipes of the media transformer: flow matching, mean flow, few-step students, preferences."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from daedal.train.recipe.base import Count, Fixed, FixedPresence, OptimizerRecipe, Section, Share
from daedal.train.recipe.pictures import PictureData, PictureRun, PictureSource


class MediaModelRecipe(Section):
    """The media transformer: `depth` blocks of width 32*depth (DiT's S to XL keep about that
    ratio); `options` are MediaConfig fields; `codec` is the folder of an autoencoder, whose latents
    are painted in then."""

    depth: Count = 8
    options: dict[str, Any] = {}
    start: str | None = None
    codec: str | None = None

    def config(self, vocab_size: int, codec: dict[str, Any] | None = None) -> dict[str, Any]:
        """MediaConfig's fields, given the config of the codec."""
        width = self.options.get("hidden_size", 32 * self.depth)
        patch, channels = self.options.get("patch_size", 8), self.options.get("channels", 3)
        channels = codec["latent_channels"] if codec else channels
        return {
            "hidden_size": width, "num_hidden_layers": self.depth, "num_attention_heads": max(1, width // 64),
            "intermediate_size": -(-8 * width // (3 * 32)) * 32, "token_size": channels * patch * patch, "patch_size": patch,
            "channels": channels, "codec": codec, "vocab_size": vocab_size, **self.options,
        }  # fmt: skip


class FlowRecipe(PictureRun):
    """A media transformer on captioned pictures (daedal.train.flow)."""

    task: Literal["flow"] = "flow"
    prompts: list[str] = []
    model: Fixed[MediaModelRecipe] = MediaModelRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    vocab_size: Fixed[Count] = 2048
    # of the logit-normal that noise levels are drawn from (Esser et al. 2024), its spread,
    time_mean: float = 0.0
    time_std: float = 1.0
    uniform: Share = 0.1  # and the share drawn evenly instead
    drop_caption: Share = 0.1  # for classifier-free guidance
    given: Share = 0.1  # share of samples of which a rectangle is given clean (inpainting)
    # share of samples that come with their edges, where model.options.control_size makes room for
    # them
    control: Share = 0.5
    # gamma: errors of x0 count min(SNR, gamma) (Hang et al. 2023: 5), not as errors of the velocity
    min_snr: float | None = None
    uncertainty: Fixed[bool] = False  # learn what a level's loss is, and divide by it (EDM2)
    # noise that a whole picture shares, so that very dark and very bright ones are learnt; 0.1 is
    # common
    offset_noise: float = 0.0
    # weight of an early block's likeness to a teacher that sees more (SRA: 0.2, REPA: 0.5)
    align: FixedPresence[float] = 0.0
    # an average of the network's own weights at less noise, or the folder of a CLIP model
    align_to: Fixed[str] = "self"
    align_decay: Share = 0.999  # of that average
    # weight of names and endings of captions adding up, so that each is known with the others;
    # sketch and flow
    additive: float = 0.0
    guidance_scale: float = 3.0  # of samples and evaluation
    evaluate_pictures: Count = 48  # of each kind
    sample_steps: Count = 20
    # of these steps towards noise; above 1, more of them go where layout is decided
    # (daedal.processes.noise.shifted)
    sample_shift: float = 1.0

    @model_validator(mode="after")
    def has_these_terms(self) -> Self:
        if self.task not in ("flow", "video") and (
            self.min_snr or self.uncertainty or self.offset_noise or self.align
        ):
            raise ValueError(
                f"min_snr, uncertainty, offset_noise and align are terms of task: flow; task: {self.task} has a loss of its own"
            )
        if self.task not in ("flow", "sketch") and self.additive:
            raise ValueError(
                f"additive is a term of task: flow and task: sketch; task: {self.task} has a loss of its own"
            )
        return self


class VideoRecipe(FlowRecipe):
    """A media transformer on captioned clips (daedal.train.video); `model.options` give axes 3 and
    time_layers."""

    task: Literal["video"] = "video"  # type: ignore[assignment]
    stills: Fixed[Share] = 0.3  # share of the steps that are pictures, where data.train has some
    # frames, frames a second, share of the steps that are clips: what is learnt holds at other
    # lengths and rates
    shapes: Fixed[list[tuple[Count, PositiveFloat, Share]]] = Field(
        [(16, 8.0, 0.6), (8, 8.0, 0.2), (16, 12.0, 0.2)], min_length=1
    )
    given: Share = 0.3  # share of samples of which some tokens are given clean
    control: Share = 0.0

    @model_validator(mode="after")
    def has_time(self) -> Self:
        if not self.model.options.get("time_layers"):
            raise ValueError("a video model has blocks over time: give model.options.time_layers")
        if self.align or self.uncertainty or self.offset_noise or self.additive:
            raise ValueError("align, uncertainty, offset_noise and additive are terms of pictures")
        return self


class SketchRecipe(FlowRecipe):
    """The text encoder of a media transformer alone, by the small pictures that it tells
    (daedal.train.sketch)."""

    task: Literal["sketch"] = "sketch"  # type: ignore[assignment]
    keep: float = 0.0  # weight of the text's states staying where they were on captions of scenes


class MeanFlowRecipe(FlowRecipe):
    """A media transformer of one step, with `model.options.spans` (daedal.train.meanflow)."""

    task: Literal["meanflow"] = "meanflow"  # type: ignore[assignment]
    spans: Share = 0.5  # share of samples that follow the path for more than an instant
    guidance: float = 2.5  # baked in
    guidance_scale: float = 1.0
    sample_steps: Count = 1
    given: Share = 0.0

    @model_validator(mode="after")
    def has_spans(self) -> Self:
        if not self.model.options.get("spans"):
            raise ValueError("a mean flow is told two times: give model.options.spans=true")
        return self


class DistillRecipe(FlowRecipe):
    """A student of the media transformer `model.start` (daedal.train.distill): of one to four
    steps, or one that needs no guidance."""

    task: Literal["distill"] = "distill"  # type: ignore[assignment]
    method: Fixed[Literal["progressive", "consistency", "guidance"]] = "progressive"
    # the teacher's steps between noise and picture; progressive: a multiple of sample_steps
    levels: Count = 24
    teacher_guidance: float = 3.0
    # weight of fooling heads on the teacher's blocks that tell pictures from the student's (LADD);
    # 0: none
    adversarial: FixedPresence[float] = 0.0
    guidance_scale: float = 1.0  # the student needs none
    sample_steps: Count = 2
    given: Share = 0.0

    @model_validator(mode="after")
    def has_a_teacher(self) -> Self:
        if not self.model.start:
            raise ValueError(
                "a student needs its teacher: give model.start, a trained model's folder"
            )
        if self.method != "consistency" and self.adversarial:
            raise ValueError("adversarial is a term of method: consistency; leave it out")
        if self.method == "progressive" and self.levels % self.sample_steps:
            raise ValueError(
                f"{self.levels} steps of the teacher are no multiple of the student's {self.sample_steps}; change levels or sample_steps"
            )
        return self


class PreferRecipe(FlowRecipe):
    """A media transformer taught by comparisons or by reward (daedal.train.prefer), from
    `model.start`, on generated scenes."""

    task: Literal["prefer"] = "prefer"  # type: ignore[assignment]
    method: Fixed[Literal["dpo", "grpo", "nft", "refl"]] = "grpo"
    # grpo, nft and refl: what can be read off a scene, or the folder of a rater or CLIP model
    reward: str = "scenes"
    data: Fixed[PictureData] = PictureData(train=[PictureSource(path="scenes")])
    drop_caption: Share = 0.0
    beta: float = 100.0  # dpo: how far a difference of errors is trusted
    group: Count = 8  # grpo and nft: pictures of one prompt, compared among themselves
    rollout_steps: Count = 8
    noise: float = 0.7  # grpo: share of DDPM's noise in a step
    clip: float = 0.2
    levels: Count = 2  # nft: noise levels at which each picture is judged
    follow: Share = 0.5  # nft: how much of the old policy stays at a step
    kl: float = 0.05  # grpo and refl: pull towards the start

    @model_validator(mode="after")
    def has_a_slope(self) -> Self:
        if self.method == "refl" and self.reward == "scenes":
            raise ValueError(
                "what is read off a scene has no slope to follow; give reward, the folder of a rater or CLIP model, or method: grpo"
            )
        return self

    @model_validator(mode="after")
    def has_a_start(self) -> Self:
        if not self.model.start:
            raise ValueError(
                "preference training starts from a trained model: give model.start, its folder"
            )
        return self
