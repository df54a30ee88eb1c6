"""The text pipeline: prompts of three kinds, streams, seeds, and texts that can be made again from
their recipe."""

import json
import math

import pytest

import daedal
from daedal.errors import DaedalError
from daedal.pipelines import history


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    return daedal.load(str(tiny_folder))


def test_a_text_a_list_of_ids_and_a_stream_agree(pipeline):
    text = pipeline("Once upon", seed=1, max_tokens=20)
    ids = pipeline(pipeline.encode("Once upon"), seed=1, max_tokens=20)
    pieces = list(pipeline.stream("Once upon", seed=1, max_tokens=20))
    assert text.text == ids.text == "".join(p.text for p in pieces) == str(text)
    assert text.tokens == tuple(p.token for p in pieces) and all(
        math.isfinite(p.logprob) and p.logprob <= 0 for p in pieces
    )
    assert text.finish_reason in ("length", "stop")


def test_seeds(pipeline):
    a, b, c = (pipeline("Once", seed=seed, max_tokens=20).text for seed in (1, 1, 2))
    assert a == b != c
    many = pipeline("Once", seed=1, max_tokens=20, n=3)
    assert many[0].text == a and len({m.text for m in many}) == 3


def test_reproduces_from_the_recipe(pipeline):
    for sample in pipeline("One day", max_tokens=20, n=2, temperature=0.9, top_p=0.9):
        recipe = json.loads(json.dumps(sample.recipe))
        assert pipeline.reproduce(recipe).text == sample.text and recipe["digest"]


def test_closing_a_stream_stops_the_work(pipeline):
    stream = pipeline.start("Once", max_tokens=50, ignore_eos=True)
    for i, _ in enumerate(stream):
        if i == 4:
            break
    stream.cancel()
    assert stream.result().finish_reason == "cancelled" and 5 <= len(stream.result().tokens) < 10
    assert not pipeline.engine.busy


def test_schema(pipeline):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "maximum": 9}},
        "required": ["age"],
        "additionalProperties": False,
    }
    assert json.loads(pipeline("Tell", schema=schema, max_tokens=50, seed=0).text)["age"] <= 9


def test_the_context_limits_max_tokens(pipeline):
    assert len(pipeline("Once", max_tokens=1000, ignore_eos=True, seed=0).tokens) < 64
    with pytest.raises(DaedalError, match="context of 64"):
        pipeline("Once upon a time " * 40)


def test_errors_name_the_mend(pipeline):
    with pytest.raises(DaedalError, match="did you mean 'temperature'"):
        pipeline("x", temprature=1)
    with pytest.raises(DaedalError, match="chat template"):
        pipeline([{"role": "user", "content": "hi"}])
    with pytest.raises(DaedalError, match="outside the vocabulary"):
        pipeline([1, 100000])


def test_quantised_on_loading(tiny_folder, pipeline):
    packed = daedal.load(str(tiny_folder), quantize=8)
    assert (
        packed("Once", max_tokens=5, seed=0).tokens
        and packed.network.weight_bytes() < 0.5 * pipeline.network.weight_bytes()
    )


def test_what_is_packed_is_not_packed_again(tiny_folder, tmp_path):
    from daedal.checkpoints.quantize import quantize

    quantize(tiny_folder, tmp_path / "q8")
    assert daedal.load(str(tmp_path / "q8"), quantize=8)("Once", max_tokens=3, seed=0).tokens
    with pytest.raises(DaedalError, match="is packed to 8 bits already; leave quantize out"):
        daedal.load(str(tmp_path / "q8"), quantize=4)


def test_history_logs_and_turns_off(pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "h.db"))
    result = pipeline("Once", seed=4, max_tokens=8)
    number = history.add(result)
    entry = history.get(number)
    assert (entry.prompt, entry.result, entry.settings["seed"], entry.tokens) == (
        "Once",
        result.text,
        4,
        len(result.tokens),
    )
    assert [e.id for e in history.entries()] == [number]
    with pytest.raises(DaedalError, match="newest is 1"):
        history.get(7)
    monkeypatch.setenv("DAEDAL_HISTORY", "0")
    assert history.add(result) is None


def test_shows_itself_in_a_notebook(pipeline, tmp_path):
    result = pipeline("Once", seed=4, max_tokens=8)
    assert "seed 4" in result._repr_markdown_()
    assert result.save(tmp_path / "a.txt").read_text() == "Once" + result.text + "\n"


def test_an_adapter_by_every_name(tiny_folder, tmp_path):
    """A folder that names its base, BASE:ADAPTER, and one a request; on packed weights too."""
    from daedal import checkpoints
    from daedal.checkpoints.adapter import save_adapter
    from daedal.checkpoints.quantize import quantize
    from daedal.nn.lora import add_lora, lora_state

    network = checkpoints.load(tiny_folder)
    add_lora(network, 4, targets=("q_proj", "down_proj"))
    for tensor in lora_state(network).values():
        tensor.normal_(0, 0.3)
    save_adapter(network, tmp_path / "adapter", str(tiny_folder))
    asked = dict(seed=1, max_tokens=12, temperature=0, ignore_eos=True)
    made = [
        daedal.load(name)("Once", **asked)
        for name in (str(tmp_path / "adapter"), f"{tiny_folder}:{tmp_path / 'adapter'}")
    ]
    plain = daedal.load(str(tiny_folder))
    before = plain("Once", **asked)
    plain.engine.add_adapter("mine", tmp_path / "adapter")
    assert (
        made[0].tokens
        == made[1].tokens
        == plain("Once", **asked, adapter="mine").tokens
        != before.tokens
        == plain("Once", **asked).tokens
    )
    assert daedal.load(made[1].recipe["model"]).reproduce(made[1].recipe).text == made[1].text
    quantize(tiny_folder, tmp_path / "q8")
    packed = daedal.load(f"{tmp_path / 'q8'}:{tmp_path / 'adapter'}")("Once", **asked)
    assert packed.tokens != daedal.load(str(tmp_path / "q8"))("Once", **asked).tokens
    save_adapter(network, tmp_path / "lost")
    with pytest.raises(DaedalError, match="does not say for which model"):
        daedal.load(str(tmp_path / "lost"))


def test_what_the_engine_can_do_has_a_setting(tiny_folder, pipeline):
    asked = dict(seed=1, max_tokens=12, ignore_eos=True)
    plain = pipeline("Once upon", **asked)
    for loading in (
        {"draft": str(tiny_folder)},
        {"prompt_lookup": 3},
        {"cache": "paged", "cache_gb": 0.01},
        {"attention": "sdpa"},
        {"context": 30},
    ):
        other = daedal.load(str(tiny_folder), **loading)
        made = other("Once upon", **asked)
        assert (
            made.text == plain.text and loading.items() <= made.recipe["runtime"]["loading"].items()
        )
    with pytest.raises(DaedalError, match="context of 30"):
        other("Once upon a time " * 10)
    with pytest.raises(DaedalError, match="kernels, sdpa or flex"):
        daedal.load(str(tiny_folder), attention="flash")("Once")
    with pytest.raises(DaedalError, match="'slots' or 'paged'"):
        daedal.load(str(tiny_folder), cache="pages")("Once")
