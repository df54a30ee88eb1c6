"""Keys: who may call what, and how often.

A file of YAML, by the client's name:

    alice: {key: sk-..., scopes: [text, image, files, jobs, models], per_minute: 60}

`key` may also be `sha256:` and the digest of one. Without `scopes` everything is allowed."""

import hashlib
import hmac
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from daedal.errors import DaedalError
from daedal.server.errors import ApiError

OPEN = ("/health", "/ready", "/", "/studio", "/favicon.ico")  # and what lies below /studio/
KNOWN = (
    "/openapi.json",
)  # for every client, whatever its scopes: the studio's forms are made of it
SCOPES = {  # by the beginning of a path; what is not here needs the scope "admin"
    "/v1/chat": "text",
    "/v1/completions": "text",
    "/v1/responses": "text",
    "/v1/messages": "text",
    "/v1/memories": "text",
    "/v1/moderations": "text",
    "/v1/embeddings": "text",
    "/v1/fim": "text",
    "/infill": "text",
    "/v1/code": "code",
    "/v1/images": "image",
    "/v1/videos": "video",
    "/v1/audio": "audio",
    "/v1/files": "files",
    "/v1/content_provenance_checks": "files",
    "/v1/traces": "files",
    "/v1/batches": "jobs",
    "/v1/jobs": "jobs",
    "/v1/models": "models",
    "/v1/catalogue": "models",
    "/v1/history": "history",
    "/v1/recipes": "train",
    "/v1/trainings": "train",
    "/v1/preferences": "train",
    "/v1/evaluations": "train",
    "/tokenize": "text",
    "/detokenize": "text",
    "/api": "text",
}


class KeyEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str
    scopes: list[str] | None = None
    per_minute: int | None = None


@dataclass
class Client:
    """Somebody with a key, and when they called in the last minute."""

    name: str
    digest: bytes
    scopes: list[str] | None
    per_minute: int | None
    calls: list[float] = field(default_factory=list)


class Keys:
    """The clients of a key file; none at all: everybody may do everything."""

    def __init__(self, path: Path | None) -> None:
        self.clients = read(path) if path else []

    def client(self, path: str, headers: dict[str, str]) -> str:
        """The name of the client of a request, which may make it."""
        if not self.clients or path in OPEN or path.startswith("/studio/"):
            return ""
        client = self.known(key_in(headers))
        scope = next((s for start, s in SCOPES.items() if within(path, start)), "admin")
        if client.scopes is not None and scope not in client.scopes and path not in KNOWN:
            message = f"the key of {client.name} has no scope {scope!r}, which {path} needs."
            raise ApiError(403, message, "missing_scope")
        self.count(client)
        return client.name

    def known(self, key: str) -> Client:
        """The client of a key. Every key is compared, in the same time whatever it is."""
        digest = hashlib.sha256(key.encode()).digest()
        found = [c for c in self.clients if hmac.compare_digest(c.digest, digest)]
        if not found:
            message = "this server needs an API key, sent as `Authorization: Bearer KEY`."
            raise ApiError(401, message, "invalid_api_key")
        return found[0]

    def count(self, client: Client) -> None:
        now = time.monotonic()
        client.calls = [call for call in client.calls if call > now - 60]
        if client.per_minute is not None and len(client.calls) >= client.per_minute:
            wait = client.calls[0] + 60 - now
            message = f"{client.name} may call {client.per_minute} times a minute; try again in {wait:.0f} s."
            raise ApiError(429, message, "rate_limit_exceeded", retry_after=wait)
        client.calls.append(now)


def within(path: str, start: str) -> bool:
    return path == start or path.startswith(start + "/")


def key_in(headers: dict[str, str]) -> str:
    """The key of a request; Anthropic's clients send it under another name."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


def read(path: Path) -> list[Client]:
    try:
        rows: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = {name: KeyEntry.model_validate(row) for name, row in rows.items()}
    except (OSError, yaml.YAMLError, AttributeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise DaedalError(
            f"the key file {path} cannot be read ({reason}); write lines like `alice: {{key: sk-...}}`."
        ) from None
    return [
        Client(str(name), digest_of(entry.key), entry.scopes, entry.per_minute)
        for name, entry in entries.items()
    ]


def digest_of(key: str) -> bytes:
    kind, _, digest = key.partition(":")
    return bytes.fromhex(digest) if kind == "sha256" else hashlib.sha256(key.encode()).digest()
