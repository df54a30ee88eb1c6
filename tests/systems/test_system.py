"""What systems say of themselves: training and painting are told the same, and a prompt is cut for
training alone."""

import pytest
import torch
from torch import nn

from daedal.errors import DaedalError
from daedal.systems import SYSTEMS, system_of
from daedal.systems.system import Pixels, stacked
from daedal.systems.text import T5


class Letters:
    """A tokenizer of one token a letter."""

    eos_id, pad_id = 1, 0

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        return [ord(letter) for letter in text]


def reader() -> T5:
    """A T5 whose states are the ids themselves."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def forward(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            return ids[..., None].float() * self.one

    t5 = T5.__new__(T5)
    t5.encoder, t5.tokenizer = Encoder(), Letters()  # type: ignore[assignment]
    return t5


@torch.no_grad()
def test_a_prompt_is_read_to_its_end_or_cut() -> None:
    long, short = "a long prompt", "short"
    whole, mask = reader().read([long, short], 6, masked=True)
    part, seen = reader().read([long, short], 6, masked=True, cut=True)
    assert whole.shape[1] == len(long) + 1 and mask.sum(1).tolist() == [14, 6]  # and an end of text
    assert torch.equal(part, whole[:, :6]) and torch.equal(seen, mask[:, :6])
    for text, _ in (reader().read([short], 6, masked=True, cut=cut) for cut in (True, False)):
        assert torch.equal(text, whole[1:, :6])  # one that fits is the same


def test_a_network_of_no_system_is_told_by_its_class() -> None:
    with pytest.raises(
        DaedalError, match=rf"Linear is not an image network.*{next(iter(SYSTEMS))}"
    ):
        system_of({"unet": nn.Linear(1, 1), "scheduler": {}})


def test_rows_stack_as_a_batch() -> None:
    rows = [{"text": torch.full((1, 2), i)} for i in range(3)]
    assert stacked(rows, torch.device("cpu"))["text"].tolist() == [[0, 0], [1, 1], [2, 2]]
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(Pixels().decode(Pixels().encode(images)), images)
