import pytest
import torch
from slow_pseudo_labels import log_likelihoods, softmax

from semivox.testing import Workbench

NAME = "fixmatch"


@pytest.fixture(params=[2, 3], ids=["2-D", "3-D"])
def bench(request):
    """A student that is sure of many voxels and not of others."""
    return Workbench(NAME, request.param, settings={"unlabelled_weight": 0.7}, dropout=False).decide()


def test_the_student_learns_its_confident_labels_of_the_weak_view_on_the_strong_view(bench):
    batch = bench.batch()
    batch.unlabelled.valid[0, :5] = False
    term = bench.losses(batch)["strong"]
    weak, strong = batch.unlabelled.views
    with torch.no_grad():
        taught, asked = (bench.method.student(view).numpy() for view in (weak, strong))
    p, valid = softmax(taught), batch.unlabelled.valid.numpy()
    kept = valid & (p.max(1) >= 0.95)
    assert 0.05 < kept.sum() / valid.sum() < 0.95, "the threshold must matter"
    expected = -log_likelihoods(asked, p.argmax(1))[kept].sum() / valid.sum()
    assert term.item() == pytest.approx(0.7 * expected, rel=1e-3)
    assert (bench.method.notes["kept"].numpy() == kept).mean() > 0.999  # up to rounding at the threshold


def test_labels_are_made_without_gradient_and_labelled_samples_pass_apart(bench):
    batch, seen = bench.batch(), []
    bench.method.student.register_forward_hook(
        lambda module, inputs, output: seen.append((output.requires_grad, inputs[0]))
    )
    bench.losses(batch)
    weak, strong = batch.unlabelled.views
    assert [kept for kept, _ in seen] == [False, True, True]
    for (_, image), expected in zip(seen, (weak, batch.labelled.image, strong), strict=True):
        assert torch.equal(image, expected)


def test_nothing_confident_costs_nothing():
    bench = Workbench(NAME)
    terms = bench.losses(bench.batch())
    assert not bench.method.notes["kept"].any()
    assert terms["strong"] == 0


def test_in_bfloat16_the_unlabelled_term_still_reaches_every_weight(bench):
    """The pass without gradient comes first; autocast must not hand its copies of the weights to the second."""
    with torch.autocast("cpu", torch.bfloat16):
        bench.losses(bench.batch())["strong"].backward()
    for name, parameter in bench.method.student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_average_predicts(bench):
    assert bench.method.inference_modules() == (bench.method.average,)
