"""Recipes of speech: letters to phonemes, and a student of a voice."""

from typing import Literal

from daedal.data.contents import DataPath
from daedal.data.documents import Source
from daedal.train.recipe.base import Count, Fixed, OptimizerRecipe, Run, Section


class SpellerRecipe(Section):
    """The sizes of the network (daedal.networks.phonemes)."""

    hidden_size: Count = 128
    num_hidden_layers: Count = 2
    ffn_dim: Count = 256
    state_size: Count = 192
    embedding_size: Count = 64


class PhonemesRecipe(Run):
    """Letters to phonemes, from a pronouncing dictionary in ARPAbet (daedal.train.phonemes). One
    word in `held_out` is kept for the evaluation."""

    task: Literal["phonemes"] = "phonemes"
    dictionary: Fixed[DataPath]
    held_out: Fixed[Count] = 20
    evaluate_words: Count = 2000
    model: Fixed[SpellerRecipe] = SpellerRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=0.002, weight_decay=0.01)
    rows: Fixed[Count] = 256
    micro_rows: Count = 256


class StudentRecipe(Section):
    """The blocks that take the place of the teacher's flow."""

    blocks: Count = 6
    inner: Count = 512


class VoiceRecipe(Run):
    """A smaller voice from a larger one (daedal.train.voice): a VITS's flow is distilled into one
    pass; its encoder, durations and decoder are kept. `teacher` is a Piper voice, `texts` are what
    it reads in training, `phonemes` a folder of letters to phonemes."""

    task: Literal["voice"] = "voice"
    teacher: Fixed[DataPath]
    phonemes: Fixed[str] = "house/phonemes"
    texts: Fixed[list[Source]]
    validation: list[Source] = []
    sentences: Fixed[Count] = 50_000  # drawn from the texts at most
    evaluate_sentences: Count = 24
    student: Fixed[StudentRecipe] = StudentRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=0.002, weight_decay=0.01)
    rows: Fixed[Count] = 8
    micro_rows: Count = 8
    ema: float | None = 0.995
