"""Signed manifests inside files (C2PA 2.x, "Content Credentials"): that a model made this, which one,
of what prompt (its digest) and settings; and, of an edit, from which file.

    manifest.sign(path, result.recipe)          # in place, about 3 kB more
    manifest.read(path)                         # a Manifest, or None

The extra `provenance` brings the library; `DAEDAL_PROVENANCE=0` leaves files unsigned."""

import hashlib
import importlib.util
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import daedal
from daedal.errors import DaedalError
from daedal.files import write_whole

TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
    ".wav": "audio/wav", ".mp4": "video/mp4",
}  # fmt: skip
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
COMPOSITE = "compositeWithTrainedAlgorithmicMedia"
GENERATION = "org.daedal.generation"  # the label of our own assertion
# settings that name files: how an ingredient is related to what came of it (C2PA 2.1, section 8.3)
INGREDIENTS = {
    "init": "parentOf", "extend": "parentOf", "mask": "inputTo", "reference": "inputTo", "last": "inputTo",
}  # fmt: skip
DIGEST = re.compile("#[0-9a-f]{64}$")  # behind the path of a given file
MISSING = 'pictures, sounds and clips get no signed manifest; pip install "daedal[provenance]" adds them, DAEDAL_PROVENANCE=0 ends this remark.'


@dataclass(frozen=True)
class Manifest:
    """What a file's manifest says. `state` is Trusted (signed by this installation), Valid (by a
    signer not known here) or Invalid; `failures` name the parts that do not fit."""

    state: str
    generator: str
    signer: str
    actions: tuple[str, ...]
    generated: bool  # whether an action says that a trained model made it
    generation: Mapping[str, Any] | None  # our own assertion
    parents: tuple[str, ...]
    failures: tuple[str, ...]


def installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("c2pa", "cryptography"))


def wanted() -> bool:
    return os.environ.get("DAEDAL_PROVENANCE", "") != "0"


def sign(path: Path, recipe: Mapping[str, Any]) -> None:
    """Put a manifest into a file, in place; the file is the old or the new one whole."""
    kind = TYPES.get(path.suffix.lower())
    if kind is not None:
        write_whole(path, signed(path.read_bytes(), kind, path.name, recipe))


def signed(data: bytes, kind: str, title: str, recipe: Mapping[str, Any]) -> bytes:
    """The bytes of a file of a media type, with a manifest."""
    import c2pa

    from daedal.trust.credentials import credentials

    own, given = credentials(), ingredients(recipe)
    info = c2pa.C2paSignerInfo(b"es256", own.chain, own.key, None)  # no stamp of time: offline
    made = io.BytesIO()
    try:
        with c2pa.Builder(claim(title, recipe, given), _context(c2pa, own.root)) as builder:
            for file, relation in given:
                noted = {"title": file.name, "relationship": relation, "label": str(file)}
                with file.open("rb") as opened:
                    builder.add_ingredient(noted, TYPES[file.suffix.lower()], opened)
            with c2pa.Signer.from_info(info) as signer:
                builder.sign(signer, kind, io.BytesIO(data), made)
    except (c2pa.C2paError, OSError) as error:
        raise DaedalError(
            f"{title} cannot be signed ({error}); it stays as it is, without a manifest."
        ) from None
    return made.getvalue()


def claim(title: str, recipe: Mapping[str, Any], given: list[tuple[Path, str]]) -> dict[str, Any]:
    """The manifest to be signed."""
    edits = isinstance(recipe["settings"].get("init"), str)
    generation = {
        "model": recipe["model"],
        "model_sha256": recipe["digest"],
        "prompt_sha256": prompt_digest(recipe["prompt"]),
        "settings": {k: v for k, v in recipe["settings"].items() if not _names_files(v)},
        "sample": recipe["sample"],
    }
    assertions = {"c2pa.actions.v2": {"actions": actions(given, edits)}, GENERATION: generation}
    return {
        "claim_generator_info": [{"name": "Daedal", "version": daedal.__version__}],
        "title": title,
        "assertions": [{"label": name, "data": data} for name, data in assertions.items()],
    }


def actions(given: list[tuple[Path, str]], edits: bool) -> list[dict[str, Any]]:
    """Made by a model, or opened and edited by one. An edit of a picture that came without a file,
    as over HTTP, has no parent to open and is a composite all the same."""
    parents = [str(file) for file, relation in given if relation == "parentOf"]
    if not parents:
        source = SOURCES + (COMPOSITE if edits else "trainedAlgorithmicMedia")
        return [{"action": "c2pa.created", "digitalSourceType": source}]
    return [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": parents}},
        {"action": "c2pa.edited", "digitalSourceType": SOURCES + COMPOSITE},
    ]


def ingredients(recipe: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """The files that a result came of and that are still there, and how each is related to it."""
    named = {
        name: Path(DIGEST.sub("", value))
        for name, value in recipe["settings"].items()
        if name in INGREDIENTS and isinstance(value, str) and DIGEST.sub("", value)
    }
    return [
        (file, INGREDIENTS[name])
        for name, file in named.items()
        if file.suffix.lower() in TYPES and file.is_file()
    ]


def prompt_digest(prompt: Any) -> str:
    """sha256 of a prompt: the words say more than a file that travels should."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _names_files(value: Any) -> bool:
    """Whether a setting tells paths of this machine, which are nobody's business elsewhere."""
    if isinstance(value, list | tuple):
        return any(map(_names_files, value))
    return isinstance(value, str) and ("/" in value or "\\" in value)


def read(path: Path) -> Manifest | None:
    """The manifest of a file, checked against its content; None where there is none."""
    kind = TYPES.get(path.suffix.lower())
    if kind is None:
        return None
    import c2pa

    from daedal.trust.credentials import known_root

    try:
        with path.open("rb") as file:
            reader = c2pa.Reader.try_create(kind, file, context=_context(c2pa, known_root()))
            if reader is None:
                return None
            with reader:
                return _found(json.loads(reader.json()))
    except (c2pa.C2paError.Other, c2pa.C2paError.Io) as error:  # no such file at all
        raise DaedalError(
            f"{path} is no {kind} that can be read ({error}); copy it again, or mend its suffix."
        ) from None
    except c2pa.C2paError as error:  # a manifest too damaged to be checked
        return Manifest("Invalid", "", "", (), False, None, (), (str(error),))


def _found(store: dict[str, Any]) -> Manifest:
    own = store["manifests"][store["active_manifest"]]
    data = {each["label"].split("__")[0]: each["data"] for each in own.get("assertions", ())}
    acts = [*data.get("c2pa.actions", {}).get("actions", ()), *data.get("c2pa.actions.v2", {}).get("actions", ())]  # fmt: skip
    results = store.get("validation_results", {}).get("activeManifest", {})
    sources = [act.get("digitalSourceType", "").rsplit("/", 1)[-1] for act in acts]
    info = own.get("claim_generator_info") or [{}]
    return Manifest(
        state=store["validation_state"],
        generator=" ".join(str(info[0][key]) for key in ("name", "version") if key in info[0]),
        signer=own.get("signature_info", {}).get("common_name", ""),
        actions=tuple(act["action"] for act in acts),
        generated=any("rainedAlgorithmicMedia" in source for source in sources),
        generation=data.get(GENERATION),
        parents=tuple(each.get("title", "") for each in own.get("ingredients", ())),
        failures=tuple(
            f"{each['url'].rsplit('/', 1)[-1]}: {each['code']}"
            for each in results.get("failure", ())
            if each["code"] != "signingCredential.untrusted"
        ),
    )


def _context(c2pa: Any, root: bytes | None) -> Any:
    """Thumbnails off (90 ms and a megabyte of a large picture); nothing is fetched that a file names,
    which may be anyone's; our root is what we trust."""
    settings: dict[str, Any] = {
        "builder": {"thumbnail": {"enabled": False}},
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    }
    if root is not None:
        settings["trust"] = {"trust_anchors": root.decode()}
    return c2pa.Context(c2pa.Settings.from_dict(settings))
