"""Files of pairs of which one is better, as people label them: below the server's folder, in the
form that `daedal train` reads (reward and preference tasks of texts, rate and prefer of pictures).

A text's line is {"prompt", "chosen", "rejected"}; a picture's {"caption", "chosen", "rejected"},
with the files of both in a folder beside it."""

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daedal.files import write_whole
from daedal.server.errors import ApiError, not_found
from daedal.server.trainings import name_of

WRITING = threading.Lock()


@dataclass(frozen=True)
class Pairs:
    """A file of pairs."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    def rows(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    @property
    def kind(self) -> str:
        """What it compares: text or image; nothing while it is empty."""
        rows = self.rows()
        return "" if not rows else "image" if "caption" in rows[0] else "text"

    def add(self, prompt: Any, chosen: str, rejected: str) -> int:
        """Add a pair of texts; how many there are."""
        return self._write("text", {"prompt": prompt, "chosen": chosen, "rejected": rejected})

    def add_pictures(self, caption: str, chosen: bytes, rejected: bytes) -> int:
        """Add a pair of pictures."""
        names = [self._picture(data) for data in (chosen, rejected)]
        return self._write("image", {"caption": caption, "chosen": names[0], "rejected": names[1]})

    def _picture(self, data: bytes) -> str:
        place = f"{self.name}/{hashlib.sha256(data).hexdigest()[:24]}.png"
        path = self.path.parent / place
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        return place

    def _write(self, kind: str, row: dict[str, Any]) -> int:
        with WRITING:
            if (own := self.kind) not in ("", kind):
                message = (
                    f"{self.name} holds pairs of {own}, and these are of {kind}; take another file."
                )
                raise ApiError(409, message, "other_kind", "file")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            return len(self.rows())

    def take_back(self) -> int:
        """Drop the last pair; how many are left."""
        with WRITING:
            rows = self.rows()[:-1]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_whole(self.path, text.encode())
            return len(rows)


def at(folder: Path, name: str) -> Pairs:
    """The file of a name, whether it is there or not."""
    return Pairs(folder.resolve() / "preferences" / f"{name_of(name, 'file of pairs')}.jsonl")


def named(folder: Path, name: str) -> Pairs:
    found = at(folder, name)
    if not found.path.is_file():
        raise not_found("file of pairs", name)
    return found


def every(folder: Path) -> list[Pairs]:
    return [Pairs(path) for path in sorted((folder / "preferences").glob("*.jsonl"))]
