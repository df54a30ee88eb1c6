"""What `daedal serve --moderate` keeps from being asked and said."""

import dataclasses
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from daedal.data.rows import text_of
from daedal.errors import DaedalError
from daedal.server.errors import ApiError
from daedal.trust.moderation.classifier import PERSONAL, Holdback, classifier

if TYPE_CHECKING:
    from daedal.server.text import Piece

FILTERED = "content_filter"  # the finish reason of an answer that was stopped


def check_asked(prompt: Any) -> None:
    """Refuse a request whose last user's turn, or prompt, is above a threshold. A user's own personal
    data is no reason."""
    text = prompt
    if isinstance(prompt, list):
        turns = [turn for turn in prompt if isinstance(turn, dict) and turn.get("role") == "user"]
        try:
            text = text_of(turns[-1].get("content")) if turns else ""
        except DaedalError:  # it is refused where it is read
            return
    if not isinstance(text, str):
        return
    reasons = [name for name in classifier().judge(text).reasons if name != PERSONAL]
    if reasons:
        raise ApiError(
            400,
            f"this server does not answer what its classifier takes for {', '.join(reasons)}; say it in other words if that is wrong.",
            code="content_policy_violation",
            param="messages" if isinstance(prompt, list) else "prompt",
        )


async def screened(pieces: "AsyncIterator[Piece]") -> "AsyncIterator[Piece]":
    """The pieces of answers, their last words held back until what follows was judged. An answer
    that is above a threshold ends there, with finish reason content_filter. Tokens and their
    log-probabilities are left out: they would tell what is held back."""
    held: dict[tuple[int, str], Holdback] = {}
    stopped: set[int] = set()
    async for piece in pieces:
        if piece.index in stopped:
            continue
        if piece.kind == "call":
            yield piece
            continue
        keys = [key for key in held if key[0] == piece.index]
        if not piece.finish:
            keys = [(piece.index, piece.kind)]
            held.setdefault(keys[0], Holdback())
        for key in keys:
            free = held[key].push(piece.text, last=bool(piece.finish))
            if held[key].reasons:
                stopped.add(piece.index)
                yield dataclasses.replace(piece, kind="end", text="", tokens=(), finish=FILTERED)
                break
            if free:
                yield dataclasses.replace(piece, kind=key[1], text=free, tokens=(), finish=None)
        if piece.finish and piece.index not in stopped:
            yield piece
