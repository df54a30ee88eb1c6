"""A decoder over the codes of a VQ autoencoder behind the image pipeline: a caption is continued by
the cells of its picture."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.decoder import Decoder
from daedal.networks.vq import VQModel
from daedal.pipelines.painter import Job, one_step
from daedal.processes.imaging import pixels
from daedal.processes.prompts import remark
from daedal.processes.samplers import Steps
from daedal.processes.sampling import SamplingParams
from daedal.systems.vq_prior import encode, paint_codes


class PriorPainter:
    takes: frozenset[str] = frozenset()
    upscales = False
    scale: int | None = None

    def __init__(
        self, network: Decoder, codec: VQModel, tokenizer: Tokenizer, settings: dict[str, Any]
    ) -> None:
        self.network = network
        self.codec = codec
        self.tokenizer = tokenizer
        self.settings = settings
        self.multiple = side = cast(int, codec.config.sample_size)
        self.defaults = one_step(side, settings["guidance_scale"])

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "PriorPainter":
        network = checkpoints.load(folder, dtype=torch.float32, device=device, kind=Decoder).eval()
        codec = checkpoints.load(folder / "codec", dtype=torch.float32, device=device, kind=VQModel)
        settings = json.loads((folder / "picture.json").read_text())
        return cls(network, codec, Tokenizer.load(folder), settings)

    @torch.no_grad()
    def paint(self, job: Job) -> Steps:
        side = self.multiple
        if job.init is not None or (job.width, job.height) != (side, side):
            raise DaedalError(
                f"this model makes pictures of {side}x{side} out of nothing; leave init and size out."
            )
        length, device = self.settings["text_length"], self.network.lm_head.weight.device
        asked = encode(self.tokenizer, job.prompts, length).to(device)
        nothing = encode(self.tokenizer, job.negatives, length).to(device)
        drawing = {key: self.settings[key] for key in ("temperature", "top_k")}
        made = []
        for i, seed in enumerate(job.seeds):  # each with its own seed, so that it is the same alone
            params, one = SamplingParams(**drawing, seed=seed), (asked[i : i + 1], nothing[i])
            scale = job.guidance_scale
            made.append(paint_codes(self.network, self.codec, *one, side, params, scale))
            yield None
        pictures = torch.cat(made)
        yield 0, pictures, pictures
        return pictures

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        return pixels(x0)

    def remark(self, prompt: str) -> str:
        return remark(prompt, [self.tokenizer], self.settings["text_length"])
