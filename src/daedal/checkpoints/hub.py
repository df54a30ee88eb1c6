"""From a name to a folder: a house model in the package, a local folder, or a Hugging Face Hub name (downloaded once, resumable)."""

from pathlib import Path

from daedal.errors import DaedalError, nearest

HOUSE = Path(__file__).parent.parent / "house"
FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt"]


def house_models() -> list[str]:
    """Names of the models that came with the package."""
    return sorted(f"house/{path.parent.name}" for path in HOUSE.glob("*/config.json"))


def resolve(name: str | Path) -> Path:
    """The folder of a house name (`house/text`), a local path, or a Hub name (`owner/model`). A local path never touches the network."""
    text = str(name)
    if text.startswith("house/"):
        if text not in house_models():
            raise DaedalError(f"{text!r} is not a house model{nearest(text, house_models())}; there are {', '.join(house_models())}.")
        return HOUSE / text.removeprefix("house/")
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise DaedalError(
            f"{text!r} is neither a folder here, a house model{nearest(text, house_models())} nor a Hub name of the form owner/model; "
            f"house models: {', '.join(house_models())}."
        )
    return download(text)


def download(repo: str) -> Path:
    """A Hub repository's weights, config and tokenizer in the shared Hugging Face cache; complete copies are used offline."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=FILES))
    except RepositoryNotFoundError:
        raise DaedalError(f"{repo!r} is not on the Hugging Face Hub, or is private; check the spelling or log in with `hf auth login`.") from None
    except (LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DaedalError(f"{repo!r} is not downloaded and the Hub cannot be reached ({reason}); go online once, or give a local folder.") from None


def pulled() -> list[tuple[str, int]]:
    """(name, bytes) of the models in the Hugging Face cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return sorted((r.repo_id, r.size_on_disk) for r in scan_cache_dir().repos if r.repo_type == "model")
    except CacheNotFound:
        return []


def remove(repo: str) -> int:
    """Delete a pulled model; the bytes freed."""
    from huggingface_hub import scan_cache_dir

    names = [name for name, _ in pulled()]
    if repo not in names:
        there = f"pulled are {', '.join(names)}" if names else "nothing is pulled"
        raise DaedalError(f"{repo!r} is not a pulled model{nearest(repo, names)}; {there}.")
    cache = scan_cache_dir()
    found = next(r for r in cache.repos if r.repo_id == repo and r.repo_type == "model")
    strategy = cache.delete_revisions(*(revision.commit_hash for revision in found.revisions))
    strategy.execute()
    return strategy.expected_freed_size
