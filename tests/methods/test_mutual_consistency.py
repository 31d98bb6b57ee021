import itertools

import numpy as np
import pytest
import torch

from semivox.data.labels import LabelMap
from semivox.methods.mutual_consistency import MutualConsistency, MutualConsistencyPlus
from semivox.methods.problem import Problem
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.preparation.settings import Normalisation, Preparation
from semivox.testing import Workbench

PLAIN, PLUS = "mutual_consistency", "mutual_consistency_plus"
both = pytest.mark.parametrize("name", [PLAIN, PLUS])
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def problem(network, dimensions, classes=2, settings=None):
    names = ("background", *(f"organ{index}" for index in range(1, classes)))
    return Problem(
        plan=Plan(
            preparation=Preparation(normalisation=(Normalisation(),)),
            patch=(32,) * dimensions,
            batch=BatchSize(labelled=2, unlabelled=2),
            network=NetworkChoice(name=network, settings=settings or {}),
        ),
        channels=1,
        labels=LabelMap(names, tuple(range(classes))),
    )


def logits_of(method, image):
    """Logits of every decoder, each encoded anew."""
    features = [method.network.encode(image) for _ in range(1 + len(method.branches))]
    first = method.network.head(method.network.decode(features[0])[-1])
    others = [b.head(b.decoder(f)[-1]) for b, f in zip(method.branches, features[1:], strict=True)]
    return [first, *others]


def sharpened(p, temperature):
    powers = p ** (1 / temperature), (1 - p) ** (1 / temperature)
    return powers[0] / sum(powers)


@both
@in_2d_and_3d
def test_every_decoder_learns_the_sharpened_others_on_both_streams_as_in_a_slow_version(name, dimensions):
    bench = Workbench(name, dimensions, settings={"consistency_weight": 0.3, "temperature": 0.2}, dropout=False)
    bench.decide()
    batch = bench.batch()
    batch.unlabelled.valid[0, :6] = False
    batch.labelled.valid[1, 3:5] = False
    term = bench.losses(batch)["consistency"]
    squares = dict[tuple[int, int], list[float]]()
    for stream in (batch.labelled, batch.unlabelled):
        with torch.no_grad():
            maps = [z.double().softmax(1).numpy() for z in logits_of(bench.method, stream.image)]
        assert len(maps) == (2 if name == PLAIN else 3)
        for i, j in itertools.permutations(range(len(maps)), 2):
            for b, *voxel in np.argwhere(stream.valid.numpy()):
                place = (b, slice(None), *voxel)
                squares.setdefault((i, j), []).extend((maps[i][place] - sharpened(maps[j][place], 0.2)) ** 2)
    ramp = np.exp(-5 * (1 - bench.clock.stage_progress) ** 2)
    assert term.item() == pytest.approx(0.3 * ramp * sum(map(np.mean, squares.values())), rel=1e-3)


@both
@in_2d_and_3d
def test_every_decoder_has_its_own_supervised_loss_with_the_published_weight(name, dimensions):
    bench = Workbench(name, dimensions, dropout=False)
    batch = bench.batch()
    terms = bench.losses(batch)
    weight, top = {2: (1.0, 0.1), 3: (0.5, 1.0)}[dimensions]
    for number, logits in enumerate(logits_of(bench.method, batch.labelled.image), start=1):
        expected = weight * bench.problem.supervised_loss(logits, batch.labelled)
        assert terms[f"supervised_{number}"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert bench.method.consistency_weight == top


@pytest.mark.parametrize(
    ("network", "dimensions", "upsamplings"),
    [
        ("vnet", 3, ["transposed", "linear", "nearest"]),
        ("unet", 2, ["linear", "transposed", "nearest"]),
        ("residual_encoder_unet", 3, ["transposed", "linear", "nearest"]),
    ],
)
def test_decoders_differ_in_upsampling_and_the_first_is_the_networks_own(network, dimensions, upsamplings):
    method = MutualConsistencyPlus()
    method.build(problem(network, dimensions, settings={"width": 2}))
    own = method.network
    assert own.settings.upsampling == upsamplings[0]
    for branch, kind in zip(method.branches, upsamplings[1:], strict=True):
        expected = {name: p.shape for name, p in own.new_decoder(upsampling=kind).named_parameters()}
        assert {name: p.shape for name, p in branch.decoder.named_parameters()} == expected
    image = torch.randn(1, 1, *(9, 11, 10)[:dimensions])
    assert all(z.shape == (1, 2, *image.shape[2:]) for z in logits_of(method, image))
    features = [feature.detach() for feature in own.encode(image)]
    up = {kind: own.new_decoder(upsampling=kind).eval() for kind in ("linear", "nearest")}
    up["nearest"].load_state_dict(up["linear"].state_dict())
    assert not torch.allclose(up["linear"](features)[-1], up["nearest"](features)[-1])


@pytest.mark.parametrize(
    ("kind", "network", "dimensions", "classes", "expected"),
    [
        (MutualConsistency, "vnet", 3, 2, 12_347_716),
        (MutualConsistencyPlus, "vnet", 3, 2, 15_246_566),
        (MutualConsistency, "unet", 2, 4, 2_577_624),
        (MutualConsistencyPlus, "unet", 2, 4, 3_210_924),
    ],
)
def test_the_published_number_of_parameters(kind, network, dimensions, classes, expected):
    with torch.device("meta"):
        method = kind()
        method.build(problem(network, dimensions, classes, settings={"levels": 5}))
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == expected


def test_an_image_is_encoded_once():
    bench = Workbench(PLUS, dropout=False)
    passes = []
    bench.method.network.encoder.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    bench.losses(bench.batch())
    assert passes == [4]


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_flows_through_a_sharpened_map_unless_it_is_detached(detach):
    settings = {"detach": detach, "consistency_weight": 1.0, "ramp_share": 0.0}
    bench = Workbench(PLAIN, settings=settings, dropout=False)
    batch = bench.batch()
    bench.losses(batch)["consistency"].backward()
    found = bench.method.branches[0].head[-1].weight.grad
    images = torch.cat([batch.labelled.image, batch.unlabelled.image])
    first, second = (z.softmax(1) for z in logits_of(bench.method, images))
    # What reaches the second decoder: its own prediction, and, unless detached, the target it makes for the first.
    term = (second - sharpened(first, 0.1).detach()).square().mean()
    if not detach:
        term = term + (first.detach() - sharpened(second, 0.1)).square().mean()
    (expected,) = torch.autograd.grad(term, bench.method.branches[0].head[-1].weight)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


@both
@pytest.mark.parametrize("evaluate", ["first", "mean"])
def test_the_first_or_all_averaged_decoders_predict(name, evaluate):
    bench = Workbench(name, settings={"evaluate": evaluate}).decide()
    bench.method.eval()
    for average in bench.averages.values():
        average.update(0)
    image = bench.batch().unlabelled.image
    with torch.no_grad():
        maps = [z.softmax(1) for z in logits_of(bench.method, image)]
        expected = maps[0] if evaluate == "first" else sum(maps) / len(maps)
        torch.testing.assert_close(bench.method.predict(image, "default"), expected)
    assert len(bench.averages) == (1 if evaluate == "first" else len(maps))


def test_the_demand_counts_further_decoders_as_parts_of_a_network():
    plain, plus = (kind.demand(kind.Settings()) for kind in (MutualConsistency, MutualConsistencyPlus))
    assert 1 < plain.labelled_forwards == plain.unlabelled_forwards < plus.labelled_forwards < 3
    assert 1 < plain.networks < plus.networks < 2
    assert plain.averages == plain.networks
    assert plus.averages == 1
