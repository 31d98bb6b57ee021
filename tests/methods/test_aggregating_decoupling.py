"""A&D: its three terms as slow versions, who learns from which, the mixing of decoders, and what sampling leaves."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.experiments.configure import Budget, Request, configure
from semivox.losses.schedules import poly, sigmoid_ramp
from semivox.methods import find_method
from semivox.methods.model import inference_state
from semivox.planning.fingerprint import fingerprint
from semivox.planning.plan import NetworkChoice
from semivox.sampling.draws import generator, seed_of
from semivox.testing import Workbench

NAME = "aggregating_decoupling"
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])
ALPHA_BARS = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def drawn(stream, use, classes, kind):
    """Noise (B, K, *space) of a stream, sample by sample."""
    rows = []
    for seed in stream.seeds:
        row = torch.empty(classes, *stream.image.shape[2:])
        source = torch.Generator().manual_seed(seed_of(seed, use))
        rows.append(row.normal_(generator=source) if kind == "normal" else -row.exponential_(generator=source).log())
    return torch.stack(rows).double().numpy()


def softmax(z):
    raised = np.exp(z - z.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def slow_dice_ce(logits, label, weight):
    """DiceCE of the document, shifted by the mean of the foreground's weights."""
    p, counted = softmax(logits), label != IGNORE
    classes = range(p.shape[1])
    total = sum(-weight[k] * np.log(p[:, k][counted & (label == k)]).sum() for k in classes)
    total /= sum(weight[k] * (counted & (label == k)).sum() for k in classes)
    dices = []
    for k in classes:
        inside, outside = p[:, k][counted & (label == k)], p[:, k][counted & (label != k)]
        true, false, missed = inside.sum(), outside.sum(), (1 - inside).sum()
        dices.append((2 * true + 1) / (2 * true + false + missed + 1 + 1e-8))
    return total + np.mean([weight[k] * (1 - dices[k]) for k in classes if k > 0])


def restored(method, image, noisy, times):
    """What the denoiser gives, float64."""
    times = torch.tensor(times)
    with torch.no_grad():
        return method.denoiser(image, torch.from_numpy(noisy).float(), times).double().numpy()


@in_2d_and_3d
def test_the_supervised_terms_equal_slow_versions(dimensions):
    bench = Workbench(NAME, dimensions, dropout=False).decide()
    batch, method = bench.batch(), bench.method
    stream, classes = batch.labelled, bench.problem.classes
    stream.label[0, :3] = IGNORE
    terms = bench.losses(batch)

    label = stream.label.numpy()
    times = [int(generator(seed, "time").integers(1000)) for seed in stream.seeds]
    kept = ALPHA_BARS[times].reshape(-1, *[1] * (dimensions + 1))
    clean = np.stack([np.where(label == IGNORE, 0, np.where(label == k, 1, -1)) for k in range(classes)], 1)
    noisy = np.sqrt(kept) * clean + np.sqrt(1 - kept) * drawn(stream, "diffusion", classes, "normal")
    xi = restored(method, stream.image, noisy, times)
    assert terms["supervised_denoising"].item() == pytest.approx(slow_dice_ce(xi, label, np.ones(classes)), rel=1e-4)

    weight = []
    for k in range(classes):
        predicted, true = (xi.argmax(1) == k) & (label != IGNORE), label == k
        dice = (2 * (predicted & true).sum() + 1e-8) / (predicted.sum() + true.sum() + 2e-8)
        change, missing = dice - 1e-8, 49 / 50 + (1 - dice) / 50
        learned = max(change, 0) * math.log(dice / 1e-8) / 50
        unlearned = min(change, 0) * math.log(dice / 1e-8) / 50
        weight.append(classes * missing * ((unlearned + 1e-8) / (learned + 1e-8)) ** 0.2)
    with torch.no_grad():
        psi = method.psi(method.network.encode(stream.image)).double().numpy()
    assert terms["supervised_difficulty"].item() == pytest.approx(slow_dice_ce(psi, label, weight), rel=1e-3)


def test_what_a_task_does_not_annotate_is_no_matter_to_the_supervised_terms():
    bench = Workbench(NAME, dropout=False).decide()
    batch = bench.batch()
    stream = batch.labelled
    stream.known[:, 2] = False
    assert (stream.label == 2).any()
    terms = bench.losses(batch)
    stream.label[stream.label == 2] = 0
    again = bench.losses(batch)
    for name in ("supervised_denoising", "supervised_difficulty"):
        assert terms[name].item() == pytest.approx(again[name].item(), rel=1e-6)


def slow_pseudo_scores(method, stream, classes, settings):
    """Ten steps from noise, Gumbel softmax, a Gaussian, and ψ; what is summed, and ψ's part."""
    x, steps = drawn(stream, "sampling", classes, "normal"), settings.get("sampling_steps", 10)
    times = np.linspace(999, 0, steps).round().astype(int)
    for time, then in zip(times, [*ALPHA_BARS[times[1:]], 1.0], strict=True):
        logits = restored(method, stream.image, x, [time] * len(x))
        soft = settings.get("clean_estimate") == "softmax"
        clean = 2 * softmax(logits) - 1 if soft else np.clip(logits, -1, 1)
        kept = ALPHA_BARS[time]
        noise = (x / np.sqrt(kept) - clean) / np.sqrt(1 / kept - 1)
        x = np.sqrt(then) * clean + np.sqrt(1 - then) * noise
    z = settings.get("logit_scale", 1) * x
    if settings.get("gumbel_noise", True):
        z = z + drawn(stream, "gumbel", classes, "gumbel")
    soft = softmax(z / settings.get("temperature", 1))
    smooth = np.zeros_like(soft)
    space = soft.shape[2:]
    offsets = list(itertools.product((-1, 0, 1), repeat=len(space)))
    total = sum(math.exp(-sum(o * o for o in offset) / 2) for offset in offsets)
    for offset in offsets:
        here = tuple(slice(max(-o, 0), n - max(o, 0)) for o, n in zip(offset, space, strict=True))
        there = tuple(slice(max(o, 0), n - max(-o, 0)) for o, n in zip(offset, space, strict=True))
        smooth[(..., *here)] += math.exp(-sum(o * o for o in offset) / 2) / total * soft[(..., *there)]
    with torch.no_grad():
        psi = method.psi(method.network.encode(stream.image)).double().numpy()
    return smooth + softmax(psi), psi


REPAIRED = {
    "clean_estimate": "softmax",
    "logit_scale": 6.0,
    "temperature": 0.5,
    "gumbel_noise": False,
    "sampling_steps": 3,
}


@in_2d_and_3d
@pytest.mark.parametrize("settings", [{}, REPAIRED], ids=["published", "repaired"])
def test_the_unlabelled_term_equals_a_slow_version(dimensions, settings):
    bench = Workbench(NAME, dimensions, settings=settings, dropout=False).decide()
    batch, method, classes = bench.batch(), bench.method, bench.problem.classes
    stream = batch.unlabelled
    stream.valid[0, :5] = False
    term = bench.losses(batch)["unlabelled"]
    scores, psi = slow_pseudo_scores(method, stream, classes, settings)
    valid = stream.valid.numpy()
    pseudo = np.where(valid, scores.argmax(1), IGNORE)
    assert len(np.unique(pseudo[valid])) > 1
    with torch.no_grad():
        theta = method.network(stream.image).double().numpy()
    ramp = 10 * np.exp(-5 * (1 - 0.5) ** 2)  # the bench stands in the middle of the run
    assert term.item() == pytest.approx(ramp * slow_dice_ce(theta, pseudo, np.ones(classes)), rel=2e-3)
    agreement = (scores.argmax(1) == psi.argmax(1))[valid].mean()
    found = method.diagnostics(bench.problem.labels.names)["fusion/psi_agreement"]
    assert found == pytest.approx(agreement, abs=2e-3)
    assert found < 1


def test_every_term_teaches_its_own_part_and_the_shared_encoder():
    bench = Workbench(NAME).decide()
    theirs = {
        "supervised_denoising": {"denoiser", "network.encoder.body"},
        "supervised_difficulty": {"psi", "network.encoder.stem", "network.encoder.body"},
        "unlabelled": {"network.encoder.stem", "network.encoder.body", "network.decoder", "network.classifier"},
    }
    for part in bench.method.parts(bench.batch(), bench.clock):
        ((name, term),) = part.items()
        bench.method.zero_grad(set_to_none=True)
        term.backward()
        for parameter_name, parameter in bench.method.named_parameters():
            if parameter.requires_grad:
                learns = parameter.grad is not None and parameter.grad.abs().max() > 0
                assert learns == parameter_name.startswith(tuple(theirs[name])), (name, parameter_name)


def test_the_gradient_of_the_parts_is_that_of_their_sum():
    bench = Workbench(NAME)
    batch = bench.batch()
    parts = bench.gradients(batch)
    bench.method.zero_grad(set_to_none=True)
    sum(bench.losses(batch).values()).backward()
    for name, parameter in bench.method.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parts[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_decoder_of_pseudo_labels_is_mixed_as_published():
    method = Workbench(NAME).method
    theta = [*method.network.decoder.parameters(), *method.network.classifier.parameters()]
    before = {name: p.clone() for name, p in method.network.encoder.named_parameters()}
    parts = ((theta, 1.0), ([*method.denoiser.parameters()], 2.0), ([*method.psi.parameters()], 4.0))
    with torch.no_grad():
        for weights, value in parts:
            for weight in weights:
                weight.fill_(value)
    for step in range(100):
        method.mix_decoders()
        if step == 0:
            assert all((weight - 1.02).abs().max() < 1e-6 for weight in theta)
    assert all((weight - 2.267935).abs().max() < 1e-5 for weight in theta)
    assert all((weight == value).all() for weights, value in parts[1:] for weight in weights)
    assert all(torch.equal(p, before[name]) for name, p in method.network.encoder.named_parameters())


def test_a_step_mixes_before_the_average_follows():
    bench = Workbench(NAME, settings={"mixing_decay": 0.0})
    bench.train_step(bench.batch())
    method = bench.method
    for theta, xi, psi in zip(
        method.network.decoder.parameters(),
        method.denoiser.decoder.parameters(),
        method.psi.decoder.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(theta, (xi + psi) / 2)
    before = [p.clone() for p in method.average.parameters()]
    bench.engine.step = 0
    bench.train_step(bench.batch())
    pairs = zip(method.average.module.parameters(), method.network.parameters(), strict=True)
    assert all(torch.equal(copy, own) for copy, own in pairs)
    assert any(not torch.equal(old, new) for old, new in zip(before, method.average.parameters(), strict=True))


@pytest.mark.parametrize(
    ("ramp_epochs", "epoch", "expected"),
    [
        (300, 0, 0.067379),
        (300, 1, 0.067379),
        (300, 2, 0.069659),
        (300, 51, 0.310480),
        (300, 101, 1.083680),
        (300, 151, 2.865048),
        (300, 201, 5.737534),
        (100, 2, 0.074429),
        (100, 51, 2.865048),
        (100, 101, 10),
    ],
)
def test_the_ramp_is_the_published_one_in_shares_of_the_run(ramp_epochs, epoch, expected):
    # The published count lags by one.
    assert 10 * sigmoid_ramp(max(epoch - 1, 0) / 300, ramp_epochs / 300) == pytest.approx(expected, abs=1e-6)


def test_the_learning_rate_of_the_published_recipe_is_the_projects_poly():
    found = [1e-2 * poly((epoch - 1) / 300) for epoch in (1, 2, 51, 151, 300)]
    assert found == pytest.approx([0.01, 0.009969995, 0.008486661, 0.005358867, 0.000058965], abs=1e-9)


def with_batch_norm(**settings):
    """A method with batch norm and dropout, and a batch for it."""
    bench = Workbench(NAME)
    plan = bench.problem.plan
    choice = NetworkChoice(name="diffusion_vnet", settings={"width": 4, "levels": 3, "norm": "batch"})
    method = find_method(NAME)(find_method(NAME).Settings(**settings))
    method.build(replace(bench.problem, plan=plan.model_copy(update={"network": choice})))
    return method, bench.batch(), bench.clock


@pytest.mark.parametrize(("mode", "seen"), [("train", 14), ("train_apart", 4), ("eval", 4)])
def test_running_statistics_see_the_sampling_only_where_that_is_asked_for(mode, seen):
    method, batch, clock = with_batch_norm(sampling_mode=mode)
    for _ in method.parts(batch, clock):
        pass
    counts = {
        name: int(buffer)
        for name, buffer in method.named_buffers()
        if name.endswith("tracked") and "average" not in name
    }
    assert {count for name, count in counts.items() if name.startswith("network.encoder.body")} == {seen}
    assert {count for name, count in counts.items() if name.startswith("network.encoder.stem")} == {3}
    assert {count for name, count in counts.items() if name.startswith("network.decoder")} == {1}
    assert {count for name, count in counts.items() if name.startswith("denoiser")} == {seen - 3}
    assert all(module.training for name, module in method.named_modules() if "average" not in name)


@pytest.mark.parametrize(("mode", "same"), [("train", False), ("train_apart", False), ("eval", True)])
def test_only_evaluation_mode_samples_without_dropout_and_batch_statistics(mode, same):
    method, batch, _ = with_batch_norm(sampling_mode=mode)
    stream = batch.unlabelled
    torch.manual_seed(0)
    whole, one = method.sampled(stream), method.sampled(stream[:1])
    assert torch.allclose(whole[:1], one, atol=1e-4) == same
    assert whole.abs().max() <= 1


def test_a_step_makes_the_encoder_passes_of_its_demand():
    bench = Workbench(NAME)
    passes = []
    body = bench.method.network.encoder.body
    body.register_forward_hook(lambda module, given, gave: passes.append((torch.is_grad_enabled(), len(given[0]))))
    batch = bench.batch()
    bench.losses(batch)
    demand = bench.method.demand(bench.method.settings)
    assert (demand.labelled_forwards, demand.unlabelled_forwards, demand.teacher_forwards) == (2, 1, 11)
    assert passes == [(True, 2), (True, 2), *[(False, 2)] * 11, (True, 2)]
    trained = sum(p.numel() for p in bench.method.parameters() if p.requires_grad)
    assert trained > sum(p.numel() for p in bench.method.network.parameters())


def test_the_demand_has_the_published_share_of_weights():
    assert find_method(NAME).demand(find_method(NAME).Settings()).networks == pytest.approx(
        56_791_654 / 37_777_730, abs=0.01
    )


def test_prediction_is_one_pass_of_the_averaged_third_decoder_alone():
    bench = Workbench(NAME)
    method = bench.method.eval()
    passes = []
    for module in (method.average.module.encoder, method.denoiser, method.psi, method.network.encoder.body):
        module.register_forward_hook(lambda module, *rest: passes.append(module))
    image = bench.batch().unlabelled.image
    found = method.predict(image, "default")
    assert passes == [method.average.module.encoder]
    torch.testing.assert_close(found, method.average(image).softmax(1))
    assert all(name.startswith("average.module.") for name in inference_state(method))


def test_weights_of_classes_move_once_a_step_and_are_logged():
    bench = Workbench(NAME)
    batch = bench.batch()
    bench.losses(batch), bench.losses(batch)
    assert bench.method.difficulty.missing.tolist() == [1.0] * bench.problem.classes
    bench.train_step(batch)
    assert (bench.method.difficulty.missing < 1).any()
    found = bench.method.diagnostics(("a", "b", "c", "d"))
    weights = bench.method.difficulty.weights.tolist()
    assert [found[f"difficulty/weight/{name}"] for name in "abcd"] == weights
    assert max(weights) < bench.problem.classes

    normalised = Workbench(NAME, settings={"normalise_weights": True})
    normalised.train_step(batch)
    assert max(normalised.method.difficulty.weights.tolist()) == bench.problem.classes


def requested(tmp_path, network=None):
    bench = Workbench("supervised")
    request = Request(
        data=bench.config.data.model_copy(update={"store": tmp_path}),
        method=NAME,
        budget=Budget(iterations=4),
        network=network,
        device="cpu",
        precision="32",
        settings=("plan.network.settings.width=2",),
    )
    return configure(request, bench.dataset, fingerprint(bench.dataset))


def test_without_a_named_network_the_plan_takes_the_one_that_can_diffuse(tmp_path):
    config = requested(tmp_path)
    assert config.plan.network.name == "diffusion_vnet"
    assert config.plan.network.settings["width"] == 2


def test_a_network_that_cannot_diffuse_is_one_line(tmp_path):
    config = requested(tmp_path, network="vnet")
    bench = Workbench(NAME)
    problem = replace(bench.problem, plan=config.plan, requires=find_method(NAME).requires)
    with pytest.raises(SettingError, match=r"'vnet' cannot give diffusion, .*; choose diffusion_vnet with") as fault:
        find_method(NAME)().build(problem)
    assert "\n" not in str(fault.value)
