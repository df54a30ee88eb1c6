"""What a call may do, from where its words came: the Rule of Two (Meta, 2025) and the origin of
every argument.

    Policy().judge(tool, arguments, messages)      # Verdict("person", "this conversation has read ...")

Every message carries its origin: the user, or a tool whose result may be text that others wrote
(untrusted) or tell of the user (private). Of untrusted text, private data and an effect outside, a
conversation has at most two without a person. And once untrusted text was read, an argument of an
acting call that does not stand in the user's own words is taken to come from it: a model cannot say
what made it write something, so what cannot be traced is not trusted."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from daedal.assist.tools.tool import Tool


@dataclass(frozen=True)
class Origin:
    """Where a text came from: "user", "system", or a tool's name."""

    source: str
    untrusted: bool = False
    private: bool = False

    def joined(self, other: "Origin") -> "Origin":
        """The origin of what was made from both."""
        source = self.source if self.source == other.source else f"{self.source} + {other.source}"
        return Origin(source, self.untrusted or other.untrusted, self.private or other.private)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


USER = Origin("user")
ORIGIN = "origin"  # the key of a message's origin


def origin_of(message: Mapping[str, Any]) -> Origin:
    """The origin of a message; of one that says none its role, and a tool's is not trusted."""
    if ORIGIN in message:
        return Origin(**message[ORIGIN])
    return Origin(message["role"], untrusted=message["role"] == "tool")


def of_tool(tool: Tool) -> Origin:
    return Origin(tool.name, tool.untrusted, tool.private)


@dataclass(frozen=True)
class Verdict:
    """`kind` is "allow"; "confirm" of what acts outside and breaks no rule, so that a person who is
    there may be asked; or "person": not without one, for this reason."""

    kind: Literal["allow", "confirm", "person"]
    reason: str = ""


@dataclass(frozen=True)
class Policy:
    """Judges calls. `enforced=False` lets everything pass, to measure what the policy does."""

    enforced: bool = True

    def judge(
        self, tool: Tool, arguments: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
    ) -> Verdict:
        """The verdict on a call that was written after these messages."""
        if not tool.acts or not self.enforced:
            return Verdict("allow")
        read = [origin_of(message) for message in messages]
        said = " ".join(_flat(m.get("content")) for m in messages if origin_of(m) == USER)
        others = sorted({origin.source for origin in read if origin.untrusted})
        if not others:
            return Verdict("confirm", f"{tool.name} acts outside of this conversation")
        named = ", ".join(others)
        if any(origin.private for origin in read) or tool.private:
            return Verdict(
                "person",
                f"this conversation has read text of others ({named}) and private data, and {tool.name} acts outside",
            )
        if strange := [name for name, value in arguments.items() if not stands_in(value, said)]:
            return Verdict(
                "person", f"{strange[0]} is not in your own words, and may come from {named}"
            )
        return Verdict("confirm", f"{tool.name} acts outside of this conversation")

    def judge_traced(self, tool: Tool, origins: Mapping[str, Origin]) -> Verdict:
        """The verdict on a call of a plan that read no untrusted text (daedal.assist.tools.planner),
        where the origin of each argument is known. What steers the call, its tool and its targets, is
        then the user's; other arguments may carry what was read to where the user said."""
        if not tool.acts or not self.enforced:
            return Verdict("allow")
        steering = tool.targets or tuple(origins)
        if bad := [name for name in steering if name in origins and origins[name].untrusted]:
            source = origins[bad[0]].source
            return Verdict("person", f"{bad[0]} comes from text of others ({source})")
        return Verdict("confirm", f"{tool.name} acts outside of this conversation")


def stands_in(value: Any, said: str) -> bool:
    """Whether a value, of its texts and numbers each, stands in the user's words whole."""
    if isinstance(value, Mapping):
        return all(stands_in(item, said) for item in value.values())
    if isinstance(value, list):
        return all(stands_in(item, said) for item in value)
    if value is None or isinstance(value, bool):
        return True
    wanted = _flat(value).strip(" .!?")
    return bool(re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", _flat(said))) if wanted else True


def _flat(value: Any) -> str:
    return " ".join(str(value or "").lower().split())
