"""Words of content and their stems, as answers and rankings compare them."""

import re

STOP = frozenset(["a", "an", "and", "are", "as", "at", "be", "by", "did", "do", "does", "for", "from", "had", "has", "have", "how", "i", "in", "is", "it", "its", "of", "on", "or", "that", "the", "their", "they", "this", "to", "was", "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will", "with", "you", "your", "me", "my", "we", "our", "he", "she", "his", "her", "him", "them", "there", "here", "about", "into"])  # fmt: skip


def content(text: str) -> set[str]:
    """The stems of a text's words of content."""
    return set(stems(text))


def stems(text: str) -> list[str]:
    """The same in order, with repeats."""
    return [stem(word) for word in re.findall(r"\w+", text.lower()) if word not in STOP]


def stem(word: str) -> str:
    """A word without its commonest endings."""
    for end in ("ies", "ing", "edly", "ed", "es", "s", "ly"):
        if word.endswith(end) and len(word) - len(end) >= 3:
            return word[: -len(end)]
    return word
