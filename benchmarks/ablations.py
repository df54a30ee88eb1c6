"""What each choice of an image recipe is worth: the same small model on captioned emoji, one change
at a time, at equal pictures and rates tuned for none.

    python benchmarks/ablations.py --out runs/ablations                       # trains every
    variant; one that is there is measured, not made again
    python benchmarks/ablations.py --out runs/ablations --only "muon,latents"

Held-out pairs of concept and style in the eye of house/clip: kernel distance, mean cosine with the
caption (x 100), R@1 among all captions, copies of the training set, and images/s of the training.
Averages of the weights and guidance scales cost nothing and are read off one run. The last line is
JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from daedal.evals.pictures import Reference, real_pictures, report
from daedal.pipelines.registry import load
from daedal.processes.clip_scorer import ClipScorer
from daedal.train import averages
from daedal.train.tasks import load_recipe, run

BASE = "recipes/image/scenes.yaml"
COMMON = [
    "steps=250", "checkpoint_every=250", "evaluate_every=100000", "sample_every=100000", "model.depth=4", "model.options.control_size=0",
    "model.options.sketch=0", "control=0.0", "given=0.0", "additive=0", "ema=0.99", "time_mean=1.2", "time_std=1.3", "prompts=[]",
]  # fmt: skip
MUON, ADAM = (
    "optimizer={matrix_lr: 0.02, adam_lr: 0.003, warmup: 30, decay: 0.4}",
    "optimizer={name: adamw, adam_lr: 0.001, warmup: 30, decay: 0.4}",
)
VARIANTS: dict[str, list[str]] = {
    "adamw": [ADAM],
    "muon": [MUON, "averages=[0.05,0.1,0.2]", "averages_every=25"],
    "dense captions": [MUON, "dense"],
    "latents": [
        MUON,
        "model.codec=house/autoencoder",
        "model.options.patch_size=2",
        "time_mean=-0.2",
    ],  # a token of latents has a quarter of the signal
    "velocity": [MUON, "model.options.prediction=flow"],
    "even levels": [MUON, "uniform=1.0"],
    "learned weighting": [MUON, "uncertainty=true"],
    "self-alignment": [MUON, "align=0.2"],
    "sketch": [MUON, "model.options.sketch=16"],
}


def recipe_of(changes: list[str], out: Path) -> Any:
    """The base recipe on coloured emoji alone, with these changes; "dense" lets half of the
    captions go on with what the pixels show."""
    plain = load_recipe(BASE)
    emoji = [s for s in plain.data.train if not s.path.startswith("scenes")][:1]
    for source in emoji:
        source.dense = 0.5 if "dense" in changes else 0.0
    sources = json.dumps([s.model_dump() for s in emoji])
    return load_recipe(
        BASE,
        [*COMMON, f"data.train={sources}", f"out={out}", *(c for c in changes if c != "dense")],
    )


def measured(folder: Path, real: Reference, n: int, **settings: Any) -> dict[str, Any]:
    groups, _ = report(load(str(folder)), n, real=real, **settings)
    found = groups["distance"] | groups["likeness"]
    return {name: found[name] for name in ("kid", "clip_score", "r1", "copies")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument(
        "--only", default=",".join(VARIANTS), help="names of variants, comma-separated"
    )
    parser.add_argument("-n", type=int, default=200, help="pictures of each")
    args = parser.parse_args()
    real, rows = (
        real_pictures(BASE, 64, sight=ClipScorer.load("house/clip")),
        dict[str, dict[str, Any]](),
    )
    for name in args.only.split(","):
        out = args.out / name.replace(" ", "-")
        if not (out / "model").exists():
            run(recipe_of(VARIANTS[name], out))
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        rows[name] = measured(out / "model", real, args.n) | {
            "images_per_second": round(last["images"] / last["seconds"], 1)
        }
        if name == "muon":
            for length in (0.05, 0.1, 0.2):
                folder = out / f"average-{length}"
                rows[f"average over {length:.0%} of the run"] = measured(
                    folder if folder.exists() else averages.ship(out, length, folder), real, args.n
                )
            for scale in (1.0, 4.0):
                rows[f"guidance {scale:g}"] = measured(
                    out / "model", real, args.n, guidance_scale=scale
                )
        for row in list(rows)[-6 if name == "muon" else -1 :]:
            kid, others = (
                rows[row]["kid"],
                {key: value for key, value in rows[row].items() if key != "kid"},
            )
            print(
                f"{row:<30} kid x 1000 {1000 * kid.value:.2f} [{1000 * kid.low:.2f}, {1000 * kid.high:.2f}]",
                *(f" {k} {v}" for k, v in others.items()),
                flush=True,
            )
    print(
        json.dumps(
            {
                name: {key: getattr(value, "value", value) for key, value in row.items()}
                for name, row in rows.items()
            }
        )
    )


if __name__ == "__main__":
    main()
