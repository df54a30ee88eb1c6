"""A teacher writes exchanges for a small model to learn from: requests of daedal.worlds.requests,
answered by a chat model through the engine, each answer checked by program (Taori et al. 2023;
simple English after Eldan & Li 2023).

    daedal train recipes/chat/teacher.yaml

The run's folder holds `exchanges.jsonl`, a line an answer as it comes: its number, kind, prompt,
completion, and `kept`, whether it passed. Started again, a run goes on with the numbers that are
not there."""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import torch

from daedal import checkpoints
from daedal import device as machine
from daedal.data import chat
from daedal.data.rows import ChatSource, conversation
from daedal.data.tokenizer import Tokenizer
from daedal.engine.engine import Engine
from daedal.networks.decoder import Decoder
from daedal.nn.quantized import quantize_
from daedal.processes.sampling import SamplingParams
from daedal.train.recipe.chat import TeacherRecipe
from daedal.train.rollout import seed_of
from daedal.train.task import Cost, Task, outline
from daedal.worlds.answers import fit_to_learn
from daedal.worlds.requests import KINDS, request
from daedal.worlds.tasks import Task as Asked

FILE = "exchanges.jsonl"
EXAMPLES = ChatSource(path="examples")
PLAIN = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"}
)


class Exchanges:
    """The file of a run, and what has been written: numbers, and answers that were kept."""

    def __init__(self, file: Path) -> None:
        self.file, self.numbers, self.said = file, set[int](), set[str]()
        if file.exists():
            whole = [
                line for line in file.read_text().splitlines(keepends=True) if line[-1:] == "\n"
            ]
            file.write_text("".join(whole))  # a line that a kill cut in two goes
            for row in map(json.loads, whole):
                self.numbers.add(row["number"])
                self.said |= {row["completion"]} if row["kept"] else set()

    def add(self, out: TextIO, number: int, asked: Asked, text: str, ended: bool) -> None:
        new, fit = text not in self.said, fit_to_learn(asked.kind, text)
        kept = ended and new and fit and asked.check(text) >= 1
        self.said |= {text} if kept else set()
        row = {"number": number, "kind": asked.kind, "prompt": asked.prompt, "completion": text}
        out.write(json.dumps(row | {"kept": kept}) + "\n")
        out.flush()


class Teacher(Task):
    """Exchanges by a teacher: a task that makes data, and trains nothing."""

    recipe_type = TeacherRecipe
    unit, unit_label = "tokens", "tokens at most"

    def __init__(self, recipe: TeacherRecipe) -> None:
        super().__init__(recipe)
        self.folder = Path(recipe.out)

    def requests(self) -> Iterator[tuple[int, Asked]]:
        """Requests by number, no prompt twice."""
        r, seen = self.recipe, set[str]()
        for number in range(r.steps * r.rows):
            asked = request(random.Random(f"teacher/{r.seed}/{number}"), r.kinds or KINDS)
            if asked.prompt not in seen:
                seen.add(asked.prompt)
                yield number, asked

    def run(self) -> Path:
        """Answer the requests that the folder has no answer to; returns the folder. Raises
        DaedalError where the teacher has no chat template."""
        r, device = self.recipe, machine.pick_device(self.recipe.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        done = Exchanges(self.folder / FILE)
        left = [pair for pair in self.requests() if pair[0] not in done.numbers]
        folder = checkpoints.resolve(r.teacher)
        tokenizer = chat.prepared(Tokenizer.load(folder))
        # bf16: of many sequences at once blocks of 4 bits would be unpacked at each step
        network = checkpoints.load_plain(folder, kind=Decoder).bfloat16().to(device).eval()
        if device.type == "cpu":
            quantize_(network, 16)
        with open(done.file, "a") as out:
            self.answer(left, network, tokenizer, done, out)
        print(f"{len(done.said)} exchanges kept", file=sys.stderr, flush=True)
        return self.folder

    @torch.inference_mode()
    def answer(
        self,
        asked: list[tuple[int, Asked]],
        network: Decoder,
        tokenizer: Tokenizer,
        done: Exchanges,
        out: TextIO,
    ) -> None:
        """The requests through one engine, `micro_rows` of them at once, each answer written as it
        ends. The first begins alone: the others share the beginning that it has read."""
        r = self.recipe
        shared = [{"role": "system", "content": r.system}] if r.system else []
        shared += [turn for shown in r.examples for turn in conversation(shown, EXAMPLES)]
        prompts = [chat.encode(tokenizer, [*shared, *each.messages]) for _, each in asked]
        longest = max(map(len, prompts), default=0) + r.answer_tokens
        size = {"max_batch": r.micro_rows, "token_budget": max(512, r.micro_rows)}
        engine = Engine(network, tokenizer, max_len=longest, **size)
        params = SamplingParams(
            temperature=r.temperature, top_p=r.top_p, max_tokens=r.answer_tokens
        )
        waiting, following = {}, iter(zip(asked, prompts, strict=True))
        room = 1
        while True:
            for (number, each), ids in islice(following, room - len(waiting)):
                drawn = replace(params, seed=seed_of(r.seed, number))
                waiting[engine.submit(ids, drawn)] = number, each
            if not waiting:
                return
            for one, _ in engine.step():
                room = r.micro_rows
                if one.finished:
                    text = one.text.strip().translate(PLAIN)
                    ended = one.finished == "stop"
                    done.add(out, *waiting.pop(one), text, ended)

    def cost(self, dtype: torch.dtype) -> Cost:
        """If every answer is as long as it may be."""
        r = self.recipe
        network = outline(checkpoints.read_config(checkpoints.resolve(r.teacher)))
        units, weights = r.rows * r.answer_tokens, network.parameter_count()
        flops = units * network.flops_per_token(r.answer_tokens, train=False)
        return Cost(weights, units, flops, 2 * weights)
