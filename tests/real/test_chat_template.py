"""The coder's chat template and tools, rendered as transformers renders them."""

from pathlib import Path

import pytest

from daedal.checkpoints import gguf_file
from daedal.data import chat
from daedal.data.tokenizer import Tokenizer

pytestmark = pytest.mark.real

CALL = {"name": "weather", "arguments": {"city": "Wien", "days": 2}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'The weather of a city: today\'s, or of "days" to come <soon>.',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]
TALKS = {
    "question": [{"role": "user", "content": "Write a loop in Python."}],
    "system": [
        {"role": "system", "content": "Answer in German."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Guten Tag!"},
        {"role": "user", "content": "  Two  spaces, a line\nand ünicode 🙂"},
    ],
    "tool": [
        {"role": "user", "content": "Is it warm in Wien?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": CALL}],
        },
        {"role": "tool", "name": "weather", "content": '{"degrees": 21}'},
    ],
}


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("talk", TALKS)
def test_as_transformers_renders_it(coder: Path, talk: str, tools: list, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.load(coder)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.chat_template = gguf_file.read(coder).metadata["tokenizer.chat_template"]
    options = dict(tools=tools, add_generation_prompt=True)
    text = theirs.apply_chat_template(TALKS[talk], tokenize=False, **options)
    assert chat.render(ours, TALKS[talk], **options).text == text
    assert chat.encode(ours, TALKS[talk], **options) == theirs.encode(text)
