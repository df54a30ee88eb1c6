"""What the recipes of every medium have: the run, its optimizer, and the decoder's dial.

One dial, `model.depth`, fixes width, heads and learning rates; each rule stands beside its reason
in `ModelRecipe` and `OptimizerRecipe`."""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
FIXED, FIXED_PRESENCE = "fixed", "fixed presence"
Fixed = Annotated[T, FIXED]  # a resumed run may not change it: its state is made of it, or from it
FixedPresence = Annotated[T, FIXED_PRESENCE]  # its value may change, but not whether there is one

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]  # where none is a choice
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


def marks_of(section: type[BaseModel], name: str) -> set[Any]:
    """The marks of a field, those of the classes that it is inherited from included."""
    fields = (
        base.model_fields.get(name) for base in section.__mro__ if issubclass(base, BaseModel)
    )
    return {mark for field in fields if field for mark in field.metadata}


class ModelRecipe(Section):
    """`depth` layers of width 64*depth in heads of 64 (aspect ratio and head size of nanochat's
    sweeps); `options` are config.json fields that override what follows from it. Or `start`: a
    folder or Hub name to go on from."""

    family: str = "llama"
    depth: Count = 6
    context: Count = 512
    options: dict[str, Any] = {}
    start: str | None = None

    def config(self, vocab_size: int, bos: int | None, eos: int | None) -> dict[str, Any]:
        """config.json of the network: feed-forward 8/3 of the width (equal parameters to a plain
        4x), rounded to 64."""
        width = self.options.get("hidden_size", 64 * self.depth)
        heads = max(1, width // 64)
        inner = -(-8 * width // (3 * 64)) * 64
        return {
            "model_type": self.family, "vocab_size": vocab_size, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": self.depth,
            "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": self.context, "bos_token_id": bos,
            "eos_token_id": eos, "rms_norm_eps": 1e-6, **self.options,
        }  # fmt: skip


class OptimizerRecipe(Section):
    """Muon for matrices with AdamW for the rest, or AdamW for all. None: the rate follows from the
    width."""

    name: Fixed[Literal["muon", "adamw"]] = "muon"
    matrix_lr: float | None = None
    adam_lr: float | None = None
    weight_decay: float = 0.1
    momentum: Share = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = 1.0
    warmup: Whole = 50
    decay: Share = 0.5  # the share of the steps at the end over which the rate falls linearly
    final: Share = 0.0  # to this share of the peak

    def rates(self, width: int) -> tuple[float, float]:
        """(matrix_lr, adam_lr). Muon's update has unit RMS gain whatever the width, so its rate is
        constant; Adam's falls with sqrt(width) (Yang et al. 2022, as nanochat applies it)."""
        base = 0.006 if self.name == "muon" else 0.002
        return self.matrix_lr or 0.02, self.adam_lr or base * (384 / width) ** 0.5

    def factor(self, step: int, steps: int) -> float:
        """Warm-up, stable, decay: the rate of `step` (from 0) as a share of its peak."""
        left = (steps - step) / max(1.0, self.decay * steps)
        return min(1.0, (step + 1) / max(1, self.warmup), self.final + (1 - self.final) * left)


class Run(Section):
    """What every recipe has."""

    out: str
    steps: Count
    seed: Fixed[Whole] = 0
    checkpoint_every: Count = 250
    evaluate_every: Count = 250
    sample_every: Count = 500
    rows: Fixed[Count] = 32  # samples a step, over all processes
    micro_rows: Count = 8  # samples a forward pass
    optimizer: OptimizerRecipe = OptimizerRecipe()
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    # decay of an average of the weights, evaluated and saved in their place
    ema: FixedPresence[float | None] = None
    # lengths of averages from which `daedal average` makes one of any length; two will do: [0.05,
    # 0.1]
    averages: Fixed[tuple[float, ...]] = ()
    averages_every: Count = 100  # steps between those written
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
            raise ValueError(
                "an average of sharded weights is not kept; leave ema out (and averages) or use parallel: ddp"
            )
        return self
