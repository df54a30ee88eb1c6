"""Supervised fine-tuning: the loss is on answers alone and does not depend on how a batch is split;
what comes out is a chat model."""

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

import daedal
from daedal import checkpoints
from daedal.checkpoints import gguf_write
from daedal.data import chat
from daedal.data.conversations import PackedTalks
from daedal.data.gguf_metadata import metadata_of
from daedal.data.rows import ChatSource
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.nn.quantized import QuantLinear, quantize_
from daedal.train import assistant, sft
from daedal.train.recipe.chat import AdapterRecipe
from daedal.train.tasks import load_recipe, plan, run

RECIPE = Path(__file__).parents[2] / "recipes/chat/sft.yaml"
QUICK = ["steps=6", "rows=4", "micro_rows=2", "context=128", "evaluate_tasks=4", "evaluate_kinds=[]", "evaluate_every=100", "sample_every=100", "answer_tokens=8", "prompts=[]",
         "data.train=[{path: 'tasks:question,list'}]", "data.validation=[{path: 'tasks:list'}]", "optimizer.warmup=1", "device=cpu", "dtype=fp32"]  # fmt: skip


def train(base: Path, out: Path, *overrides: str) -> Path:
    return run(load_recipe(RECIPE, [*QUICK, f"start={base}", f"out={out}", *overrides]))


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def reference(chat_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sft")
    train(chat_base, out)
    return out


def test_loss_is_the_mean_over_answer_tokens(chat_base: Path) -> None:
    tokenizer, network = chat.prepared(Tokenizer.load(chat_base)), assistant.network_of(chat_base)
    batch = PackedTalks(
        [ChatSource(path="tasks:question,list", exchanges=2)], tokenizer, 3, 128
    ).batch()
    by_hand, count = 0.0, 0
    for tokens, mask, segments in zip(*batch.values(), strict=True):
        for number in range(1, int(segments.max()) + 1):
            ids, said = tokens[segments == number][None], mask[segments == number]
            logp = network(ids).log_softmax(-1)[0]
            for i in range(1, ids.shape[1]):
                if said[i]:
                    by_hand, count = by_hand - logp[i - 1, ids[0, i]].item(), count + 1
    assert sft.OBJECTIVE.count(batch) == count == int(batch["mask"].sum())
    assert sft.answer_loss(network, batch).item() == pytest.approx(by_hand, rel=1e-5)


def test_learns_and_ends_in_a_chat_model(reference: Path) -> None:
    assert losses(reference)[-1] < losses(reference)[0] - 0.3
    last = json.loads((reference / "evaluations.jsonl").read_text().splitlines()[-1])
    assert {
        "constraints_met",
        "standard_error",
        "all_met",
        "met/list",
        "held_out_loss",
    } <= last.keys()
    pipeline = daedal.load(str(reference / "model"))
    assert pipeline([{"role": "user", "content": "Name two foods."}], max_tokens=4, seed=0).tokens
    theirs, words = (
        kind.from_pretrained(reference / "model")
        for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    )
    end = pipeline.tokenizer.special_tokens["<|end|>"]
    assert (
        theirs.generation_config.eos_token_id[0] == end == words.eos_token_id
        and pipeline.tokenizer.eos_ids[0] == end
    )
    talk = [{"role": "user", "content": "Hi"}]
    assert words.apply_chat_template(
        talk, add_generation_prompt=True, return_dict=False
    ) == chat.encode(pipeline.tokenizer, talk)


def test_micro_batches_do_not_matter(reference: Path, chat_base: Path, tmp_path: Path) -> None:
    train(chat_base, tmp_path, "micro_rows=1")
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path)), torch.tensor(losses(reference)), rtol=2e-4, atol=0
    )


def test_ranks_do_not_matter(chat_base: Path) -> None:
    """What two processes add up is what one does: sums over their rows, divided by the answer
    tokens of all rows."""
    tokenizer, network = chat.prepared(Tokenizer.load(chat_base)), assistant.network_of(chat_base)
    batch = PackedTalks([ChatSource(path="tasks:story,unknown")], tokenizer, 4, 128).batch()
    count, gradients = sft.OBJECTIVE.count(batch), []
    for parts in ([slice(0, 4)], [slice(0, 2), slice(2, 4)]):
        network.zero_grad()
        for rows in parts:
            (
                sft.answer_loss(network, {key: value[rows] for key, value in batch.items()}) / count
            ).backward()
        gradients.append(network.layers[0].mlp.down_proj.weight.grad.clone())
    halves = [int(batch["mask"][rows, 1:].sum()) for rows in (slice(0, 2), slice(2, 4))]
    assert halves[0] != halves[1]  # so that a mean of means would differ
    torch.testing.assert_close(*gradients)


def test_an_adapter_is_pefts_and_merges(chat_base: Path, tmp_path: Path) -> None:
    folder = train(
        chat_base,
        tmp_path,
        "adapter={rank: 4, targets: [q_proj, down_proj]}",
        "optimizer.adam_lr=0.01",
        "optimizer.decay=0",
    )
    assert folder == tmp_path / "model" and losses(tmp_path)[-1] < losses(tmp_path)[0]
    tokens = torch.randint(0, 400, (1, 20))
    with_adapter = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(chat_base), tmp_path / "adapter"
    )
    merged = daedal.load(str(folder)).network(tokens)
    torch.testing.assert_close(merged, with_adapter(tokens).logits, rtol=1e-4, atol=1e-4)
    base = assistant.network_of(chat_base)(tokens)
    assert not torch.allclose(merged, base, atol=1e-3)


@pytest.mark.parametrize("bits", [8, 4])
def test_an_adapter_over_a_packed_base(chat_base: Path, tmp_path: Path, bits: int) -> None:
    """QLoRA: the loss falls, a resumed run takes the same course, peft opens what comes out, and
    the merged model is the start, not its rounding."""
    how = [
        f"adapter={{rank: 4, targets: [q_proj, down_proj], bits: {bits}}}",
        "optimizer.adam_lr=0.01",
        "optimizer.decay=0",
        "checkpoint_every=3",
    ]
    folder = train(chat_base, tmp_path / "a", *how)
    assert losses(tmp_path / "a")[-1] < losses(tmp_path / "a")[0] - 0.1
    train(chat_base, tmp_path / "b", *how, "steps=3")
    train(chat_base, tmp_path / "b", *how)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    tokens = torch.randint(0, 400, (1, 20))
    with_adapter = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(chat_base), tmp_path / "a" / "adapter"
    )
    merged = daedal.load(str(folder)).network(tokens)
    torch.testing.assert_close(merged, with_adapter(tokens).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        daedal.load(str(tmp_path / "a" / "adapter")).network(tokens), merged, rtol=1e-4, atol=1e-4
    )


def test_an_adapter_over_a_gguf_file(chat_base: Path, tmp_path: Path) -> None:
    """The file's blocks stay as they are while the adapter learns; it is used over the same file,
    and merged into a folder that transformers opens."""
    file = tmp_path / "base.gguf"
    network = quantize_(checkpoints.load(chat_base, kind=Decoder), 4)
    gguf_write.write(network, file, "auto", metadata_of(Tokenizer.load(chat_base), 400)[0])
    how = ["adapter={rank: 4, targets: [q_proj, down_proj]}", "optimizer.adam_lr=0.01"]
    base = assistant.network_of(file, AdapterRecipe())
    kept = {n: m.weight.clone() for n, m in base.named_modules() if isinstance(m, QuantLinear)}
    assert kept and all(weight.dtype == torch.uint8 for weight in kept.values())
    folder = train(file, tmp_path / "out", *how)
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0] - 0.05
    tokens = torch.randint(0, 400, (1, 20))
    merged = daedal.load(str(folder)).network(tokens)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
    torch.testing.assert_close(merged, theirs, rtol=1e-4, atol=1e-4)
    beside = daedal.load(f"{file}:{tmp_path / 'out/adapter'}").network(tokens)
    assert (beside - merged).abs().max() < 0.03 * merged.abs().max()  # activations are rounded


def test_a_teachers_answers_are_learned(chat_base: Path, reference: Path, tmp_path: Path) -> None:
    train(
        chat_base,
        tmp_path,
        f"sampled={{teacher: {reference / 'model'}, tasks: 3, n: 2, kinds: [list], temperature: 0, threshold: 0}}",
        "steps=1",
    )
    [file] = tmp_path.glob("kept-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    teacher = daedal.load(str(reference / "model"))
    assert rows and all(
        teacher(row["prompt"], temperature=0, max_tokens=8).text.strip() == row["completion"]
        for row in rows
    )


def test_packed_weights_can_start(chat_base: Path, tmp_path: Path) -> None:
    from daedal.checkpoints.quantize import quantize

    quantize(chat_base, tmp_path / "int8")
    packed, plain = assistant.network_of(tmp_path / "int8"), assistant.network_of(chat_base)
    tokens = torch.randint(0, 400, (1, 20))
    assert packed.lm_head.weight is packed.embed_tokens.weight and all(
        p.requires_grad for p in packed.parameters()
    )
    torch.testing.assert_close(packed(tokens), plain(tokens), rtol=0.1, atol=0.1)
    train(tmp_path / "int8", tmp_path / "run", "steps=1")
    assert daedal.load(str(tmp_path / "run/model")).network.names.prefix == "model."


def test_bad_recipes_get_a_sentence(chat_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DaedalError, match="beyond the 256 tokens"):
        train(chat_base, tmp_path, "context=512")
    with pytest.raises(DaedalError, match="story"):
        train(chat_base, tmp_path, "data.train=[{path: 'tasks:storys'}]")


def test_plan_counts_without_training(chat_base: Path, tmp_path: Path) -> None:
    planned = plan(load_recipe(RECIPE, [*QUICK, f"start={chat_base}", f"out={tmp_path / 'none'}"]))
    assert (
        planned["parameters"] == assistant.network_of(chat_base).parameter_count()
        and not (tmp_path / "none").exists()
    )
