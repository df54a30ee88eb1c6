"""A recipe: the YAML that says how weights are made, checked by pydantic, with `key=value` overrides.

One dial, `model.depth`, fixes width, heads and learning rates; each rule stands beside its reason in `ModelRecipe` and `OptimizerRecipe`.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from daedal.data.documents import Source
from daedal.data.rows import ChatSource
from daedal.errors import DaedalError, nearest


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelRecipe(Section):
    """`depth` layers of width 64*depth in heads of 64 (aspect ratio and head size of nanochat's sweeps); `options` are config.json fields
    that override what follows from it. Or `start`: a folder or Hub name to go on from."""

    family: str = "llama"
    depth: int = 6
    context: int = 512
    options: dict[str, Any] = {}
    start: str | None = None

    def config(self, vocab_size: int, bos: int | None, eos: int | None) -> dict[str, Any]:
        """config.json of the network: feed-forward 8/3 of the width (equal parameters to a plain 4x), rounded to 64."""
        width = self.options.get("hidden_size", 64 * self.depth)
        heads = max(1, width // 64)
        inner = -(-8 * width // (3 * 64)) * 64
        return {
            "model_type": self.family, "vocab_size": vocab_size, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": self.depth,
            "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": self.context, "bos_token_id": bos,
            "eos_token_id": eos, "rms_norm_eps": 1e-6, **self.options,
        }  # fmt: skip


class TokenizerRecipe(Section):
    """A tokenizer's folder, or a byte-level BPE trained on the training data (`documents` of it at most)."""

    path: str | None = None
    vocab_size: int = 8192
    special_tokens: list[str] = ["<|bos|>", "<|eos|>"]
    documents: int = 200_000


class DataRecipe(Section):
    train: list[Source]
    validation: list[Source] = []
    validation_documents: int = 200


class OptimizerRecipe(Section):
    """Muon for matrices with AdamW for the rest, or AdamW for all. None: the rate follows from the width."""

    name: Literal["muon", "adamw"] = "muon"
    matrix_lr: float | None = None
    adam_lr: float | None = None
    weight_decay: float = 0.1
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = 1.0
    warmup: int = 50
    decay: float = 0.5  # the share of the steps at the end over which the rate falls linearly
    final: float = 0.0  # to this share of the peak

    def rates(self, width: int) -> tuple[float, float]:
        """(matrix_lr, adam_lr). Muon's update has unit RMS gain whatever the width, so its rate is constant; Adam's falls with
        sqrt(width) (Yang et al. 2022, as nanochat applies it)."""
        base = 0.006 if self.name == "muon" else 0.002
        return self.matrix_lr or 0.02, self.adam_lr or base * (384 / width) ** 0.5

    def factor(self, step: int, steps: int) -> float:
        """Warm-up, stable, decay: the rate of `step` (from 0) as a share of its peak."""
        left = (steps - step) / max(1.0, self.decay * steps)
        return min(1.0, (step + 1) / max(1, self.warmup), self.final + (1 - self.final) * left)


class Run(Section):
    """What every recipe has."""

    out: str
    steps: int
    seed: int = 0
    checkpoint_every: int = 250
    evaluate_every: int = 250
    sample_every: int = 500
    rows: int = 32  # samples a step, over all processes
    micro_rows: int = 8  # samples a forward pass
    optimizer: OptimizerRecipe = OptimizerRecipe()
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    ema: float | None = None  # decay of an exponential moving average of the weights, saved in their place
    averages: tuple[float, ...] = ()  # lengths of averages from which `daedal average` makes one of any length; two will do: [0.05, 0.1]
    averages_every: int = 100  # steps between those written
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    tensorboard: bool = False  # also write out/tensorboard (extra: tensorboard)

    @model_validator(mode="before")
    @classmethod
    def over_the_tasks_own(cls, raw: Any) -> Any:
        """Rates given without an optimizer's name are of the task's own optimizer."""
        given = raw.get("optimizer")
        if isinstance(given, dict) and "name" not in given:
            raw = raw | {"optimizer": cls.model_fields["optimizer"].default.model_dump() | given}
        return raw

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if (self.ema or self.averages) and self.parallel == "fsdp":
            raise ValueError("an average of sharded weights is not kept; leave ema out (and averages) or use parallel: ddp")
        return self


class Recipe(Run):
    """Next-token pre-training (daedal.train.pretrain)."""

    task: Literal["pretrain"] = "pretrain"
    prompts: list[str] = ["Once upon a time", "One day, a little girl"]
    model: ModelRecipe = ModelRecipe()
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    data: DataRecipe
    z_loss: float = 0.0
    balance_loss: float = 0.01  # mixture-of-experts load balancing


class DistilTextRecipe(Recipe):
    """A smaller language model from a teacher and text (daedal.train.distil_text)."""

    task: Literal["distil_text"] = "distil_text"  # type: ignore[assignment]
    teacher: str
    divergence: Literal["forward", "reverse", "js"] = "forward"
    beta: float = 0.5  # js: of the teacher in the middle
    temperature: float = 1.0
    weight: float = 0.5  # of the divergence; the rest is the text's

    @model_validator(mode="before")
    @classmethod
    def shares_tokens(cls, raw: Any) -> Any:
        """The teacher's tokenizer, where nothing else is said."""
        if isinstance(raw, dict) and "teacher" in raw and "start" not in raw.get("model", {}):
            raw = {**raw, "tokenizer": {"path": raw["teacher"], **raw.get("tokenizer", {})}}
        return raw


class PictureSource(Section):
    """`path`: "scenes" (generated), a folder of pictures, or a parquet file with columns image and caption; `where` keeps rows whose columns have
    one of the given values; `weight` is its share of the samples; `dense` the share of its captions that go on with what the pixels show;
    `plain` lays transparent pictures of a parquet file on white only."""

    path: str
    where: dict[str, str | list[str]] = {}
    weight: float = 1.0
    dense: float = 0.0
    plain: bool = False


class PictureData(Section):
    train: list[PictureSource]
    validation: list[PictureSource] = []
    captions: int = 20_000  # for the tokenizer


class PictureRun(Run):
    """What the tasks on pictures share; their networks are convolutions and small towers, for which AdamW is the default."""

    data: PictureData
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=0.001, weight_decay=0.01)

    @model_validator(mode="after")
    def fits_one_device(self) -> Self:
        if self.parallel == "fsdp":
            raise ValueError(f"task: {self.task} does not shard its weights; use parallel: ddp")  # type: ignore[attr-defined]
        return self


class MediaModelRecipe(Section):
    """The media transformer: `depth` blocks of width 32*depth (DiT's S to XL keep about that ratio); `options` are MediaConfig fields."""

    depth: int = 8
    options: dict[str, Any] = {}
    start: str | None = None

    def config(self, vocab_size: int) -> dict[str, Any]:
        width = self.options.get("hidden_size", 32 * self.depth)
        patch, channels = self.options.get("patch_size", 8), self.options.get("channels", 3)
        return {
            "hidden_size": width, "num_hidden_layers": self.depth, "num_attention_heads": max(1, width // 64),
            "intermediate_size": -(-8 * width // (3 * 32)) * 32, "token_size": channels * patch * patch, "patch_size": patch,
            "vocab_size": vocab_size, **self.options,
        }  # fmt: skip


class FlowRecipe(PictureRun):
    """A media transformer on captioned pictures (daedal.train.flow)."""

    task: Literal["flow"] = "flow"
    prompts: list[str] = []
    model: MediaModelRecipe = MediaModelRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    vocab_size: int = 2048
    time_mean: float = 0.0  # of the logit-normal that noise levels are drawn from (Esser et al. 2024), its spread,
    time_std: float = 1.0
    uniform: float = 0.1  # and the share drawn evenly instead
    drop_caption: float = 0.1  # for classifier-free guidance
    given: float = 0.1  # share of samples of which a rectangle is given clean (inpainting)
    control: float = 0.5  # share of samples that come with their edges, where model.options.control_size makes room for them
    min_snr: float | None = None  # gamma: errors of x0 count min(SNR, gamma) (Hang et al. 2023: 5), not as errors of the velocity
    uncertainty: bool = False  # learn what a level's loss is, and divide by it (EDM2)
    offset_noise: float = 0.0  # noise that a whole picture shares, so that very dark and very bright ones are learnt; 0.1 is common
    align: float = 0.0  # weight of an early block's likeness to a teacher that sees more (SRA: 0.2, REPA: 0.5)
    align_to: str = "self"  # an average of the network's own weights at less noise, or the folder of a CLIP model
    align_decay: float = 0.999  # of that average
    guidance_scale: float = 3.0  # of samples and evaluation
    evaluate_pictures: int = 48  # of each kind
    sample_steps: int = 20

    @model_validator(mode="after")
    def has_these_terms(self) -> Self:
        if self.task != "flow" and (self.min_snr or self.uncertainty or self.offset_noise or self.align):
            raise ValueError(f"min_snr, uncertainty, offset_noise and align are terms of task: flow; task: {self.task} has a loss of its own")
        return self


class MeanFlowRecipe(FlowRecipe):
    """A media transformer of one step, with `model.options.spans` (daedal.train.meanflow)."""

    task: Literal["meanflow"] = "meanflow"  # type: ignore[assignment]
    spans: float = 0.5  # share of samples that follow the path for more than an instant
    guidance: float = 2.5  # baked in
    guidance_scale: float = 1.0
    sample_steps: int = 1
    given: float = 0.0

    @model_validator(mode="after")
    def has_spans(self) -> Self:
        if not self.model.options.get("spans"):
            raise ValueError("a mean flow is told two times: give model.options.spans=true")
        return self


class DistillRecipe(FlowRecipe):
    """A student of one to four steps from the media transformer `model.start` (daedal.train.distill)."""

    task: Literal["distill"] = "distill"  # type: ignore[assignment]
    levels: int = 24  # between noise and picture; the teacher walks from each to the next
    teacher_guidance: float = 3.0
    adversarial: float = 0.0  # weight of fooling heads on the teacher's blocks that tell pictures from the student's (LADD); 0: none
    guidance_scale: float = 1.0  # the student needs none
    sample_steps: int = 2
    given: float = 0.0

    @model_validator(mode="after")
    def has_a_teacher(self) -> Self:
        if not self.model.start:
            raise ValueError("a student needs its teacher: give model.start, a trained model's folder")
        return self


class PreferRecipe(FlowRecipe):
    """A media transformer taught by comparisons or by reward (daedal.train.prefer), from `model.start`, on generated scenes."""

    task: Literal["prefer"] = "prefer"  # type: ignore[assignment]
    method: Literal["dpo", "grpo", "refl"] = "grpo"
    reward: str = "scenes"  # grpo and refl: what can be read off a scene, or the folder of a rater or CLIP model
    data: PictureData = PictureData(train=[PictureSource(path="scenes")])
    drop_caption: float = 0.0
    beta: float = 100.0  # dpo: how far a difference of errors is trusted
    group: int = 8  # grpo: pictures of one prompt, compared among themselves
    rollout_steps: int = 8
    noise: float = 0.7  # grpo: share of DDPM's noise in a step
    clip: float = 0.2
    kl: float = 0.05  # grpo and refl: pull towards the start

    @model_validator(mode="after")
    def has_a_slope(self) -> Self:
        if self.method == "refl" and self.reward == "scenes":
            raise ValueError("what is read off a scene has no slope to follow; give reward, the folder of a rater or CLIP model, or method: grpo")
        return self

    @model_validator(mode="after")
    def has_a_start(self) -> Self:
        if not self.model.start:
            raise ValueError("preference training starts from a trained model: give model.start, its folder")
        return self


class CodecRecipe(Section):
    """An autoencoder: `kind` kl (continuous latents) or vq (codes); `options` are AutoencoderKLConfig or VQModelConfig fields. `fsq_levels` fix
    the codes on a grid of so many values a channel. Or `start`: a trained folder to go on from."""

    kind: Literal["kl", "vq"] = "kl"
    side: int = 64  # pixels
    options: dict[str, Any] = {}
    fsq_levels: tuple[int, ...] = ()
    start: str | None = None

    def config(self) -> dict[str, Any]:
        """config.json: halvings from `block_out_channels`, one residual block a level, no attention (64 cells see each other by convolution)."""
        channels = self.options.get("block_out_channels", [32, 64, 96, 128])
        codes = {"vq_embed_dim": len(self.fsq_levels), "num_vq_embeddings": math.prod(self.fsq_levels)} if self.fsq_levels else {}
        return {
            "block_out_channels": channels, "down_block_types": ["DownEncoderBlock2D"] * len(channels), "sample_size": self.side,
            "up_block_types": ["UpDecoderBlock2D"] * len(channels), "norm_num_groups": 8, "mid_block_add_attention": False,
            **self.options, **codes,
        }  # fmt: skip

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if self.fsq_levels and self.kind == "kl":
            raise ValueError("fsq_levels fix the codes of kind: vq; a kl autoencoder has none")
        return self


class AutoencodeRecipe(PictureRun):
    """An image codec (daedal.train.autoencode). The weights stand beside an L1 error of weight 1, all of them means."""

    task: Literal["autoencode"] = "autoencode"
    evaluate_pictures: int = 100  # of the validation sources
    model: CodecRecipe = CodecRecipe()
    perceptual: float = 0.1  # distance in the critic's features
    adversarial: float = 0.05
    adversarial_from: int = 1000  # the step at which the codec starts to listen to the critic, which learns from the first
    game: Literal["hinge", "logistic", "relativistic"] = "hinge"
    critic_width: int = 32
    kl: float = 1e-5
    equivariance: float = 0.25  # kl: of a scaled latent's picture against the scaled picture (EQ-VAE)
    commitment: float = 0.25  # vq
    codebook_decay: float = 0.99  # vq: of the average that a code is
    revive_every: int = 100  # vq: steps after which unused codes move to where vectors are


class TowersRecipe(Section):
    """CLIP: two towers of `depth` layers, in heads of 64; `text` and `vision` are CLIPTextConfig and CLIPVisionConfig fields."""

    side: int = 64  # pixels
    depth: int = 4
    width: int = 256
    text_length: int = 24
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
        return both | {"max_position_embeddings": self.text_length} | self.text, vision | self.vision


class ContrastRecipe(PictureRun):
    """CLIP on captioned pictures (daedal.train.contrast)."""

    task: Literal["contrast"] = "contrast"
    evaluate_pictures: int = 100  # of the validation sources
    model: TowersRecipe = TowersRecipe()
    vocab_size: int = 2048
    optimizer: OptimizerRecipe = OptimizerRecipe(name="muon", adam_lr=0.001, weight_decay=0.1)


class RateRecipe(ContrastRecipe):
    """A preference model (daedal.train.rate). Sources are files of pairs (chosen, rejected, caption), or scenes:larger and scenes:redder."""

    task: Literal["rate"] = "rate"  # type: ignore[assignment]


class PriorRecipe(PictureRun):
    """A decoder over the codes of the VQ autoencoder `codec`, after a caption (daedal.train.prior)."""

    task: Literal["prior"] = "prior"
    evaluate_pictures: int = 100  # of the validation sources
    codec: str
    model: ModelRecipe = ModelRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    vocab_size: int = 2048  # of captions
    text_length: int = 24
    drop_caption: float = 0.1  # for classifier-free guidance
    prompts: list[str] = []
    guidance_scale: float = 2.0
    temperature: float = 1.0
    top_k: int = 0


class GanRecipe(PictureRun):
    """A GAN on pictures (daedal.train.gan); `options` are fields of the generator's config, `critic_options` of the discriminator's."""

    task: Literal["gan"] = "gan"
    kind: Literal["stylegan2", "stylegan3", "biggan"] = "stylegan2"
    side: int = 32  # pixels
    classes: list[str] = []  # words of captions; none: no classes
    options: dict[str, Any] = {}
    critic_options: dict[str, Any] = {}
    game: Literal["relativistic", "logistic", "hinge"] = "relativistic"
    gamma: float = 1.0  # of R1 and R2 (R3GAN); the one knob to tune for a set of pictures
    path_length: float = 0.0  # StyleGAN2's 2.0; not needed with the relativistic game
    orthogonal: float = 0.0  # BigGAN's 1e-4
    augment_target: float = 0.0  # 0.6 adapts augmentation to small sets (ADA); 0: none
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=0.002, weight_decay=0.0, betas=(0.0, 0.99), warmup=20)

    @model_validator(mode="after")
    def has_classes(self) -> Self:
        if self.kind == "biggan" and not self.classes:
            raise ValueError("BigGAN is class-conditional: give classes, the words of the captions that name them")
        return self


class AdaptModel(Section):
    """`start`: a diffusers folder or its Hub name. Of LoRAs `rank`, `alpha` (None: the rank) and `targets`, names that layers end in; of a new
    word its `token`, the word whose meaning it starts from, and how many `vectors` it has."""

    start: str
    rank: int = 16
    alpha: float | None = None
    targets: list[str] = ["to_q", "to_k", "to_v", "to_out.0"]
    rslora: bool = False
    dora: bool = False
    token: str | None = None
    initializer: str | None = None
    vectors: int = 1


class AdaptRecipe(PictureRun):
    """Fine-tuning of an open image model (daedal.train.adapt)."""

    task: Literal["adapt"] = "adapt"
    method: Literal["lora", "dreambooth", "textual_inversion", "controlnet", "full"] = "lora"  # full: all weights of the denoiser
    model: AdaptModel
    side: int | None = None  # pixels; None: what the model was made for
    prompt: str | None = None  # for every picture, in place of its caption
    class_prompt: str | None = None  # what a thing is one of (DreamBooth): pictures of it are painted before training and learned beside
    class_pictures: int = 100
    prior_weight: float = 1.0
    condition: str = "edges"  # controlnet: drawn from the picture, or a column of the data that names another picture
    drop_caption: float = 0.0  # share of captions left empty, for classifier-free guidance
    snr_gamma: float | None = None  # cap of a level's weight (min-SNR; Hang et al. 2023), 5 for models of 1000 times
    offset_noise: float = 0.0  # noise that is the same in all cells of a channel, so that dark and bright pictures are learned
    prompts: list[str] = []
    sample_steps: int = 20
    guidance_scale: float = 5.0
    rows: int = 4
    micro_rows: int = 1
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=1e-4, weight_decay=0.0)

    @model_validator(mode="after")
    def is_whole(self) -> Self:
        if self.method == "dreambooth" and not self.prompt:
            raise ValueError("dreambooth needs a prompt with a rare word for the thing, such as 'a photo of sks dog'")
        if self.method == "textual_inversion" and not (self.model.token and self.model.initializer):
            raise ValueError("textual inversion needs model.token, the new word, and model.initializer, a word near it")
        if not self.optimizer.adam_lr:
            raise ValueError("fine-tuning needs optimizer.adam_lr: 1e-4 suits a LoRA, 5e-3 a word, 1e-5 a ControlNet or all weights")
        return self


class AdapterRecipe(Section):
    """A LoRA in place of full weights; `alpha` None is the rank. `out/adapter` holds it, and `out/model` the model with it merged in."""

    rank: int = 16
    alpha: float | None = None
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    rslora: bool = False
    dora: bool = False
    merge: bool = True


class ChatData(Section):
    train: list[ChatSource] = [ChatSource(path="tasks")]
    validation: list[ChatSource] = []


class ChatRun(Run):
    """What the tasks on conversations share. Without `context` it is the model's."""

    start: str  # folder, house model or Hub name
    adapter: AdapterRecipe | None = None
    data: ChatData = ChatData()
    context: int | None = None
    prompts: list[str] = []
    evaluate_tasks: int = 60  # held-out tasks, answered by the model and checked by program
    evaluate_kinds: list[str] = []  # of them; none: all
    answer_tokens: int = 160  # of an answer at most

    @model_validator(mode="after")
    def adapts_whole_weights(self) -> Self:
        if self.adapter and self.parallel == "fsdp":
            raise ValueError("an adapter's base is not sharded; use parallel: ddp")
        return self


class SampledRecipe(Section):
    """Answers of the start itself to tasks: `n` each to `tasks` prompts of these `kinds` (none: all), checked by program. Kept are those that
    earn at least `threshold` (task: sft), or the best and the worst of a prompt (task: preference)."""

    tasks: int = 200
    n: int = 8
    kinds: list[str] = []
    temperature: float = 1.0
    threshold: float = 1.0
    weight: float = 1.0  # among the other sources


class SFTRecipe(ChatRun):
    """Supervised fine-tuning on conversations (daedal.train.sft)."""

    task: Literal["sft"] = "sft"
    sampled: SampledRecipe | None = None  # rejection sampling: the start's own right answers are a source too
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=2e-5, weight_decay=0.0, warmup=10, decay=0.8)


class RewardRecipe(ChatRun):
    """A reward model from comparisons (daedal.train.reward)."""

    task: Literal["reward"] = "reward"
    kind: Literal["outcome", "process"] = "outcome"  # a value for a whole answer, or a logit for each step of it
    task_pairs: int = 2000  # made of each source of tasks that has no limit
    margin: float = 1.0  # weight of a pair's own margin
    centre: float = 0.01  # of the pull of rewards towards a mean of zero
    rows: int = 16
    micro_rows: int = 16
    evaluate_tasks: int = 200
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=2e-5, weight_decay=0.0, warmup=10, decay=0.8)


class PreferenceRecipe(ChatRun):
    """A policy from comparisons (daedal.train.preference). With `sampled` it answers tasks first, and its own best and worst answers are the
    pairs."""

    task: Literal["preference"] = "preference"
    method: Literal["dpo", "ipo", "kto", "orpo", "simpo"] = "dpo"
    beta: float = 0.1
    smoothing: float = 0.0  # dpo: the share of labels taken to be wrong (cDPO)
    gamma: float = 1.0  # simpo: the margin
    good_weight: float = 1.0  # kto
    bad_weight: float = 1.0
    task_pairs: int = 2000
    sampled: SampledRecipe | None = None
    rows: int = 16
    micro_rows: int = 16
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=2e-5, weight_decay=0.0, warmup=10, decay=0.8)


class ConstitutionRecipe(ChatRun):
    """Critique, revision and preferences by written principles (daedal.train.constitution). `critic` is "self", "program" (the principles' words),
    or a chat model's folder; `steps` are DPO's."""

    task: Literal["constitution"] = "constitution"
    principles: str | None = None  # a YAML list of them; None: daedal/train/principles.yaml
    critic: str = "self"
    questions: int = 200  # prompts that are answered and revised, and again for pairs
    rounds: int = 1  # of revision
    temperature: float = 1.0
    sure: float = 0.1  # how far from even a preference must be to count
    sft_steps: int = 60
    dpo_lr: float = 1e-4
    rows: int = 8
    micro_rows: int = 8


class RolloutRecipe(Section):
    """`group` completions each of `questions` prompts, over all processes, and what draws them. `dynamic` asks on until every prompt's rewards
    differ (DAPO); the last `overlong` tokens of an answer that is cut cost up to 1. `batch`: completions that the engine runs at once."""

    questions: int = 16
    group: int = 8
    temperature: float = Field(1.0, gt=0)
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    dynamic: bool = False
    overlong: int = 0
    batch: int = 128


class RLData(ChatData):
    """Prompts: `tasks:arithmetic`, or files whose rows have a prompt. `reward`: "check" is the task's own (of a file: its answer column), else
    `package.module:function` of (prompt, completion), or the folder of a reward model."""

    reward: str = "check"


class RLRecipe(ChatRun):
    """Reinforcement learning from a reward (daedal.train.rl). The reference is `start`. `rows` are the completions of an optimizer step,
    `rollout.questions` times `rollout.group` those of a rollout."""

    task: Literal["rl"] = "rl"
    method: Literal["ppo", "reinforce++", "rloo", "grpo", "dapo", "dr_grpo", "gspo", "cispo"] = "grpo"
    data: RLData = RLData()
    rollout: RolloutRecipe = RolloutRecipe()
    answer_tokens: int = 64
    epochs: int = 1  # over a rollout
    clip: float | None = None  # of the ratio, below and above 1; None: the method's own
    clip_high: float | None = None  # above, where it differs
    kl: float = 0.0  # weight of the divergence from the reference: in the rewards of ppo, reinforce++ and rloo, else in the loss
    kl_target: float | None = None  # nats a completion, to which the weight adapts
    value: str | None = None  # ppo: folder of the scalar model that the value network starts from; None: the start under a new head
    gamma: float = 1.0  # ppo, as are the next three
    lam: float = 0.95
    value_clip: float | None = 0.2
    value_weight: float = 0.5
    kl_stop: float | None = 100.0  # the run stops when a completion is further than so many nats from the reference,
    shortest: float = 2.0  # when the mean completion is shorter than so many tokens,
    held_out_drop: float | None = None  # when held-out tasks' own check falls so far below its best while the reward rises,
    dropped_most: float = 0.5  # or when the reward fails for more than this share of a rollout
    rows: int = 128
    micro_rows: int = 32
    dtype: Literal["auto", "fp32", "bf16"] = "fp32"
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=1e-5, weight_decay=0.0, betas=(0.9, 0.99), warmup=5, decay=0.3)

    @model_validator(mode="after")
    def divides(self) -> Self:
        made = self.rollout.questions * self.rollout.group
        if made % self.rows or self.rows % self.micro_rows:
            raise ValueError(f"a rollout of {made} completions (questions x group) must split into rows = {self.rows}, and rows into micro_rows")
        if self.rollout.group < 2 and self.method not in ("ppo", "reinforce++"):
            raise ValueError(f"method {self.method} compares the completions of a prompt: rollout.group must be at least 2")
        if self.parallel == "fsdp":
            raise ValueError("task: rl rolls out with whole weights; use parallel: ddp")
        if self.kl_target and not self.kl:
            raise ValueError("kl_target adapts the weight kl, which must start above 0")
        return self


TASKS: dict[str, type[Run]] = {
    "pretrain": Recipe, "distil_text": DistilTextRecipe, "flow": FlowRecipe, "meanflow": MeanFlowRecipe, "distill": DistillRecipe, "prefer": PreferRecipe,
    "autoencode": AutoencodeRecipe, "contrast": ContrastRecipe, "rate": RateRecipe, "prior": PriorRecipe, "gan": GanRecipe,
    "adapt": AdaptRecipe, "sft": SFTRecipe, "reward": RewardRecipe, "preference": PreferenceRecipe, "rl": RLRecipe, "constitution": ConstitutionRecipe,
}  # fmt: skip


def load_recipe(path: str | Path, overrides: list[str] = ()) -> Any:  # type: ignore[assignment]
    """Read a recipe (one of TASKS, by its `task`); each override is `key=value` with dots for sections (`model.depth=4`), the value read as YAML."""
    path = Path(path)
    if not path.is_file():
        known = [str(p) for p in Path("recipes").rglob("*.yaml")]
        raise DaedalError(f"{path} is not a recipe file{nearest(str(path), known)}; recipes here: {', '.join(sorted(known)) or 'none'}.")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise DaedalError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise DaedalError(f"{path} holds no keys; a recipe is a YAML mapping such as recipes/text/tiny.yaml.")
    raw.setdefault("out", f"runs/{path.stem}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise DaedalError(f"{override!r} is not key=value; write for example steps=100 or model.depth=4.")
        place = raw
        *sections, leaf = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = yaml.safe_load(value)
    return check(raw, str(path))


def check(raw: dict[str, Any], where: str) -> Any:
    task = raw.get("task", "pretrain")
    if task not in TASKS:
        raise DaedalError(f"{where}: task {task!r} is not one of {', '.join(TASKS)}{nearest(str(task), TASKS)}.")
    try:
        return TASKS[task].model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = fields_beside(TASKS[task], first["loc"])
            raise DaedalError(f"{where}: unknown key {key!r}{nearest(str(first['loc'][-1]), known)}; known here: {', '.join(known)}.") from None
        if not key:
            raise DaedalError(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from None
        value = json.dumps(first.get("input"), default=str)[:80]
        raise DaedalError(f"{where}: {key} = {value} does not fit: {first['msg'][:1].lower()}{first['msg'][1:]}.") from None


def fields_beside(section: Any, location: tuple[int | str, ...]) -> list[str]:
    """Names of the section that holds the last part of a pydantic location."""
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            section = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel))
    return sorted(section.model_fields)
