import re

import numpy as np
import pytest
import torch

import semivox
from semivox.data.phantom import write_phantom
from semivox.errors import RunError
from semivox.inference.windows import Windows
from semivox.networks import make_network
from semivox.reporting import prose
from semivox.reporting.curves import domain_charts, domain_scatter
from semivox.reporting.domain_shift import (
    BINS,
    CASES,
    DomainShift,
    bottleneck,
    domain_shift,
    embedding,
    histograms,
    spread,
)
from semivox.reporting.report import write_report
from semivox.testing.phantom import PREPARATION, shared_phantom
from semivox.training.run import RunFolder

SMALL = {"width": 4, "levels": 3, "norm": "group", "dropout": 0.0}


def network_of(dimensions, channels=1):
    torch.manual_seed(0)
    name = "vnet" if dimensions == 3 else "unet"
    return make_network(name, dimensions=dimensions, channels=channels, classes=4, settings=SMALL).eval()


@pytest.fixture(scope="module")
def shift():
    """The picture of the phantom's two scanners by a network that has learnt nothing."""
    dataset = shared_phantom().dataset
    return domain_shift(dataset, PREPARATION, network_of(3), Windows(window=(16, 16, 12)))


def test_every_domain_is_looked_at_without_any_label(shift):
    dataset = shared_phantom().dataset
    assert len(dataset.domains) == 2
    assert shift.cases == {name: sum(case.domain == name for case in dataset) for name in dataset.domains}
    assert {place.case for place in shift.places} == {case.id for case in dataset}
    trained = {place.case for place in shift.places if place.is_trained}
    assert trained == {case.id for case in dataset.split("train")}


def test_a_large_domain_is_looked_at_all_over(tmp_path):
    dataset = write_phantom(tmp_path / "many", cases=40, labelled=2, validation=1, test=1, size=(8, 8, 8))
    for domain in dataset.domains:
        own = [case for case in dataset if case.domain == domain]
        chosen = spread(dataset, domain)
        assert len(chosen) == CASES
        assert (chosen[0], chosen[-1]) == (own[0], own[-1])


def test_histograms_are_shares_of_voxels():
    random = np.random.default_rng(0)
    samples = [random.normal(mean, 1, (2, 500)) for mean in (0, 0, 5)]
    for channel, found in enumerate(histograms(samples, ["a", "a", "b"], ("first", "second"))):
        own = {"a": np.concatenate([samples[0][channel], samples[1][channel]]), "b": samples[2][channel]}
        assert found.low == min(np.percentile(values, 1) for values in own.values())
        assert found.high == max(np.percentile(values, 99) for values in own.values())
        edges = np.linspace(found.low, found.high, BINS + 1)
        for domain, values in own.items():
            for index, share in enumerate(found.shares[domain]):
                last = index == BINS - 1
                inside = (values >= edges[index]) & (
                    (values <= edges[index + 1]) if last else (values < edges[index + 1])
                )
                assert share == pytest.approx(inside.mean(), abs=2e-3)


def test_a_constant_channel_has_a_histogram():
    (found,) = histograms([np.full((1, 9), 3.0)] * 2, ["a", "b"], ("x",))
    assert found.low < found.high
    assert sum(found.shares["a"]) == 1


def test_features_are_means_over_space_and_the_middle_windows():
    network, volume = network_of(3), torch.randn(1, 40, 16, 12, generator=torch.Generator().manual_seed(0))
    windows = Windows(window=(16, 16, 12), overlap=0.5)
    starts, _, _ = windows.starts((40, 16, 12))
    assert starts == [0, 8, 16, 24], "four windows, so that all are seen"
    with torch.no_grad():
        expected = torch.stack(
            [network.encode(volume[None, :, x : x + 16])[-1].flatten(2).mean(2)[0] for x in starts]
        ).mean(0)
    assert bottleneck(network, volume, windows) == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)
    border = volume.clone()
    border[:, :2] = 9
    few = Windows(window=(8, 16, 12), overlap=0.5)
    assert np.array_equal(bottleneck(network, volume, few), bottleneck(network, border, few)), "the middle ones only"


@pytest.mark.parametrize("shape", [(30, 20, 7), (9, 5, 2)])
def test_slices_and_small_scans_have_features_too(shape):
    windows = Windows(window=(16, 16, 1), dimensions=2, slice_axis=2)
    features = bottleneck(network_of(2), torch.randn(1, *shape), windows)
    assert features.shape == (network_of(2).feature_channels[-1],)
    assert np.isfinite(features).all()


def test_the_embedding_is_of_the_principal_components():
    cases = list(shared_phantom().dataset)
    features = np.random.default_rng(1).normal(size=(len(cases), 5)) * [4, 3, 1, 0.5, 0.1]
    features[[case.domain == cases[0].domain for case in cases]] += 2
    found = embedding(features, cases)
    values, vectors = np.linalg.eigh(np.cov(features.T, bias=True))
    centred = features - features.mean(0)
    for index, name in enumerate(("first", "second")):
        along = [getattr(place, name) for place in found["places"]]
        assert np.abs(along) == pytest.approx(np.abs(centred @ vectors[:, -1 - index]))
        assert found["explained"][index] == pytest.approx(values[-1 - index] / values.sum())
    means = {d: features[[case.domain == d for case in cases]].mean(0) for d in {case.domain for case in cases}}
    between = np.mean([((means[case.domain] - features.mean(0)) ** 2).sum() for case in cases])
    assert found["between"] == pytest.approx(between / values.sum())


def test_equal_features_lie_in_one_place():
    cases = list(shared_phantom().dataset)
    found = embedding(np.ones((len(cases), 4), np.float32), cases)
    assert {(place.first, place.second) for place in found["places"]} == {(0.0, 0.0)}
    assert found["between"] == 0


def test_it_is_read_as_it_was_written(shift, tmp_path):
    shift.save(tmp_path / "shift.json")
    assert DomainShift.load(tmp_path / "shift.json") == shift
    (tmp_path / "shift.json").write_text('{"cases": 3}')
    with pytest.raises(RunError, match="delete it"):
        DomainShift.load(tmp_path / "shift.json")


def test_charts_have_a_curve_and_spots_for_every_domain(shift):
    raw, prepared = domain_charts(shift)
    assert (raw.title, prepared.title) == ("phantom, as scanned", "phantom, as prepared")
    assert [curve.name for curve in raw.curves] == list(shift.cases)
    scatter = domain_scatter(shift)
    assert {name: len(spots) for name, spots in scatter.domains} == shift.cases
    for place in shift.places:
        (spot,) = [spot for _, spots in scatter.domains for spot in spots if spot.case == place.case]
        assert 42 <= spot.x <= 332
        assert 10 <= spot.y <= 146
        assert spot.is_trained == place.is_trained
    assert f"{100 * shift.between:.0f} %" in prose.domains(shift)


def test_a_network_without_features_leaves_the_histograms(shift):
    dataset = shared_phantom().dataset
    found = domain_shift(dataset, PREPARATION, None, Windows(window=(16, 16, 12)))
    assert found.scanned == shift.scanned
    assert found.places == ()
    assert domain_scatter(found) is None
    assert "variance" not in prose.domains(found)


def test_the_report_shows_domains_where_the_run_looked_at_them(make_run, shift):
    run = make_run(shifts=(0, 1))
    assert "<h2>Domains</h2>" not in write_report(run.folder).read_text()
    shift.save(RunFolder(run.folder).domain_shift)
    page = write_report(run.folder).read_text()
    section = page.partition("<h2>Domains</h2>")[2].partition("<h2>")[0]
    assert section.count("<circle") == len(shift.places)
    assert set(re.findall(r'stroke="(#\w+)"', section)) == {"#0072b2", "#cc79a7"}


def test_a_run_over_several_domains_looks_at_them_and_one_over_a_single_one_does_not(make_config, tmp_path):
    plan = tmp_path / "plan.yaml"
    make_config().plan.save(plan)
    dataset = write_phantom(tmp_path / "phantom", cases=2, labelled=2, validation=1, test=1, size=(16, 16, 12))
    told = {"plan": plan, "iterations": 1, "device": "cpu", "precision": "32", "test": False}
    several = RunFolder(semivox.train(dataset.root, "supervised", out=tmp_path / "several", **told))
    shift = DomainShift.load(several.domain_shift)
    assert list(shift.cases) == list(dataset.domains)
    assert len(shift.places) == len(dataset.cases)
    assert "<h2>Domains</h2>" in (several.path / "report.html").read_text()

    table = dataset.root / "cases.csv"
    table.write_text(table.read_text().replace("scanner_b", "scanner_a"))
    single = RunFolder(semivox.train(dataset.root, "supervised", out=tmp_path / "single", **told))
    assert not single.domain_shift.exists()
    assert "<h2>Domains</h2>" not in (single.path / "report.html").read_text()
