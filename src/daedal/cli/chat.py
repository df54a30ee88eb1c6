"""`daedal chat`: a conversation in the terminal."""

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from daedal.cli.options import MAX_TOKENS
from daedal.cli.tools import MCP, TOOLS, opened_tools, talked

HELP = "/help  /system TEXT  /retry  /undo  /save FILE  /load FILE  /history  /memory [forget N]  /tools  /seed N  /set NAME VALUE  /exit; Ctrl-C stops an answer, a line ending in \\ goes on"


def chat(
    model: Annotated[
        str, typer.Option(help="A chat model: house model, folder or Hub name.")
    ] = "house/chat",
    adapter: Annotated[
        str | None, typer.Option(help="Folder or Hub name of a LoRA to put on the model.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first answer; each answer adds one.")
    ] = None,
    max_tokens: MAX_TOKENS = 256,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="0 is greedy, 1 the model's own distribution; if not given the model's choice."
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from the likeliest that hold this share; if not given the model's choice."
        ),
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Pack the weights on loading: 8, 4 or 16.")
    ] = None,
    tools: TOOLS = None,
    mcp: MCP = None,
) -> None:
    """Talk with a model. A model without a chat template continues the text of the conversation
    instead."""
    from daedal.pipelines.text import load

    pipeline = load(f"{model}:{adapter}" if adapter else model, quantize=quantize)
    settings = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    settings = {name: value for name, value in settings.items() if value is not None}
    with memory_if_on(pipeline.chats) as memory, opened_tools(tools, mcp) as found:
        Conversation(pipeline, settings, system, memory, found).run()


@contextmanager
def memory_if_on(chats: bool) -> Iterator[Any]:
    """The memory, where it is switched on and the model reads a system's words; else None."""
    from daedal.assist.memory.store import Memory, switch

    if not (chats and switch().exists()):
        yield None
        return
    with Memory() as memory:
        yield memory


class Conversation:
    """Messages, the settings of answers, and the commands that change them."""

    def __init__(
        self, pipeline, settings: dict, system: str | None, memory: Any = None, tools: Any = ()
    ) -> None:
        self.pipeline, self.settings, self.memory = pipeline, settings, memory
        self.tools = tools
        self.trusted: list[str] = []  # tools that were allowed for good
        self.name = secrets.token_hex(4)  # of this conversation, in the memory
        first = {"role": "system", "content": system or ""}
        self.messages: list[dict[str, Any]] = [first] if system else []
        self.templated = pipeline.chats

    def run(self) -> None:
        interactive = sys.stdin.isatty()
        if interactive:
            kind = (
                "" if self.templated else " It has no chat template, so it goes on with your text."
            )
            print(f"daedal: {self.pipeline.name}.{kind} {HELP}", file=sys.stderr)
        while (line := self.read(interactive)) is not None:
            if line.startswith("/"):
                if self.command(line) == "exit":
                    return
            elif line.strip():
                self.messages.append({"role": "user", "content": line})
                self.remember(line)
                self.answer()

    def read(self, interactive: bool) -> str | None:
        """One message; lines that end in a backslash are joined. None at the end of input."""
        lines, prompt = [], "> "
        while True:
            try:
                line = input(prompt if interactive else "")
            except EOFError:
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                print(file=sys.stderr)
                if not lines:
                    raise
                lines = []
                continue
            lines.append(line.removesuffix("\\"))
            if not line.endswith("\\"):
                return "\n".join(lines)
            prompt = "… "

    def prompt(self):
        if self.templated:
            return self.with_memory()
        return "\n".join(message["content"] for message in self.messages)

    def remember(self, line: str) -> None:
        """Keep what a turn says, and say on stderr what was understood."""
        if self.memory is None:
            return
        noted = self.memory.note(line, conversation=self.name)
        for fact in noted.learnt:
            print(f"daedal: remembered: {fact.key} = {fact.value}", file=sys.stderr)
        for fact in noted.forgotten:
            print(f"daedal: forgotten: {fact.key} = {fact.value}", file=sys.stderr)

    def with_memory(self) -> list[dict[str, str]]:
        from daedal.assist.memory.store import told

        if self.memory is None:
            return self.messages
        asked = next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")
        return told(self.messages, self.memory.recall(asked))

    def answer(self) -> None:
        from daedal.errors import DaedalError
        from daedal.pipelines import history

        if self.tools:
            try:
                self.messages = talked(self)
            except DaedalError as error:
                self.messages.pop()
                print(f"daedal: {error}", file=sys.stderr)
            return
        try:
            stream = self.pipeline.stream(self.prompt(), **self.settings)
        except DaedalError as error:
            self.messages.pop()
            print(f"daedal: {error}", file=sys.stderr)
            return
        try:
            for piece in stream:
                print(piece.text, end="", flush=True)
        except KeyboardInterrupt:
            pass
        print(flush=True)
        result = stream.result()
        self.messages.append({"role": "assistant", "content": result.text})
        try:
            history.add(result)
        except DaedalError as error:
            print(f"daedal: {error}", file=sys.stderr)
        if "seed" in self.settings:
            self.settings["seed"] += 1

    def command(self, line: str) -> str | None:
        name, _, rest = line[1:].strip().partition(" ")
        if name in ("exit", "quit", "bye"):
            return "exit"
        if name == "system":
            self.messages = [m for m in self.messages if m["role"] != "system"]
            self.messages[:0] = [{"role": "system", "content": rest}] if rest else []
        elif name in ("retry", "undo"):
            while self.messages and self.messages[-1]["role"] in ("assistant", "tool"):
                self.messages.pop()
            if name == "undo" and self.messages and self.messages[-1]["role"] == "user":
                self.messages.pop()
            elif name == "retry" and self.messages:
                self.answer()
        elif name == "save" and rest:
            self.save(rest)
        elif name == "load" and rest:
            self.load(rest)
        elif name == "history":
            for message in self.messages:
                print(f"{message['role']}: {message['content']}", file=sys.stderr)
        elif name == "tools":
            for tool in self.tools:
                acts = "; asks before it acts" if tool.acts else ""
                print(f"{tool.name}: {tool.description}{acts}", file=sys.stderr)
            if not self.tools:
                print("daedal: no tools; start with --tools calculator,time", file=sys.stderr)
        elif name == "memory":
            self.show_memory(rest)
        elif name == "seed" and rest.isdigit():
            self.settings["seed"] = int(rest)
        elif name == "set" and len(rest.split()) == 2:
            self.set(*rest.split())
        else:
            print(HELP, file=sys.stderr)
        return None

    def show_memory(self, rest: str) -> None:
        from daedal.errors import DaedalError

        if self.memory is None:
            print("daedal: memory is off; `daedal memory on` switches it on", file=sys.stderr)
            return
        word, _, number = rest.partition(" ")
        if word == "forget" and number.isdigit():
            try:
                self.memory.forget(int(number))
            except DaedalError as error:
                print(f"daedal: {error}", file=sys.stderr)
        for fact in self.memory.facts():
            print(f"{fact.id:>4}  {fact.day}  {fact.key} = {fact.value}", file=sys.stderr)

    def set(self, name: str, value: str) -> None:
        import yaml

        from daedal.errors import DaedalError

        try:
            self.pipeline.params(self.settings | {name: yaml.safe_load(value)})
        except (DaedalError, TypeError) as error:
            print(f"daedal: {error}", file=sys.stderr)
        else:
            self.settings[name] = yaml.safe_load(value)

    def load(self, path: str) -> None:
        import json

        try:
            with open(path, encoding="utf-8") as file:
                messages = json.load(file)["messages"]
            if not all(
                isinstance(m["content"], str)
                and m["role"] in ("system", "user", "assistant", "tool")
                for m in messages
            ):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            print(
                f"daedal: {path} holds no conversation; give a file that /save wrote",
                file=sys.stderr,
            )
        else:
            self.messages = messages
            print(f"daedal: {len(messages)} messages", file=sys.stderr)

    def save(self, path: str) -> None:
        import json

        try:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(
                    {"messages": self.messages, "model": self.pipeline.name},
                    file,
                    indent=2,
                    ensure_ascii=False,
                )
        except OSError as error:
            print(f"daedal: {path} could not be written ({error.strerror})", file=sys.stderr)
