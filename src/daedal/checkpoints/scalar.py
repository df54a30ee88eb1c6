"""Folders of reward and value models: what transformers calls `LlamaForSequenceClassification` with one label.

save_scalar(model, "runs/reward/model")
model = load_scalar("runs/reward/model")
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daedal.checkpoints.folder import assign, empty_network, publish, read_config, shortened, tensors
from daedal.errors import DaedalError
from daedal.networks.scalar import ScalarModel

SCORE = "score.weight"


def is_scalar(folder: str | Path) -> bool:
    """Whether a folder holds a model that gives a number, not text."""
    return any(name.endswith("ForSequenceClassification") for name in read_config(folder).get("architectures") or ())


def save_scalar(model: ScalarModel, folder: str | Path, state: dict[str, Tensor] | None = None, extra_config: dict[str, Any] | None = None) -> None:
    """Write config.json and safetensors that transformers opens. `state` stands in for the model's own weights."""
    whole = state or model.state_dict()
    state = {name.removeprefix("model."): tensor for name, tensor in whole.items() if name.startswith("model.") and ".lm_head." not in name}
    layout = model.model.names.layout(state)
    disk = {name: model.model.names.to_disk(name, [state[n].detach().cpu() for n in ours], fused) for name, (fused, ours) in layout.items()}
    disk[SCORE] = whole[SCORE].detach().cpu().clone()
    architecture = model.config.architecture.replace("ForCausalLM", "ForSequenceClassification").replace("LMHeadModel", "ForSequenceClassification")
    config = model.config.to_dict() | {"architectures": [architecture], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    dtype = str(disk[SCORE].dtype).removeprefix("torch.")
    publish(disk.items(), config | {"torch_dtype": dtype} | (extra_config or {}), Path(folder), 5_000_000_000)


def load_scalar(folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> ScalarModel:
    """The reward or value model of a folder."""
    labels = read_config(folder).get("id2label") or {"0": ""}
    if not is_scalar(folder) or len(labels) != 1:
        raise DaedalError(f"{folder} is not a reward model: it needs an architecture ...ForSequenceClassification with one label.")
    decoder, found = empty_network(folder), dict[str, Tensor]()

    def without_score():
        for name, tensor in tensors(Path(folder)):
            if name == SCORE:
                found[name] = tensor
            else:
                yield name, tensor

    missing = assign(decoder, without_score(), dtype, device) - {"lm_head.weight"}
    if missing or SCORE not in found:
        raise DaedalError(f"{folder} lacks {shortened(missing or {SCORE})}; train or download it again.")
    model = ScalarModel(decoder)
    model.score.weight = nn.Parameter(found[SCORE].to(device=device, dtype=dtype or torch.float32))
    return model.eval()
