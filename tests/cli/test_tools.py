"""`daedal chat --tools`: what a person sees, and is asked."""

import pytest

from daedal.assist.tools import loop as loops
from daedal.assist.tools.tool import Tool, object_of, text
from daedal.assist.tools.turn import Turn
from daedal.cli.chat import Conversation

SENT: list[str] = []
SEND = Tool("send", "Send a letter.", object_of(body=text("what")), lambda body: SENT.append(body) or "sent", acts=True)  # fmt: skip


class Model:
    name, chats = "model", True


@pytest.mark.parametrize(
    "typed, sent", [("y", ["hi"]), ("n", []), ("", []), ("always", ["hi"]), ("what?", [])]
)
def test_nothing_acts_outside_but_by_consent(monkeypatch, capsys, typed, sent):
    SENT.clear()
    call = {"id": "call_1", "name": "send", "arguments": {"body": "hi"}}
    script = [Turn("", [call])]

    def taken(pipeline, messages, tools, on_text, **settings):
        if not script:
            on_text("Done.")
        return script.pop() if script else Turn("Done.")

    monkeypatch.setattr(loops, "take_turn", taken)
    lines = iter(["/tools", "Send hi", typed])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines, None) or raise_end(lines))
    talk = Conversation(Model(), {}, None, tools=[SEND])
    talk.command("/tools")
    next(lines), next(lines)
    talk.messages.append({"role": "user", "content": "Send hi"})
    talk.answer()
    out, err = capsys.readouterr()
    assert sent == SENT and out == "Done.\n"
    assert "send: Send a letter.; asks before it acts" in err and 'send(body="hi")' in err
    assert [m["role"] for m in talk.messages] == ["user", "assistant", "tool", "assistant"]
    assert (talk.trusted == ["send"]) == (typed == "always")


def raise_end(lines):
    raise EOFError
