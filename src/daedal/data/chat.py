"""Chat templates: messages to the text, or the ids, that a chat model was trained on.

A template is Jinja source that came with somebody's weights: untrusted code, so it runs in a
sandbox that sees only plain JSON values. Its words are trusted with control tokens, the messages
are not: `<|im_end|>` inside a message is encoded as plain characters.

    ids = chat.encode(tokenizer, [{"role": "user", "content": "Hello"}])
"""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError

Message = Mapping[str, Any]

# Unicode noncharacters: never in text, so they can mark places through a rendering.
START, END, GUARD, CUT = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
NO_MARKS = {ord(mark): None for mark in (START, END, GUARD, CUT)}

# For models whose tokenizer has the six tokens but no template, as Daedal's own text recipes make
# them. What a tool answers is the system's.
HOUSE_TOKENS = ("<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
HOUSE = (
    "{{ bos_token }}{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|assistant|>{% generation %}{{ message.content or '' }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}<|end|>{% endgeneration %}"
    "{% elif message.role == 'user' %}<|user|>{{ message.content }}<|end|>"
    "{% else %}<|system|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def prepared(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of a chat model: as it is if it has a template, else with the house template,
    and answers that end at <|end|>."""
    if tokenizer.chat_template:
        return tokenizer
    if absent := [token for token in HOUSE_TOKENS if token not in tokenizer.special_tokens]:
        raise DaedalError(
            f"this tokenizer has no chat template, and lacks {absent[0]} that the house template is made of; start from a model that has a "
            f"template (often named -Instruct), or pre-train with tokenizer.special_tokens: [{', '.join(HOUSE_TOKENS)}]."
        )
    end = tokenizer.special_tokens["<|end|>"]
    tokenizer.chat_template = HOUSE
    tokenizer.roles["eos_token"] = "<|end|>"
    if "<|pad|>" in tokenizer.special_tokens:
        tokenizer.roles["pad_token"] = "<|pad|>"
    tokenizer.eos_ids = (end, *(i for i in tokenizer.eos_ids if i != end))
    return tokenizer


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant says, put between two marks."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{START}{caller()}{END}"


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which no chat model was trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    return environment.from_string(template)


def _plain(value: Any, tokenizer: Tokenizer) -> Any:
    """A copy made of JSON types only, with a guard inside whatever is spelled like a control token."""
    if isinstance(value, str):
        clean = str(value).translate(NO_MARKS)
        return tokenizer.special_pattern.sub(lambda m: m[0][0] + GUARD + m[0][1:], clean)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, tokenizer) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, tokenizer) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise DaedalError(
        f"A message may hold text, numbers, lists and mappings, not a {type(value).__name__}."
    )


@dataclass(frozen=True)
class Rendered:
    """A conversation as text. `spans`: the [start, end) characters that the assistant wrote, where
    the template says so.

    `guarded` is the same text with a guard inside every control token that a message tried to
    spell."""

    text: str
    spans: tuple[tuple[int, int], ...]
    guarded: str


def _find_spans(marked: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Take the generation marks out of a text and say where they were."""
    text, starts, spans = [], [], []
    length = 0
    for part in re.split(f"([{START}{END}])", marked) if START in marked else [marked]:
        if part == START:
            starts.append(length)
        elif part == END:
            spans.append((starts.pop(), length))
        else:
            text.append(part)
            length += len(part)
    return "".join(text), tuple(spans)


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final: bool = False,
    mark_end_of: int | None = None,
    template: str | None = None,
    **variables: Any,
) -> Rendered:
    """Run the tokenizer's chat template (or `template`). `tools` are JSON schemas, `documents`
    mappings with title and text.

    `continue_final` ends the text inside the last message, for the model to go on with it;
    `mark_end_of` puts CUT behind the words of that message. Other keywords reach the template as
    variables."""
    template = template or tokenizer.chat_template
    if not template:
        raise DaedalError(
            "This tokenizer has no chat template; give one with template=, or use a chat model (often named -Instruct)."
        )
    chat = _plain(list(messages), tokenizer)
    if continue_final:
        if not chat or not isinstance(chat[-1].get("content"), str):
            raise DaedalError("continue_final needs a last message whose content is text.")
        chat[-1]["content"] += CUT
    if mark_end_of is not None and isinstance(said := chat[mark_end_of].get("content"), str):
        chat[mark_end_of]["content"] = said.rstrip() + CUT + said[len(said.rstrip()) :]
    given = {"tools": _plain(tools, tokenizer), "documents": _plain(documents, tokenizer)}
    given["add_generation_prompt"] = add_generation_prompt and not continue_final
    try:
        text = _compile(template).render(**tokenizer.roles, **variables, messages=chat, **given)
    except (jinja2.TemplateError, TypeError, KeyError) as error:
        raise DaedalError(f"The chat template refused these messages: {error}") from error
    if continue_final:
        if CUT not in text:
            raise DaedalError(
                "The chat template leaves the last message out, so it cannot be continued."
            )
        text = text[: text.rindex(CUT)]
        text += END * (text.count(START) - text.count(END))
    guarded, _ = _find_spans(text)
    clean, spans = _find_spans(text.replace(GUARD, ""))
    return Rendered(clean, spans, guarded)


def encode(tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> list[int]:
    """Ids of a conversation, ready for the model to answer. Options as for `render`."""
    return encode_rendered(tokenizer, render(tokenizer, messages, **options))[0]


def encode_with_mask(
    tokenizer: Tokenizer, messages: Sequence[Message], **options: Any
) -> tuple[list[int], list[bool]]:
    """Ids of a whole conversation, and for each whether the assistant wrote it (the end of its turn
    included): the tokens that supervised fine-tuning learns. A template says what is the
    assistant's with `{% generation %}`; of one that does not, each turn is found as what the text
    grows by."""
    return encode_rendered(tokenizer, said(tokenizer, messages, **options))


def said(tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> Rendered:
    """A whole conversation as text, `spans` what the assistant wrote, whether or not the template
    marks it."""
    options = {"add_generation_prompt": False, **options}
    rendered = render(tokenizer, messages, **options)
    if rendered.spans:
        return rendered
    return replace(rendered, spans=_grown_spans(tokenizer, messages, rendered.text, options))


def _grown_spans(
    tokenizer: Tokenizer, messages: Sequence[Message], whole: str, options: dict[str, Any]
) -> tuple[tuple[int, int], ...]:
    """[start, end) of each assistant turn: from the end of the prompt for it to the end of the text
    with it, line ends after it left out. A turn that is written otherwise once it is past (many
    templates leave its thoughts out) is looked for where it now stands."""
    spans = []
    for i in (i for i, message in enumerate(messages) if message.get("role") == "assistant"):
        before = render(tokenizer, messages[:i], **{**options, "add_generation_prompt": True}).text
        after = render(tokenizer, messages[: i + 1], **options).text
        if after.startswith(before) and whole.startswith(after.rstrip()):
            spans.append((len(before), len(after.rstrip())))
        else:
            spans.append(_moved_span(tokenizer, messages, i, whole, before, options))
    return tuple(spans)


def _moved_span(
    tokenizer: Tokenizer, messages: Sequence[Message], i: int, whole: str, before: str, options: Any
) -> tuple[int, int]:
    """[start, end) of assistant turn i in the whole text: from behind the last words that ask for
    an answer ("<|im_start|>assistant") to behind what closes it ("<|im_end|>")."""
    opening = before.removeprefix(render(tokenizer, messages[:i], **options).text)
    alone = render(tokenizer, messages[: i + 1], mark_end_of=i, **options).text
    marked = render(tokenizer, messages, mark_end_of=i, **options).text
    said, cut, _ = marked.partition(CUT)
    closing = alone.partition(CUT)[2].rstrip()
    start, end = said.rfind(opening) + len(opening), len(said) + len(closing)
    found = cut and opening and opening in said and said + marked[len(said) + 1 :] == whole
    if not found or not whole.startswith(closing, len(said)):
        raise DaedalError(
            f"the chat template writes turn {i + 1} otherwise once it is past, and what the assistant wrote cannot be found; give a template "
            "with {% generation %}...{% endgeneration %} around it."
        )
    return start, end


def encode_rendered(tokenizer: Tokenizer, rendered: Rendered) -> tuple[list[int], list[bool]]:
    """(ids, whether the token begins inside an assistant span)."""
    edges = [edge for span in rendered.spans for edge in span]
    ids, starts = tokenizer.encode_trusted(rendered.guarded, GUARD)
    # between an odd edge and the next is a span
    return ids, [bisect_right(edges, start) % 2 == 1 for start in starts]
