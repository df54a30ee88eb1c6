"""Whisper's CTranslate2 folders, as faster-whisper uses and publishes them: `model.bin` in version 6
of its format, weights in fp32, fp16, bf16, int8 or int16.

The file is a list of variables: name, shape, type, bytes; then names that are others' (aliases).
int8 weights carry 127 over the largest magnitude of each row, int16 ones one factor in all."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daedal.checkpoints.folder import fill
from daedal.errors import DaedalError
from daedal.networks.config import parse
from daedal.networks.names import Names
from daedal.networks.whisper import WhisperConfig, WhisperForConditionalGeneration

FILE = "model.bin"
DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
VERSION = 6
# a layer's modules there -> here, and what each fuses; Whisper's keys have no bias
FUSED = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
    "ffn/layer_norm": ("final_layer_norm",),
}
LEAVES = {"gamma": "weight", "beta": "bias"}
PLAIN = {"position_encodings/encodings": "embed_positions.weight", "embeddings/weight": "embed_tokens.weight"}  # fmt: skip


def holds(folder: Path) -> bool:
    """Whether a folder is one of CTranslate2's."""
    return (folder / FILE).is_file() and (folder / "config.json").is_file()


class Reader:
    """The values of a file, one after another."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def number(self, code: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.bytes(struct.calcsize(f"<{code}")))
        return value

    def text(self) -> str:
        return self.bytes(self.number("H"))[:-1].decode()

    def bytes(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise DaedalError(f"{self.path} is cut off; download it again.")
        return self.data[self.at - count : self.at]


def read(path: Path) -> dict[str, Tensor]:
    """Every variable by name, int8 and int16 weights multiplied out to fp32."""
    file = Reader(path)
    version = file.number("I")
    if version != VERSION:
        raise DaedalError(
            f"{path} has version {version} of CTranslate2's format, and {VERSION} is known here; convert the model anew."
        )
    spec, _ = file.text(), file.number("I")
    if spec != "WhisperSpec":
        raise DaedalError(
            f"{path} holds a {spec}; of CTranslate2's folders only Whisper's open here."
        )
    found = dict(variable(file) for _ in range(file.number("I")))
    scales = {name: found.pop(name) for name in [*found] if name.endswith("_scale")}
    for name, scale in scales.items():
        whole = found[name.removesuffix("_scale")].float()
        found[name.removesuffix("_scale")] = whole / scale.view(-1, *[1] * (whole.dim() - 1))
    return found


def variable(file: Reader) -> tuple[str, Tensor]:
    name = file.text()
    shape = [file.number("I") for _ in range(file.number("B"))]
    dtype, size = DTYPES[file.number("B")], file.number("I")
    return name, torch.frombuffer(bytearray(file.bytes(size)), dtype=dtype).view(shape)


def tensors(found: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) of every weight."""
    for name, tensor in found.items():
        part, _, rest = name.partition("/")
        layer = rest.split("/")[0]
        if layer.startswith("layer_") and layer != "layer_norm":
            module, _, leaf = rest.removeprefix(layer + "/").rpartition("/")
            if module not in FUSED:
                continue  # a constant, as the number of heads
            names, leaf = FUSED[module], LEAVES.get(leaf, leaf)
            for ours, piece in zip(names, tensor.chunk(len(names)), strict=True):
                if not (leaf == "bias" and ours.endswith("k_proj")):
                    yield f"{part}.layers.{layer.removeprefix('layer_')}.{ours}.{leaf}", piece
        elif tensor.dim():
            leaf = PLAIN.get(rest) or "/".join(LEAVES.get(p, p) for p in rest.split("/"))
            yield f"{part}.{leaf.replace('/', '.')}", tensor


def config_of(found: dict[str, Tensor], raw: dict[str, Any]) -> WhisperConfig:
    """What shapes say; of tokens only the end's id is needed."""
    layers = {name.split("/")[1] for name in found if name.split("/")[1].startswith("layer_")}
    depth = {
        side: sum(f"{side}/{layer}/ffn/linear_0/weight" in found for layer in layers)
        for side in ("encoder", "decoder")
    }
    vocabulary, width = found["decoder/embeddings/weight"].shape
    end = max(raw.get("suppress_ids_begin") or [vocabulary - 1608])
    config = dict(
        vocab_size=vocabulary,
        num_mel_bins=found["encoder/conv1/weight"].shape[1],
        d_model=width,
        max_source_positions=len(found["encoder/position_encodings/encodings"]),
        max_target_positions=len(found["decoder/position_encodings/encodings"]),
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=end + 1,
    )
    for side, count in depth.items():
        config[f"{side}_layers"] = count
        config[f"{side}_attention_heads"] = int(found[f"{side}/num_heads"])
        config[f"{side}_ffn_dim"] = len(found[f"{side}/layer_0/ffn/linear_0/weight"])
    return parse(WhisperConfig, config)


def load(
    folder: Path, raw: dict[str, Any], dtype: torch.dtype | None = None, device: Any = "cpu"
) -> WhisperForConditionalGeneration:
    """The network of a folder whose config.json is `raw`, in evaluation mode."""
    found = read(folder / FILE)
    with torch.device("meta"):
        network = WhisperForConditionalGeneration(config_of(found, raw))
    fill(network, tensors(found), dtype, device, Names())
    return network.eval()
