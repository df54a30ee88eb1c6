"""An indexed folder with the embedder of its vectors, which is loaded at the first question; from
any thread.

    Library(Path("notes")).search("When is the harvest?", 4)"""

import threading
from pathlib import Path
from typing import Any

from daedal.assist.documents.index import Hit, Index
from daedal.pipelines.registry import load


class Library:
    """`embedder` is None until the first question, and where the index is of words only."""

    def __init__(self, folder: Path) -> None:
        Index.open(folder, make=False).close()  # one that is not there is said now
        self.folder, self.loading = folder, threading.Lock()
        self.embedder: Any = None

    def search(self, question: str, count: int) -> list[Hit]:
        with Index.open(self.folder, make=False) as index:
            with self.loading:
                if self.embedder is None and index.model:
                    self.embedder = load(index.model)
            return index.search(question, self.embedder, count)
