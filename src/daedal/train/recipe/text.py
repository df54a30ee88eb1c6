"""Recipes of language models: pre-training, and distillation from a teacher."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from daedal.data.documents import Source
from daedal.data.rows import ChatSource
from daedal.train.recipe.base import Count, Fixed, ModelRecipe, Run, Section


class TokenizerRecipe(Section):
    """A tokenizer's folder, or a byte-level BPE trained on the training data (`documents` of it at
    most)."""

    path: str | None = None
    vocab_size: Count = 8192
    special_tokens: list[str] = ["<|bos|>", "<|eos|>"]
    documents: Count = 200_000


class DataRecipe(Section):
    train: list[Source]
    validation: list[Source] = []
    validation_documents: Count = 200
    # the share of documents whose middle is moved to their end, for filling gaps
    fim: float = Field(0.0, ge=0, le=1)


class Recipe(Run):
    """Next-token pre-training (daedal.train.pretrain)."""

    task: Literal["pretrain"] = "pretrain"
    prompts: list[str] = ["Once upon a time", "One day, a little girl"]
    model: Fixed[ModelRecipe] = ModelRecipe()
    tokenizer: Fixed[TokenizerRecipe] = TokenizerRecipe()
    data: Fixed[DataRecipe]
    z_loss: float = 0.0
    balance_loss: float = 0.01  # mixture-of-experts load balancing


class OnPolicyRecipe(Section):
    """A `share` of the batches, GKD's lambda (Agarwal et al. 2024), is what the student writes
    itself: at most `tokens` after the prompts of conversations, or, without any, after the first
    `prompt_tokens` of a row of text."""

    share: float = Field(1.0, ge=0, le=1)
    prompts: list[ChatSource] = []
    prompt_tokens: int = Field(16, ge=1)
    tokens: int = Field(128, ge=1)
    temperature: float = Field(1.0, gt=0)


class TeachersTextRecipe(Section):
    """Text of the teacher in place of the training text (Kim & Rush 2016, sequence-level): `texts`
    beginnings of the training text, `prompt_tokens` long, which the teacher goes on with (0: its
    likeliest tokens) to an end of its own, within `tokens`; others and doubles are left out."""

    texts: int = Field(1000, ge=1)
    prompt_tokens: int = Field(8, ge=1)
    tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0)


class DistilTextRecipe(Recipe):
    """A smaller language model from a teacher and text (daedal.train.distil_text)."""

    task: Literal["distil_text"] = "distil_text"  # type: ignore[assignment]
    teacher: str
    divergence: Literal["forward", "reverse", "js"] = "forward"
    beta: float = 0.5  # js: of the teacher in the middle
    temperature: float = 1.0
    # of the divergence; the rest is the text's, except where the student wrote it
    weight: float = 0.5
    on_policy: OnPolicyRecipe | None = None
    sequence: TeachersTextRecipe | None = None

    @model_validator(mode="after")
    def student_is_whole(self) -> Self:
        if self.on_policy and self.parallel == "fsdp":
            raise ValueError("on_policy writes with whole weights; use parallel: ddp")
        return self

    @model_validator(mode="before")
    @classmethod
    def shares_tokens(cls, raw: Any) -> Any:
        """The teacher's tokenizer, where nothing else is said."""
        if isinstance(raw, dict) and "teacher" in raw and "start" not in raw.get("model", {}):
            raw = {**raw, "tokenizer": {"path": raw["teacher"], **raw.get("tokenizer", {})}}
        return raw
