from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from daedal.errors import DaedalError
from daedal.evals import pictures as P
from daedal.worlds import scenes


def normal(
    n: int, shift: float = 0.0, scale: float = 1.0, seed: int = 0, width: int = 16
) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def test_wilson_interval_by_hand_and_at_the_ends() -> None:
    half = P.share(50, 100)
    assert (half.low, half.high) == (
        pytest.approx(0.4038, abs=1e-3),
        pytest.approx(0.5962, abs=1e-3),
    )
    assert (
        P.share(0, 20).low == 0
        and P.share(0, 20).high == pytest.approx(0.161, abs=1e-3)
        and P.share(20, 20).high == pytest.approx(1)
    )


def test_frechet_distance_of_known_normals() -> None:
    """|m|^2 + tr(A + B - 2 (AB)^(1/2)): shift 0.5 in 4 dimensions is 1, scale 2 against 1 is 4."""
    a = normal(200_000, seed=1, width=4)
    assert P.frechet(a, normal(200_000, 0.5, seed=2, width=4)) == pytest.approx(1.0, abs=0.03)
    assert P.frechet(a, normal(200_000, 0.0, 2.0, seed=3, width=4)) == pytest.approx(4.0, abs=0.06)


def test_kid_is_zero_for_one_distribution_and_grows_with_distance() -> None:
    real = normal(600, seed=1)
    same, near, far = (
        P.jackknife(P.kid, normal(600, shift, seed=2), real) for shift in (0.0, 0.5, 1.0)
    )
    assert same.low < 0 < same.high and same.value < near.value / 5 and near.high < far.low


def test_kid_is_unbiased_and_its_interval_as_wide_as_it_scatters() -> None:
    values = [
        P.jackknife(P.kid, normal(40, seed=i), normal(40, 0.5, seed=1000 + i)) for i in range(200)
    ]
    every = [v.value for v in values]
    truth = np.mean([P.kid(normal(4000, seed=i), normal(4000, 0.5, seed=10 + i)) for i in range(3)])
    assert abs(np.mean(every) - truth) < 3 * np.std(every) / 200**0.5
    assert np.mean([(v.high - v.low) / 2 / 1.96 for v in values]) == pytest.approx(
        np.std(every), rel=0.25
    )
    assert (
        abs(np.mean([P.kid(normal(20, seed=i), normal(20, seed=1000 + i)) for i in range(300)]))
        < 0.02
    )


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    sample = normal(400, seed=3)[:, 0]
    measured = P.jackknife(lambda x: float(x.mean()), sample, groups=400)
    assert (measured.high - measured.low) / 2 / 1.96 == pytest.approx(
        float(sample.std()) / 20, rel=1e-3
    )


def test_precision_falls_with_strangers_and_recall_with_what_is_missing() -> None:
    real = torch.cat([normal(200, 0, seed=1), normal(200, 20, seed=2)])
    half = normal(200, 0, seed=3)
    precision, recall = P.precision_recall(half, real)
    assert precision.value > 0.65 and recall.value < 0.55
    precision, recall = P.precision_recall(torch.cat([real, normal(400, -40, seed=4)]), real)
    assert recall.value == 1 and precision.value == pytest.approx(0.5, abs=0.02)


def test_copies_are_found() -> None:
    train = normal(300, seed=1)
    fake = torch.cat([train[:10] + 0.01 * normal(10, seed=2), normal(30, seed=3)])
    assert P.copies(fake, train).value == pytest.approx(0.25)


def test_retrieval_by_hand() -> None:
    eye = torch.eye(4)
    assert P.retrieval(eye, eye).value == 1 and P.retrieval(eye, eye.roll(1, 0)).value == 0


def test_bootstrap_holds_the_truth() -> None:
    measured = P.bootstrap(lambda x: float(x.mean()), normal(400, 3.0, seed=5))
    assert (
        measured.low < measured.value < measured.high
        and measured.low < 3.0 < measured.high
        and measured.n == 400
    )


def test_the_probe_scores_a_perfect_and_a_blind_painter() -> None:
    import random

    def perfect(captions: list[str], seed: int) -> np.ndarray:
        rng = random.Random(f"probe/{seed}/True")
        return np.stack([scenes.draw(scenes.scene(rng, True)) for _ in captions])

    right, drawn = P.scene_probe(perfect, 20, unseen=True)
    assert right["all"].value == 1 and drawn.shape == (20, 64, 64, 3)
    kinds = [right[kind] for kind in scenes.KINDS]
    assert [m.value for m in kinds] == [1, 1, 1] and sum(m.n for m in kinds) == 20
    blind, _ = P.scene_probe(
        lambda captions, seed: np.full((len(captions), 64, 64, 3), 255, np.uint8), 20, unseen=True
    )
    assert blind["objects"].value == 0 and blind["all"].value == 0


# ---- in the eye of a CLIP tower ------------------------------------------------------------------


@pytest.fixture(scope="module")
def eye(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tower that knows colours and shapes a little."""
    from daedal.train.tasks import load_recipe, run

    quick = [
        "model={side: 32, depth: 1, width: 64, text_length: 14}", "data={train: [{path: scenes}], captions: 300}", "vocab_size=300", "rows=32",
        "micro_rows=32", "ema=null", "steps=50", "optimizer={name: adamw, adam_lr: 0.003, warmup: 5}", f"out={tmp_path_factory.mktemp('clip')}",
    ]  # fmt: skip
    return str(run(load_recipe("recipes/image/clip.yaml", quick)))


class Painter:
    """Paints the scenes it is asked for (`right`), or others."""

    def __init__(self, right: bool) -> None:
        self.right = right

    def paint_each(self, prompts: list[str], seed: int) -> list:
        from types import SimpleNamespace

        known = {scene.caption: scene for unseen in (False, True) for scene in self.asked(unseen)}
        other = scenes.scene(__import__("random").Random(seed))
        return [
            SimpleNamespace(pixels=scenes.draw(known[prompt] if self.right else other))
            for prompt in prompts
        ]

    @staticmethod
    def asked(unseen: bool) -> list:
        import random

        rng = random.Random(f"probe/0/{unseen}")
        return [scenes.scene(rng, unseen) for _ in range(40)]


def test_a_report_in_the_eye_of_a_tower(eye: str) -> None:
    """A painter that paints what is asked is nearer to real scenes, fits its captions better and is
    told apart by them; one that repeats itself is not. Neither copies."""
    from daedal.processes.clip_scorer import ClipScorer

    scorer = ClipScorer.load(eye)
    (good, _), (bad, _) = (P.report(Painter(right), 40, scorer=scorer) for right in (True, False))  # type: ignore[arg-type]
    assert set(good) == {"seen", "unseen", "distance", "likeness"}
    assert set(good["distance"]) == {"kid", "precision", "recall", "frechet", "copies"}
    assert good["seen"]["all"].value == 1 > bad["seen"]["all"].value
    for name in ("kid", "frechet"):
        assert good["distance"][name].value < bad["distance"][name].value
    assert good["distance"]["recall"].value > 0.8 > bad["distance"]["recall"].value
    assert good["likeness"]["clip_score"].low > bad["likeness"]["clip_score"].high
    assert good["likeness"]["r1"].value > bad["likeness"]["r1"].value
    assert good["likeness"]["clip_score_of_real"].value == pytest.approx(
        good["likeness"]["clip_score"].value, abs=15
    )
    assert good["distance"]["copies"].value == 0


def test_several_pictures_of_a_caption() -> None:
    """Two captions, three pictures of each in turn: the first found twice, the second once. A
    caption said twice counts once."""

    class Eye:
        def pictures(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot((x[:, 0, 0, 0] > 0).long(), 2).float()

        def texts(self, captions: list[str]) -> torch.Tensor:
            return torch.eye(2)[[int(caption) for caption in captions]]

    shown = lambda bits: np.array(bits, np.uint8)[:, None, None, None].repeat(3, 3) * 255  # noqa: E731
    reference = P.Reference(shown([0, 1]), ["0", "1"], Eye())  # type: ignore[arg-type]
    found = P.likeness(shown([0, 1, 0, 0, 1, 0]), ["0", "1"], reference)
    assert found["r1"].value == pytest.approx((2 / 3 + 1 / 3) / 2) and found["r1"].n == 2
    assert found["clip_score"].value == pytest.approx(50) and found["r1_of_real"].value == 1
    assert P.likeness(shown([0, 1, 1]), ["0", "1", "1"], reference)["r1"].n == 2


def kept(folder: Path, shown: list[scenes.Scene]) -> None:
    """Scenes as a folder of pictures and captions."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for i, scene in enumerate(shown):
        Image.fromarray(scenes.draw(scene)).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(scene.caption)


def test_a_report_on_a_folder_of_pictures_finds_copies(eye: str, tmp_path: Path) -> None:
    from daedal.processes.clip_scorer import ClipScorer

    kept(tmp_path, Painter.asked(False))
    real = P.real_pictures(str(tmp_path), 64, scorer=ClipScorer.load(eye))
    found, sheet = P.report(Painter(True), 30, real=real)  # type: ignore[arg-type]
    assert set(found) == {"distance", "likeness"} and found["distance"]["copies"].value == 1
    assert found["distance"]["precision"].value == 1 and sheet.ndim == 3
    assert set(P.report(Painter(True), 30, real=replace(real, scorer=None))[0]) == {"distance"}  # type: ignore[arg-type]


def test_a_recipe_says_what_is_held_out_and_where_copies_would_come_from(tmp_path: Path) -> None:
    asked = list({scene.caption: scene for scene in Painter.asked(False)}.values())
    half = len(asked) // 2
    kept(tmp_path / "train", asked[:half])
    kept(tmp_path / "held-out", asked[half:])
    (tmp_path / "a.yaml").write_text(
        f"task: flow\nsteps: 1\nout: {tmp_path}\n"
        f"data: {{train: [{{path: {tmp_path / 'train'}}}, {{path: scenes}}], validation: [{{path: {tmp_path / 'held-out'}}}]}}\n"
    )
    real = P.real_pictures(str(tmp_path / "a.yaml"), 64)
    assert (
        set(real.captions) == {scene.caption for scene in asked[half:]}
        and len(real.trained_on) == half
    )  # type: ignore[arg-type]
    copies, none = (
        P.distances(np.stack([scenes.draw(s) for s in shown]), real)["copies"].value
        for shown in (asked[:half], asked[half:])
    )
    assert copies == 1 and none < 0.2
    with pytest.raises(DaedalError, match="holds out no pictures"):
        P.real_pictures("recipes/image/tiny.yaml", 64)
