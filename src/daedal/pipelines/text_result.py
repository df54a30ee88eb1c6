"""What a text pipeline yields and returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daedal.files import write_whole
from daedal.pipelines.medium import Result
from daedal.pipelines.text_params import TEXT


@dataclass(frozen=True)
class Piece:
    """One token of a stream: its id, the text that became final with it (may be empty), its
    log-probability, which of the n texts it belongs to, and how many tokens are done of at most how
    many."""

    token: int
    text: str
    logprob: float
    sample: int
    done: int
    total: int


@dataclass(frozen=True)
class Text(Result):
    """One finished text. `finish_reason` is "stop" (the model or a stop string ended it), "length"
    (max_tokens did) or "cancelled"."""

    medium = TEXT
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]

    def __str__(self) -> str:
        return self.text

    @property
    def logged(self) -> str:
        return self.text

    @property
    def amount(self) -> int:
        return len(self.tokens)

    @property
    def whole(self) -> str:
        """The text, after the prompt that it continues; an answer stands alone."""
        return self.front + self.text

    @property
    def front(self) -> str:
        prompt, settings = self.recipe["prompt"], self.recipe["settings"]
        return prompt if isinstance(prompt, str) and settings["raw"] else ""

    def as_dict(self) -> dict[str, Any]:
        return (
            {"text": self.text}
            | super().as_dict()
            | {"tokens": list(self.tokens), "logprobs": list(self.logprobs)}
        )

    def _repr_markdown_(self) -> str:
        return f"**{self.front}**{self.text}\n\n<small>{self.recipe['model']}, seed {self.recipe['settings']['seed']}</small>"

    def save(self, path: str | Path) -> Path:
        """Write `whole` as UTF-8, with a line's end."""
        write_whole(Path(path), (self.whole + "\n").encode("utf-8", "replace"))
        return Path(path)
