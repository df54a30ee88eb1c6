"""Every form of attention, and decode steps from fixed buffers as a GPU captures them, draw the
naive loop's tokens, for three kinds of networks. Here the captured step is run call by call."""

import pytest
import torch

from daedal import networks
from daedal.engine.engine import Engine, chosen
from daedal.engine.graphs import Graphs, rounded, static
from daedal.engine.paged import WIDTH, PagedCache
from daedal.errors import DaedalError
from daedal.nn import kernels
from daedal.nn.pages import FORMS
from daedal.processes.autoregression import generate
from daedal.processes.sampling import SamplingParams

SHAPE = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 512,
    "eos_token_id": None,
}
KINDS = {
    "llama": {},
    "gemma2": {"sliding_window": 5, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 4},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
PROMPTS = [[3 + (i * n) % 20 for i in range(n)] for n in (1, 7, 40, 12, 3)]
ASKED = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)


def tiny(kind: str, **sizes) -> "networks.Decoder":
    torch.manual_seed(0)
    config = networks.config_from_dict({"model_type": kind, **SHAPE, **KINDS[kind], **sizes})
    network = networks.build(config).eval().double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.4) if p.dim() > 1 else None
    return network


def graphed(network, **options) -> Engine:
    engine = Engine(network, **options)
    assert isinstance(engine.cache, PagedCache) and engine.replays is None  # on a CPU
    engine.replays = Graphs(network, engine.cache)
    return engine


@pytest.mark.parametrize("attention", ["kernels", "sdpa", "flex"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_attention_draws_the_naive_loops_tokens(kind: str, attention: str) -> None:
    network = tiny(kind)
    engine = Engine(network, attention=attention, max_batch=3, token_budget=16)
    for _ in range(2):  # the second time from shared beginnings
        outputs = [request.output for request in engine.generate(PROMPTS, ASKED)]
        assert outputs == [generate(network, prompt, ASKED) for prompt in PROMPTS]
    assert engine.attention == attention


@pytest.mark.parametrize("attention", ["sdpa", "flex"])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_steps_from_fixed_buffers_draw_the_same_tokens(kind: str, attention: str) -> None:
    network = tiny(kind)
    engine = graphed(network, attention=attention, max_batch=3, token_budget=16, block_size=4)
    outputs = [request.output for request in engine.generate(PROMPTS, ASKED)]
    assert outputs == [generate(network, prompt, ASKED) for prompt in PROMPTS]
    # of 3 and 2 requests at once: 3 run as 4
    assert set(engine.replays.captured) == {(4, WIDTH), (2, WIDTH)}


def test_a_graph_reads_its_inputs_from_the_same_memory_each_time() -> None:
    """What a GPU replays holds addresses: buffers, pages and weights stay where they are."""
    engine = graphed(tiny("llama"), attention="sdpa", max_batch=2)
    engine.generate(PROMPTS[:2], ASKED)
    graph, held = engine.replays.captured[2, WIDTH], engine.cache.keys[0].data_ptr()
    address = graph.inputs.data_ptr()
    engine.generate(PROMPTS[2:4], ASKED)
    assert engine.replays.captured[2, WIDTH] is graph and graph.inputs.data_ptr() == address
    assert engine.cache.keys[0].data_ptr() == held


def test_pages_grow_with_need_and_graphs_are_captured_again() -> None:
    network = tiny("llama")
    engine = graphed(network, attention="sdpa", max_batch=1, block_size=4, token_budget=64)
    before, long = engine.cache.places, [3 + i % 20 for i in range(300)]
    assert before == 1 + 256 // 4
    short, grown = (engine.generate([prompt], ASKED)[0] for prompt in (PROMPTS[1], long))
    assert engine.cache.places > before and engine.cache.places <= 1 + engine.cache.blocks
    assert set(engine.replays.captured) == {(1, 128)}  # the one of before held old addresses
    for request in (short, grown):
        assert request.output == generate(network, request.prompt, ASKED)


@pytest.mark.parametrize(
    "kind, sizes",
    [
        ("mixtral", {}),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    ],
)
def test_a_network_that_looks_at_values_takes_the_plain_path(kind: str, sizes: dict) -> None:
    network = tiny(kind, **sizes)
    assert not static(network) and static(tiny("llama"))
    engine = graphed(network, attention="sdpa", max_batch=3)
    outputs = [request.output for request in engine.generate(PROMPTS, ASKED)]
    assert outputs == [generate(network, prompt, ASKED) for prompt in PROMPTS]
    assert engine.replays.refused and not engine.replays.captured


@pytest.mark.skipif(not kernels.build(), reason="no C++ compiler")
def test_a_mixture_is_not_replayed_on_a_cpu_either() -> None:
    """Which rows an expert takes changes from step to step; a replay of one step's rows would raise
    in the next."""
    network = tiny("mixtral", hidden_size=32, intermediate_size=32, head_dim=8).float()
    engine = Engine(network, max_batch=3)
    requests = engine.generate(PROMPTS, ASKED)
    assert [request.finished for request in requests] == ["length"] * len(PROMPTS)
    assert engine.replays.refused and not engine.replays.captured


def test_a_step_that_cannot_be_captured_takes_the_plain_path(monkeypatch) -> None:
    def refuse(*args):
        raise RuntimeError("operation not permitted when stream is capturing")

    network = tiny("llama")
    engine = graphed(network, attention="sdpa", max_batch=2)
    monkeypatch.setattr("daedal.engine.graphs.DecodeGraph", refuse)
    outputs = [request.output for request in engine.generate(PROMPTS[:2], ASKED)]
    assert outputs == [generate(network, prompt, ASKED) for prompt in PROMPTS[:2]]
    assert engine.replays.refused


@pytest.mark.parametrize("why", ["dtype", "kernel"])
def test_where_flex_does_not_run_sdpa_serves(why: str, monkeypatch, caplog) -> None:
    def broken(*args, **scores):
        raise RuntimeError("no kernel for this device")

    network = tiny("llama")
    if why == "kernel":
        monkeypatch.setitem(FORMS, "flex", broken)
    with caplog.at_level("DEBUG", logger="daedal.engine"):
        kept = torch.float32 if why == "dtype" else None
        engine = Engine(network, attention="flex", cache_dtype=kept)
    assert engine.attention == "sdpa" and len(caplog.records) == 1
    asked = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    assert engine.generate(PROMPTS[:1], asked)[0].output == generate(network, PROMPTS[0], asked)


def test_batches_are_rounded_up_to_powers_of_two() -> None:
    assert [rounded(n) for n in (1, 2, 3, 4, 5, 33, 64)] == [1, 2, 4, 4, 8, 64, 64]


def test_exact_prefixes_share_only_what_whole_chunks_computed() -> None:
    engine = Engine(
        tiny("llama"), attention="sdpa", block_size=4, token_budget=16, exact_prefixes=True
    )
    prompt = [3 + i % 20 for i in range(60)]
    assert [engine.generate([prompt], ASKED)[0].reused for _ in range(2)] == [0, 48]
    loose = Engine(tiny("llama"), attention="sdpa", block_size=4, token_budget=16)
    assert [loose.generate([prompt], ASKED)[0].reused for _ in range(2)] == [0, 56]


def test_the_switch_follows_the_device() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert chosen("auto", "auto", cpu) == ("kernels", "slots")
    assert chosen("auto", "paged", cpu) == chosen("sdpa", "auto", cpu) == ("sdpa", "paged")
    assert chosen("auto", "auto", cuda) == ("flex", "paged")
    assert chosen("sdpa", "auto", cuda) == ("sdpa", "paged")
    assert chosen("auto", "slots", cuda) == ("sdpa", "slots")
    assert chosen("auto", "auto", torch.device("mps")) == ("sdpa", "slots")
    for asked, kept, device, said in [
        ("flash", "auto", cpu, "auto, kernels, sdpa or flex"),
        ("kernels", "paged", cpu, "slots on a CPU"),
        ("kernels", "auto", cuda, "slots on a CPU"),
        ("flex", "slots", cpu, "cache='paged'"),
    ]:
        with pytest.raises(DaedalError, match=said):
            chosen(asked, kept, device)
