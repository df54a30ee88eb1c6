"""Packed completions are the rows they were made of: the same states and gradients, from fewer
tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.train.shared import Shared

SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "llama": {}, "mistral": {"sliding_window": 4}, "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 8}, "gpt2": {"num_key_value_heads": 4},
}  # fmt: skip


def network_of(family: str) -> Decoder:
    network = build(
        config_from_dict(SMALL | {"model_type": family} | FAMILIES[family])
    ).init_weights(0)
    torch.manual_seed(0)
    for p in network.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    return network


def rows(groups: list[tuple[int, list[int]]]) -> tuple[Tensor, Tensor]:
    """tokens (B, T) and mask (B, T - 1) of groups (tokens of the prompt, tokens of each answer); an
    answer of 0 is dropped."""
    T = max(prompt + max(answers) for prompt, answers in groups) + 1
    tokens, mask = torch.randint(50, (sum(len(answers) for _, answers in groups), T)), []
    for prompt, answers in groups:
        first = len(mask)
        for answer in answers:
            tokens[len(mask), :prompt] = tokens[first, :prompt]
            mask.append(
                (torch.arange(T - 1) >= prompt - 1) & (torch.arange(T - 1) < prompt - 1 + answer)
            )
    return tokens, torch.stack(mask)


GROUPS = [(7, [5, 9, 0, 1]), (3, [2]), (9, [1, 1]), (3, [8, 4])]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_gradients_are_those_of_whole_rows(family: str) -> None:
    network = network_of(family)
    tokens, mask = rows(GROUPS)
    mask[1, 9:11] = False  # what a tool wrote is read and not learnt
    packed = Shared(tokens, mask)
    # a prompt once, an answer but its last token, nothing of what is dropped
    assert packed.tokens.shape[1] == 7 + (4 + 8) + 3 + 1 + 9 + 3 + (7 + 3)
    whole, mine = (
        network.hidden(tokens[:, :-1])[mask],
        network.hidden(packed.tokens, cache=packed)[0, packed.drawn],
    )
    torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(whole)
    learned = [p for p in network.parameters() if p is not network.lm_head.weight]
    for a, b in zip(
        *(torch.autograd.grad((h * weight).sum(), learned) for h in (mine, whole)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.lists(st.integers(0, 4), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_any_shape(groups: list[tuple[int, list[int]]]) -> None:
    network, (tokens, mask) = NETWORK, rows(groups)
    packed = Shared(tokens, mask)
    with torch.no_grad():
        mine = network.hidden(packed.tokens, cache=packed)[0, packed.drawn]
        torch.testing.assert_close(
            mine,
            network.hidden(tokens[:, :-1])[mask] if mask.shape[1] else mine,
            rtol=1e-4,
            atol=1e-5,
        )


NETWORK = network_of("llama")


def test_prompts_that_only_begin_alike_are_not_shared() -> None:
    tokens, mask = rows([(6, [3, 3])])
    tokens[1, 5] = (tokens[0, 5] + 1) % 50
    assert Shared(tokens, mask).tokens.shape[1] == 2 * (6 + 2)
