import pytest
import torch
from slow_pseudo_labels import cut, log_likelihoods, softmax

from semivox.methods.unimatch import occasional_boxes
from semivox.sampling.draws import generator
from semivox.testing import Workbench

NAME = "unimatch_v2"
ALWAYS = {"cutmix_probability": 1.0, "box_share": (0.2, 0.6)}


def make_bench(dimensions=2, **settings):
    return Workbench(NAME, dimensions, settings=ALWAYS | settings, dropout=False, batch=4).decide()


def halved(student, first, second, seeds):
    """Logits of two views, each with its half of the channels doubled and the other half gone, where a pair takes part.

    Whether it does, and which half, are the draws of `complementary_dropout`.
    """
    features = student.encode(first), student.encode(second)
    taking_part = [generator(seed, "takes part").random() < 0.5 for seed in seeds]
    assert any(taking_part)
    assert not all(taking_part)
    for level, (one, other) in enumerate(zip(*features, strict=True)):
        for sample, seed in enumerate(seeds):
            coins = generator(seed, "complementary", level).integers(0, 2, one.shape[1])
            for channel, coin in enumerate(coins if taking_part[sample] else []):
                one[sample, channel] *= 2 if coin else 0
                other[sample, channel] *= 0 if coin else 2
    return [student.head(student.decode(each)[-1]).numpy() for each in features]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_two_halved_views_learn_the_confident_labels_of_the_teacher(dimensions):
    bench = make_bench(dimensions)
    batch = bench.batch()
    batch.unlabelled.valid[0, :5] = False
    batch.unlabelled.valid[3, :, 9:] = False
    seeds = next(
        seeds
        for seeds in (tuple(range(start, start + 4)) for start in range(100))
        if 0 < sum(generator(seed, "takes part").random() < 0.5 for seed in seeds) < 4
    )
    batch.unlabelled.seeds = seeds
    terms = bench.losses(batch)
    weak, *strong = batch.unlabelled.views
    boxes = [occasional_boxes(batch.unlabelled, 1.0, (0.2, 0.6), draw).numpy() for draw in range(2)]
    mixed = [torch.from_numpy(cut(view.numpy(), box)) for view, box in zip(strong, boxes, strict=True)]
    student, teacher = bench.method.student, bench.method.teacher
    with torch.no_grad():
        p = softmax(teacher(weak).numpy())
        assert not torch.allclose(teacher(weak), student(weak)), "student and teacher must differ here"
        logits = halved(student, *mixed, seeds)
        supervised = bench.problem.supervised_loss(student(batch.labelled.image), batch.labelled).item()
    valid = batch.unlabelled.valid.numpy()
    label, kept = p.argmax(1), valid & (p.max(1) >= 0.95)
    assert 0.05 < kept.sum() / valid.sum() < 0.95, "the threshold must matter"
    for name, own, box in zip(("strong_1", "strong_2"), logits, boxes, strict=True):
        own_label, own_kept, own_valid = (cut(each, box) for each in (label, kept, valid))
        expected = -log_likelihoods(own, own_label)[own_kept].sum() / own_valid.sum()
        assert terms[name].item() == pytest.approx(expected / 4, rel=1e-3), name
    assert terms["supervised"].item() == pytest.approx(supervised / 2, rel=1e-4)


def test_labelled_samples_pass_apart_from_perturbed_ones_and_the_teacher_has_no_gradient():
    bench = make_bench()
    batch, encoded, taught = bench.batch(), [], []
    bench.method.student.encoder.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
    bench.method.teacher.register_forward_hook(
        lambda module, inputs, output: taught.append((inputs[0], output.requires_grad))
    )
    bench.losses(batch)
    assert encoded == [4, 8], "labelled apart, both strong views together"
    ((image, has_gradient),) = taught
    assert torch.equal(image, batch.unlabelled.views[0])
    assert not has_gradient


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teacher_normalises_as_its_mode_says(mode):
    method = Workbench(NAME, settings={"teacher_mode": mode}).method
    assert method.teacher.module.training == (mode == "train")
    assert method.teacher.mode == mode


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_who_predicts_is_a_setting(which):
    method = Workbench(NAME, settings={"evaluate": which}).method
    assert method.inference_modules() == (getattr(method, which),)
