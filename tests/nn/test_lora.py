"""Low-rank adapters: against peft on the same layers, and the properties that training and saving
rest on."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.nn.conv import Conv2d
from daedal.nn.linear import Linear
from daedal.nn.lora import adapters, add_lora, lora_state, merge_lora
from daedal.nn.quantized import quantize_


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.to_q, self.to_out = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Linear(8, 8),
            nn.ModuleList([nn.Linear(8, 6, bias=False)]),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, H W / 4, 6)
        return self.to_out[0](self.to_q(self.conv(x).flatten(2).mT))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def shaken(module: nn.Module) -> None:
    """lora_B is zero before training."""
    g = torch.Generator().manual_seed(1)
    for p in module.parameters():
        if p.requires_grad:
            p.data.add_(0.1 * torch.randn(p.shape, generator=g))


TINY = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = torch.arange(7)[None]
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
LINEAR, ALL = ("to_q", "to_out.0"), ("conv", "to_q", "to_out.0")


@pytest.mark.parametrize(
    ("targets", "options"), [(ALL, {}), (ALL, {"rslora": True}), (LINEAR, {"dora": True})]
)
def test_equal_to_peft(targets: tuple[str, ...], options: dict[str, Any]) -> None:
    """The same names, outputs and gradients from the same tensors."""
    peft = pytest.importorskip("peft")
    ours, config = (
        net(),
        peft.LoraConfig(
            r=3,
            lora_alpha=5,
            target_modules=list(targets),
            **{f"use_{key}": on for key, on in options.items()},
        ),
    )
    theirs = peft.get_peft_model(net(), config)
    assert add_lora(ours, 3, 5, targets, **options) == list(targets)
    shaken(ours)
    state = lora_state(ours)
    found = peft.set_peft_model_state_dict(
        theirs, {f"base_model.model.{name}": tensor for name, tensor in state.items()}
    )
    assert not found.unexpected_keys and sorted(
        f"base_model.model.{name}" for name in state
    ) == sorted(peft.get_peft_model_state_dict(theirs))
    torch.testing.assert_close(ours(X), theirs(X))
    ours(X).square().sum().backward()
    theirs(X).square().sum().backward()
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            mine = ours.get_parameter(
                name.removeprefix("base_model.model.")
                .replace(".default.weight", ".weight")
                .replace("vector.weight", "vector")
            )
            torch.testing.assert_close(mine.grad, p.grad, rtol=1e-4, atol=1e-4)


def test_it_begins_as_nothing_and_only_adapters_learn() -> None:
    module = net()
    plain = module(X)
    add_lora(module, 2, targets=ALL)
    torch.testing.assert_close(module(X), plain, rtol=0, atol=1e-6)
    assert {name.split("lora_")[0] for name, p in module.named_parameters() if p.requires_grad} == {
        "conv.",
        "to_q.",
        "to_out.0.",
    }
    assert all("lora_" in name for name, p in module.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(("targets", "dora"), [(ALL, False), (LINEAR, True)])
def test_merged_it_is_the_same_network_without_adapters(
    targets: tuple[str, ...], dora: bool
) -> None:
    module, names = net(), set(net().state_dict())
    add_lora(module, 2, 4, targets, dora=dora)
    shaken(module)
    adapted = module(X)
    merge_lora(module)
    torch.testing.assert_close(module(X), adapted)
    assert set(module.state_dict()) == names and not adapters(module)


def test_half_precision_bases_keep_adapters_in_fp32() -> None:
    module = nn.Sequential(Conv2d(3, 4, 1), nn.Flatten(2), Linear(64, 4)).bfloat16()
    add_lora(module, 2, targets=("0", "2"))
    assert module(X.bfloat16()).dtype == torch.bfloat16
    assert {tensor.dtype for tensor in lora_state(module).values()} == {torch.float32}


def test_quantised_bases_learn() -> None:
    """QLoRA (Dettmers et al. 2023): gradients pass through packed weights to the adapters."""
    network = build(config_from_dict({"model_type": "llama", **TINY})).init_weights(0)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    quantize_(network, 8)
    plain = network(IDS)
    assert len(add_lora(network, 2, targets=("q_proj", "v_proj"))) == 4
    torch.testing.assert_close(network(IDS), plain, rtol=1e-3, atol=1e-3)
    network(IDS).square().sum().backward()
    assert all(layer.lora_B.weight.grad.abs().sum() > 0 for layer in adapters(network).values())
    with pytest.raises(DaedalError, match="cannot be merged into quantised weights"):
        merge_lora(network)


def test_errors() -> None:
    with pytest.raises(
        DaedalError, match=r"no layer is called 'to_k'.*Net has conv, to_out.0, to_q"
    ):
        add_lora(net(), 2, targets=("to_q", "to_k"))
    with pytest.raises(DaedalError, match="DoRA is for plain linear layers, and conv is Conv2d"):
        add_lora(net(), 2, targets=ALL, dora=True)
