"""Recipes of speech: letters to phonemes, and a student of a voice."""

from typing import Literal

from daedal.data.contents import DataPath
from daedal.train.recipe.base import Fixed, OptimizerRecipe, Run, Section


class SpellerRecipe(Section):
    """The sizes of the network (daedal.networks.phonemes)."""

    hidden_size: int = 128
    num_hidden_layers: int = 2
    ffn_dim: int = 256
    state_size: int = 192
    embedding_size: int = 64


class PhonemesRecipe(Run):
    """Letters to phonemes, from a pronouncing dictionary in ARPAbet (daedal.train.phonemes). One
    word in `held_out` is kept for the evaluation."""

    task: Literal["phonemes"] = "phonemes"
    dictionary: Fixed[DataPath]
    held_out: Fixed[int] = 20
    evaluate_words: int = 2000
    model: Fixed[SpellerRecipe] = SpellerRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adamw", adam_lr=0.002, weight_decay=0.01)
    rows: Fixed[int] = 256
    micro_rows: int = 256
