"""Lists of things in pages, as OpenAI's clients read them."""

from typing import Any

# of a route's description: a file of any kind
BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {"*/*": {}}}}


def page(rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A list in OpenAI's words, of rows of which one more than `limit` was looked for."""
    shown = rows[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(rows) > limit,
    }
