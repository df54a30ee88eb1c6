"""`daedal convert MODEL OUT`: another dtype, shard size, or a packed model or GGUF file as a plain
transformers folder; a model as a GGUF file; a StyleGAN pickle to safetensors."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from daedal.cli.options import SHARD_MB


def convert(
    model: Annotated[
        str,
        typer.Argument(help="House model, folder, Hub name, .gguf, or a StyleGAN network .pkl."),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder to write, which transformers and vLLM open; or FILE.gguf, for llama.cpp."
        ),
    ],
    dtype: Annotated[str, typer.Option(help="Of a folder: fp32, bf16 or fp16.")] = "bf16",
    type_: Annotated[
        str,
        typer.Option("--type", help="Of a GGUF file: auto, f32, f16, bf16, q8_0 or q4_k_m."),
    ] = "auto",
    shard_mb: SHARD_MB = 5000,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pytorch_model.bin (tensors only).")
    ] = False,
) -> None:
    """Write a model as a plain transformers folder of safetensors, or as a GGUF file."""
    if model.endswith(".pkl"):
        from daedal.checkpoints import gan_pickles

        gan_pickles.convert(model, out)
    elif out.suffix == ".gguf":
        write_gguf(model, out, type_, allow_pickle)
    else:
        write_folder(model, out, dtype, int(shard_mb * 1e6), allow_pickle)
    print(out)


def write_folder(model: str, out: Path, dtype: str, shard_bytes: int, allow_pickle: bool) -> None:
    from daedal import checkpoints
    from daedal.checkpoints.files import copy_companions
    from daedal.checkpoints.gguf_folder import holds
    from daedal.data.tokenizer import Tokenizer
    from daedal.device import compute_dtype

    import torch  # isort: skip

    folder, wanted = checkpoints.resolve(model), compute_dtype(dtype, torch.device("cpu"))
    if holds(folder):
        Tokenizer.load(folder)  # makes the files that are copied
    network = checkpoints.load_plain(folder, allow_pickle=allow_pickle)
    checkpoints.save(network.to(wanted), out, shard_bytes)
    copy_companions(folder, out)


def write_gguf(model: str, out: Path, kind: str, allow_pickle: bool) -> None:
    from daedal import checkpoints
    from daedal.checkpoints import gguf_write
    from daedal.data.gguf_metadata import metadata_of
    from daedal.data.tokenizer import Tokenizer
    from daedal.networks.decoder import Decoder

    folder = checkpoints.resolve(model)
    network = checkpoints.load(folder, allow_pickle=allow_pickle, kind=Decoder)
    metadata, remark = metadata_of(Tokenizer.load(folder), network.config.vocab_size)
    gguf_write.write(network, out, kind, metadata)
    if remark:
        print(f"daedal: {remark}.", file=sys.stderr)
