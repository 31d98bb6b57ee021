"""Noise schedule, q-sample, DDIM and the fusion of pseudo-labels: published values, slow versions, gradients."""

import itertools
import math

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.diffusion import (
    STEPS,
    alpha_bars,
    clean_map,
    ddim,
    ddim_step,
    fused_scores,
    gaussian_smooth,
    gumbel_softmax,
    q_sample,
    sampling_times,
)

SPACES = [(3, 4), (2, 3, 4)]
ALL = torch.ones(2, 3, dtype=torch.bool)
"""Both samples annotate all classes."""
in_2d_and_3d = pytest.mark.parametrize("space", SPACES, ids=["2-D", "3-D"])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_schedule_has_the_published_values_and_those_of_its_product():
    found = [alpha_bars()[time] for time in (0, 1, 111, 222, 500)]
    assert found == pytest.approx([0.999900, 0.999780, 0.873605, 0.596809, 0.077797], abs=1e-6)
    assert alpha_bars()[999] == pytest.approx(0.0000403583, abs=1e-10)
    product = 1.0
    for time in range(STEPS):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * time / (STEPS - 1))
        assert alpha_bars()[time] == pytest.approx(product, rel=1e-9)


def test_ten_steps_are_the_published_ones_and_leave_the_published_betas():
    times = sampling_times(10)
    assert times == (999, 888, 777, 666, 555, 444, 333, 222, 111, 0)
    kept = [1.0, *(alpha_bars()[time] for time in reversed(times))]
    betas = [1 - later / earlier for earlier, later in itertools.pairwise(kept)]
    expected = (0.000100, 0.126308, 0.316844, 0.466119, 0.583005, 0.674481, 0.746030, 0.801963, 0.845663, 0.879788)
    assert betas == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 50, STEPS])
def test_steps_go_from_the_noisiest_down_each_once(steps):
    times = sampling_times(steps)
    assert len(set(times)) == len(times) == steps
    assert times[0] == STEPS - 1
    assert list(times) == sorted(times, reverse=True)
    assert steps == 1 or times[-1] == 0


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (100, [[1.108028, -1.269938], [-0.865165, -0.946119], [-1.188983, 1.593756]]),
        (500, [[0.759078, -1.239235], [-0.038842, -0.278921], [-0.999156, 2.199549]]),
    ],
)
def test_q_sample_has_the_published_values(time, expected):
    drawn = torch.tensor([[0.5, -1], [0.25, 0], [-0.75, 2]]).view(1, 3, 1, 2)
    clean = clean_map(torch.tensor([[[0, 2]]]), ALL[:1])
    assert q_sample(clean, drawn, [time]).view(3, 2).tolist() == [pytest.approx(row, abs=1e-5) for row in expected]


@in_2d_and_3d
def test_each_sample_is_noised_to_its_own_step_as_in_a_loop_over_voxels(space):
    label = torch.randint(0, 3, (2, *space), generator=torch.Generator().manual_seed(0))
    label[0, 0] = IGNORE
    drawn, times = noise(2, 3, *space), [17, 640]
    found = q_sample(clean_map(label, ALL).double(), drawn, times).numpy()
    for b, k, *voxel in np.ndindex(found.shape):
        kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * time / 999) for time in range(times[b] + 1))
        y = label[(b, *voxel)]
        clean = 0 if y == IGNORE else 1 if y == k else -1
        place = (b, k, *voxel)
        assert found[place] == pytest.approx(kept**0.5 * clean + (1 - kept) ** 0.5 * drawn[place].item(), abs=1e-9)


@in_2d_and_3d
def test_a_background_that_may_be_a_class_that_is_not_annotated_is_neither_yes_nor_no(space):
    label = torch.randint(0, 3, (2, *space), generator=torch.Generator().manual_seed(0))
    label[:, 0] = IGNORE
    known = torch.tensor([[True, True, False], [True, True, True]])
    found = clean_map(label, known)
    for b, *voxel in np.ndindex(tuple(label.shape)):
        y, channels = int(label[(b, *voxel)]), found[(b, slice(None), *voxel)].tolist()
        if y == IGNORE:
            assert channels == [0, 0, 0]
        elif b == 0 and y != 1:  # what is said of a class that the task does not annotate is no matter
            assert channels == [0, -1, 0]
        else:
            assert channels == [1 if y == k else -1 for k in range(3)]


@pytest.mark.parametrize(
    ("time", "previous", "expected"),
    [
        (999, 888, (0.311927, -1.204611, 0.787911)),
        (555, 444, (0.452124, -1.209027, 0.595094)),
        (111, 0, (0.982098, -0.423217, -0.951158)),
        (0, None, (1, -0.4, -1)),
    ],
)
def test_a_ddim_step_has_the_published_values(time, previous, expected):
    noisy = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
    estimate = torch.tensor([2.5, -0.4, -3.0], dtype=torch.float64).clamp(-1, 1)
    target = 1.0 if previous is None else alpha_bars()[previous]
    found = ddim_step(noisy, estimate, alpha_bars()[time], target)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


@in_2d_and_3d
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_sampling_equals_a_slow_loop_and_ends_with_the_last_estimate(space, steps):
    weight = noise(3, 3, seed=1)
    asked = []

    def estimate(noisy, time):
        asked.append(time)
        return (torch.einsum("jk,bk...->bj...", weight, noisy) + time / STEPS).clamp(-1, 1)

    start = noise(2, 3, *space)
    found = ddim(estimate, start, steps)
    times = [round(999 * step / max(steps - 1, 1)) for step in range(steps)][::-1] if steps > 1 else [999]
    assert asked == times
    x = start.numpy()
    for number, time in enumerate(times):
        clean = np.clip(np.einsum("jk,bk...->bj...", weight.numpy(), x) + time / STEPS, -1, 1)
        kept = np.prod([1 - (1e-4 + (0.02 - 1e-4) * t / 999) for t in range(time + 1)])
        after = times[number + 1] if number + 1 < steps else -1
        then = np.prod([1 - (1e-4 + (0.02 - 1e-4) * t / 999) for t in range(after + 1)])
        x = np.sqrt(then) * clean + np.sqrt(1 - then) * (x / np.sqrt(kept) - clean) / np.sqrt(1 / kept - 1)
    assert np.allclose(found.numpy(), x, atol=1e-9)
    assert np.allclose(found.numpy(), clean, atol=1e-9)


@in_2d_and_3d
def test_whoever_knows_the_clean_map_samples_it(space):
    clean = clean_map(torch.randint(0, 3, (1, *space), generator=torch.Generator().manual_seed(0)), ALL[:1])
    assert torch.allclose(ddim(lambda noisy, time: clean, noise(1, 3, *space).float(), 10), clean, atol=1e-5)


ROW = torch.tensor([[1, -0.2, -1], [-1, 1, 0.4], [-0.6, -1, 1]], dtype=torch.float64).view(1, 3, 1, 1, 3)
GUMBEL = torch.tensor([[0.1, 1.5, -0.3], [0.4, -0.8, 0.2], [2.0, 0, -0.5]], dtype=torch.float64).view(1, 3, 1, 1, 3)
PSI = torch.tensor([[1, 0.2, 0], [0, 0.3, 0.1], [0.5, 0.1, -0.2]], dtype=torch.float64).view(1, 3, 1, 1, 3)


def test_fusion_has_the_published_values():
    smooth = gaussian_smooth(gumbel_softmax(ROW, GUMBEL)).view(3, 3)
    assert smooth.flatten().tolist() == pytest.approx(
        [0.075477, 0.090548, 0.045764, 0.019653, 0.052705, 0.057907, 0.053091, 0.060928, 0.044550], abs=1e-6
    )
    scores = fused_scores(gumbel_softmax(ROW, GUMBEL), PSI)
    assert scores[0, 0].flatten().tolist() == pytest.approx([0.581958, 0.422773, 0.387773], abs=1e-6)
    assert scores[0, 1].flatten().tolist() == pytest.approx([0.205977, 0.419870, 0.435885], abs=1e-6)
    assert scores.argmax(1).flatten().tolist() == [0, 0, 1]
    assert PSI.argmax(1).flatten().tolist() == [0, 1, 1]


@pytest.mark.parametrize(("classes", "most"), [(2, 0.881), (4, 0.711), (5, 0.649), (14, 0.362)])
def test_a_clamped_sample_gives_its_class_a_bounded_share_of_draws(classes, most):
    sure = torch.full((1, classes, 1, 1), -1.0)
    sure[0, 0] = 1
    assert gumbel_softmax(sure, None)[0, 0].item() == pytest.approx(most, abs=5e-4)


def test_the_kernel_has_the_published_values_in_3d_and_loses_what_lies_outside():
    point = torch.zeros(1, 1, 5, 5, 5, dtype=torch.float64)
    point[0, 0, 2, 2, 2] = 1
    kernel = gaussian_smooth(point)[0, 0]
    found = [kernel[place].item() for place in ((2, 2, 2), (2, 2, 3), (2, 1, 3), (1, 1, 3), (2, 2, 4))]
    assert found == pytest.approx([0.092261, 0.055959, 0.033941, 0.020586, 0], abs=1e-6)
    assert kernel.sum().item() == pytest.approx(1)
    assert gaussian_smooth(torch.ones(1, 1, 4, 4, 4))[0, 0, 0, 0, 0].item() == pytest.approx(0.3825, abs=1e-4)
    line = torch.tensor([0, 1.0, 0]).view(1, 1, 1, 3)
    assert gaussian_smooth(line).flatten().tolist() == pytest.approx(
        [0.451863 * part for part in (0.274069, 0.451863, 0.274069)], abs=1e-5
    )


@in_2d_and_3d
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("noisy", [True, False])
def test_fusion_equals_a_loop_over_voxels(space, temperature, noisy):
    sampled, drawn, psi = (noise(2, 3, *space, seed=seed) for seed in range(3))
    found = fused_scores(gumbel_softmax(sampled, drawn if noisy else None, temperature), psi)
    raised = np.exp((sampled + drawn * noisy).numpy() / temperature)
    soft = raised / raised.sum(1, keepdims=True)
    second = np.exp(psi.numpy())
    expected = second / second.sum(1, keepdims=True)
    total = sum(
        math.exp(-sum(o * o for o in offset) / 2) for offset in itertools.product((-1, 0, 1), repeat=len(space))
    )
    for place in np.ndindex(*soft.shape):
        b, k, *voxel = place
        for offset in itertools.product((-1, 0, 1), repeat=len(space)):
            near = [v + o for v, o in zip(voxel, offset, strict=True)]
            if all(0 <= n < size for n, size in zip(near, space, strict=True)):
                expected[place] += math.exp(-sum(o * o for o in offset) / 2) / total * soft[(b, k, *near)]
    assert np.allclose(found.numpy(), expected, atol=1e-12)


@in_2d_and_3d
def test_gradient_in_float64(space):
    a, b = noise(2, 3, *space).requires_grad_(), noise(2, 3, *space, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda clean, drawn: q_sample(clean, drawn, [3, 900]), (a, b))
    assert torch.autograd.gradcheck(lambda noisy, clean: ddim_step(noisy, clean, 0.3, 0.7), (a, b))
    assert torch.autograd.gradcheck(lambda z, g: gumbel_softmax(z, g, 0.7), (a, b))
    assert torch.autograd.gradcheck(fused_scores, (a, b))


def test_half_precision_is_computed_in_float32():
    sampled, psi = noise(1, 3, 8, 9).bfloat16(), noise(1, 3, 8, 9, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = fused_scores(gumbel_softmax(sampled, None), psi)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), fused_scores(gumbel_softmax(sampled.double(), None), psi.double()), atol=1e-6)
