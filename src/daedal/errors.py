"""The one error a user is meant to read: a sentence that names the value and the mend. The command
line prints it without a traceback."""


class DaedalError(ValueError):
    """Something the caller can mend; its message says what was wrong, which value, and what to do."""


class Busy(DaedalError):
    """What was asked for could be done later: a queue is full."""


class TooLong(DaedalError):
    """A prompt leaves no room in a model's context."""


class NoRoom(DaedalError):
    """A model does not fit into the memory that is free for models."""


def nearest(name: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, else an empty string."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" (did you mean {close[0]!r}?)" if close else ""
