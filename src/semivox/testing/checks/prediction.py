"""What holds for a trained model."""

import tempfile
from pathlib import Path

import torch

from semivox.methods.model import inference_state, load_model, save_model
from semivox.testing.candidate import Candidate
from semivox.testing.workbench import Workbench

SIZES = {2: (15, 13), 3: (15, 13, 9)}
"""Odd along each axis."""
TASK = "default"


def any_size_predicts(candidate: Candidate) -> None:
    """`predict` takes patches of any size and gives probabilities: float32, of the patch's size, summing to 1."""
    for dimensions in candidate.dimensions:
        size = SIZES[dimensions]
        bench = candidate.bench(dimensions)
        found = predict(bench, torch.randn(1, bench.problem.channels, *size))
        expected = [1, bench.problem.classes, *size]
        assert list(found.shape) == expected, (
            f"{dimensions}-D: predict gives the shape {list(found.shape)} instead of {expected}"
        )
        assert found.dtype == torch.float32, f"{dimensions}-D: predict gives {found.dtype}; convert with .float()"
        assert torch.allclose(found.sum(1), torch.ones(1, *size), atol=1e-4), (
            f"{dimensions}-D: predict gives no probabilities; take the softmax over classes"
        )
        assert (found >= 0).all(), f"{dimensions}-D: predict gives negative probabilities; take the softmax"


def a_loaded_model_predicts_what_the_trained_one_does(candidate: Candidate) -> None:
    """What is saved after training and loaded again predicts the same to the last bit, in 2-D and 3-D."""
    for dimensions in candidate.dimensions:
        bench = candidate.bench(dimensions, candidate.stages - 1)
        batch = bench.batch()
        for _ in range(2):
            bench.train_step(batch)
        with tempfile.TemporaryDirectory() as folder:
            save_model(
                Path(folder),
                bench.method,
                bench.problem,
                channels=bench.dataset.channels,
                file_ending=".nii.gz",
                facts={"method": candidate.name},
            )
            loaded = load_model(Path(folder), candidate.name).method
        with torch.no_grad():
            same = torch.equal(predict(bench, batch.labelled.image), loaded.predict(batch.labelled.image, TASK))
        assert same, (
            f"{dimensions}-D: a saved and loaded model predicts otherwise; name every module that predict uses in"
            " inference_modules(), and keep what it needs in parameters and buffers"
        )


def a_model_folder_holds_only_what_prediction_needs(candidate: Candidate) -> None:
    """Each weight that is saved has an influence on `predict`; a NaN in it must be seen, or another value, for
    attention may hide a NaN.

    Of an average, those that nothing trains are left out: a pretrained part may bring some that are never used.
    """
    bench = candidate.bench().decide()
    image = bench.batch().labelled.image
    weights = dict(bench.method.named_parameters())
    untrained = {
        id(copy)
        for average in bench.averages.values()
        for copy, weight in zip(average.module.parameters(), average.source.parameters(), strict=True)
        if not weight.requires_grad
    }
    saved = [name for name in inference_state(bench.method) if name in weights and id(weights[name]) not in untrained]
    assert saved, "a model would hold no weights; inference_modules() must name the modules that predict uses"
    usual = predict(bench, image)
    for name in saved:
        kept = weights[name].detach().clone()
        seen = False
        for other in (torch.full_like(kept, torch.nan), 1 - 2 * kept):
            with torch.no_grad():
                weights[name].copy_(other)
            if not torch.equal(predict(bench, image), usual):
                seen = True
                break
        with torch.no_grad():
            weights[name].copy_(kept)
        assert seen, (
            f"a model would hold {name}, which predict does not use; name in inference_modules() only the modules that"
            " it does use"
        )


def predict(bench: Workbench, image: torch.Tensor) -> torch.Tensor:
    """What the bench's method predicts, in evaluation mode."""
    bench.method.eval()
    with torch.no_grad():
        found = bench.method.predict(image, TASK)
    bench.method.train()
    return found
