"""What benchmarks/real.py works out without a model, and benchmarks/gpu.py without a GPU."""

import argparse
import math
from types import ModuleType

import pytest
import torch


def test_a_ratio_says_how_many_times_better(real_benchmark: ModuleType) -> None:
    row = real_benchmark.Row
    assert row("decode", 30.0, 20.0, "tok/s").ratio == 1.5
    assert row("1,000 sentences", 2.0, 3.0, "s", lower_is_better=True).ratio == 1.5
    assert row("alone", 2.0, None, "s").ratio is None


def test_the_table(real_benchmark: ModuleType) -> None:
    rows = [
        real_benchmark.Row("decode", 42.71, 33.0, "tok/s", "1.3x"),
        real_benchmark.Row("perplexity", 24.0, 24.048, "", "within 0.5 %"),
        real_benchmark.Row("time", 31.0, None, "s"),
    ]
    assert real_benchmark.table(rows).splitlines()[2:] == [
        "| decode | 42.7 tok/s | 33.0 tok/s | 1.29x | 1.3x |",
        "| perplexity | 24.000 | 24.048 | -0.20% | within 0.5 % |",
        "| time | 31.0 s |  |  |  |",
    ]


def test_windows_cover_the_text_once(real_benchmark: ModuleType) -> None:
    size = real_benchmark.WINDOW - 1
    ids = list(range(3 * size + 5))
    rows = real_benchmark.windows(ids, 9, bos=7)
    assert [row[0] for row in rows] == [7, 7, 7]
    assert [i for row in rows for i in row[1:]] == ids[: 3 * size]
    assert real_benchmark.windows(ids, 1, bos=None)[0][:2] == [0, 0]


def test_perplexity_of_even_chances(real_benchmark: ModuleType) -> None:
    rows = [[0, 1, 2], [2, 1, 0, 1]]
    assert real_benchmark.perplexity(lambda ids: torch.zeros(len(ids), 5), rows) == pytest.approx(5)


def test_sentences_are_of_mixed_length(real_benchmark: ModuleType) -> None:
    texts = real_benchmark.sentences(500)
    sizes = sorted(len(text.split()) for text in texts)
    assert texts == real_benchmark.sentences(500)
    assert math.isclose(sizes[250], 16, abs_tol=3) and sizes[0] < 5 and sizes[-1] > 60


def test_quick_takes_the_small_models(real_benchmark: ModuleType) -> None:
    quick, whole = real_benchmark.parsed(["--quick"]), real_benchmark.parsed([])
    assert quick.models == ("gemma-270m",) and quick.rounds == 1
    assert whole.models == ("gemma-270m", "coder") and whole.parts == list(real_benchmark.PARTS)


def test_a_gpus_figures_are_all_asked_for_and_one_that_fails_costs_no_other(
    gpu_benchmark: ModuleType, monkeypatch
) -> None:
    def broken(bench) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(gpu_benchmark.Bench, "train", broken, raising=True)
    bench = gpu_benchmark.Bench(argparse.Namespace(device="cpu", tiny=True))
    failed = gpu_benchmark.run(bench, [("sdpa", "on"), ("sdpa", "off")])
    assert failed == ["train failed: RuntimeError: no memory"]
    shown = " ".join(bench.figures)
    for name in ("bandwidth", "prefill", "guided step", "all of it"):
        assert name in shown
    for graphs in ("on", "off"):
        for batch in (1, 4):
            assert f"decode, sdpa, graphs {graphs}, batch {batch}" in bench.figures
    monkeypatch.setattr(gpu_benchmark, "LIMIT", -1)
    assert "left out" in gpu_benchmark.run(bench, [("sdpa", "on")])[-1]


def test_the_usual_way_to_decode_is_measured_first(gpu_benchmark: ModuleType) -> None:
    ways = gpu_benchmark.usual_first(["sdpa", "flex"], ["off", "on"])
    assert ways == [("flex", "on"), ("flex", "off"), ("sdpa", "on"), ("sdpa", "off")]
    assert gpu_benchmark.usual_first(["sdpa"], ["off"]) == [("sdpa", "off")]


def test_without_a_gpu_one_sentence_says_so(gpu_benchmark: ModuleType, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu"])
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu_benchmark.main()
