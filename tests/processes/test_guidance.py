"""Guidance: what each combination does to known tensors, and equality with diffusers' guiders."""

import math

import pytest
import torch
from torch import Tensor

from daedal.processes import guidance as G
from daedal.processes.noise import Level, V, noised


def three(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randn(2, 3, 8, 8, generator=g, dtype=torch.float64) for _ in range(3))
    return a, b, c


def test_cfg_is_a_line_through_both() -> None:
    cond, uncond, _ = three()
    torch.testing.assert_close(G.cfg(cond, uncond, 1.0), cond)
    torch.testing.assert_close(G.cfg(cond, uncond, 0.0), uncond)
    # the other convention
    torch.testing.assert_close(G.cfg(cond, uncond, 1 + 6.5), cond + 6.5 * (cond - uncond))
    torch.testing.assert_close(G.autoguidance(cond, uncond, 2.0), 2 * cond - uncond)


def test_cfg_is_the_same_in_every_parametrisation() -> None:
    cond, uncond, x = three()
    level, v = Level(0.6, 0.8, 500.0), V()
    torch.testing.assert_close(
        v.denoised(G.cfg(cond, uncond, 5.0), x, level),
        G.cfg(v.denoised(cond, x, level), v.denoised(uncond, x, level), 5.0),
    )


def test_cfg_samples_the_sharpened_distribution_of_a_gaussian() -> None:
    """For data N(m, 1) with the prompt and N(0, 1) without, the guided denoiser is that of N(s m,
    1)."""
    x, level = torch.linspace(-3, 3, 7).double(), Level(0.6, 0.8, 0.0)

    def denoise(mean: float) -> Tensor:
        return mean + level.alpha * (x - level.alpha * mean)

    torch.testing.assert_close(G.cfg(denoise(0.7), denoise(0.0), 3.0), denoise(2.1))
    torch.testing.assert_close(
        G.composed(denoise(0.0), [denoise(0.7), denoise(0.2)], [2.0, -1.0]), denoise(1.2)
    )


def test_composition_of_one_is_cfg_and_order_does_not_matter() -> None:
    a, b, uncond = three()
    torch.testing.assert_close(G.composed(uncond, [a], [4.0]), G.cfg(a, uncond, 4.0))
    torch.testing.assert_close(
        G.composed(uncond, [a, b], [4.0, -1.5]), G.composed(uncond, [b, a], [-1.5, 4.0])
    )
    torch.testing.assert_close(G.composed(uncond, [], []), uncond)
    with pytest.raises(ValueError):
        G.composed(uncond, [a], [1.0, 2.0])


def test_perturbed_attention_adds_to_cfg() -> None:
    cond, uncond, worse = three()
    torch.testing.assert_close(
        G.perturbed(G.cfg(cond, uncond, 3.0), cond, worse, 2.0),
        uncond + 3 * (cond - uncond) + 2 * (cond - worse),
    )
    torch.testing.assert_close(G.perturbed(cond, cond, worse, 2.0), G.cfg(cond, worse, 3.0))


def test_rescaled_has_the_spread_of_the_condition() -> None:
    cond, uncond, _ = three()
    guided = G.cfg(cond, uncond, 7.5)
    torch.testing.assert_close(G.rescaled(guided, cond, 1.0).std((1, 2, 3)), cond.std((1, 2, 3)))
    torch.testing.assert_close(G.rescaled(guided, cond, 0.0), guided)


def test_rescaled_equals_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers.guiders.classifier_free_guidance")
    cond, uncond, _ = three()
    guided = G.cfg(cond, uncond, 7.5)
    torch.testing.assert_close(
        G.rescaled(guided, cond, 0.7), diffusers.rescale_noise_cfg(guided, cond, 0.7)
    )


def test_the_interval_is_in_sigma_over_alpha() -> None:
    assert G.active(Level(0.6, 0.8, 0.0)) and G.active(Level(0.0, 1.0, 0.0))
    assert not G.active(Level(0.0, 1.0, 0.0), 0.2, 5.0) and not G.active(
        Level(1.0, 0.1, 0.0), 0.2, 5.0
    )
    assert G.active(Level(0.5, 0.5, 0.0), 0.2, 5.0) and G.active(Level(1.0, 5.0, 0.0), 0.2, 5.0)
    assert not G.active(Level(1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("eta", "norm", "momentum"),
    [(0.0, 0.0, 0.0), (0.3, 2.5, 0.0), (0.0, 5.0, -0.5), (1.0, 0.0, -0.75)],
)
def test_apg_equals_diffusers(eta: float, norm: float, momentum: float) -> None:
    theirs = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    buffer, average = theirs.MomentumBuffer(momentum), None
    for seed in range(3):
        cond, uncond, _ = three(seed)
        guided, average = G.apg(cond, uncond, 8.0, average, eta=eta, norm=norm, momentum=momentum)
        want = theirs.normalized_guidance(
            cond, uncond, 8.0 - 1, buffer, eta, norm, use_original_formulation=True
        )
        torch.testing.assert_close(guided, want)


def test_apg_is_cfg_without_its_parts_and_orthogonal_with_them() -> None:
    cond, uncond, _ = three()
    torch.testing.assert_close(G.apg(cond, uncond, 5.0, eta=1.0)[0], G.cfg(cond, uncond, 5.0))
    update = G.apg(cond, uncond, 5.0)[0] - cond
    torch.testing.assert_close(
        (update * cond).sum((1, 2, 3)), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0
    )
    assert torch.isfinite(G.apg(torch.zeros_like(cond), uncond, 5.0)[0]).all()
    assert torch.isfinite(G.apg(cond, cond, 5.0, norm=1.0)[0]).all()


def test_dynamic_threshold() -> None:
    x0 = three()[0] * 3
    out = G.dynamic_threshold(x0, 0.9, 10.0)
    assert out.abs().max() <= 1 and not torch.equal(out, x0.clamp(-1, 1))
    # each image by its own quantile, to which the rest stays in proportion
    for image, small in zip(x0, out, strict=True):
        bound = float(image.abs().flatten().quantile(0.9))
        inside = image.abs() < bound
        torch.testing.assert_close(small[inside], image[inside] / bound, rtol=1e-6, atol=0)
    torch.testing.assert_close(G.dynamic_threshold(x0, 0.9, 1.0), x0.clamp(-1, 1))
    quiet = x0 / 100
    assert torch.equal(G.dynamic_threshold(quiet, 0.9, 10.0), quiet) and math.isfinite(
        float(quiet.sum())
    )


def test_dynamic_threshold_equals_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5
    )
    x0 = noised(three()[0], three()[1], Level(2.0, 1.0, 0.0)).float()
    torch.testing.assert_close(G.dynamic_threshold(x0, 0.95, 1.5), scheduler._threshold_sample(x0))
