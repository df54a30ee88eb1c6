"""Which files of a Hub repository are downloaded."""

from daedal.checkpoints.hub import chosen


def test_a_language_model_is_taken_whole_but_for_other_frameworks() -> None:
    files = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
        "pytorch_model.bin",
        "README.md",
        "onnx/model.json",
        "merges.txt",
    ]
    assert chosen(files) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
        "merges.txt",
    ]


def test_a_pipeline_is_taken_once() -> None:
    once = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
    ]
    twice = [
        "v1-5-pruned.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    ]
    assert (
        chosen(
            [*once, *twice, "safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin"]
        )
        == once
    )


def test_half_precision_is_taken_where_there_is_nothing_else() -> None:
    files = [
        "model_index.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert chosen(files) == files
