"""The protocols that are shipped: complete, of real settings, every published figure with its source."""

import argparse
import functools
import textwrap
from pathlib import Path

import pytest

from semivox.cli.convert import add_arguments
from semivox.data.case import Case, Dataset
from semivox.data.case_lists import assign
from semivox.data.joining import join
from semivox.data.labels import LabelMap
from semivox.data.scans import natural_order
from semivox.data.setting import recognise
from semivox.errors import DataError
from semivox.experiments.protocol import case_lists, check_lists, check_scans, read_protocol
from semivox.experiments.shipped import protocol_names
from semivox.methods import ALIASES, METHODS, find_method
from semivox.networks import make_network
from semivox.networks.prompted import PromptedNetwork
from semivox.planning.plan import Plan
from semivox.training.config import MethodChoice, method_settings

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PUBLISHED = ("la", "acdc")
OF_SEVERAL_SETS = ("versemi", "dodnet")
"""Methods that are published on several data sets at once, and on none alone."""
OF_ITS_OWN_NETWORK = ("sss", "sam_assisted")
"""Methods whose recipe needs another network than the published one, or a foundation model beside it."""
NOT_HERE = {
    *("bcp_caussl", "coranet", "advent"),
    *("dst", "depl", "adsh", "crest", "simis", "basak", "cld", "dhc"),
    *("pnp_adanet", "adaoutput", "cyclegan", "cycada", "sifa", "dsfn", "dsan", "lmisa_3d"),
    "previous_best",
    *("nnunet", "sdnet_aug", "lddg", "saml", "dgnet", "vmfnet"),
}
"""Methods of the published tables that this version does not have."""


@pytest.mark.parametrize("name", protocol_names())
def test_a_shipped_protocol_is_named_by_its_file_and_says_where_it_is_from(name):
    protocol = read_protocol(name)
    assert (protocol.name, protocol.reference) == (name, name)
    assert protocol.source
    assert protocol.data.labelled in protocol.data.rows


@pytest.mark.parametrize("method", sorted(set(METHODS).difference(OF_SEVERAL_SETS, OF_ITS_OWN_NETWORK)))
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


@pytest.mark.parametrize("name", protocol_names())
def test_published_figures_are_of_known_methods_and_of_rows_that_can_be_run(name):
    protocol = read_protocol(name)
    for figure in protocol.published.figures:
        assert figure.method not in ALIASES
        assert figure.method in METHODS or figure.method in NOT_HERE, figure.method
        assert figure.labelled == "all" or figure.labelled in protocol.data.rows
        assert figure.dice is None or figure.dice > 20, "in percent"
        if figure.dice_of:
            mean = sum(figure.dice_of.values()) / len(figure.dice_of)
            assert abs(mean - figure.dice) < 0.4, (figure.method, "tables round to a tenth")
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


@pytest.mark.parametrize(
    ("name", "method", "labelled", "figures"),
    [
        ("la", "supervised", 8, [(82.74, 71.72, 13.35, 3.26, "third party")]),
        ("la", "supervised", None, [(91.47, 84.36, 5.48, 1.51, "third party")]),
        ("la", "bidirectional_copy_paste", 4, [(88.02, 78.72, 7.90, 2.15, "third party")]),
        ("pancreas", "transmedseg", 12, [(83.06, None, None, None, "unverified")]),
        (
            "pancreas",
            "supervised",
            12,
            [(72.38, None, None, None, "third party"), (69.96, 55.56, 14.23, 1.64, "third party")],
        ),
        (
            "acdc",
            "uncertainty_aware_mean_teacher",
            3,
            [(46.04, 35.97, 20.08, 7.75, "third party"), (61.0, None, None, None, "third party")],
        ),
    ],
)
def test_figures_that_several_tables_hold_have_all_their_digits(name, method, labelled, figures):
    found = read_protocol(name).figures(method, labelled).figures
    assert [(row.dice, row.jaccard, row.hd95, row.asd, row.mark) for row in found] == figures


@pytest.mark.parametrize(
    ("name", "train", "val", "test"),
    [
        ("la", 80, 0, 20),
        ("acdc", 70, 10, 20),
        ("pancreas", 62, 0, 18),
        ("bhsd", 85, 10, 96),
        ("synapse", 20, 4, 6),
        ("mmwhs_ct_to_mr", 29, 3, 4),
        ("mmwhs_mr_to_ct", 29, 3, 4),
    ],
)
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


# --- the settings that are made of one download ----------------------------------------------------------------------

OF_ROWS = {
    "mnms_to_a": (("BBBCD", 10, 440, 190), ("BBBBBBBCCCDDD", 26, 424, 190)),
    "mnms_to_b": (("AACD", 8, 382, 250), ("AAAAACCCDDD", 22, 368, 250)),
    "mnms_to_c": (("AABBBD", 12, 528, 100), ("AAAAABBBBBBBDDD", 30, 510, 100)),
    "mnms_to_d": (("AABBBC", 12, 528, 100), ("AAAAABBBBBBBCCC", 30, 510, 100)),
}
"""Vendors of the labelled patients, then labelled, unlabelled and test frames, as the public lists have them."""


def whole_download(name, cases):
    return Dataset(name, Path(name), ("image",), LabelMap(("background", "x"), (0, 1)), tuple(cases))


@functools.cache
def vendors():
    """Vendor of every patient that a list names; which list says which follows from their numbers, as published."""
    found = {}
    for name in OF_ROWS:
        data = read_protocol(name).data
        for row, patients in zip(data.rows, data.lists["mnms"].labelled, strict=True):
            places = iter(patients)
            for vendor, number in row.items():
                for _ in range(number):
                    patient = next(places)
                    assert found.setdefault(patient, vendor) == vendor, patient
            assert next(places, None) is None
    return found


def mnms():
    """320 patients of two frames with labels, and 25 of vendor C without; in names and numbers as the download."""
    of = vendors()
    patients = {vendor: [code for code in of if of[code] == vendor] for vendor in "ABCD"}
    for vendor, number in (("A", 95), ("B", 125), ("C", 50), ("D", 50)):
        patients[vendor] += [f"{vendor}{index}" for index in range(number - len(patients[vendor]))]
    image, label = Path("image.nii.gz"), Path("label.nii.gz")
    cases = [
        Case(f"{code}_frame{frame}", (image,), label, domain=vendor, group=code, split=split)
        for vendor in "ABCD"
        for index, code in enumerate(patients[vendor])
        for frame in (0, 9)
        for split in [("train", "val", "test")[index % 3]]
    ]
    cases += [Case(f"U{index}", (image,), None, domain="C", group=f"U{index}") for index in range(25)]
    return whole_download("mnms", cases)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("name", OF_ROWS)
def test_a_vendor_is_left_out_with_as_many_frames_as_the_public_lists_have(name, row):
    protocol, whole = read_protocol(name), mnms()
    labelled = protocol.data.rows[row]
    vendors_of, *counts = OF_ROWS[name][row]
    seen = assign(whole, case_lists(protocol, "mnms", whole, labelled)).hide_labels(labelled)
    kept = {case.patient: case.domain for case in seen.labelled()}
    assert "".join(sorted(kept.values())) == vendors_of
    assert set(kept) == set(protocol.data.lists["mnms"].labelled[row])
    assert [len(seen.labelled()), len(seen.unlabelled()), len(seen.split("test"))] == counts
    setting = recognise(seen)
    assert (setting.names, setting.unseen) == (("SemiDG",), (name[-1].upper(),))


@pytest.mark.parametrize(("name", "source", "target"), [("mmwhs_ct_to_mr", "CT", "MR"), ("mmwhs_mr_to_ct", "MR", "CT")])
def test_a_modality_is_adapted_to_another_without_its_labels(name, source, target):
    cases = [
        Case(f"{modality.lower()}_train_{number}", (Path("i"),), Path("l"), domain=modality)
        for modality in ("CT", "MR")
        for number in range(1001, 1021)
    ]
    protocol, whole = read_protocol(name), whole_download("mmwhs", cases)
    seen = assign(whole, case_lists(protocol, "mmwhs", whole, protocol.data.labelled)).hide_labels(
        protocol.data.labelled
    )
    assert [case.domain for case in seen.labelled()] == [source] * 16
    assert [case.domain for case in seen.unlabelled()] == [target] * 13
    assert [case.domain for case in seen.split("val") + seen.split("test")] == [target] * 7
    tested = {case.id for case in seen.split("test")}
    other = read_protocol("mmwhs_mr_to_ct" if name == "mmwhs_ct_to_mr" else "mmwhs_ct_to_mr").data.lists["mmwhs"]
    assert not tested & {*other.train[:16], *other.test}, "what is tested on is a source in no direction"
    setting = recognise(seen)
    assert (setting.names, setting.sources, setting.targets) == (("UDA",), (source,), (target,))


def test_acdcs_lists_take_the_challenges_training_patients_in_the_published_order_and_none_of_its_testing_ones():
    cases = [
        Case(f"{patient}_frame{frame}", (Path("i"),), Path("l"), group=patient, split=split)
        for numbers, split in ((range(1, 101), "train"), (range(101, 151), "test"))
        for patient in (f"patient{number:03d}" for number in numbers)
        for frame in ("01", "12")
    ]
    protocol, whole = read_protocol("acdc"), whole_download("acdc", cases)
    seen = assign(whole, case_lists(protocol, "acdc", whole, 3)).hide_labels(3)
    assert [case.patient for case in seen.labelled()[::2]] == ["patient099", "patient038", "patient050"]
    assert [len(seen.split(split)) for split in ("train", "val", "test")] == [140, 20, 40]
    assert {case.patient for case in seen} == {f"patient{number:03d}" for number in range(1, 101)}


def test_bhsd_has_86_labelled_scans_and_those_without_labels_of_nobody_who_is_tested():
    protocol = read_protocol("bhsd")
    lists = protocol.data.lists["bhsd"]
    patients = sorted((*lists.train, "ID_2db7ee14", *lists.val, *lists.test))
    cases = [
        Case(f"{patient}_ID_{index:010d}", (Path("i"),), Path("l"), group=patient)
        for index, patient in enumerate(patients)
    ]
    assert len(cases) == 192
    others = ("ID_00000000", "ID_00000000", lists.train[3], lists.test[0], lists.val[0])
    cases += [
        Case(f"{patient}_ID_f{index:09d}", (Path("i"),), None, group=patient) for index, patient in enumerate(others)
    ]
    whole = whole_download("bhsd", cases)
    seen = assign(whole, case_lists(protocol, "bhsd", whole, protocol.data.labelled)).hide_labels(85)
    assert check_lists(protocol, "bhsd", seen, 85) is None
    assert len(seen.labelled()) == 86
    assert sorted(case.patient for case in seen.unlabelled()) == ["ID_00000000", "ID_00000000", lists.train[3]]
    scored = [[case for case in seen.split(split) if case.label is not None] for split in ("val", "test")]
    assert [len(cases) for cases in scored] == [10, 96]
    assert recognise(seen).names == ("SSL",)
    assert list(lists.train + lists.val) == sorted(lists.train + lists.val), (
        "the last of the training list are held out"
    )


def test_the_synapse_plan_has_45_windows_and_the_mmwhs_plan_20_and_the_mnms_plan_4():
    for name, number in (("synapse", 45), ("mmwhs_ct_to_mr", 20), ("mnms_to_d", 4)):
        protocol = read_protocol(name)
        size, stride = protocol.plan.preparation.size, protocol.inference.stride
        counts = [-(-(n - m) // step) + 1 for n, m, step in zip(size, protocol.plan.patch, stride, strict=True)]
        assert counts[0] * counts[1] * counts[2] == number


def test_the_row_with_a_copy_error_is_left_out_and_no_other():
    methods = {row.method for row in read_protocol("mmwhs_ct_to_mr").published.figures}
    assert "pnp_adanet" not in methods
    assert {row.method for row in read_protocol("mmwhs_mr_to_ct").published.figures} - methods == {"pnp_adanet", "dsfn"}


def test_a_left_atrium_that_was_cut_to_its_label_is_refused_and_every_published_scan_is_not():
    protocol = read_protocol("la")
    check_scans(protocol, {"smallest": (148, 132, 88), "a patch": (112, 112, 80)})
    with pytest.raises(DataError, match=r"case cut: has 74 × 69 × 45 voxels, .* at least 112 × 112 × 80: .* --from h5"):
        check_scans(protocol, {"cut": (74, 69, 45)})


@pytest.mark.parametrize(
    "name", ["pancreas", "synapse", "mmwhs_ct_to_mr", "mmwhs_mr_to_ct", *OF_ROWS, "versemi", "bhsd"]
)
def test_a_protocol_of_a_download_names_it_with_the_command_that_converts_it(name):
    data = read_protocol(name).data
    assert tuple(data.download) == data.folders
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for folder, download in data.download.items():
        command = download[download.index("`semivox convert") + 1 : download.rindex("`")]
        arguments = parser.parse_args(command.split()[2:])
        assert str(arguments.out) == folder
        assert (arguments.crop == "published") == (folder in (data.cropped or ()))


# --- several data sets in one network ---------------------------------------------------------------------------------

VERSEMI = {"pancreas_ct": (62, 18), "la": (80, 20), "spleen": (30, 11), "lung": (50, 13)}
"""Folder → training and test scans."""
SETS = {"pancreas_ct": "pancreas-ct", "la": "left atrium", "spleen": "Spleen", "lung": "Lung"}
"""Folder → what its converter calls the data set."""


def versemi_sets(protocol):
    """The four downloads as they are converted, in names and order of the files."""
    for folder, organ in zip(protocol.data.folders, protocol.data.classes, strict=True):
        lists = protocol.data.lists[folder]
        image, label = Path("i.nii.gz"), Path("l.nii.gz")
        cases = [Case(name, (image,), label, split="train") for name in sorted((*lists.train, *lists.test))]
        labels = LabelMap(("background", organ), (0, 1))
        yield folder, Dataset(SETS[folder], Path(folder), ("CT",), labels, tuple(cases))


@pytest.mark.parametrize(
    ("row", "kept"),
    [(0, {"pancreas": 6, "left_atrium": 8, "spleen": 3, "cancer": 5}), (1, None)],
)
def test_four_sets_join_with_the_published_numbers_of_labelled_and_unlabelled_scans(row, kept):
    protocol = read_protocol("versemi")
    labelled = protocol.data.rows[row]
    sets = [assign(one, case_lists(protocol, folder, one, labelled)) for folder, one in versemi_sets(protocol)]
    whole = join(sets)
    seen = whole.hide_labels(labelled)
    of = {organs[0]: task for task, organs in seen.tasks.items()}
    counts = {organ: sum(case.task == of[organ] for case in seen.labelled()) for organ in protocol.data.classes}
    assert counts == (kept or {"pancreas": 12, "left_atrium": 16, "spleen": 6, "cancer": 10})
    assert (len(seen.labelled()), len(seen.unlabelled())) == [(22, 200), (44, 178)][row]
    assert len(seen.split("test")) == 62
    assert recognise(seen).names == ("SSL", "partial labels")
    for folder, one in zip(protocol.data.folders, sets, strict=True):
        assert check_lists(protocol, folder, one, labelled) is None


def test_versemis_lists_are_those_that_were_released():
    lists = read_protocol("versemi").data.lists
    assert {folder: (len(one.train), len(one.test)) for folder, one in lists.items()} == VERSEMI
    assert not any(set(one.train) & set(one.test) for one in lists.values())
    pancreas = [f"PANCREAS_{number:04d}" for number in range(1, 83) if number not in (25, 70)]
    assert lists["pancreas_ct"].train + lists["pancreas_ct"].test == tuple(pancreas)
    assert lists["pancreas_ct"].test[0] == "PANCREAS_0064"
    atrium = read_protocol("la").data.lists["la"]
    assert (lists["la"].train, lists["la"].test) == (atrium.train, atrium.test)
    assert list(lists["la"].train) == sorted(lists["la"].train)
    assert (lists["la"].train[7], lists["la"].train[15]) == ("38CWS74285MFGZZXR09Z", "5BHTH9RHH3PQT913I59W")
    assert list(lists["spleen"].train) == sorted(lists["spleen"].train, key=natural_order)
    assert lists["spleen"].train[:6] == tuple(f"spleen_{number}" for number in (2, 3, 6, 8, 9, 10))
    assert lists["spleen"].test == tuple(f"spleen_{number}" for number in (46, 47, 49, 52, 53, 56, 59, 60, 61, 62, 63))
    numbers = (1, 3, 4, 5, 6, 9, 10, 14, 15, 16)
    assert lists["lung"].train[:10] == tuple(f"lung_{number:03d}" for number in numbers)
    assert list(lists["lung"].train) == sorted(lists["lung"].train)
    numbers = (74, 75, 78, 79, 80, 81, 83, 84, 86, 92, 93, 95, 96)
    assert lists["lung"].test == tuple(f"lung_{number:03d}" for number in numbers)


def test_the_sets_for_a_cpu_have_three_labelled_groups_of_each_task_and_share_nobody():
    protocol = read_protocol("four_sets_cpu")
    numbers = {}
    for folder, lists in protocol.data.lists.items():
        assert len({*lists.train, *lists.val, *lists.test}) == len(lists.train + lists.val + lists.test), folder
        numbers[folder] = (len(lists.train), len(lists.val), len(lists.test))
    assert numbers == {"la": (26, 6, 10), "segthor": (12, 4, 5), "hippocampus": (40, 10, 20), "acdc": (36, 6, 10)}
    chest = protocol.data.lists["segthor"]
    parts = {task: (part.labels, len(part.train)) for task, part in chest.tasks.items()}
    assert parts == {"heart_and_aorta": (("heart", "aorta"), 6), "esophagus_and_trachea": (("esophagus", "trachea"), 6)}
    assert sorted(name for part in chest.tasks.values() for name in part.train) == sorted(chest.train)
    labels = LabelMap(("background", "esophagus", "heart", "trachea", "aorta"), (0, 1, 2, 3, 4))
    cases = [Case(name, (Path("i.nii.gz"),), Path("l.nii.gz")) for name in (*chest.train, *chest.val, *chest.test)]
    whole = Dataset("SegTHOR", Path("segthor"), ("CT",), labels, tuple(cases))
    seen = assign(whole, case_lists(protocol, "segthor", whole, 3)).hide_labels(3)
    assert [case.task for case in seen.labelled()] == ["heart_and_aorta", "esophagus_and_trachea"] * 3
    assert {case.task for case in seen.split("val") + seen.split("test")} == {"default"}


def test_versemis_recipe_names_every_setting_so_that_no_default_can_change_it():
    entry = read_protocol("versemi").methods["versemi"]
    assert set(entry.settings) == set(find_method("versemi").Settings.model_fields)


def test_versemis_network_has_as_many_parameters_as_the_released_one():
    plan = read_protocol("versemi").plan
    settings = plan.network.settings
    network = make_network("vnet", dimensions=3, channels=1, classes=2, settings=settings, patch=plan.patch)
    prompted = PromptedNetwork(network, ("pancreas", "left_atrium", "spleen", "cancer", "any"), "batch")
    assert sum(parameter.numel() for parameter in prompted.parameters()) == 9_479_428


def test_a_scan_of_the_published_sizes_has_the_published_number_of_windows():
    protocol = read_protocol("versemi")
    stride, patch = protocol.inference.stride, protocol.plan.patch
    for shape, number in (((100, 120, 96), 6), ((150, 160, 120), 175), ((80, 130, 88), 4)):
        counts = [-(-max(n - m, 0) // step) + 1 for n, m, step in zip(shape, patch, stride, strict=True)]
        assert counts[0] * counts[1] * counts[2] == number
