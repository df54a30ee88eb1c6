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
from daedal.pipelines.painter import Job
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
        self.network, self.codec, self.tokenizer, self.settings = (
            network,
            codec,
            tokenizer,
            settings,
        )
        self.multiple = side = cast(int, codec.config.sample_size)
        self.defaults = {
            "width": side,
            "height": side,
            "steps": 1,
            "guidance_scale": settings["guidance_scale"],
            "sampler": "euler",
        }

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "PriorPainter":
        network = checkpoints.load(folder, dtype=torch.float32, device=device, kind=Decoder).eval()
        codec = checkpoints.load(folder / "codec", dtype=torch.float32, device=device, kind=VQModel)
        return cls(
            network,
            codec,
            Tokenizer.load(folder),
            json.loads((folder / "picture.json").read_text()),
        )

    @torch.no_grad()
    def paint(self, job: Job) -> Steps:
        side = self.multiple
        if job.init is not None or (job.width, job.height) != (side, side):
            raise DaedalError(
                f"this model makes pictures of {side}x{side} out of nothing; leave init and size out."
            )
        words = [
            encode(self.tokenizer, texts, self.settings["text_length"])
            for texts in (job.prompts, job.negatives)
        ]
        asked, nothing = (tokens.to(self.network.lm_head.weight.device) for tokens in words)
        made = []
        for i, seed in enumerate(job.seeds):  # each with its own seed, so that it is the same alone
            params = SamplingParams(
                temperature=self.settings["temperature"], top_k=self.settings["top_k"], seed=seed
            )
            made.append(
                paint_codes(
                    self.network,
                    self.codec,
                    asked[i : i + 1],
                    nothing[i],
                    side,
                    params,
                    job.guidance_scale,
                )
            )
            yield None
        pictures = torch.cat(made)
        yield 0, pictures, pictures
        return pictures

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        return pixels(x0)

    def remark(self, prompt: str) -> str:
        return remark(prompt, [self.tokenizer], self.settings["text_length"])
