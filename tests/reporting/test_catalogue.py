"""What is told of methods and networks is made from the code."""

import pytest

from semivox.methods import METHODS, find_method
from semivox.planning.demand import Demand, Views
from semivox.reporting.catalogue import describe_method, list_methods, method_page
from semivox.reporting.settings import fields


def test_the_list_names_every_method_with_paper_and_cost():
    lines = {line.split()[0]: line for line in list_methods().splitlines() if line}
    for name in METHODS:
        assert find_method(name).paper in lines[name]
        assert f"{find_method(name).demand(find_method(name).Settings()).relative_cost:.1f}" in lines[name]


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_says_what_it_is(name):
    for field in fields(find_method(name).Settings):
        assert field.doc, field.name


def test_a_setting_with_fields_of_its_own_shows_the_defaults_that_the_method_gives_it():
    defaults = {field.name: field.default for field in fields(find_method("sdcl").Settings)}
    assert defaults["second_network.name"] == "residual_encoder_unet"
    assert defaults["second_network.settings"]["width"] == 16


@pytest.mark.parametrize("name", METHODS)
def test_a_page_holds_docstring_settings_and_the_whole_file(name):
    page = method_page(name, {"V-Net": {"time_ratio": 2.5, "memory_ratio": 1.25}})
    Kind = find_method(name)
    assert f"class {Kind.__name__}(" in page
    assert "| V-Net | 2.50 | 1.25 |" in page
    assert all(f"| `{field.name}` |" in page for field in fields(Kind.Settings))


def test_a_method_is_explained_under_its_alias_too():
    assert describe_method("mt") == describe_method("mean_teacher")


def test_a_network_beside_the_plans_is_told_of():
    lines = describe_method("cross_teaching").splitlines()
    assert any(line.startswith("networks: 2 trained, 1 averaged") for line in lines)
    said = "passes of monai:SwinUNETR, beside the plan's network: 1 of each labelled sample, 1 of each unlabelled one"
    assert said in lines
    assert any(line.startswith("networks: 2 trained, 2 averaged") for line in describe_method("sdcl").splitlines())


def test_cost_counts_a_pass_without_gradient_as_a_third():
    demand = Demand(views=Views(unlabelled_batches=2), labelled_forwards=1, unlabelled_forwards=2, teacher_forwards=3)
    assert demand.relative_cost == pytest.approx(1 + 2 * (2 + 1))
