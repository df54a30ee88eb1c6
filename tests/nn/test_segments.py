"""Texts packed into rows give what each gives alone."""

import torch

from daedal.networks import build, config_from_dict
from daedal.nn.segments import Segments
from daedal.train.recipe.base import ModelRecipe


def test_packed_equals_alone() -> None:
    config = ModelRecipe(depth=2, context=32).config(50, 0, 1) | {"num_key_value_heads": 1}
    network = build(config_from_dict(config)).init_weights(0).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens = torch.randint(0, 50, (2, 12))
    numbers = torch.tensor([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12])
    packed = network(tokens, cache=Segments(numbers))
    for row, begin, end in ((0, 0, 5), (0, 5, 9), (0, 9, 12), (1, 0, 12)):
        torch.testing.assert_close(
            packed[row, begin:end], network(tokens[row : row + 1, begin:end])[0]
        )
