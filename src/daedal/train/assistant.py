"""What every run on conversations does before and after its loop: the model to start from with its
chat template, an adapter on it, the answers it gives while it learns, and the folder that comes
out.

Legend: B rows, T tokens.
"""

import dataclasses
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal import device as machine
from daedal.checkpoints.adapter import save_adapter
from daedal.checkpoints.files import copy_companions
from daedal.data import chat
from daedal.data.rows import Messages
from daedal.data.tokenizer import Tokenizer
from daedal.engine.engine import Engine
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.networks.scalar import ScalarModel
from daedal.nn.lora import add_lora, merge_lora, put
from daedal.nn.quantized import QuantLinear, freeze_packed_, keep_packed_
from daedal.processes.sampling import SamplingParams
from daedal.train.optim import recipe_optimizers
from daedal.train.recipe.chat import AdapterRecipe, ChatRun
from daedal.train.start import Start
from daedal.train.trainer import Batches, Objective, Trainer
from daedal.worlds import instructions
from daedal.worlds.tasks import Task

# ---- the start -----------------------------------------------------------------------------------


def tokenizer_of(recipe: ChatRun) -> Tokenizer:
    """The start's tokenizer, with a chat template."""
    return chat.prepared(Tokenizer.load(checkpoints.resolve(recipe.start)))


def network_of(folder: str | Path, adapter: AdapterRecipe | None = None) -> Decoder:
    """A folder's network in fp32. Packed weights are unpacked, so that they can learn; blocks under
    an `adapter`, which stay as they are, are not."""
    folder = checkpoints.resolve(folder)
    if adapter and checkpoints.read_config(folder).get("quantization_config"):
        network = checkpoints.load(folder, dtype=torch.float32, kind=Decoder)
        return keep_packed_(network).requires_grad_(True)
    return checkpoints.load_plain(folder, torch.float32, kind=Decoder).requires_grad_(True)


def adapted(recipe: ChatRun, network: nn.Module) -> nn.Module:
    """The network with the recipe's adapter on it, if it asks for one; what came before is frozen
    then."""
    if a := recipe.adapter:
        if a.bits:
            freeze_packed_(decoder_in(network), a.bits)
        add_lora(
            network, a.rank, a.alpha, a.targets, rslora=a.rslora, dora=a.dora, seed=recipe.seed
        )
    return network


def decoder_in(network: nn.Module) -> nn.Module:
    return network.model if isinstance(network, ScalarModel) else network


def context_of(recipe: ChatRun, network: Decoder) -> int:
    most = network.config.max_position_embeddings
    if recipe.context and recipe.context > most:
        raise DaedalError(
            f"context = {recipe.context} is beyond the {most} tokens of {recipe.start}; lower it."
        )
    return recipe.context or most


# ---- the loop ------------------------------------------------------------------------------------


def fit(
    recipe: ChatRun,
    start: Start,
    network: Any,
    batches: Batches,
    objective: Objective,
    tokens: int,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    sample: Callable[[Any, int], str] | None = None,
) -> dict[str, Tensor]:
    """Train `network` in place on batches of `tokens` tokens; its whole state, to ship."""
    start.prepared(network)
    trainer = Trainer(
        recipe, network, lambda: optimizers(recipe, network, start.dtype), batches, objective, unit="tokens", units_per_step=tokens,
        flops_per_step=tokens * network.flops_per_token(tokens // recipe.rows // 2, train=True), evaluate=evaluate, sample=sample,
        start=start,
    )  # fmt: skip
    trainer.run()
    state = trainer.result()
    network.eval()
    return state


def optimizers(recipe: ChatRun, network: Any, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """The recipe's; of an adapter always AdamW, as its two thin factors are no map whose singular
    values mean something."""
    o = recipe.optimizer
    if not recipe.adapter:
        return recipe_optimizers(o, network, network.config.hidden_size, dtype)
    learned = [p for p in network.parameters() if p.requires_grad]
    rate = o.rates(network.config.hidden_size)[1]
    return [
        torch.optim.AdamW(
            learned, lr=rate, betas=o.betas, weight_decay=o.weight_decay, eps=1e-10, fused=True
        )
    ]


def plan(recipe: ChatRun, passes: float = 1.0) -> dict[str, Any]:
    """What a run will take; trains nothing. `passes` are rows that a step runs for each of the
    recipe's."""
    device = machine.pick_device(recipe.device)
    dtype = machine.compute_dtype(recipe.dtype, device)
    with torch.device("meta"):
        network = build(
            config_from_dict(checkpoints.read_config(checkpoints.resolve(recipe.start)))
        )
    c, context = network.config, context_of(recipe, network)
    tokens = int(passes * recipe.rows * context)
    flops = tokens * network.flops_per_token(context // 2, train=True)
    activations = (
        passes
        * recipe.micro_rows
        * context
        * c.num_hidden_layers
        * (16 * c.hidden_size + 3 * c.intermediate_size)
        * dtype.itemsize
    )
    peak, held = (
        machine.matrix_peak(device, dtype),
        (recipe.adapter.bits or 32) / 8 if recipe.adapter else 0,
    )
    return {
        "parameters": network.parameter_count(), "units": f"{tokens * recipe.steps:,} tokens at most", "flops": flops * recipe.steps,
        "dtype": str(dtype).removeprefix("torch."), "device": str(device), "measured_peak_flops": peak,
        "memory_bytes": network.parameter_count() * (held if recipe.adapter else 16 + 4 * bool(recipe.ema)) + activations,
        "hours_at_full_peak": flops * recipe.steps / peak / 3600, "hours_at_60_percent": flops * recipe.steps / peak / 0.6 / 3600,
    }  # fmt: skip


def publish(
    recipe: ChatRun, start: Start, network: Decoder, tokenizer: Tokenizer, state: dict[str, Tensor]
) -> Path:
    """Write `out/model`, a chat model's folder, and of an adapter `out/adapter`, peft's; the folder
    to use."""
    if start.rank == 0 and recipe.adapter:
        save_adapter(network, start.out / "adapter", recipe.start)
        tokenizer.save(start.out / "adapter")
    if recipe.adapter and not recipe.adapter.merge:
        return start.out / "adapter"
    if start.rank == 0:
        if recipe.adapter:
            state = merged(recipe, network)
        write_model(recipe.start, network, tokenizer, state, start.out / "model")
    return start.out / "model"


def merged(recipe: ChatRun, network: nn.Module) -> dict[str, Tensor]:
    """The state of the network with its adapter merged in, in place. What was packed for training
    is read again from the start's folder, so that the merged weights are not rounded."""
    decoder = decoder_in(network)
    if any(isinstance(module, QuantLinear) for module in decoder.modules()):
        whole = network_of(recipe.start)
        decoder.names = whole.names
        for name, module in list(decoder.named_modules()):
            if isinstance(module, QuantLinear):
                put(
                    decoder,
                    name,
                    whole.get_submodule(name.removesuffix(".base_layer")).to(module.weight.device),
                )
    merge_lora(network)
    return network.state_dict()


def write_model(
    base: str, network: Decoder, tokenizer: Tokenizer, state: dict[str, Tensor], folder: Path
) -> None:
    """A model folder whose config.json, generation_config.json and tokenizer agree on what ends an
    answer."""
    ends = {"eos_token_id": list(tokenizer.eos_ids), "bos_token_id": tokenizer.bos_id}
    network.config = dataclasses.replace(network.config, eos_token_id=tokenizer.eos_ids)
    folder.mkdir(parents=True, exist_ok=True)
    copy_companions(Path(checkpoints.resolve(base)), folder)
    (folder / "README.md").unlink(missing_ok=True)  # the card of another model
    checkpoints.save(network, folder, state=state)
    tokenizer.save(folder)
    file = folder / "generation_config.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | ends, indent=2) + "\n")


def say(text: str, start: Start) -> None:
    """A line to whoever watches."""
    if start.rank == 0:
        print(text, file=sys.stderr, flush=True)


# ---- answers -------------------------------------------------------------------------------------


def answers(
    network: Decoder,
    tokenizer: Tokenizer,
    asked: Sequence[Messages],
    params: SamplingParams,
    max_batch: int = 16,
) -> list[list[str]]:
    """`params.n` answers to each conversation, through the engine, the network in evaluation mode
    while it answers."""
    training = network.training
    network.eval()
    try:
        prompts = [chat.encode(tokenizer, messages) for messages in asked]
        longest = max(map(len, prompts)) + params.max_tokens
        requests = Engine(network, tokenizer, max_batch=max_batch, max_len=longest).generate(
            prompts, params
        )
    finally:
        network.train(training)
    return [[sample.text.strip() for sample in request.samples] for request in requests]


def held_out_tasks(recipe: ChatRun) -> list[Task]:
    """The same held-out tasks each time, kinds in turn."""
    kinds = recipe.evaluate_kinds or instructions.KINDS
    return [
        instructions.task(random.Random(f"held out/{i}"), [kinds[i % len(kinds)]], held_out=True)
        for i in range(recipe.evaluate_tasks)
    ]


def scored(
    network: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task], params: SamplingParams
) -> dict[str, float]:
    """Share of constraints met, over all tasks with its standard error, by kind, and the share of
    tasks with all of them met."""
    earned = [
        task.check(texts[0])
        for task, texts in zip(
            tasks,
            answers(network, tokenizer, [task.messages for task in tasks], params),
            strict=True,
        )
    ]
    kinds = defaultdict(list)
    for task, value in zip(tasks, earned, strict=True):
        kinds[task.kind].append(value)
    values = torch.tensor(earned)
    error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
    whole = {
        "constraints_met": values.mean().item(),
        "standard_error": error,
        "all_met": (values == 1).float().mean().item(),
    }
    return whole | {f"met/{kind}": sum(some) / len(some) for kind, some in kinds.items()}


def sampling(recipe: ChatRun, tokenizer: Tokenizer) -> Callable[[Any, int], str]:
    """Answers to the recipe's prompts and to three held-out tasks, to look at while training."""
    asked = [
        *([{"role": "user", "content": prompt}] for prompt in recipe.prompts),
        *(task.messages for task in held_out_tasks(recipe)[:3]),
    ]
    params = SamplingParams(max_tokens=recipe.answer_tokens, temperature=0.7, seed=recipe.seed)

    def sample(network: Decoder, step: int) -> str:
        given = answers(network, tokenizer, asked, params)
        return "\n".join(
            f"  > {messages[-1]['content']}\n  | {texts[0]}".replace("\n", "\n  ")
            for messages, texts in zip(asked, given, strict=True)
        )

    return sample if asked else lambda network, step: ""
