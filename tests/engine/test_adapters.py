"""Adapters by request: a mixed batch equals each request alone on a network with that adapter, and
what is cached is not shared."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daedal import networks
from daedal.checkpoints.adapter import load_adapter, save_adapter
from daedal.engine.adapters import Switch, sharing
from daedal.engine.engine import Engine
from daedal.engine.paged import PagedCache
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.nn import kernels
from daedal.nn.lora import add_lora, merge_lora
from daedal.nn.quantized import quantize_
from daedal.processes.autoregression import generate
from daedal.processes.sampling import SamplingParams

EOS = 2
KINDS: dict[str, dict] = {
    "plain": {"rank": 2, "alpha": 6, "targets": ("q_proj", "v_proj", "down_proj")},
    "wide": {"rank": 5, "targets": ("gate_proj", "o_proj", "lm_head"), "rslora": True},
    "dora": {"rank": 3, "targets": ("k_proj", "up_proj"), "dora": True},
}


def tiny(seed: int = 0, **sizes: object) -> Decoder:
    shape = {
        "model_type": "llama", "vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 96, "eos_token_id": EOS,
    }  # fmt: skip
    network = networks.build(networks.config_from_dict({**shape, **sizes})).eval()
    g = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=g) if p.dim() > 1 else torch.ones_like(p)
    return network.requires_grad_(False)


def written(
    folder: Path, network: Decoder, seed: int, rank: int, targets: tuple[str, ...], **how: object
) -> Path:
    one = sharing(network)
    add_lora(one, rank, targets=targets, **how)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(seed)
    for name, p in one.named_parameters():
        if ".lora_" in name:
            p.data.add_(0.3 * torch.randn(p.shape, generator=g))
    save_adapter(one, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("adapters")
    return {
        name: written(top / name, tiny(), 1 + i, **how)
        for i, (name, how) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> dict[str | None, Decoder]:
    """The network that each adapter makes by itself, in float64."""
    made: dict[str | None, Decoder] = {None: tiny().double()}
    for name, folder in folders.items():
        made[name] = tiny().double()
        load_adapter(made[name], folder)
    return made


FEATURES = st.fixed_dictionaries({
    "cache": st.sampled_from(["slots", "paged"]), "max_batch": st.integers(1, 4), "token_budget": st.integers(4, 24),
    "block_size": st.sampled_from([1, 3, 8]), "prefix_caching": st.booleans(), "prompt_lookup": st.sampled_from([0, 3]), "draft": st.booleans(),
})  # fmt: skip
REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(3, 5), min_size=1, max_size=14), st.sampled_from([None, *KINDS])
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, deadline=None)
@given(REQUESTS, FEATURES, st.sampled_from([0.0, 0.8]))
def test_a_mixed_batch_equals_each_request_alone(
    folders, alone, requests, features: dict, temperature: float
) -> None:
    """Short alphabets, so that prompts share beginnings across adapters; drafts know no adapters,
    and change nothing."""
    base = tiny().double()
    engine = Engine(
        base, **{**features, "draft": base if features["draft"] else None}, adapters=folders
    )
    asked = [
        SamplingParams(temperature=temperature, seed=i, max_tokens=8, adapter=name)
        for i, (_, name) in enumerate(requests)
    ]
    for request, (prompt, name), p in zip(
        engine.generate([ids for ids, _ in requests], asked), requests, asked, strict=True
    ):
        own = SamplingParams(temperature=temperature, seed=p.seed, max_tokens=8)
        assert request.output == generate(alone[name], prompt, own, eos_ids=[EOS])


def test_merged_weights_say_the_same(folders) -> None:
    merged = tiny()
    load_adapter(merged, folders["plain"])
    merge_lora(merged)
    greedy = SamplingParams(temperature=0, max_tokens=12, adapter="plain")
    request = Engine(tiny(), adapters=folders).generate([[3, 4, 5]], greedy)[0]
    assert request.output == generate(
        merged, [3, 4, 5], SamplingParams(temperature=0, max_tokens=12), eos_ids=[EOS]
    )


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_the_rows_of_the_base_do_not_change_by_a_bit(folders, bits: int) -> None:
    """Whatever their neighbours in the step ask for; packed bases too, whose adapters equal theirs
    alone."""
    kernels.build()
    base = tiny() if bits == 32 else quantize_(tiny(), bits)
    targets = {name: folder for name, folder in folders.items() if name != "dora" or bits == 32}
    prompts, logits = [[3, 4, 5, 6], [7, 8], [3, 4, 9]], {}
    for name in (None, "plain", "wide"):
        engine = Engine(base, adapters=targets, replay=False)
        params = [
            SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, logprobs=0, adapter=a)
            for a in (None, name, name)
        ]
        logits[name] = engine.generate(prompts, params)
    for name in ("plain", "wide"):
        assert logits[name][0].stream == logits[None][0].stream
        one = sharing(base)
        load_adapter(one, folders[name])
        own = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, logprobs=0)
        same = Engine(one, replay=False).generate(prompts, own)[1]
        assert logits[name][1].output == same.output
        assert [t.logprob for t in logits[name][1].stream] == pytest.approx(
            [t.logprob for t in same.stream], abs=1e-4
        )
        assert [t.logprob for t in logits[name][1].stream] != [
            t.logprob for t in logits[None][1].stream
        ]


@pytest.mark.parametrize("cache", ["slots", "paged"])
def test_the_prefix_cache_is_each_adapters_own(folders, cache: str) -> None:
    engine = Engine(tiny(), cache=cache, block_size=4, adapters=folders)
    prompt = [3 + i % 7 for i in range(30)]
    reused = {}
    for turn in range(2):
        for name in (None, "plain", "wide"):
            params = SamplingParams(temperature=0, max_tokens=2, adapter=name, ignore_eos=True)
            reused[turn, name] = engine.generate([prompt], params)[0].reused
    assert all(not reused[0, name] for name in (None, "plain", "wide")) and all(
        reused[1, name] > 20 for name in (None, "plain", "wide")
    )
    engine.remove_adapter("plain")  # another of the same name starts anew
    engine.add_adapter("plain", folders["wide"])
    request = engine.generate(
        [prompt], SamplingParams(temperature=0, max_tokens=2, adapter="plain")
    )[0]
    assert request.reused == 0
    if isinstance(engine.cache, PagedCache):
        engine.cache.check()


def test_adapters_come_and_go_between_steps(folders, alone) -> None:
    engine = Engine(tiny().double(), adapters={"plain": folders["plain"]})
    greedy = {
        name: SamplingParams(temperature=0, max_tokens=10, adapter=name, ignore_eos=True)
        for name in (None, *KINDS)
    }
    first = engine.submit([3, 4, 5], greedy["plain"])
    engine.step()
    engine.add_adapter("wide", folders["wide"])
    others = [engine.submit([3, 4, 5], greedy["wide"]), engine.submit([3, 4, 5], greedy[None])]
    with pytest.raises(DaedalError, match="the adapter 'plain' still serves 1 of the requests"):
        engine.remove_adapter("plain")
    while engine.busy:
        engine.step()
    engine.remove_adapter("plain")
    own = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    assert [r.output for r in (first, *others)] == [
        generate(alone[name], [3, 4, 5], own) for name in ("plain", "wide", None)
    ]
    with pytest.raises(
        DaedalError,
        match=r"'wid' is not an adapter of this engine \(did you mean 'wide'\?\); there are wide",
    ):
        engine.submit([3], SamplingParams(adapter="wid"))
    with pytest.raises(DaedalError, match="there is an adapter 'wide' already"):
        engine.add_adapter("wide", folders["wide"])
    assert not any(
        1 in module.updates
        for module in engine.adapters.network.modules()
        if isinstance(module, Switch)
    )


def test_the_network_given_stays_as_it_was(folders) -> None:
    network = tiny().requires_grad_(True)
    engine = Engine(network, adapters=folders)
    assert not any(isinstance(module, Switch) for module in network.modules()) and all(
        p.requires_grad for p in network.parameters()
    )
    assert (
        engine.adapters.network.layers[0].self_attn.q_proj.weight.data_ptr()
        == network.layers[0].self_attn.q_proj.weight.data_ptr()
    )


@pytest.mark.skipif(not kernels.build(), reason="no C++ compiler")
def test_steps_of_the_base_alone_are_still_replayed(folders) -> None:
    engine = Engine(tiny(), adapters=folders)
    params = [
        SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, adapter=name)
        for n, name in ((4, "plain"), (12, None))
    ]
    engine.generate([[3, 4], [5, 6]], params)
    assert engine.replays is not None and set(engine.replays.captured) == {1}
    with pytest.raises(DaedalError, match="is for an engine"):
        generate(tiny(), [3], params[0])


def test_adapters_of_experts_are_refused(tmp_path: Path) -> None:
    base = tiny(model_type="mixtral", num_local_experts=2, num_experts_per_tok=1)
    folder = written(tmp_path / "experts", base, 0, 2, ("experts.0.up_proj",))
    with pytest.raises(DaedalError, match="an expert, whose rows the router picks"):
        Engine(base, adapters={"a": folder})
