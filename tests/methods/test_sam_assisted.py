"""SemiSAM: what SAM says of the student's own prompts, less and less."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from semivox.errors import SettingError
from semivox.methods import sam_assisted
from semivox.methods.model import build_method
from semivox.methods.sam_assisted import SamAssisted
from semivox.networks.sam2_prompts import NO_PROMPT_LOGIT, Prompts
from semivox.testing import Workbench

NAME = "sam_assisted"
TINY = {"sam.size": "miniature"}


class Told:
    """A SAM that finds bright pixels, less of them with each click, and notes how it is asked."""

    def __init__(self) -> None:
        self.asked: list[Prompts] = []
        self.images: list[torch.Tensor] = []

    def encode(self, image):
        self.images.append(image)
        return [image]

    def masks(self, features, prompts):
        self.asked.append(prompts)
        masks = 4 * features[0].mean(1, keepdim=True) - 0.5 * len(self.asked)
        return torch.where(prompts.valid[..., None, None], masks, NO_PROMPT_LOGIT)


def make_bench(dimensions=2, **settings) -> tuple[Workbench, Told]:
    bench = Workbench(NAME, dimensions, settings={**TINY, "clicks": 3, **settings}, dropout=False).decide()
    bench.method.sam = Told()
    return bench, bench.method.sam


def softmax(z):
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("weighting", ["none", "steadiness"])
def test_the_term_equals_a_slow_version(dimensions, weighting):
    bench, sam = make_bench(dimensions, weighting=weighting, sam_weight=0.8, consistency_weight=0.7, slices=100)
    batch = bench.batch()
    stream = batch.unlabelled
    stream.valid[0, :3] = False
    term = bench.losses(batch)["sam"].item()
    with torch.no_grad():
        p = bench.method.student(torch.cat([batch.labelled.image, stream.image]))[2:].double().softmax(1).numpy()
    valid, image = stream.valid.numpy(), stream.image.double().numpy()
    if dimensions == 2:
        p, valid, image = p[..., None], valid[..., None], image[..., None]
    label = np.where(valid, p.argmax(1), 0)
    total = count = asked = 0.0
    for sample in range(len(p)):
        for z in range(p.shape[-1]):
            present = [k for k in range(1, p.shape[1]) if (label[sample, :, :, z] == k).any()]
            if not present:
                continue
            asked += 1
            said = []
            for click in range(1, len(sam.asked) + 1):
                logits = np.full(p.shape[1:4], NO_PROMPT_LOGIT)
                logits[0] = 0
                logits[present] = 4 * image[sample, 0, :, :, z] - 0.5 * click
                said.append(softmax(logits[None])[0])
            weight = np.ones(p.shape[2:4])
            if weighting == "steadiness":
                weight = 1 - 4 * np.var(said, axis=0).mean(0)
            weight = weight * valid[sample, :, :, z]
            total += (weight * ((p[sample, :, :, :, z] - said[-1]) ** 2).mean(0)).sum()
            count += weight.sum()
    assert asked
    assert len(sam.asked) == 3
    ramp = np.exp(-5 * 0.5**2)  # the bench stands in the middle of the run
    assert term == pytest.approx(0.8 * 0.7 * ramp * total / count, rel=1e-4)


def test_the_term_fades_while_the_mean_teachers_grows():
    bench, _ = make_bench()
    values = []
    for step in (0, bench.config.training.iterations - 1):
        bench.engine.step = step
        values.append(bench.losses(bench.batch()))
    (first, last) = values
    assert first["sam"] > 10 * last["sam"] > 0
    assert first["consistency"] < last["consistency"]


def test_prompts_come_from_the_students_argmax_and_labels_have_no_part():
    bench, sam = make_bench(clicks=1)
    batch = bench.batch()
    assert batch.unlabelled.label is None
    bench.losses(batch)
    with torch.no_grad():
        logits = bench.method.student(torch.cat([batch.labelled.image, batch.unlabelled.image]))[2:]
    label = logits.argmax(1)
    (prompts,) = sam.asked
    assert prompts.valid.any()
    shown = [row for row in range(len(label)) if (label[row] > 0).any()]
    for place, row in enumerate(shown):
        for k in range(1, bench.problem.classes):
            assert prompts.valid[place, k - 1] == (label[row] == k).any()
            if prompts.valid[place, k - 1]:
                x, y = prompts.points[place, k - 1, 0].int().tolist()
                assert label[row, y, x] == k
                assert prompts.point_kinds[place, k - 1, 0] == 1


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_student_that_finds_nothing_asks_nothing(dimensions):
    bench, sam = make_bench(dimensions)
    with torch.no_grad():
        for name, parameter in bench.method.student.classifier.named_parameters():
            parameter.zero_()
            if name.endswith("bias"):
                parameter[0] = 5.0
    terms = bench.losses(bench.batch())
    assert terms["sam"].item() == 0
    assert not sam.asked
    terms["sam"].backward()


def test_each_round_clicks_once_more_until_nothing_is_wrong():
    bench, sam = make_bench(clicks=5)
    bench.losses(bench.batch())
    assert [prompts.points.shape[2] for prompts in sam.asked] == [1, 2, 3, 4, 5]

    class Obedient(Told):
        def masks(self, features, prompts):
            self.asked.append(prompts)
            return torch.where(self.wanted, 5.0, -5.0)

    bench.method.sam = sam = Obedient()
    sam.wanted = torch.zeros(1, bench.problem.classes - 1, 6, 6, dtype=torch.bool)
    sam.wanted[:, 0, 2:5, 1:4] = True
    said = bench.method.rounds(torch.zeros(1, 1, 6, 6), sam.wanted)
    assert len(sam.asked) == len(said) == 1


def test_a_mask_prompt_is_the_argmax_itself():
    bench, sam = make_bench(prompt="mask")
    wanted = torch.rand(2, bench.problem.classes - 1, 6, 6) > 0.5
    assert len(bench.method.rounds(torch.randn(2, 1, 6, 6), wanted)) == 1
    (prompts,) = sam.asked
    assert torch.equal(prompts.masks > 0, wanted)


def test_at_most_so_many_slices_are_shown_evenly_spread():
    bench, _ = make_bench(3, slices=3)
    has = torch.zeros(2, 12, dtype=torch.bool)
    has[0, 2:11] = True
    has[1, [0, 7]] = True
    assert bench.method.chosen(has).tolist() == [[0, 3], [0, 6], [0, 9], [1, 0], [1, 7]]
    assert bench.method.chosen(torch.zeros_like(has)).shape == (0, 2)


def test_slices_lie_across_the_coarse_axis():
    bench, sam = make_bench(3, slices=100)
    x, y, z = bench.problem.plan.patch
    bench.losses(bench.batch())
    assert sam.images[0].shape[2:] == (x, y)
    preparation = bench.problem.plan.preparation.model_copy(update={"coarse_axis": 0})
    plan = bench.problem.plan.model_copy(update={"preparation": preparation})
    bench.method.problem = replace(bench.problem, plan=plan)
    bench.losses(bench.batch())
    assert sam.images[-1].shape[2:] == (y, z)


def test_a_model_predicts_where_sam_is_not_installed(monkeypatch):
    problem = Workbench(NAME, settings=TINY).problem
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SettingError, match=r"semivox\[sam\]"):
        build_method(NAME, SamAssisted.Settings(), problem)
    method = build_method(NAME, SamAssisted.Settings(), replace(problem, pretrained=False)).eval()
    assert not any("sam" in name for name in method.state_dict())
    assert method.predict(torch.randn(1, 1, 16, 16), "default").shape == (1, problem.classes, 16, 16)


def test_the_real_sam_is_asked_too():
    bench = Workbench(NAME, settings={**TINY, "clicks": 2}, dropout=False).decide()
    assert sam_assisted.FrozenSam2 is type(bench.method.sam)
    bench.losses(bench.batch())["sam"].backward()
    assert max(p.grad.abs().max() for p in bench.method.student.parameters()) > 0
