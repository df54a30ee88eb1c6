"""The Hugging Face Hub: repositories downloaded once, resumable, and used offline."""

from fnmatch import fnmatch
from pathlib import Path

from daedal.errors import DaedalError, nearest

FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*merges.txt", "*vocab.txt"]
HALF = (".fp16.safetensors", ".bf16.safetensors")
ELSEWHERE = ("safety_checker/", "onnx/", "openvino/", "flax_model", "non_ema")


def chosen(files: list[str]) -> list[str]:
    """What of a repository's files is worth its bytes. A pipeline's repository often holds
    everything three times: once as single files at the top, once in full precision and once in
    half."""
    kept = [
        file
        for file in files
        if any(fnmatch(file, pattern) for pattern in FILES)
        and not any(part in file for part in ELSEWHERE)
    ]
    if "model_index.json" not in files:
        return kept
    kept = [file for file in kept if "/" in file or not file.endswith(".safetensors")]
    whole = {
        file.rpartition("/")[0]
        for file in kept
        if file.endswith(".safetensors") and not file.endswith(HALF) and ".fp16-" not in file
    }
    return [
        file
        for file in kept
        if not ((file.endswith(HALF) or ".fp16" in file) and file.rpartition("/")[0] in whole)
    ]


def download(repo: str) -> Path:
    """A Hub repository's weights, configs and tokenizers in the shared Hugging Face cache; complete
    copies are used offline."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        try:
            wanted = chosen(HfApi().list_repo_files(repo))
        except RepositoryNotFoundError:
            raise
        # offline, in whatever words the HTTP library says so: then the cache must have it
        except Exception:
            wanted = FILES
        return Path(snapshot_download(repo, allow_patterns=wanted))
    except RepositoryNotFoundError:
        raise DaedalError(
            f"{repo!r} is not on the Hugging Face Hub, or is private; check the spelling or log in with `hf auth login`."
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DaedalError(
            f"{repo!r} is not downloaded and the Hub cannot be reached ({reason}); go online once, or give a local folder."
        ) from None


def pulled() -> list[tuple[str, int]]:
    """(name, bytes) of the models in the Hugging Face cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return sorted(
            (r.repo_id, r.size_on_disk) for r in scan_cache_dir().repos if r.repo_type == "model"
        )
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
