"""The digest of a model folder, or single file: SHA-256 over its config, weights and tokenizer,
remembered while no file changes."""

import hashlib
import json
import os
from pathlib import Path

from daedal.files import cache_folder

FILES = (
    "*config.json", "*.safetensors", "*.gguf", "tokenizer.json", "*.model", "vocab.json", "merges.txt", "model.bin", "voice.json", "lexicon.txt.zst", "*.onnx", "*.onnx.json",
)  # fmt: skip
# a pipeline's parts are folders
PARTS = ("model_index.json", *FILES, *(f"*/{file}" for file in FILES))


def digest(folder: Path) -> str:
    """64 hex digits that change when the model or its tokenizer does."""
    if folder.is_file():
        files = [folder]
    else:
        files = sorted({path for pattern in PARTS for path in folder.glob(pattern)})
    stamp = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    key = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()
    remembered = cache_folder() / "digests" / key
    if remembered.exists():
        return remembered.read_text()
    total = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_suffix(f".{os.getpid()}")
        partial.write_text(total.hexdigest())
        os.replace(partial, remembered)
    except OSError:
        pass  # only a cache
    return total.hexdigest()
