"""Next-token pre-training from a recipe: tokenizer, packed rows, network, optimizers, trainer, and
the folder that comes out."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daedal import checkpoints
from daedal import device as machine
from daedal.data.documents import documents
from daedal.data.packing import PackedRows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.nn.mlp import balance_loss
from daedal.processes.scoring import bits_per_byte
from daedal.train import parallel
from daedal.train.objectives import linear_cross_entropy
from daedal.train.optim import recipe_optimizers
from daedal.train.recipe.text import Recipe
from daedal.train.start import Start, begin, mark
from daedal.train.trainer import Batch, Batches, Objective, Trainer


class TokenBatches:
    """Packed rows as the trainer's batches."""

    def __init__(self, rows: PackedRows) -> None:
        self.rows, self.state = rows, rows.state

    def __iter__(self) -> Iterator[Batch]:
        return ({"tokens": rows} for rows in self.rows)


def next_token(recipe: Recipe) -> Objective:
    """Sum of next-token losses over the rows, plus load balancing where there are experts."""

    def loss(network: Decoder, part: Batch) -> Tensor:
        tokens, router = part["tokens"], []
        hidden = network.hidden(tokens[:, :-1], router_logits=router)
        total = linear_cross_entropy(
            hidden, network.lm_head.weight, tokens[:, 1:], z=recipe.z_loss, softcap=network.softcap
        )
        if router:
            balance = balance_loss(router, network.config.num_experts_per_tok)  # type: ignore[attr-defined]
            total = total + recipe.balance_loss * tokens[:, 1:].numel() * balance
        return total

    return Objective(loss, lambda batch: batch["tokens"][:, 1:].numel())


def tokenizer_of(recipe: Recipe, start: Start) -> Tokenizer:
    """The recipe's tokenizer; one that is trained is kept, so that a resumed run has the same."""
    if recipe.tokenizer.path or recipe.model.start:
        return Tokenizer.load(checkpoints.resolve(recipe.tokenizer.path or recipe.model.start))
    folder = start.out / f"tokenizer-{mark(recipe, 'data', 'tokenizer')}"
    special = recipe.tokenizer.special_tokens
    if not (folder / "tokenizer.json").exists() and start.rank == 0:
        texts = islice(documents(recipe.data.train), recipe.tokenizer.documents)
        Tokenizer.train(
            texts,
            recipe.tokenizer.vocab_size,
            special,
            bos=special[0],
            eos=special[1],
            add_bos=True,
        ).save(folder)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return Tokenizer.load(folder)


def network_of(recipe: Recipe, tokenizer: Tokenizer) -> Decoder:
    if recipe.model.start:
        return checkpoints.load_plain(
            checkpoints.resolve(recipe.model.start), torch.float32, kind=Decoder
        ).train()
    raw = recipe.model.config(tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids[0])
    return build(config_from_dict(raw)).init_weights(recipe.seed).train()


def plan(recipe: Recipe) -> dict[str, Any]:
    """What a run will take, from the measured peak: parameters, FLOPs, memory, time. Trains
    nothing."""
    device = machine.pick_device(recipe.device)
    dtype = machine.compute_dtype(recipe.dtype, device)
    vocab = (
        Tokenizer.load(checkpoints.resolve(recipe.tokenizer.path)).vocab_size
        if recipe.tokenizer.path
        else recipe.tokenizer.vocab_size
    )
    with torch.device("meta"):
        if recipe.model.start:
            network = build(
                config_from_dict(checkpoints.read_config(checkpoints.resolve(recipe.model.start)))
            )
        else:
            network = build(config_from_dict(recipe.model.config(vocab, 0, 1)))
    c, tokens = network.config, recipe.rows * recipe.model.context
    flops = tokens * network.flops_per_token(recipe.model.context // 2, train=True)
    # Kept for backward: about 16 activations of width D and 3 of the feed-forward a layer and
    # token.
    activations = (
        recipe.micro_rows
        * recipe.model.context
        * c.num_hidden_layers
        * (16 * c.hidden_size + 3 * c.intermediate_size)
        * dtype.itemsize
    )
    states = 3 if recipe.optimizer.name == "adamw" else 2
    weights = network.parameter_count() * 4 * (1 + 1 + states + bool(recipe.ema))
    peak = machine.matrix_peak(device, dtype)
    return {
        "parameters": network.parameter_count(), "units": f"{tokens * recipe.steps:,} tokens", "flops": flops * recipe.steps, "dtype": str(dtype).removeprefix("torch."),
        "device": str(device), "memory_bytes": weights + activations, "measured_peak_flops": peak, "hours_at_full_peak": flops * recipe.steps / peak / 3600,
        "hours_at_60_percent": flops * recipe.steps / peak / 0.6 / 3600,
    }  # fmt: skip


def run(
    recipe: Recipe,
    objective: Callable[[Any, Decoder], Objective] | None = None,
    batches: Callable[[Any, PackedRows, Decoder, Tokenizer, dict[str, Any] | None], Batches]
    | None = None,
) -> Path:
    """Train, and write `out/model`, a folder that `daedal` and transformers open. Returns that
    folder. Other objectives on text pass theirs, and what makes batches of rows of text: of
    (recipe, rows, network, tokenizer, state to go on from)."""
    start = begin(recipe)
    if recipe.rows % (start.world * recipe.micro_rows):
        raise DaedalError(
            f"rows = {recipe.rows} does not split into {start.world} processes of micro_rows = {recipe.micro_rows}; make it a multiple."
        )
    tokenizer = tokenizer_of(recipe, start)
    network = start.prepared(network_of(recipe, tokenizer))
    data = start.resume and start.resume["data"]
    rows = PackedRows(
        recipe.data.train, tokenizer, recipe.rows, recipe.model.context, recipe.seed, state=data
    )
    source = batches(recipe, rows, network, tokenizer, data) if batches else TokenBatches(rows)
    tokens = recipe.rows * recipe.model.context
    trainer = Trainer(
        recipe, network, lambda: recipe_optimizers(recipe.optimizer, network, network.config.hidden_size, start.dtype), source, objective(recipe, network) if objective else next_token(recipe), start,
        unit="tokens", units_per_step=tokens, flops_per_step=tokens * network.flops_per_token(recipe.model.context // 2, train=True), evaluate=evaluation(recipe, tokenizer), sample=sampling(recipe, tokenizer),
    )  # fmt: skip
    trainer.run()
    state = trainer.result()
    if start.rank == 0:
        checkpoints.save(network, start.out / "model", state=state)
        tokenizer.save(start.out / "model")
    parallel.finish()
    return start.out / "model"


def evaluation(recipe: Recipe, tokenizer: Tokenizer):
    """Held-out bits per byte, or None without validation data."""
    if not recipe.data.validation:
        return None
    texts = list(islice(documents(recipe.data.validation), recipe.data.validation_documents))

    def evaluate(network: Decoder) -> dict[str, float]:
        measured = bits_per_byte(network.eval(), tokenizer, texts, recipe.model.context)
        network.train()
        return {
            "bits_per_byte": measured.value,
            "standard_error": measured.error,
            "perplexity": measured.perplexity,
        }

    return evaluate


def sampling(recipe: Recipe, tokenizer: Tokenizer):
    """One sample a prompt, as text to look at while training."""

    def sample(network: Decoder, step: int) -> str:
        from daedal.processes.autoregression import generate
        from daedal.processes.sampling import SamplingParams

        network.eval()
        params = SamplingParams(max_tokens=80, temperature=0.8, top_p=0.95, seed=recipe.seed)
        texts = []
        for prompt in recipe.prompts:
            ids = [tokenizer.bos_id, *tokenizer.encode(prompt, add_bos=False)]
            texts.append(
                "  | "
                + (prompt + tokenizer.decode(generate(network, ids, params))).replace(
                    "\n", "\n  | "
                )
            )
        network.train()
        return "\n".join(texts)

    return sample
