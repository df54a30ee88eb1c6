"""What a user said, kept across conversations: every turn, and the facts in it with their source,
time and confidence (daedal.assist.memory.facts). Written from the user's own turns only.

    with Memory(place) as memory:
        memory.note("I live in Oslo now.")                  # what was learnt, replaced, forgotten
        memory.recall("Where could I go skating?")          # lines for the model to know

A later fact of the same key takes the place of the earlier one, which stays readable. What is
forgotten is gone: the fact, what it replaced, and the turns that said so."""

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from daedal.assist.documents.words import STOP
from daedal.assist.memory.facts import facts_in, forgotten_in
from daedal.errors import DaedalError
from daedal.files import data_folder

TABLES = """
CREATE TABLE IF NOT EXISTS turns (id INTEGER PRIMARY KEY, at REAL, owner TEXT, conversation TEXT, text TEXT);
CREATE TABLE IF NOT EXISTS facts (id INTEGER PRIMARY KEY, at REAL, owner TEXT, key TEXT, value TEXT, quote TEXT, turn INTEGER,
    confidence REAL, replaced REAL);
CREATE INDEX IF NOT EXISTS of_owner ON facts (owner, key);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text, tokenize = 'porter unicode61');
"""
FEW = 12  # facts that are all told to a model; of more, those that a question is about
EPISODES = 3  # earlier turns beside them
TOLD = (
    "What this user said in earlier conversations, in their own words. Use it where it helps; where two lines disagree, the later one "
    "holds.\n"
)


@dataclass(frozen=True)
class Known:
    """A fact that is kept. `replaced` is when a later one took its place, `turn` the number of the
    turn that said it (None of one that was entered by hand)."""

    id: int
    at: float  # seconds since 1970
    key: str
    value: str
    quote: str
    turn: int | None
    confidence: float
    replaced: float | None = None

    @property
    def day(self) -> str:
        return time.strftime("%Y-%m-%d", time.localtime(self.at))


@dataclass(frozen=True)
class Noted:
    """What a turn changed."""

    learnt: tuple[Known, ...] = ()
    forgotten: tuple[Known, ...] = ()


COLUMNS = "id, at, key, value, quote, turn, confidence, replaced"


class Memory:
    """What the users of one place said; `owner` sets them apart."""

    def __init__(self, place: Path | None = None) -> None:
        self.place, self.lock = place or data_folder() / "memory.db", threading.Lock()
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(
                self.place, isolation_level=None, check_same_thread=False, timeout=10
            )
            self.database.executescript(TABLES)
            self.database.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
            self.place.chmod(0o600)
        except (OSError, sqlite3.Error) as error:
            raise DaedalError(
                f"the memory {self.place} cannot be opened ({error}); move it away."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All of a change, or nothing; one at a time."""
        with self.lock:
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.database.execute("ROLLBACK")
                raise
            self.database.execute("COMMIT")

    # ---- writing ----

    def note(self, turn: str, owner: str = "", conversation: str = "") -> Noted:
        """Keep a turn of the user and what it says; what it asks to have forgotten goes, and the
        turn that asks is not kept."""
        asked = forgotten_in(turn)
        with self.whole():
            if asked is not None:
                gone = [fact for fact in self.facts(owner, replaced=True) if about(fact, asked)]
                self._erase(gone, owner, asked)
                return Noted(forgotten=tuple(gone))
            now = time.time()
            row = (now, owner, conversation, turn)
            number = self._insert(
                "INSERT INTO turns (at, owner, conversation, text) VALUES (?, ?, ?, ?)", row
            )
            self.database.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, turn))
            found = facts_in(turn)
            numbers = [
                self._add(f.key, f.value, f.quote, owner, number, f.confidence, now) for f in found
            ]
        return Noted(tuple(self.get(number, owner) for number in numbers))

    def _insert(self, statement: str, values: Sequence[Any]) -> int:
        return int(self.database.execute(statement, values).lastrowid or 0)

    def _add(
        self,
        key: str,
        value: str,
        quote: str,
        owner: str,
        turn: int | None,
        confidence: float,
        at: float,
    ) -> int:
        same = "SELECT id FROM facts WHERE owner = ? AND key = ? AND replaced IS NULL AND lower(value) = ?"
        if row := self.database.execute(same, (owner, key, value.lower())).fetchone():
            return int(row[0])  # known already
        self.database.execute(
            "UPDATE facts SET replaced = ? WHERE owner = ? AND key = ? AND replaced IS NULL",
            (at, owner, key),
        )
        return self._insert(
            "INSERT INTO facts (at, owner, key, value, quote, turn, confidence) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (at, owner, key, value, quote, turn, confidence),
        )

    def _erase(self, gone: Sequence[Known], owner: str, words: Sequence[str]) -> None:
        """Facts, and the turns that said them or that hold the words of what is to be forgotten."""
        turns = {fact.turn for fact in gone if fact.turn is not None}
        said = [fact.value.lower() for fact in gone if fact.value not in ("likes", "dislikes")]
        for number, text in self.database.execute(
            "SELECT id, text FROM turns WHERE owner = ?", (owner,)
        ).fetchall():
            named = words and all(stands(word, text) for word in words)
            if named or not words or any(stands(value, text) for value in said):
                turns.add(number)
        for number in turns:
            self.database.execute("DELETE FROM turns WHERE id = ?", (number,))
            self.database.execute("DELETE FROM words WHERE rowid = ?", (number,))
        for fact in gone:
            self.database.execute("DELETE FROM facts WHERE id = ?", (fact.id,))
        if turns:  # the word index keeps what was deleted until its parts are joined
            self.database.execute("INSERT INTO words (words) VALUES ('optimize')")

    def enter(self, key: str, value: str, owner: str = "") -> Known:
        """A fact by hand, in the place of what was known of its key."""
        if not key.strip() or not value.strip():
            raise DaedalError("a fact has a key and a value, like `home` and `Oslo`; give both.")
        with self.whole():
            quote = f"{key.strip()}: {value.strip()}"
            number = self._add(
                key.strip().lower(), value.strip(), quote, owner, None, 1.0, time.time()
            )
        return self.get(number, owner)

    def edit(self, number: int, value: str, owner: str = "") -> Known:
        """Another value for a fact; the turn that said the old one is forgotten."""
        known = self.get(number, owner)
        with self.whole():
            self._erase([known], owner, [known.value.lower()])
            made = self._add(
                known.key, value, f"{known.key}: {value}", owner, None, 1.0, time.time()
            )
        return self.get(made, owner)

    def forget(self, number: int, owner: str = "") -> Known:
        """A fact, with what it replaced and the turns that said so."""
        known = self.get(number, owner)
        gone = [fact for fact in self.facts(owner, replaced=True) if fact.key == known.key]
        with self.whole():
            self._erase(gone, owner, [known.value.lower()])
        return known

    def clear(self, owner: str = "") -> int:
        """Forget everything; how many facts there were."""
        gone = self.facts(owner, replaced=True)
        with self.whole():
            self._erase(gone, owner, [])
        return len(gone)

    # ---- reading ----

    def get(self, number: int, owner: str = "") -> Known:
        query = f"SELECT {COLUMNS} FROM facts WHERE id = ? AND owner = ?"
        row = self.database.execute(query, (number, owner)).fetchone()
        if row is None:
            raise DaedalError(
                f"nothing of number {number} is remembered; `daedal memory` lists what is."
            )
        return Known(*row)

    def facts(self, owner: str = "", replaced: bool = False) -> list[Known]:
        """What is known, oldest first; with `replaced` what no longer holds too."""
        query = f"SELECT {COLUMNS} FROM facts WHERE owner = ?" + (
            "" if replaced else " AND replaced IS NULL"
        )
        return [Known(*row) for row in self.database.execute(f"{query} ORDER BY at, id", (owner,))]

    def turns(self, words: str, owner: str = "", limit: int = 20) -> list[tuple[int, float, str]]:
        """(number, time, text) of the turns that share most with some words."""
        asked = {w for w in re.findall(r"\w+", words.lower()) if w not in STOP}
        if not asked:
            return []
        match = " OR ".join(f'"{word}"' for word in sorted(asked))
        query = (
            "SELECT turns.id, turns.at, turns.text FROM words JOIN turns ON turns.id = words.rowid "
            "WHERE words MATCH ? AND turns.owner = ? ORDER BY bm25(words) LIMIT ?"
        )
        return self.database.execute(query, (match, owner, limit)).fetchall()

    def recall(self, question: str, owner: str = "") -> str:
        """What a model is told before it answers: facts, those that the question is about first, and
        earlier turns like it. "" where there is nothing."""
        known = self.facts(owner)
        words = set(re.findall(r"\w+", question.lower())) - STOP
        if len(known) > FEW:
            known = sorted(known, key=lambda f: (-shared(f, words), -f.at))[:FEW]
        quoted = {fact.turn for fact in known}
        held = {fact.turn for fact in self.facts(owner, replaced=True) if fact.replaced}
        passed = quoted | held  # what was replaced is not said again
        near = [row for row in self.turns(question, owner, 12) if row[0] not in passed]
        lines = [(fact.at, fact.quote) for fact in known]
        lines += [(at, text) for _, at, text in near[:EPISODES] if text.strip() != question.strip()]
        if not lines:
            return ""
        days = (
            f"- {time.strftime('%Y-%m-%d', time.localtime(at))}: {' '.join(said.split())}"
            for at, said in sorted(lines)
        )
        return TOLD + "\n".join(days)

    def export(self, owner: str = "") -> str:
        """All of it, as JSON."""
        query = "SELECT id, at, conversation, text FROM turns WHERE owner = ? ORDER BY id"
        names = ("id", "at", "conversation", "text")
        turns = [
            dict(zip(names, row, strict=True)) for row in self.database.execute(query, (owner,))
        ]
        facts = [asdict(fact) for fact in self.facts(owner, replaced=True)]
        return json.dumps({"facts": facts, "turns": turns}, indent=2, ensure_ascii=False)


def stands(said: str, text: str) -> bool:
    """Whether words stand in a text whole: 7 not in 17, nor a cat in education."""
    return re.search(rf"(?<!\w){re.escape(said)}(?!\w)", text, re.IGNORECASE) is not None


def shared(fact: Known, words: set[str]) -> int:
    """How many of the words a fact has."""
    own = set(re.findall(r"\w+", f"{fact.key} {fact.quote}".lower()))
    return len(own & words)


def about(fact: Known, words: Sequence[str]) -> bool:
    """Whether a fact is one of those that the words name; of no words, every fact is."""
    own = set(re.findall(r"\w+", f"{fact.key} {fact.value}".lower()))
    return (
        not words
        or all(word in own for word in words)
        or set(re.findall(r"\w+", fact.key)) <= set(words)
    )


def told(messages: Sequence[dict[str, Any]], recalled: str) -> list[dict[str, Any]]:
    """Messages with what is remembered in front, in the system's words."""
    found = list(messages)
    if recalled and found and found[0]["role"] == "system":
        return [found[0] | {"content": f"{found[0]['content']}\n\n{recalled}"}, *found[1:]]
    return [{"role": "system", "content": recalled}, *found] if recalled else found


def switch() -> Path:
    """The file whose presence says that conversations in the terminal are remembered."""
    return data_folder() / "memory.on"
