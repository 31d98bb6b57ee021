"""The protocols that are shipped: complete, of real settings, every published figure with its source."""

import textwrap
from pathlib import Path

import pytest

from semivox.experiments.protocol import read_protocol
from semivox.experiments.shipped import protocol_names
from semivox.methods import ALIASES, METHODS, find_method
from semivox.networks import make_network
from semivox.planning.plan import Plan
from semivox.training.config import MethodChoice, method_settings

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PUBLISHED = ("la", "acdc")
NOT_HERE = {
    *("sassnet", "ss_net", "sdcl", "ps_mt", "caussl", "cross_teaching"),
    *("dst", "depl", "adsh", "crest", "simis", "basak", "cld", "dhc"),
    *("pnp_adanet", "adaoutput", "cyclegan", "cycada", "sifa", "dsfn", "dsan", "lmisa_3d"),
    *("nnunet", "sdnet_aug", "lddg", "saml", "dgnet", "vmfnet"),
}
"""Methods of the published tables that this version does not have."""


@pytest.mark.parametrize("name", protocol_names())
def test_a_shipped_protocol_is_named_by_its_file_and_says_where_it_is_from(name):
    protocol = read_protocol(name)
    assert (protocol.name, protocol.reference) == (name, name)
    assert protocol.source
    assert protocol.data.labelled in protocol.data.rows


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_names_every_setting_so_that_no_default_can_change_it(name, method):
    entry = read_protocol(name).methods[method]
    Settings = find_method(method).Settings
    assert set(entry.settings) == set(Settings.model_fields)
    assert method_settings(MethodChoice(name=method, settings=entry.settings))


@pytest.mark.parametrize("name", protocol_names())
def test_the_batch_suits_every_method_and_its_demand(name):
    protocol = read_protocol(name)
    for method in METHODS:
        recipe = protocol.recipe(method)
        settings = method_settings(MethodChoice(name=method, settings=recipe.settings))
        views = find_method(method).demand(settings).views
        assert recipe.plan.batch.labelled % views.labelled_multiple == 0, method
        assert recipe.plan.batch.unlabelled % views.unlabelled_multiple == 0, method


@pytest.mark.parametrize(("name", "classes", "parameters"), [("la", 2, 9_448_866), ("acdc", 4, 1_813_764)])
def test_the_network_has_as_many_parameters_as_the_published_one(name, classes, parameters):
    plan = read_protocol(name).plan
    network = make_network(
        plan.network.name,
        dimensions=plan.dimensions,
        channels=1,
        classes=classes,
        settings=plan.network.settings,
        patch=plan.patch,
    )
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_of_known_methods_and_of_rows_that_can_be_run(name):
    protocol = read_protocol(name)
    for figure in protocol.published.figures:
        assert figure.method not in ALIASES
        assert figure.method in METHODS or figure.method in NOT_HERE, figure.method
        assert figure.labelled == "all" or figure.labelled in protocol.data.rows
        assert figure.dice is None or figure.dice > 20, "in percent"
    told = [row.model_dump() for row in protocol.published.figures]
    assert all(told.count(row) == 1 for row in told)


def test_the_first_figures_are_those_of_the_papers():
    found = read_protocol("la").figures("uncertainty_aware_mean_teacher", 8).figures
    assert [(row.dice, row.hd95, row.mark, row.selection) for row in found] == [
        (84.25, 13.84, "verified", "last"),
        (87.79, 8.68, "third party", "test"),
        (85.81, None, "third party", "last"),
    ]
    assert read_protocol("acdc").figures("supervised", None).figures[0].dice == 91.44


@pytest.mark.parametrize(("name", "train", "val", "test"), [("la", 80, 0, 20), ("acdc", 70, 10, 20)])
def test_the_published_lists_are_whole_and_share_nobody(name, train, val, test):
    (lists,) = read_protocol(name).data.lists.values()
    assert (len(lists.train), len(lists.val), len(lists.test)) == (train, val, test)
    assert len({*lists.train, *lists.val, *lists.test}) == train + val + test


@pytest.mark.parametrize("method", ["unimatch", "alternate_diverse_teaching", "self_training", "self_training_plus"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_strong_view_changes_brightness_and_contrast_by_half_and_no_gamma(name, method):
    strong = read_protocol(name).recipe(method).views.strong
    assert (strong.contrast, strong.contrast_probability) == ((0.5, 1.5), 0.8)
    assert (strong.brightness, strong.brightness_probability) == ((-0.5, 0.5), 0.8)
    assert strong.gamma_probability == strong.resolution_probability == 0
    jitter_and_noise = (name, method) == ("la", "alternate_diverse_teaching")
    assert (strong.blur_probability, strong.noise_probability) == ((0, 0.2) if jitter_and_noise else (0.5, 0))
    assert read_protocol(name).recipe("fixmatch").views.strong != strong


def test_the_cheaper_protocol_has_the_plan_of_the_label_study():
    assert read_protocol("sunnybrook_cpu").plan == Plan.load(BENCHMARKS / "plans" / "sunnybrook.yaml")


def test_the_example_of_the_documentation_is_a_protocol(tmp_path):
    page = (BENCHMARKS.parent / "docs" / "benchmarking.md").read_text(encoding="utf-8")
    start = page.index("    name: mine")
    example = page[start : page.index("\nA figure says", start)]
    (tmp_path / "mine.yaml").write_text(textwrap.dedent(example), encoding="utf-8")
    read_protocol("acdc_cpu").plan.save(tmp_path / "plan.yaml")
    protocol = read_protocol(tmp_path / "mine.yaml")
    assert protocol.recipe("mean_teacher").training.learning_rate == 0.001
    assert protocol.figures("mean_teacher", 10).figures[0].hd95 == 4.1
