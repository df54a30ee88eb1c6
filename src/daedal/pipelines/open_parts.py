"""The parts of an open image model: of a folder that diffusers saved, of a folder of such folders,
and of a single file with the tokenizers it lacks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from daedal import checkpoints
from daedal.checkpoints.folder import kinds_of, load_part, read_config, read_index
from daedal.checkpoints.single_file import load_single_file
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.systems.text import load_tokenizer

NEEDED = {  # by what diffusers calls the pipeline begins with
    "StableDiffusion3": ("vae", "text_encoder", "text_encoder_2"),
    "StableDiffusionXL": ("vae", "text_encoder_2"),
    "StableDiffusion": ("vae", "text_encoder"),
    "Flux": ("vae", "text_encoder", "text_encoder_2"),
}
# what every one of these models reads its prompts with
VOCABULARIES = {"CLIP": "openai/clip-vit-large-patch14", "T5": "google/t5-v1_1-xxl"}
WORDS = ["tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt", "spiece.model"]


def stages_of(place: Path) -> list[Path]:
    """The model itself; of a folder of models the one that needs no other before it, then those
    that enlarge, smallest pictures first."""
    if place.is_file() or (place / "model_index.json").exists():
        return [place]
    stages = [path.parent for path in sorted(place.glob("*/model_index.json"))]
    noising = ("image_noising_scheduler", "low_res_scheduler")
    later = [stage for stage in stages if any((stage / name).is_dir() for name in noising)]
    first = [stage for stage in stages if stage not in later]
    if len(first) != 1:
        raise DaedalError(
            f"{place} holds {len(first)} models that need no other before them; name the one to begin with, {place}/...."
        )

    def size(stage: Path) -> tuple[bool, int]:  # latents are small
        return (stage / "vae").is_dir(), read_config(stage / "unet")["sample_size"]

    return [*first, *sorted(later, key=size)]


def read_parts(
    place: Path, dtype: torch.dtype, device: torch.device, shared: dict[str, Any]
) -> dict[str, Any]:
    """All parts but the `shared` ones, and these."""
    if place.is_file():
        return completed(place, load_single_file(place, dtype=dtype, device=device), dtype, device)
    if not shared:
        return checkpoints.load_parts(place, dtype=dtype, device=device)
    index = read_index(place)
    parts: dict[str, Any] = {"model_index": index}
    for name, kind in kinds_of(index).items():
        if name not in shared:
            parts[name] = load_part(place / name, kind, dtype, device, False)
    return parts | shared


def completed(
    file: Path, parts: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """The parts of a single file with what it lacks: networks from folders beside it, named as in a
    pipeline folder, and tokenizers from there or from the Hub."""
    folders = [folder for folder in (file.parent, file.with_suffix("")) if folder.is_dir()]
    kind = parts.get("model_index", {}).get("_class_name", "")
    needed = next((roles for name, roles in NEEDED.items() if kind.startswith(name)), None)
    if needed is None:
        raise DaedalError(
            f"{file} holds {', '.join(parts)} and no denoiser; give the file of a whole model, or a model folder."
        )
    for role in (*needed, "text_encoder", "text_encoder_2", "text_encoder_3"):
        if role not in parts and (found := first_folder(folders, role)):
            parts[role] = checkpoints.load(found, dtype=dtype, device=device)
    if missing := [role for role in needed if role not in parts]:
        raise DaedalError(
            f"{file} has no {', '.join(missing)}; put these folders of a {kind} beside it, or open a model folder."
        )
    return parts | dict(tokenizers_of(parts, folders))


def first_folder(places: list[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).is_dir()), None)


def tokenizers_of(parts: dict[str, Any], folders: list[Path]) -> Iterator[tuple[str, Tokenizer]]:
    """One a text encoder. OpenCLIP's towers were trained with "!", token 0, as padding."""
    for role in [name for name in parts if name.startswith("text_encoder")]:
        name = role.replace("text_encoder", "tokenizer")
        family = "T5" if "T5" in type(parts[role]).__name__ else "CLIP"
        found = first_folder(folders, name)
        tokenizer = load_tokenizer(found or vocabulary(VOCABULARIES[family]))
        if found is None and family == "CLIP" and parts[role].config.hidden_act != "quick_gelu":
            tokenizer.roles["pad_token"] = "!"
        yield name, tokenizer


def vocabulary(repo: str) -> Path:
    """The tokenizer of a Hub repository, without its weights."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=WORDS))
    except Exception as error:  # offline, or refused
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DaedalError(
            f"a single file has no tokenizer, and that of {repo} cannot be had ({reason}); put the tokenizer folder beside the file."
        ) from None
