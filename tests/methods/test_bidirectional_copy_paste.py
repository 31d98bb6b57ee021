import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.inference.postprocessing import keep_largest_component
from semivox.methods import find_method
from semivox.methods.clock import Clock
from semivox.testing import Workbench

NAME = "bidirectional_copy_paste"
PRETRAIN, SELF_TRAIN = 0, 1
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def make_bench(dimensions=2, stage=SELF_TRAIN, **changes):
    return Workbench(NAME, dimensions, stage=stage, **{"batch": 4, "dropout": False, **changes})


def mixes_and_logits(bench, batch):
    """The images that the student was shown, and its logits; the terms."""
    seen = []
    hook = bench.method.student.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0], output.detach()))
    )
    terms = bench.losses(batch)
    hook.remove()
    ((images, logits),) = seen
    return images.numpy(), logits.double().numpy(), {name: term.item() for name, term in terms.items()}


def region_loss(logits, label, region):
    """½ (CE + mean over classes of DiceSq) over the voxels of a region that have a label, one after another."""
    classes = logits.shape[1]
    overlap, prediction, reference = np.zeros((3, classes))
    log_likelihoods = []
    for b, *voxel in np.argwhere(region & (label != IGNORE)):
        powers = np.exp(logits[(b, slice(None), *voxel)])
        p, y = powers / powers.sum(), label[(b, *voxel)]
        log_likelihoods.append(np.log(p[y]))
        overlap[y] += p[y]
        reference[y] += 1
        prediction += p**2
    dice = 1 - (2 * overlap + 1e-5) / (prediction + reference + 1e-5)
    return 0.5 * (dice.mean() - np.mean(log_likelihoods))


def box_of(mixed, border, centre):
    """Where a mix is its centre; everywhere else it must be its border."""
    box = np.all(mixed == centre, axis=1)
    assert np.array_equal(np.where(box[:, None], centre, border), mixed)
    return box


def corners(box):
    """First and one past the last voxel of one box."""
    found = np.argwhere(box)
    first, last = found.min(0), found.max(0) + 1
    assert np.prod(last - first) == len(found), "a box it is"
    return first, last


@in_2d_and_3d
def test_pretraining_sees_one_labelled_neighbour_in_the_other_as_in_a_slow_version(dimensions):
    bench = make_bench(dimensions, PRETRAIN)
    batch = bench.batch()
    assert batch.unlabelled is None
    images, labels = batch.labelled.image.numpy(), batch.labelled.label.numpy()
    mixed, logits, terms = mixes_and_logits(bench, batch)
    box = box_of(mixed, images[0::2], images[1::2])
    assert set(terms) == {"supervised_border", "supervised_centre"}
    assert terms["supervised_border"] == pytest.approx(region_loss(logits, labels[0::2], ~box), rel=1e-4)
    assert terms["supervised_centre"] == pytest.approx(region_loss(logits, labels[1::2], box), rel=1e-4)


@in_2d_and_3d
@pytest.mark.parametrize("largest_component", [True, False])
def test_self_training_mixes_both_ways_as_in_a_slow_version(dimensions, largest_component):
    settings = {"pseudo_weight": 0.3, "largest_component": largest_component, "teacher_mode": "eval"}
    bench = make_bench(dimensions, settings=settings).decide()
    batch = bench.batch()
    batch.unlabelled.valid[1, :5] = False
    labelled, unlabelled = batch.labelled.image.numpy(), batch.unlabelled.image.numpy()
    labels = batch.labelled.label.numpy()
    pseudo = bench.method.teacher(batch.unlabelled.image).argmax(1).numpy()
    valid = batch.unlabelled.valid.numpy()
    raw = pseudo = np.where(valid, pseudo, 0)
    if largest_component:
        volumes = pseudo if dimensions == 3 else pseudo[..., None]
        pseudo = np.stack([keep_largest_component(volume) for volume in volumes]).reshape(pseudo.shape)
        assert (pseudo != raw).any()
    pseudo = np.where(valid, pseudo, IGNORE)

    mixed, logits, terms = mixes_and_logits(bench, batch)
    (x_1, x_2), (z_1, z_2) = (mixed[0::2], mixed[1::2]), (logits[0::2], logits[1::2])
    box = box_of(x_1, border=unlabelled[0::2], centre=labelled[0::2])
    assert np.array_equal(box, box_of(x_2, border=labelled[1::2], centre=unlabelled[1::2]))
    assert set(terms) == {"supervised_centre", "supervised_border", "pseudo_border", "pseudo_centre"}
    assert terms["supervised_centre"] == pytest.approx(region_loss(z_1, labels[0::2], box), rel=1e-4)
    assert terms["supervised_border"] == pytest.approx(region_loss(z_2, labels[1::2], ~box), rel=1e-4)
    assert terms["pseudo_border"] == pytest.approx(0.3 * region_loss(z_1, pseudo[0::2], ~box), rel=1e-4)
    assert terms["pseudo_centre"] == pytest.approx(0.3 * region_loss(z_2, pseudo[1::2], box), rel=1e-4)


@in_2d_and_3d
def test_each_pair_has_its_own_box_of_two_thirds_per_side(dimensions):
    bench = make_bench(dimensions)
    found = set()
    for step in range(4):
        batch = bench.batch(step)
        mixed, _, _ = mixes_and_logits(bench, batch)
        for box in box_of(mixed[0::2], batch.unlabelled.image.numpy()[0::2], batch.labelled.image.numpy()[0::2]):
            first, last = corners(box)
            assert list(last - first) == [2 * side // 3 for side in bench.config.plan.patch]
            found.add(tuple(first))
    assert len(found) > 4


def test_what_is_noted_are_the_unlabelled_samples_and_where_their_pseudo_labels_count():
    bench = make_bench(settings={"teacher_mode": "eval"}).decide()
    batch = bench.batch()
    _, logits, _ = mixes_and_logits(bench, batch)
    notes, images = bench.method.notes, batch.unlabelled.image
    assert np.array_equal(notes["student"].numpy(), logits.astype(np.float32))
    torch.testing.assert_close(notes["teacher"], bench.method.teacher(images))
    assert torch.equal(notes["pseudo"], bench.method.pseudo_labels(notes["teacher"], batch.unlabelled.valid))
    share = (2 / 3) ** 2
    assert notes["kept"][0::2].float().mean().item() == pytest.approx(1 - share, abs=0.03)
    assert notes["kept"][1::2].float().mean().item() == pytest.approx(share, abs=0.03)


def test_labels_and_pseudo_labels_teach_their_own_regions_only():
    bench = make_bench(settings={"teacher_mode": "eval"}).decide()
    batch = bench.batch()
    before = bench.losses(batch)
    batch.labelled.label.fill_(IGNORE)
    unknown = bench.losses(batch)
    for name, term in before.items():
        assert unknown[name] == (0 if name.startswith("supervised") else term)


def test_only_the_student_is_trained():
    bench = make_bench()
    gradients = bench.gradients(bench.batch())
    assert {name.partition(".")[0] for name in gradients} == {"student"}
    assert all(parameter.grad is None for parameter in bench.method.teacher.parameters())


@pytest.mark.parametrize("teacher_mode", ["train", "eval"])
def test_the_teacher_is_the_student_until_self_training_begins_and_then_follows_it(teacher_mode):
    bench = make_bench(stage=PRETRAIN, settings={"teacher_mode": teacher_mode})
    method = bench.method
    method.student.register_buffer("statistic", torch.zeros(1))
    method.teacher.module.register_buffer("statistic", torch.ones(1))
    bench.train_step(bench.batch())
    copy = method.teacher.module.state_dict()
    assert all(torch.equal(copy[name], value) for name, value in method.student.state_dict().items())

    before = {name: value.clone() for name, value in copy.items()}
    with torch.no_grad():
        next(method.student.parameters()).add_(1.0)
    method.after_step(Clock(step=5, iterations=20, stage=method.stages()[SELF_TRAIN].name))
    name, moved = next(method.teacher.module.named_parameters())
    torch.testing.assert_close(moved - before[name], torch.full_like(moved, 0.01), rtol=1e-3, atol=1e-6)


def test_pretraining_comes_first_and_self_training_begins_with_fresh_optimisers():
    first, second = find_method("bcp")(find_method("bcp").Settings(pretraining_share=0.25)).stages()
    assert (first.share, first.unlabelled) == (0.25, False)
    assert (second.share, second.unlabelled, second.keep_optimisers) == (0.75, True, False)


@pytest.mark.parametrize("evaluate", ["teacher", "student"])
def test_teacher_or_student_predicts(evaluate):
    method = make_bench(settings={"evaluate": evaluate}).method
    assert method.inference_modules() == (getattr(method, evaluate),)


@pytest.mark.parametrize(("labelled", "unlabelled"), [(3, 3), (4, 2), (1, 1)])
def test_a_batch_that_cannot_be_paired_is_refused_with_the_mend(labelled, unlabelled):
    problem = make_bench().problem
    batch = problem.plan.batch.model_copy(update={"labelled": labelled, "unlabelled": unlabelled})
    object.__setattr__(problem, "plan", problem.plan.model_copy(update={"batch": batch}))
    with pytest.raises(SettingError, match=f"the batch is {labelled}.{unlabelled}; give .* one even number"):
        find_method(NAME)().build(problem)


def test_a_device_that_would_get_half_a_pair_is_refused_with_the_mend():
    with pytest.raises(
        SettingError, match=r"batch.labelled gives 2 .* at a time on each device; set it to a multiple of 4"
    ):
        make_bench(stage=PRETRAIN, batch=2, devices=2).batch()
