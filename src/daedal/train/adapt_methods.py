"""What each method of daedal.train.adapt adds to a model, trains and saves.

Legend: B batch, C channels, D width of a text tower, V vectors."""

import shutil
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.checkpoints.embeddings import Embedding, add_embedding, save_embedding
from daedal.checkpoints.lora import LoRA as Updates
from daedal.checkpoints.lora import save_lora, trained
from daedal.errors import DaedalError
from daedal.networks.controlnet import ControlNetModel
from daedal.nn.lora import adapters, add_lora
from daedal.systems.conditions import Conditions
from daedal.systems.stable_diffusion import StableDiffusion
from daedal.systems.system import Conditioning, Prepared, System
from daedal.systems.text import Clip
from daedal.train.recipe.pictures import AdaptRecipe


class Method:
    """`fixed_text`: the text encoders do not learn; `reads_hint`: the network is shown a condition
    (B, 3, H, W); `passes`: what a step costs, in forward passes (frozen weights need no gradient).
    """

    fixed_text, reads_hint, passes = True, False, 2.0

    def __init__(self, model: System, recipe: AdaptRecipe) -> None:
        self.model, self.recipe = model, recipe

    def trained(self) -> list[nn.Parameter]:
        raise NotImplementedError

    def prompt(self, caption: str, wording: int) -> str:
        """What a picture of this caption is called; `wording` is drawn anew each time."""
        return self.recipe.prompt or caption

    def prepare(
        self, conditioning: Conditioning, conditions: Conditions, hint: Tensor | None = None
    ) -> Prepared:
        return self.model.prepare(conditioning, conditions)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


class LoRA(Method):
    """Low-rank updates of the denoiser's layers, and of the attention of CLIP's text encoders where
    the recipe asks for it. DreamBooth trains these too, on one prompt for all pictures."""

    def __init__(self, model: System, recipe: AdaptRecipe) -> None:
        super().__init__(model, recipe)
        m = recipe.model
        if m.text_encoders and not model.towers:
            raise DaedalError(
                "model.text_encoders is for models that read CLIP; this one reads T5 alone."
            )
        towers = {clip.role: clip.tower for clip in model.towers} if m.text_encoders else {}
        self.networks: dict[str, nn.Module] = {model.role: model.network, **towers}
        for i, (role, network) in enumerate(self.networks.items()):
            targets = TEXT_TARGETS if role in towers else m.targets
            options = {"rslora": m.rslora, "dora": m.dora, "seed": recipe.seed + i}
            add_lora(network, m.rank, m.alpha, targets, **options)
        self.fixed_text = not towers

    def trained(self) -> list[nn.Parameter]:
        found = [adapters(network).values() for network in self.networks.values()]
        layers = [layer for some in found for layer in some]
        return [p for layer in layers for p in layer.parameters() if p.requires_grad]

    def save(self, folder: Path) -> None:
        """One file, which `daedal image --lora` and diffusers' load_lora_weights open."""
        pairs = self.networks.items()
        updates = {role: trained(network, role).updates[role] for role, network in pairs}
        save_lora(Updates("lora", updates), folder / "pytorch_lora_weights.safetensors")


SAYINGS = (
    "a photo of {}",
    "a picture of {}",
    "a photo of one {}",
    "a close-up of {}",
    "{} in the middle of the picture",
    "a drawing of {}",
)


class Learned(nn.Module):
    """A token embedding of which the last rows, from `first` on, are trained apart."""

    def __init__(self, old: Any, first: int, vectors: nn.Parameter) -> None:
        super().__init__()
        self.old, self.first, self.vectors = old, first, vectors

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        new = (tokens >= self.first)[..., None]
        learned = self.vectors[(tokens - self.first).clamp(min=0)].to(self.old.weight.dtype)
        return torch.where(new, learned, self.old(tokens))


class TextualInversion(Method):
    """A new word, of which nothing but its vectors is trained, one set a text tower."""

    fixed_text = False

    def __init__(self, model: System, recipe: AdaptRecipe) -> None:
        super().__init__(model, recipe)
        if not model.towers:
            raise DaedalError(
                "textual inversion is for models that read CLIP; this one reads T5 alone."
            )
        self.token = str(recipe.model.token)
        started = {clip.role: self.started(clip) for clip in model.towers}
        parts = {clip.role: clip.tower for clip in model.towers}
        tokenizers = {clip.role: clip.tokenizer for clip in model.towers}
        word = Embedding(self.token, {vectors.shape[1]: vectors for vectors in started.values()})
        extended = add_embedding(word, parts, tokenizers)
        self.vectors = {role: nn.Parameter(vectors) for role, vectors in started.items()}
        for clip in model.towers:
            embeddings, first = clip.tower.text_model.embeddings, clip.tokenizer.vocab_size
            old, clip.tokenizer = embeddings.token_embedding, extended[clip.role]
            old.requires_grad_(False)
            embeddings.token_embedding = Learned(old, first, self.vectors[clip.role])

    def started(self, clip: Clip) -> Tensor:
        """(V, D) float32: the vectors of the initialiser, over and over."""
        backend, asked = clip.tokenizer.backend, self.recipe.model
        if any(backend.token_to_id(word) is not None for word in (self.token, f"{self.token}</w>")):
            raise DaedalError(
                f"the token {self.token!r} is in the vocabulary already; take one that is not, such as '<{self.token.strip('<>')}-1>'."
            )
        initializer = clip.tokenizer.encode(str(asked.initializer), add_bos=False)
        ids = list(islice(cycle(initializer), asked.vectors))
        return clip.tower.text_model.embeddings.token_embedding.weight.detach()[ids].float()

    def trained(self) -> list[nn.Parameter]:
        return list(self.vectors.values())

    def prompt(self, caption: str, wording: int) -> str:
        """The recipe's prompt or the caption, if the token is in it; else one of a few sayings
        about it."""
        said = self.recipe.prompt or caption
        return said if self.token in said else SAYINGS[wording % len(SAYINGS)].format(self.token)

    def save(self, folder: Path) -> None:
        """One file, which `daedal image --embedding` and diffusers' load_textual_inversion open."""
        vectors: dict[int, Tensor] = {tensor.shape[1]: tensor for tensor in self.vectors.values()}
        save_embedding(Embedding(self.token, vectors), folder / "learned_embeds.safetensors")


HINT_SIZES = (16, 32, 96, 256)  # channels of the condition at each halving


class ControlNet(Method):
    """A copy of the U-Net's way down that is shown the condition."""

    reads_hint = True

    def __init__(self, model: System, recipe: AdaptRecipe) -> None:
        super().__init__(model, recipe)
        if not isinstance(model, StableDiffusion):
            raise DaedalError(
                f"a ControlNet is trained beside a U-Net, and this model is a {type(model.network).__name__}."
            )
        options = {
            "conditioning_embedding_out_channels": HINT_SIZES[: model.codec.factor.bit_length()]
        }
        network = ControlNetModel.from_unet(model.network, recipe.seed, **options)
        self.network = network.to(model.device)

    def trained(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def prepare(
        self, conditioning: Conditioning, conditions: Conditions, hint: Tensor | None = None
    ) -> Prepared:
        prepared = self.model.prepare(conditioning, conditions)

        def control(x: Tensor, time: Tensor) -> Any:
            shown = None if hint is None else hint.repeat(len(x) // len(hint), 1, 1, 1)
            return self.network(x, time, conditioning["text"], shown, added=prepared["added"])

        return prepared | {"controls": [control]}

    def save(self, folder: Path) -> None:
        """A folder, which `daedal image --control-model` and diffusers open."""
        checkpoints.save(self.network, folder)


class Whole(Method):
    """All weights of the denoiser, fp32 masters of the dtype it computes in."""

    passes = 3.0

    def __init__(self, model: System, recipe: AdaptRecipe) -> None:
        super().__init__(model, recipe)
        model.network.float().requires_grad_(True)

    def trained(self) -> list[nn.Parameter]:
        return list(self.model.network.parameters())

    def save(self, folder: Path) -> None:
        """The start's folder with the new denoiser in it."""
        role, start = self.model.role, Path(checkpoints.resolve(self.recipe.model.start))

        def ignored(at: str, names: list[str]) -> list[str]:
            return [role] if Path(at) == start else []

        shutil.copytree(start, folder, ignore=ignored, dirs_exist_ok=True)
        checkpoints.save(self.model.network, folder / role)


METHODS: dict[str, type[Method]] = {"lora": LoRA, "dreambooth": LoRA, "full": Whole}
METHODS |= {"textual_inversion": TextualInversion, "controlnet": ControlNet}
