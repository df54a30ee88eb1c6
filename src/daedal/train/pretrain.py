"""Next-token pre-training from a recipe: tokenizer, packed rows, network, optimizers, trainer, and
the folder that comes out."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data.documents import documents
from daedal.data.packing import PackedRows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.decoder import Decoder
from daedal.nn.mlp import balance_loss
from daedal.processes.autoregression import generate
from daedal.processes.sampling import SamplingParams
from daedal.processes.scoring import bits_per_byte
from daedal.train.objectives import linear_cross_entropy
from daedal.train.recipe.base import Run
from daedal.train.recipe.text import Recipe
from daedal.train.start import Start, mark
from daedal.train.task import Cost, Task, activations, evaluating, outline
from daedal.train.trainer import Batch, Objective


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


def planned_vocabulary(recipe: Recipe) -> int:
    """Of the recipe's tokenizer, which may not be trained yet."""
    if recipe.tokenizer.path:
        return Tokenizer.load(checkpoints.resolve(recipe.tokenizer.path)).vocab_size
    return recipe.tokenizer.vocab_size


class Pretrain(Task):
    """Next-token pre-training; `out/model` is a folder that `daedal` and transformers open."""

    recipe_type: type[Run] = Recipe
    unit = unit_label = "tokens"

    def build(self) -> None:
        r, world = self.recipe, self.start.world
        if r.rows % (world * r.micro_rows):
            raise DaedalError(
                f"rows = {r.rows} does not split into {world} processes of micro_rows = {r.micro_rows}; make it a multiple."
            )
        self.tokenizer = tokenizer_of(r, self.start)
        self.network = self.start.prepared(network_of(r, self.tokenizer))
        self.rows = PackedRows(
            r.data.train,
            self.tokenizer,
            r.rows,
            r.model.context,
            r.seed,
            fim=r.data.fim,
            state=self.start.data,
        )
        self.batches, self.objective = TokenBatches(self.rows), next_token(r)
        self.units = r.rows * r.model.context
        self.flops = self.units * self.network.flops_per_token(r.model.context // 2, train=True)
        texts = islice(documents(r.data.validation), r.data.validation_documents)
        self.held_out = list(texts) if r.data.validation else []
        if not r.data.validation:
            self.evaluate = None

    def evaluate(self, network: Decoder) -> dict[str, float]:
        """Bits per byte of held-out texts."""
        with evaluating(network):
            found = bits_per_byte(network, self.tokenizer, self.held_out, self.recipe.model.context)
        return {
            "bits_per_byte": found.value,
            "standard_error": found.error,
            "perplexity": found.perplexity,
        }

    def sample(self, network: Decoder, step: int) -> str:
        """One sample a prompt, as text to look at while training."""
        params = SamplingParams(max_tokens=80, temperature=0.8, top_p=0.95, seed=self.recipe.seed)
        texts, tokenizer = [], self.tokenizer
        with evaluating(network):
            for prompt in self.recipe.prompts:
                ids = [tokenizer.bos_id, *tokenizer.encode(prompt, add_bos=False)]
                texts.append(prompt + tokenizer.decode(generate(network, ids, params)))
        return "\n".join("  | " + text.replace("\n", "\n  | ") for text in texts)

    def save(self, state: dict[str, Tensor]) -> None:
        checkpoints.save(self.network, self.folder, state=state)
        self.tokenizer.save(self.folder)

    def cost(self, dtype: torch.dtype) -> Cost:
        r = self.recipe
        network = outline(
            checkpoints.read_config(checkpoints.resolve(r.model.start))
            if r.model.start
            else r.model.config(planned_vocabulary(r), 0, 1)
        )
        units, weights = r.rows * r.model.context, network.parameter_count()
        kept = activations(network.config, r.micro_rows * r.model.context)
        states = 3 if r.optimizer.name == "adamw" else 2
        return Cost(
            weights,
            units,
            units * network.flops_per_token(r.model.context // 2, train=True),
            weights * 4 * (1 + 1 + states + bool(r.ema)) + kept * dtype.itemsize,
        )
