"""`daedal convert MODEL OUT`: another dtype, shard size, or a packed model back to a plain
transformers folder; a StyleGAN pickle to safetensors."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    model: Annotated[
        str, typer.Argument(help="House model, folder, Hub name, or a StyleGAN network .pkl.")
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder to write; transformers, vLLM and llama.cpp's converter open it."
        ),
    ],
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "bf16",
    shard_mb: Annotated[float, typer.Option(help="Largest weight file, in MB.")] = 5000,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pytorch_model.bin (tensors only).")
    ] = False,
) -> None:
    """Write a model as a plain transformers folder of safetensors."""
    if model.endswith(".pkl"):
        from daedal.checkpoints import gan_pickles

        gan_pickles.convert(model, out)
        print(out)
        return
    from daedal import checkpoints
    from daedal.checkpoints.files import copy_companions
    from daedal.device import compute_dtype
    from daedal.networks import build
    from daedal.nn.quantized import dequantize_

    import torch  # isort: skip

    folder, wanted = checkpoints.resolve(model), compute_dtype(dtype, torch.device("cpu"))
    network = checkpoints.load(folder, allow_pickle=allow_pickle)
    if "quantization_config" in checkpoints.read_config(folder):
        dequantize_(network)
        with torch.device("meta"):
            network.names = build(network.config).names
    checkpoints.save(network.to(wanted), out, int(shard_mb * 1e6))
    copy_companions(folder, out)
    print(out)
