"""A LoRA over the coder's packed file: twenty steps lower the held-out loss, and peft opens it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import daedal
from daedal import checkpoints
from daedal.data import chat
from daedal.processes.scoring import token_losses
from daedal.train.tasks import load_recipe, run

pytestmark = pytest.mark.real

RECIPE = Path(__file__).parents[2] / "recipes/chat/sft.yaml"
WORDS = ["cat", "dog", "owl", "fox", "bear", "frog", "lamp", "boat", "kite", "bell", "drum", "cake",
         "tree", "rose", "moon", "star"]  # fmt: skip
HOW = ["steps=20", "rows=2", "micro_rows=2", "context=64", "prompts=[]", "device=cpu",
       "adapter={rank: 4, targets: [q_proj, v_proj], merge: false}",
       "optimizer={name: adamw, adam_lr: 0.003, warmup: 2}",
       "evaluate_tasks=0", "evaluate_every=1000", "sample_every=1000"]  # fmt: skip


def talk(word: str) -> dict[str, str]:
    """An answer in a manner of its own."""
    return {"prompt": f"What is a {word}?", "completion": f"Ask Mia, she drew a {word} at noon."}


def answer_loss(pipeline: "daedal.pipelines.text.TextPipeline", words: list[str]) -> float:
    """Nats a token of the answers."""
    losses = []
    for row in map(talk, words):
        messages = [{"role": "user", "content": row["prompt"]}]
        messages += [{"role": "assistant", "content": row["completion"]}]
        ids, said = chat.encode_with_mask(pipeline.tokenizer, messages)
        found = token_losses(pipeline.network, ids, len(ids))
        losses.append(found[torch.tensor(said[1:])])
    return torch.cat(losses).mean().item()


@pytest.fixture(scope="module")
def adapter(coder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora")
    rows = out / "rows.jsonl"
    rows.write_text("".join(json.dumps(talk(word)) + "\n" for word in WORDS[:12]))
    sources = [f"data.train=[{{path: {rows}}}]", f"data.validation=[{{path: {rows}}}]"]
    run(load_recipe(RECIPE, [*HOW, *sources, f"start={coder}", f"out={out / 'run'}"]))
    return out / "run" / "adapter"


def test_held_out_loss_falls(coder: Path, adapter: Path) -> None:
    before = answer_loss(daedal.load(str(coder)), WORDS[12:])
    after = answer_loss(daedal.load(str(coder), adapter=str(adapter)), WORDS[12:])
    print("held-out loss", before, after)
    assert after < 0.7 * before


def test_peft_opens_it(coder: Path, adapter: Path) -> None:
    """Its layers have the names and shapes that peft gives to a model of this config."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = peft.PeftConfig.from_pretrained(adapter)
    raw = checkpoints.read_config(checkpoints.resolve(coder))
    raw.pop("quantization_config", None)
    with torch.device("meta"):
        base = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**raw)
        )
        expected = peft.get_peft_model_state_dict(peft.get_peft_model(base, config))
    found = load_file(adapter / "adapter_model.safetensors")
    assert {k: t.shape for k, t in found.items()} == {k: t.shape for k, t in expected.items()}
