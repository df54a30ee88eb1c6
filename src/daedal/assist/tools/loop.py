"""The loop of a model and its tools: a turn, its calls, their results, until it answers.

    loop = Loop(pipeline, box.tools)
    talk = loop.run(Talk.of("What is 17 % of 2,340?"))
    while talk.asked:                                   # calls that a person must allow
        talk.answer(talk.asked[0].id, True)
        talk = loop.run(talk)
    talk.text

A Talk is the whole state, and plain data: `as_dict` and `from_dict` keep it over hours or
processes. What a tool fails with goes back to the model as its result."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from daedal.assist.tools.policy import ORIGIN, Origin, Policy, Verdict, of_tool
from daedal.assist.tools.tool import Tool
from daedal.assist.tools.turn import take_turn
from daedal.errors import DaedalError, nearest

Heard = Callable[["Call", str], None]


@dataclass(frozen=True)
class Budget:
    """What one question may take; then the model answers with what it has."""

    calls: int = 12
    seconds: float = 300.0
    tokens: int = 4096


@dataclass
class Call:
    """A call that was written. `allowed` is None until it is decided."""

    id: str
    name: str
    arguments: dict[str, Any]
    allowed: bool | None = None
    reason: str = ""  # why a person is asked
    always: bool = False  # whether a person may allow this tool for good


@dataclass
class Talk:
    """A conversation with tools, and how far it is."""

    messages: list[dict[str, Any]]
    waiting: list[Call] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)  # tools that a person allowed for good
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, question: str, system: str = "") -> Self:
        first = [{"role": "system", "content": system}] if system else []
        return cls([*first, {"role": "user", "content": question}])

    @property
    def asked(self) -> list[Call]:
        """Calls that wait for a person."""
        return [call for call in self.waiting if call.allowed is None]

    @property
    def text(self) -> str:
        """The last answer."""
        said = (m["content"] for m in reversed(self.messages) if m["role"] == "assistant")
        return next(said, "")

    def answer(self, id: str, allowed: bool, always: bool = False) -> None:
        """A person's word on a call; `always` is for this tool from now on, where it may be."""
        call = next((call for call in self.asked if call.id == id), None)
        if call is None:
            raise DaedalError(f"no call {id!r} waits for an answer; see `asked`.")
        call.allowed = allowed
        if allowed and always and call.always:
            self.trusted.append(call.name)

    def ask(self, question: str) -> None:
        """Another question of the user, with a budget of its own."""
        self.messages.append({"role": "user", "content": question})
        self.calls, self.tokens, self.seconds = 0, 0, 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        return cls(**{**state, "waiting": [Call(**call) for call in state["waiting"]]})


class Loop:
    """A model with tools. `attended` is whether a person may be asked; without one, what needs a
    person is refused, and what breaks no rule is done."""

    def __init__(
        self,
        pipeline: Any,
        tools: Sequence[Tool],
        policy: Policy = Policy(),  # noqa: B008 - frozen
        budget: Budget = Budget(),
        attended: bool = False,
        **settings: Any,
    ) -> None:
        self.pipeline, self.policy, self.budget = pipeline, policy, budget
        self.tools = {tool.name: tool for tool in tools}
        self.attended, self.settings = attended, settings
        self.on_text: Callable[[str], None] = lambda text: None
        self.on_result: Heard = lambda call, result: None
        if len(self.tools) < len(tools):
            names = [tool.name for tool in tools]
            twice = next(name for name in names if names.count(name) > 1)
            raise DaedalError(f"there are two tools named {twice!r}; leave one out.")

    def run(self, talk: Talk) -> Talk:
        """Go on until the model has answered, or a person is asked (`talk.asked`)."""
        while True:
            if talk.asked:
                return talk
            began = time.monotonic()
            if talk.waiting:
                self._perform(talk)
                talk.seconds += time.monotonic() - began
                continue
            spent = self._spent(talk) or self._repeats(talk)
            offered = [] if spent else list(self.tools.values())
            settings = dict(self.settings)
            turn = take_turn(self.pipeline, talk.messages, offered, self.on_text, **settings)
            talk.tokens += turn.tokens
            talk.seconds += time.monotonic() - began
            talk.messages.append(turn.message)
            if not turn.calls:
                return talk
            before = talk.messages[:-1]
            talk.waiting = [
                self._judged(Call(call["id"], call["name"], call["arguments"]), before, talk)
                for call in turn.calls
            ]

    def _spent(self, talk: Talk) -> bool:
        most = self.budget
        return (
            talk.calls >= most.calls or talk.tokens >= most.tokens or talk.seconds >= most.seconds
        )

    def _repeats(self, talk: Talk) -> bool:
        """Whether all calls of the last turn were made before for the same question: a model that
        goes round in circles has to answer."""
        seen = list[list[str]]()
        for message in reversed(talk.messages):
            if message["role"] == "user":
                break
            if calls := message.get("tool_calls"):
                seen.append([f"{call['function']}" for call in calls])
        before = {call for turn in seen[1:] for call in turn}
        return bool(seen) and all(call in before for call in seen[0])

    def _judged(self, call: Call, messages: list[dict[str, Any]], talk: Talk) -> Call:
        """A call with what the policy says of it."""
        tool = self.tools.get(call.name)
        verdict = self.policy.judge(tool, call.arguments, messages) if tool else Verdict("allow")
        call.reason, call.always = verdict.reason, verdict.kind == "confirm"
        if verdict.kind == "allow" or (call.always and call.name in talk.trusted):
            call.allowed = True
        elif not self.attended:
            call.allowed = call.always
        return call

    def _perform(self, talk: Talk) -> None:
        """Do the calls that were decided, in order, and tell the model what came of each."""
        for call in talk.waiting:
            result = self._done(call, talk)
            message: dict[str, Any] = {
                "role": "tool",
                "name": call.name,
                "tool_call_id": call.id,
                "content": result,
            }
            ran = call.allowed and call.name in self.tools
            origin = of_tool(self.tools[call.name]) if ran else Origin("refusal")
            message[ORIGIN] = origin.as_dict()
            talk.messages.append(message)
            self.on_result(call, result)
        talk.waiting = []

    def _done(self, call: Call, talk: Talk) -> str:
        if not call.allowed:
            if self.attended:
                return "Error: the user did not allow this call."
            return f"Error: this call needs a person's consent, as {call.reason}."
        if talk.calls >= self.budget.calls:
            return f"Error: the {self.budget.calls} calls are used up; answer with what you have."
        talk.calls += 1
        try:
            if call.name not in self.tools:
                raise DaedalError(
                    f"there is no tool {call.name!r}{nearest(call.name, list(self.tools))}."
                )
            return self.tools[call.name](call.arguments)
        except DaedalError as error:
            return f"Error: {error}"
