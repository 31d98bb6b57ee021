"""CauSSL: max phases teach P to tell each network's weights from the others', which the networks then escape."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from semivox.errors import SettingError
from semivox.methods import find_method
from semivox.methods.causality import Causality
from semivox.methods.clock import Clock
from semivox.testing import Workbench

in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])
both_forms = pytest.mark.parametrize("name", ["causality", "mutual_causality"])


def make_bench(name, dimensions=2, **settings):
    """In the middle of a run, with coefficients that are no first guess."""
    bench = Workbench(name, dimensions, settings=settings, dropout=False).decide()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in bench.method.coefficients.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    return bench


def filters(module):
    """Name → weight (out, in, *kernel) of each convolution of a module."""
    weights = {name.removesuffix(".weight"): p.detach().numpy() for name, p in module.named_parameters()}
    return {name: weight for name, weight in weights.items() if weight.ndim >= 4}


def slow_dependence(coefficients, own, others):
    """Filter by filter, how far each is a multiple of what P tells."""
    layers = []
    for p, w, *foreign in zip(coefficients, own, *others, strict=True):
        told = p.detach().numpy() @ np.concatenate([v.reshape(len(v), -1) for v in foreign])
        pairs = list(zip(told, w.reshape(len(w), -1), strict=True))
        layers.append(np.mean([(a @ b) ** 2 / (a @ a) / (b @ b) for a, b in pairs]))
    return np.mean(layers)


@in_2d_and_3d
def test_the_dependence_of_two_networks_is_over_all_their_convolutions_as_in_a_slow_version(dimensions):
    bench = make_bench("causality", dimensions, independence_weight=0.7)
    method = bench.method
    terms = bench.losses(bench.batch())
    first, second = (list(filters(network).values()) for network in (method.first, method.second))
    assert len(first) == len(method.layers) > 8
    for number, own, other in ((1, first, second), (2, second, first)):
        expected = slow_dependence(method.coefficients[number - 1], own, [other])
        assert terms[f"dependence_{number}"].item() == pytest.approx(0.7 * expected, rel=1e-4)
        assert terms[f"unexplained_{number}"].item() == pytest.approx(1 - expected, abs=1e-5)


@in_2d_and_3d
def test_a_decoder_is_told_from_both_others_over_the_convolutions_that_all_have(dimensions):
    bench = make_bench("mutual_causality", dimensions, independence_weight=0.7)
    method = bench.method
    terms = bench.losses(bench.batch())
    parts = [(method.network.decoder, method.network.classifier)]
    parts += [(branch.decoder, branch.head) for branch in method.branches]
    # What upsamples differs between the decoders; a U-Net's 1x1 convolution before it goes by another name or shape.
    found = [
        {f"{place}.{name}": w for place, module in enumerate(pair) for name, w in filters(module).items()}
        for pair in parts
    ]
    shared = [k for k in found[0] if all(k in one and one[k].shape == found[0][k].shape for one in found)]
    assert any("blocks" in name for name in shared)
    assert len(shared) == len(method.layers) < len(found[1])
    decoders = [[one[name] for name in shared] for one in found]
    for i, own in enumerate(decoders):
        others = [decoder for j, decoder in enumerate(decoders) if j != i]
        expected = slow_dependence(method.coefficients[i], own, others)
        assert terms[f"dependence_{i + 1}"].item() == pytest.approx(0.7 * expected, rel=1e-4)
        assert terms[f"unexplained_{i + 1}"].item() == pytest.approx(1 - expected, abs=1e-5)


@in_2d_and_3d
def test_decoders_are_drawn_to_one_another_on_unlabelled_scans_alone(dimensions):
    bench = make_bench("mutual_causality", dimensions, consistency_weight=0.7)
    batch = bench.batch()
    batch.unlabelled.valid[0, :3] = False
    valid = batch.unlabelled.valid.numpy()
    method = bench.method
    with torch.no_grad():
        features = method.network.encode(batch.unlabelled.image)
        logits = [method.network.head(method.network.decode(features)[-1])]
        logits += [branch(features) for branch in method.branches]
    maps = [z.double().softmax(1).numpy() for z in logits]
    expected = 0.0
    for i, j in itertools.permutations(range(3), 2):
        sharp = maps[j] ** 2 / (maps[j] ** 2).sum(1, keepdims=True)  # T = 0.5
        expected += ((maps[i] - sharp) ** 2).mean(1)[valid].mean()
    ramp = np.exp(-5 * (1 - 0.5) ** 2)  # the bench stands in the middle of the run
    assert bench.losses(batch)["consistency"].item() == pytest.approx(0.7 * ramp * expected, rel=1e-4)


def reached(term, modules):
    """Which of the modules a term's gradient reaches."""
    parameters = [list(module.parameters()) for module in modules]
    gradients = torch.autograd.grad(term, [p for own in parameters for p in own], allow_unused=True)
    found = iter(gradient is not None and bool(gradient.any()) for gradient in gradients)
    return [any(list(itertools.islice(found, len(own)))) for own in parameters]


@both_forms
def test_a_dependence_teaches_its_own_network_alone_and_its_coefficients_are_taught_apart(name):
    bench = make_bench(name)
    method, terms = bench.method, bench.losses(bench.batch())
    members = list(method.members())
    for i in range(len(members)):
        itself = [j == i for j in range(len(members))]
        assert reached(terms[f"dependence_{i + 1}"], members) == itself
        assert reached(terms[f"dependence_{i + 1}"], method.coefficients) == [False] * len(members)
        assert reached(terms[f"unexplained_{i + 1}"], members) == [False] * len(members)
        assert reached(terms[f"unexplained_{i + 1}"], method.coefficients) == itself


def test_as_in_the_public_code_only_the_first_decoder_learns_from_its_dependence():
    bench = make_bench("mutual_causality", independent="first")
    method, terms, usual = bench.method, bench.losses(bench.batch()), make_bench("mutual_causality")
    for name, term in usual.losses(usual.batch()).items():
        assert terms[name].item() == pytest.approx(term.item())
    assert reached(terms["dependence_1"], method.members()) == [True, False, False]
    for number in (2, 3):
        assert not terms[f"dependence_{number}"].requires_grad
        assert reached(terms[f"unexplained_{number}"], method.coefficients) == [i == number - 1 for i in range(3)]


def optimisers_at(method, step, iterations=5000):
    clock = Clock(step=step, iterations=iterations, stage_step=step, stage_iterations=iterations)
    return [name for name, _ in method.steps(None, clock)]  # no function is called, so that no batch is needed


def test_every_60_of_5000_steps_there_are_60_max_steps_from_500_on():
    method = make_bench("causality").method
    phases = [step for step in range(900) if len(optimisers_at(method, step)) > 1]
    assert phases == list(range(500, 900, 60))
    assert optimisers_at(method, 560) == ["coefficients"] * 60 + ["main"]
    assert len(optimisers_at(make_bench("causality", phase_steps=7).method, 560)) == 8


@pytest.mark.parametrize("iterations", [4, 50, 333])
def test_short_runs_have_their_phases_too_in_proportion(iterations):
    method = make_bench("causality").method
    counts = [optimisers_at(method, step, iterations).count("coefficients") for step in range(iterations)]
    assert 0.7 <= sum(counts) / iterations <= 1
    assert not any(counts[: iterations // 10])


def test_before_the_first_max_phase_nothing_is_asked_of_the_weights():
    bench = make_bench("causality", independence_from=0.9)
    assert not any("dependence" in name or "unexplained" in name for name in bench.losses(bench.batch()))


def test_max_steps_raise_the_dependence_and_the_networks_lower_it():
    bench = Workbench("causality", iterations=100, dropout=False, settings={"phase_steps": 40, "phase_share": 1.0})
    batch = bench.batch()

    def dependence():
        return sum(float(v.detach()) for k, v in bench.losses(batch).items() if k.startswith("dependence"))

    bench.engine.step = 10  # the only max phase
    guessed = dependence()
    bench.train_step(batch)
    told = dependence()
    assert told > 3 * guessed
    for _ in range(20):
        bench.train_step(batch)
    assert dependence() < 0.9 * told


def test_the_coefficients_have_adam_at_a_constant_rate_of_their_own_and_do_not_decay():
    main, coefficients = make_bench("causality").method.optimisers()
    assert (coefficients.kind, coefficients.learning_rate, coefficients.schedule) == ("adam", 2e-2, "constant")
    assert coefficients.weight_decay == 0
    assert main.kind is None
    assert not {id(p) for module in main.modules for p in module.parameters()} & {
        id(p) for p in coefficients.modules[0].parameters()
    }


def test_networks_without_convolutions_are_refused_with_the_mend(monkeypatch):
    monkeypatch.setattr(Causality, "members", lambda self: [nn.Linear(2, 2), nn.Linear(2, 2)])
    with pytest.raises(SettingError, match="network 'unet' has none; choose another with --network"):
        make_bench("causality")


@both_forms
def test_the_demand_counts_the_coefficients(name):
    kind = find_method(name)
    plain = find_method({"causality": "cps", "mutual_causality": "mc_net_plus"}[name])
    assert kind.demand(kind.Settings()).networks == pytest.approx(plain.demand(plain.Settings()).networks + 0.1)
