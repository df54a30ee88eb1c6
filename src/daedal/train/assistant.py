"""What every run on conversations does before and after its loop: the model to start from with its
chat template, an adapter on it, the answers it gives while it learns, and the folder that comes
out.

Legend: B rows, T tokens."""

import dataclasses
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.checkpoints.adapter import save_adapter
from daedal.checkpoints.files import copy_companions
from daedal.data import chat
from daedal.data.rows import Messages
from daedal.data.tokenizer import Tokenizer
from daedal.engine.engine import Engine
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.networks.scalar import ScalarModel
from daedal.nn.lora import add_lora, merge_lora, put
from daedal.nn.quantized import QuantLinear, freeze_packed_, keep_packed_
from daedal.processes.sampling import SamplingParams
from daedal.train.recipe.chat import AdapterRecipe, ChatRun
from daedal.train.task import Cost, Task, activations, evaluating, outline
from daedal.worlds import instructions
from daedal.worlds.tasks import Task as Problem

# ---- the start -----------------------------------------------------------------------------------


def chat_tokenizer(folder: str) -> Tokenizer:
    """A model's tokenizer, with a chat template."""
    return chat.prepared(Tokenizer.load(checkpoints.resolve(folder)))


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
        options = {"rslora": a.rslora, "dora": a.dora, "seed": recipe.seed}
        add_lora(network, a.rank, a.alpha, a.targets, **options)
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


# ---- the run -------------------------------------------------------------------------------------


class ChatTask(Task):
    """What the tasks on conversations share. `passes`: rows that a step runs for each of the
    recipe's."""

    unit, unit_label, passes = "tokens", "tokens at most", 1.0
    tokenizer: Tokenizer
    context: int

    def load(self) -> None:
        """The start: its tokenizer, its network, and how long a row is."""
        self.tokenizer = chat_tokenizer(self.recipe.start)
        self.network = network_of(self.recipe.start, self.recipe.adapter)
        self.context = context_of(self.recipe, self.network)

    @property
    def flops(self) -> float:  # type: ignore[override]
        length = self.units // self.recipe.rows
        return self.units * self.network.flops_per_token(length // 2, train=True)

    def optimizers(self, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
        """The recipe's; of an adapter always AdamW, as its two thin factors are no map whose
        singular values mean something."""
        if not self.recipe.adapter:
            return super().optimizers(dtype)
        o = self.recipe.optimizer
        learned = [p for p in self.network.parameters() if p.requires_grad]
        options = dict(betas=o.betas, weight_decay=o.weight_decay, eps=1e-10, fused=True)
        return [torch.optim.AdamW(learned, lr=o.rates(self.width)[1], **options)]

    def task_scores(self, network: Decoder) -> dict[str, float]:
        """What answers to held-out tasks earn, where the recipe asks for some."""
        tasks = held_out_tasks(self.recipe)
        params = SamplingParams(temperature=0, max_tokens=self.recipe.answer_tokens)
        return scored(network, self.tokenizer, tasks, params) if tasks else {}

    def cost(self, dtype: torch.dtype) -> Cost:
        """If every row is as long as the context."""
        r = self.recipe
        network = outline(checkpoints.read_config(checkpoints.resolve(r.start)))
        context, weights = context_of(r, network), network.parameter_count()
        units = int(self.passes * r.rows * context)
        held = (r.adapter.bits or 32) / 8 if r.adapter else 16 + 4 * bool(r.ema)
        kept = self.passes * activations(network.config, r.micro_rows * context) * dtype.itemsize
        flops = units * network.flops_per_token(context // 2, train=True)
        return Cost(weights, units, flops, weights * held + kept)


class PolicyTask(ChatTask):
    """One whose result answers: `out/model`, a chat model's folder, and of an adapter
    `out/adapter`, peft's, which is the folder to use where it is not merged."""

    def __init__(self, recipe: Any) -> None:
        super().__init__(recipe)
        if recipe.adapter and not recipe.adapter.merge:
            self.folder = self.folder.with_name("adapter")

    def sample(self, network: Decoder, step: int) -> str:
        """Answers to the recipe's prompts and to three held-out tasks, to look at while training."""
        r = self.recipe
        asked = [
            *([{"role": "user", "content": prompt}] for prompt in r.prompts),
            *(task.messages for task in held_out_tasks(r)[:3]),
        ]
        params = SamplingParams(max_tokens=r.answer_tokens, temperature=0.7, seed=r.seed)
        given = answers(network, self.tokenizer, asked, params) if asked else []
        pairs = zip((messages[-1]["content"] for messages in asked), given, strict=True)
        said = [f"  > {question}\n  | {texts[0]}" for question, texts in pairs]
        return "\n".join(each.replace("\n", "\n  ") for each in said)

    def save(self, state: dict[str, Tensor]) -> None:
        adapter, out = self.recipe.adapter, self.start.out
        if adapter:
            save_adapter(self.network, out / "adapter", self.recipe.start)
            self.tokenizer.save(out / "adapter")
            if not adapter.merge:
                return
            state = merged(self.recipe, self.network)
        write_model(self.recipe.start, self.network, self.tokenizer, state, out / "model")


def merged(recipe: ChatRun, network: nn.Module) -> dict[str, Tensor]:
    """The state of the network with its adapter merged in, in place. What was packed for training
    is read again from the start's folder, so that the merged weights are not rounded."""
    decoder = decoder_in(network)
    if any(isinstance(module, QuantLinear) for module in decoder.modules()):
        whole = network_of(recipe.start)
        decoder.names = whole.names
        for name, module in list(decoder.named_modules()):
            if isinstance(module, QuantLinear):
                plain = whole.get_submodule(name.removesuffix(".base_layer"))
                put(decoder, name, plain.to(module.weight.device))
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
    prompts = [chat.encode(tokenizer, messages) for messages in asked]
    longest = max(map(len, prompts)) + params.max_tokens
    with evaluating(network):
        engine = Engine(network, tokenizer, max_batch=max_batch, max_len=longest)
        requests = engine.generate(prompts, params)
    return [[sample.text.strip() for sample in request.samples] for request in requests]


def held_out_tasks(recipe: ChatRun) -> list[Problem]:
    """The same held-out tasks each time, kinds in turn."""
    kinds = recipe.evaluate_kinds or instructions.KINDS
    return [
        instructions.task(random.Random(f"held out/{i}"), [kinds[i % len(kinds)]], held_out=True)
        for i in range(recipe.evaluate_tasks)
    ]


def scored(
    network: Decoder, tokenizer: Tokenizer, tasks: Sequence[Problem], params: SamplingParams
) -> dict[str, float]:
    """Share of constraints met, over all tasks with its standard error, by kind, and the share of
    tasks with all of them met."""
    given = answers(network, tokenizer, [task.messages for task in tasks], params)
    earned = [task.check(texts[0]) for task, texts in zip(tasks, given, strict=True)]
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
