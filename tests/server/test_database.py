"""Rows in pages: whatever the order, each row comes once."""

import random

import pytest

from daedal.server.database import Database


@pytest.fixture
def database(tmp_path):
    found = Database(tmp_path / "server.db")
    draw = random.Random(0)
    for i in range(40):
        row = {"id": f"file-{draw.randrange(10**9)}", "name": f"{i}", "purpose": "ab"[i % 2]}
        found.add("files", row | {"bytes": i, "created": i // 4, "owner": "me" if i % 5 else "you"})
    yield found
    found.close()


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("purpose", [None, "a"])
def test_pages_hold_every_row_once_in_order(database, order, size, purpose):
    wanted = {"owner": "me", "purpose": purpose}
    seen, after = [], None
    while rows := database.listed("files", size, after, order, **wanted):
        seen, after = seen + rows, rows[-1]["id"]
        assert len(rows) <= size
    every = [row for row in database.rows("SELECT * FROM files") if row["owner"] == "me"]
    every = [row for row in every if purpose in (None, row["purpose"])]
    expected = sorted(every, key=lambda row: (row["created"], row["id"]))
    assert seen == (expected if order == "asc" else expected[::-1])


def test_an_unknown_mark_starts_at_the_start(database):
    assert database.listed("files", 2, "file-nowhere") == database.listed("files", 2)
