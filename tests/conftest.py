"""Fixtures that several folders use: a one-thread torch (two cores run the whole suite), and a small trained-shape model folder."""

import os

os.environ.setdefault("DAEDAL_HISTORY", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random 2-layer Llama with a trained byte-level tokenizer, as a folder."""
    from daedal import checkpoints
    from daedal.data.tokenizer import Tokenizer
    from daedal.data.worlds import tales
    from daedal.networks import build, config_from_dict
    from daedal.train.recipe import ModelRecipe

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = Tokenizer.train(tales(300), 400, ("<|bos|>", "<|eos|>"), bos="<|bos|>", eos="<|eos|>", add_bos=True)
    config = ModelRecipe(depth=2, context=64).config(tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids[0])
    network = build(config_from_dict(config)).init_weights(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    checkpoints.save(network, folder)
    tokenizer.save(folder)
    return folder
