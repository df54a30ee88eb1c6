"""A random tiny text model with the house's chat tokens, for every alignment test."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def chat_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from daedal import checkpoints
    from daedal.data.chat import HOUSE_TOKENS
    from daedal.data.tokenizer import Tokenizer
    from daedal.networks import build, config_from_dict
    from daedal.train.recipe.base import ModelRecipe
    from daedal.worlds import tales

    folder = tmp_path_factory.mktemp("models") / "base"
    tokenizer = Tokenizer.train(
        tales(300), 400, (*HOUSE_TOKENS, "<|pad|>"), bos="<|bos|>", eos="<|eos|>", add_bos=True
    )
    config = ModelRecipe(
        depth=2, context=256, options={"hidden_size": 64, "tie_word_embeddings": True}
    ).config(tokenizer.vocab_size, 0, 1)
    network = build(config_from_dict(config)).init_weights(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(
                parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel())
            )
    checkpoints.save(network, folder)
    tokenizer.save(folder)
    return folder
