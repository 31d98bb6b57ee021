"""The augmentation as an addition: what it reads of a method, what it makes of it, and what it cannot be put on."""

import numpy as np
import pytest
import torch
from slow_augmentation import SlowAugmentation, corrected_cross_entropy, pseudo_labels, read_by_classifier, tap_sum
from torch import nn

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.methods import find_method, registered_name
from semivox.methods.augmented import augmented
from semivox.methods.clock import Clock
from semivox.methods.mean_teacher import MeanTeacher
from semivox.methods.method import Stage
from semivox.methods.transferable_augmentation import ClassMemory, LabelledMap, Reading, linear_part
from semivox.methods.transferable_augmentation import tap_sum as method_tap_sum
from semivox.reporting import record
from semivox.reporting.curves import training_charts
from semivox.testing import Workbench
from semivox.testing.altered import remove_class
from semivox.testing.candidate import run_folder
from semivox.testing.workbench import tiny_config
from semivox.training.config import MethodChoice, method_settings, parse_assignments
from semivox.training.fit import fit
from semivox.training.log import read_log

MEAN_TEACHER, COPY_PASTE = "mean_teacher+transferable_augmentation", "bidirectional_copy_paste+tsa"
STRONG = {"weight": 0.3, "strength": 0.8}
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def make_bench(name=MEAN_TEACHER, dimensions=2, *, of_method=None, **settings):
    """In the last stage, of a network that is sure of much; nothing is random."""
    stage = 1 if name == COPY_PASTE else 0
    everything = {"transferable_augmentation": STRONG | settings, **(of_method or {})}
    return Workbench(name, dimensions, stage=stage, settings=everything, batch=4, dropout=False).decide()


def shown_to(network, function):
    """The images that a network was shown during a function, and what it returned."""
    images = []
    hook = network.register_forward_pre_hook(lambda module, inputs: images.append(inputs[0]))
    result = function()
    hook.remove()
    return images, result


def what_entered(bench, batch, images, settings):
    """Student's and teacher's features, logits and labels of a step, by passes of our own."""
    base, valid = bench.method.base, batch.unlabelled.valid.numpy()
    label = batch.labelled.label.numpy()
    teacher_view = batch.unlabelled.views[-1]
    features, logits = read_by_classifier(base.teacher.module, teacher_view)
    cleaned = settings.get("largest_component", True) or isinstance(base, find_method("bcp"))
    target = features, logits, pseudo_labels(logits, valid, cleaned, settings.get("confidence", 0.0))
    if settings.get("source") == "clean":
        return (*read_by_classifier(base.student, batch.labelled.image), label), target
    features, logits = read_by_classifier(base.student, images[0])
    if isinstance(base, MeanTeacher):
        return (features[:4], logits[:4], label), target
    mixed = images[0].numpy()
    box = (mixed[0::2] != batch.unlabelled.image.numpy()[0::2]).any(1)
    ground_truth = np.empty_like(label)
    ground_truth[0::2] = np.where(box, label[0::2], IGNORE)
    ground_truth[1::2] = np.where(box, IGNORE, label[1::2])
    return (features, logits, ground_truth), target


VARIANTS = {
    "default": {},
    "diagonal": {"covariance": "diagonal"},
    "mean over classes": {"mean_over": "classes"},
    "by count": {"statistics": "count"},
    "little kept": {"decay": 0.3},
    "constant strength": {"ramp": "constant"},
    "confident": {"confidence": 0.9},
    "raw labels": {"largest_component": False},
    "clean": {"source": "clean"},
    "teacher": {"direction": "teacher"},
    "teacher, clean": {"direction": "teacher", "source": "clean", "covariance": "diagonal"},
}
CASES = [(name, 2, variant) for name in (MEAN_TEACHER, COPY_PASTE) for variant in VARIANTS]
CASES += [(name, 3, variant) for name in (MEAN_TEACHER, COPY_PASTE) for variant in ("default", "teacher")]


@pytest.mark.parametrize(("name", "dimensions", "variant"), CASES)
def test_the_term_equals_a_slow_version_over_two_steps(name, dimensions, variant):
    settings = VARIANTS[variant]
    bench = make_bench(name, dimensions, **settings)
    student = bench.method.base.student
    decay = None if settings.get("statistics") == "count" else settings.get("decay", 0.99)
    slow = SlowAugmentation(bench.problem.classes, decay)
    strength = 0.8 * (1.0 if settings.get("ramp") == "constant" else bench.clock.stage_progress)
    assert 0 < strength <= 0.8
    for step in range(2):
        batch = bench.batch(step)
        batch.unlabelled.valid[1, :5] = False
        images, terms = shown_to(student, lambda batch=batch: bench.losses(batch))
        source, target = what_entered(bench, batch, images, settings)
        for domain, (features, _, label) in (("source", source), ("target", target)):
            slow.update(domain, features, label)
        reverse = settings.get("direction") == "teacher"
        table = slow.table(tap_sum(student.classifier[1]), strength, settings.get("covariance") == "diagonal", reverse)
        _, logits, label = source
        if reverse:
            label = target[2]
            with torch.no_grad():
                logits = student.head(torch.from_numpy(target[0]).float()).double().numpy()
        expected = 0.3 * corrected_cross_entropy(logits, label, table, settings.get("mean_over") == "classes")
        plain = 0.3 * corrected_cross_entropy(logits, label, 0 * table)
        assert terms["transferable"].item() == pytest.approx(expected, rel=2e-4)
        assert abs(expected - plain) > 1e-2 * plain, "what is added changes nothing: the comparison proves little"
        assert np.allclose(bench.method.augmentation.table.numpy(), table, rtol=1e-3, atol=1e-3 * np.abs(table).max())
    for domain in ("source", "target"):
        memory = getattr(bench.method.augmentation, domain)
        for k, (count, mean, covariance) in slow.seen[domain].items():
            assert memory.count[k] == count
            assert np.allclose(memory.mean[k], mean, atol=1e-4)
            assert np.allclose(memory.covariance[k], covariance, rtol=1e-3, atol=1e-4)


def test_the_methods_own_terms_are_as_without_the_addition():
    for name, plain in ((MEAN_TEACHER, "mean_teacher"), (COPY_PASTE, "bidirectional_copy_paste")):
        bench = make_bench(name)
        other = Workbench(plain, stage=len(bench.method.stages()) - 1, batch=4, dropout=False)
        other.method.load_state_dict(bench.method.base.state_dict())
        terms = bench.losses(bench.batch())
        own = other.losses(other.batch())
        assert terms.keys() == {*own, "transferable"}
        assert all(torch.equal(terms[key], own[key]) for key in own)


# What is read ------------------------------------------------------------------------------------------------------


def made_reading(channels_last=False):
    logits = torch.randn(6, 3, 4, 5)
    logits = logits.to(memory_format=torch.channels_last) if channels_last else logits
    return Reading(torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 4, 5), logits)


VIEWS = {
    "whole": (lambda x: x, [0, 1, 2, 3, 4, 5]),
    "detached": (lambda x: x.detach(), [0, 1, 2, 3, 4, 5]),
    "first of a split": (lambda x: x.split([2, 4])[0], [0, 1]),
    "second of a split": (lambda x: x.split([2, 4])[1], [2, 3, 4, 5]),
    "last chunk": (lambda x: x.chunk(3)[2], [4, 5]),
    "even": (lambda x: x[0::2], [0, 2, 4]),
    "odd": (lambda x: x[1::2], [1, 3, 5]),
    "odd of a split": (lambda x: x.split([2, 4])[1][1::2], [3, 5]),
    "one": (lambda x: x[4:5], [4]),
    "one of a stride": (lambda x: x[1::2][2:], [5]),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("view", "rows"), VIEWS.values(), ids=VIEWS)
def test_the_features_of_a_view_are_those_of_its_rows(view, rows, channels_last):
    reading = made_reading(channels_last)
    assert reading.of(view(reading.logits))[:, 0, 0, 0].tolist() == rows


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x.clone(),
        lambda x: 2 * x,
        lambda x: torch.cat([x[:2], x[2:]]),
        lambda x: x[[0, 1]],
        lambda x: x[:, :2],
        lambda x: x[..., 1:],
        lambda x: x.mT,
        lambda x: x.flatten(2),
        lambda x: torch.randn(6, 3, 4, 5),
    ],
)
def test_logits_that_are_no_rows_of_what_was_read_have_no_features(other):
    reading = made_reading()
    assert reading.of(other(reading.logits)) is None


def test_of_a_mix_only_the_ground_truth_enters_the_source_and_every_cleaned_label_the_target():
    bench = make_bench(COPY_PASTE)
    batch = bench.batch()
    batch.labelled.label[:, 6:9] = IGNORE
    images, _ = shown_to(bench.method.base.student, lambda: bench.losses(batch))
    (_, _, source), (_, _, target) = what_entered(bench, batch, images[:1], {})
    augmentation = bench.method.augmentation
    for memory, label in ((augmentation.source, source), (augmentation.target, target)):
        assert memory.count.tolist() == [(label == k).sum() for k in range(4)]
    voxels = source.size / 2
    assert 0.8 * voxels < augmentation.source.count.sum() < voxels  # the regions are complementary
    assert augmentation.target.count.sum() == batch.unlabelled.valid.sum()


def test_all_passes_of_all_teachers_enter_the_target():
    for name, passes in (("ua_mt+tsa", 9), ("ad_mt+tsa", 2), ("unimatch_v2+tsa", 1)):
        bench = Workbench(name, batch=2).decide()
        batch = bench.batch()
        assert "transferable" in bench.losses(batch)
        assert bench.method.augmentation.target.count.sum() == passes * batch.unlabelled.valid.sum()
        assert bench.method.augmentation.source.count.sum() == (batch.labelled.label != IGNORE).sum()


def test_a_background_that_hides_classes_teaches_nothing():
    bench = make_bench()
    batch = bench.batch()
    batch.labelled.known[0, 3] = False
    bench.losses(batch)
    label = batch.labelled.label
    assert bench.method.augmentation.source.count.tolist() == [
        (label[1:] == 0).sum(),
        (label == 1).sum(),
        (label == 2).sum(),
        (label[1:] == 3).sum(),
    ]


# What is made of it ------------------------------------------------------------------------------------------------


def random_maps(step, classes=(0, 1, 2)):
    generator = torch.Generator().manual_seed(step)
    features = torch.randn(2, 3, 6, 5, generator=generator) + step
    label = torch.tensor(classes)[torch.randint(len(classes), (2, 6, 5), generator=generator)]
    return [LabelledMap(features, features, label, None)]


@pytest.mark.parametrize("decay", [None, 0.9, 0.0])
def test_a_memory_takes_in_steps_by_count_or_with_a_decay_and_a_first_time_whole(decay):
    memory, slow = ClassMemory(4, 3), SlowAugmentation(4, decay)
    for step, classes in enumerate(((0, 1), (0, 1, 2), (1, 2), (0, 2))):
        parts = random_maps(step, classes)
        memory.update(memory.moments(parts, step=0), decay)
        slow.update("source", parts[0].features.double().numpy(), parts[0].label.numpy())
    assert memory.seen.tolist() == [True, True, True, False]
    assert (memory.mean[3] == 0).all()
    for k, (count, mean, covariance) in slow.seen["source"].items():
        assert memory.count[k] == count
        assert np.allclose(memory.mean[k], mean, atol=1e-5)
        assert np.allclose(memory.covariance[k], covariance, atol=1e-5)
    assert memory.mean.dtype == memory.covariance.dtype == torch.float32


def test_a_memory_survives_in_the_state_and_goes_on_alike():
    one, other = make_bench(), make_bench()
    one.losses(one.batch(0))
    other.method.load_state_dict(one.method.state_dict())
    assert "augmentation.source.mean" in one.method.state_dict()
    assert torch.equal(one.losses(one.batch(1))["transferable"], other.losses(other.batch(1))["transferable"])


def test_a_feature_that_is_not_finite_leaves_the_memory_as_it_was():
    bench = make_bench()
    bench.losses(bench.batch(0))
    augmentation = bench.method.augmentation
    before = {name: value.clone() for name, value in augmentation.state_dict().items()}
    batch = bench.batch(1)
    for stream in (batch.labelled, batch.unlabelled):
        for view in stream.views:
            view[0, 0, 3, 3] = torch.nan
    assert not bench.losses(batch)["transferable"].isfinite()  # the engine skips such a step
    assert all(torch.equal(before[name], value) for name, value in augmentation.state_dict().items())
    assert bench.losses(bench.batch(2))["transferable"].isfinite()


def test_a_class_that_a_domain_has_not_shown_is_not_shifted():
    bench = make_bench()
    batch = bench.batch()
    remove_class(batch)
    with torch.no_grad():
        linear_part(bench.method.base.teacher.module).bias[2] -= 1e6
    terms = bench.losses(batch)
    augmentation = bench.method.augmentation
    assert not augmentation.source.seen[1]
    assert augmentation.target.seen[1]
    assert augmentation.source.seen[2]
    assert not augmentation.target.seen[2]
    slow = SlowAugmentation(4)
    slow.seen["target"][1] = (1, None, augmentation.target.covariance[1].double().numpy())
    table = slow.table(tap_sum(linear_part(bench.method.base.student)), augmentation.strength)
    assert np.allclose(augmentation.table[1], table[1], rtol=1e-4), "its covariance alone"
    assert (augmentation.table[2] == 0).all()
    assert terms["transferable"].isfinite()
    figures = bench.method.diagnostics(("background", "a", "b", "c"))
    assert figures["transferable/unseen_classes"] == 0.5
    assert figures["transferable/shift/a"] == figures["transferable/shift/b"] == figures["transferable/trace/b"] == 0
    assert figures["transferable/shift/c"] > 0
    assert figures["transferable/trace/a"] > 0


def gradient_of_term(bench):
    term = bench.losses(bench.batch())["transferable"]
    bench.method.zero_grad()
    term.backward()
    return {name for name, p in bench.method.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_the_students_features_train_all_of_it_and_the_teachers_its_classifier_alone():
    reached = gradient_of_term(make_bench())
    assert {name.partition("student.")[0] for name in reached} == {"base."}
    assert {name.split(".")[2] for name in reached} == {"encoder", "decoder", "classifier"}
    bench = make_bench(direction="teacher")
    classifier = {f"base.student.classifier.1.{kind}" for kind in ("weight", "bias")}
    assert gradient_of_term(bench) == classifier
    statistics = [*bench.method.augmentation.buffers(), *bench.method.base.teacher.parameters()]
    assert not any(x.requires_grad for x in statistics)


def at(bench, stage_step, stage_iterations=10):
    clock = Clock(step=50, iterations=100, stage_step=stage_step, stage_iterations=stage_iterations)
    bench.method.losses(bench.batch(), clock)
    return bench.method.augmentation.strength


def test_of_large_maps_every_so_manieth_row_is_taken_another_at_each_step(monkeypatch):
    features, label = torch.randn(2, 3, 10, 6), torch.randint(4, (2, 10, 6))
    weight = torch.rand(2, 10, 6) < 0.5
    part = LabelledMap(features, torch.zeros(2, 4, 10, 6), label, weight)
    memory = ClassMemory(4, 3)
    whole = memory.moments([part], step=3)
    monkeypatch.setattr("semivox.methods.transferable_augmentation.STATISTICS_VOXELS", 40)
    steps = [memory.moments([part], step) for step in range(3)]
    torch.testing.assert_close(sum(steps), whole)
    assert torch.equal(memory.moments([part], step=3), steps[0])
    assert steps[0][:, 0, 0].sum() == weight[:, ::3].sum()


def test_the_strength_grows_linearly_over_the_stage_or_is_constant():
    bench = make_bench()
    assert [at(bench, step) for step in (0, 5, 9)] == pytest.approx([0, 0.4, 0.72])
    assert at(make_bench(ramp="constant"), 0) == 0.8
    bench = make_bench()
    assert at(bench, 0) == 0
    assert (bench.method.augmentation.table == 0).all()


def test_what_is_predicted_is_as_without_the_addition():
    bench = make_bench()
    other = Workbench("mean_teacher", batch=4, dropout=False)
    other.method.load_state_dict(bench.method.base.state_dict())
    images = bench.batch().labelled.image
    bench.losses(bench.batch())
    for method in (bench.method, other.method):
        method.eval()
    with torch.no_grad():
        assert torch.equal(bench.method.predict(images, "default"), other.method.predict(images, "default"))
    assert bench.method.inference_modules() == (bench.method.base.teacher,)
    assert bench.method.base.student(images).equal(other.method.student(images))


def test_a_clean_source_costs_one_more_pass_of_the_labelled_samples():
    kind = find_method(COPY_PASTE)
    clean = kind.Settings(transferable_augmentation={"source": "clean"})
    assert kind.demand(clean).labelled_forwards == kind.demand(kind.Settings()).labelled_forwards + 1
    bench = make_bench(COPY_PASTE, source="clean")
    batch = bench.batch()
    images, _ = shown_to(bench.method.base.student, lambda: bench.losses(batch))
    assert len(images) == 2
    assert images[1] is batch.labelled.image


def test_nothing_is_kept_of_a_stage_without_unlabelled_scans():
    bench = Workbench(COPY_PASTE, stage=0, batch=4)
    terms = bench.losses(bench.batch())
    assert set(terms) == {"supervised_border", "supervised_centre"}
    assert not bench.method.augmentation.source.seen.any()
    assert bench.method.augmentation.student_passes == []


def test_the_kernels_taps_are_summed_as_in_the_worked_value():
    convolution = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    taps = [[[0, 0.1, 0], [0.1, 0.6, 0.1], [0, 0.1, 0]], [[0.1, 0, -0.1], [0.2, 0, -0.2], [0.1, 0, -0.1]]]
    convolution.weight.data = torch.tensor(taps).unsqueeze(1)
    assert method_tap_sum(convolution).flatten().tolist() == pytest.approx([1, 0], abs=1e-7)
    slow = SlowAugmentation(2)
    slow.seen = {"source": dict.fromkeys((0, 1), (1, np.zeros(1), None))}
    slow.seen["target"] = dict.fromkeys((0, 1), (1, np.full(1, 0.2), np.full((1, 1), 0.5)))
    assert np.allclose(slow.table(tap_sum(convolution), 0.25), [[0, 0.0125], [0.1125, 0]], atol=1e-7)


@in_2d_and_3d
def test_one_vector_added_everywhere_adds_its_product_with_the_summed_taps(dimensions):
    convolution = (nn.Conv2d if dimensions == 2 else nn.Conv3d)(5, 3, 3, padding=1).double()
    features = torch.randn(1, 5, *[6] * dimensions, dtype=torch.float64)
    vector = torch.randn(5, dtype=torch.float64)
    added = convolution(features + vector.view(1, 5, *[1] * dimensions)) - convolution(features)
    inside = added[(0, slice(None), *[slice(1, -1)] * dimensions)].flatten(1)
    expected = (method_tap_sum(convolution) @ vector)[:, None].expand_as(inside)
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-12)


# What it says ------------------------------------------------------------------------------------------------------


def test_a_large_q_is_told_once_with_the_setting_to_lower(capsys):
    bench = make_bench(strength=1e4, ramp="constant")
    names = ("background", "a", "b", "c")
    bench.method.diagnostics(names)
    assert capsys.readouterr().err == ""
    bench.losses(bench.batch())
    figures = [bench.method.diagnostics(names) for _ in range(2)]
    assert figures[0]["transferable/largest_q"] == pytest.approx(bench.method.augmentation.table.max().item())
    assert figures[0]["transferable/largest_q"] > 5
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "lower transferable_augmentation.strength (now 10000)" in told[0]


def test_diagnostics_are_in_the_log_and_drawn_in_the_report():
    config = tiny_config(COPY_PASTE, batch=4, iterations=4)
    with run_folder() as run:
        fit(config, run)
        rows = read_log(run.log)
        charts = {chart.title: chart for chart in training_charts(record.read_log(run.log))}
    last = rows[-1]
    classes = [name.rpartition("/")[2] for name in last if name.startswith("transferable/trace/")]
    assert len(classes) == 4
    assert all(f"transferable/shift/{name}" in last for name in classes)
    assert float(last["transferable/largest_q"]) > 0
    assert float(last["transferable/trace/background"]) > 0
    assert float(rows[0]["transferable/unseen_classes"]) == 1  # in the stage that has no unlabelled scans
    assert float(last["loss/transferable"]) > 0
    for figure in ("largest q", "unseen classes", "shift", "trace"):
        assert f"Transferable: {figure}" in charts
    assert {curve.name for curve in charts["Transferable: trace"].curves} == set(classes)


# Names and refusals ------------------------------------------------------------------------------------------------


def test_an_addition_is_named_with_a_plus_and_by_its_alias():
    kind = find_method("bcp+tsa")
    assert kind is find_method("bidirectional_copy_paste+transferable_augmentation")
    assert kind is augmented(find_method("bcp"))
    assert kind.Base is find_method("bcp")
    assert registered_name("BCP+TSA") == "bidirectional_copy_paste+transferable_augmentation"
    assert registered_name("transmedseg") == "transmedseg"


def test_an_addition_goes_on_a_method_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from semivox.methods.mean_teacher import MeanTeacher\n\nclass Mine(MeanTeacher):\n    'Mine.'\n")
    assert find_method(f"{file}:Mine+tsa").Base.__name__ == "Mine"
    with pytest.raises(SettingError, match="did you mean 'Mine'"):
        find_method(f"{file}:Mime+tsa")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mean_techer+tsa", "mean_teacher"),
        ("mean_teacher+transferable_augmentaton", "transferable_augmentation"),
        ("transmedsg", "transmedseg"),
    ],
)
def test_a_typo_names_the_nearest(name, nearest):
    with pytest.raises(SettingError, match=f"did you mean '{nearest}'"):
        find_method(name)


def settings_of(name, *assignments):
    return method_settings(MethodChoice(name=name, settings=parse_assignments(assignments)[0]))


def test_a_dotted_name_sets_a_setting_of_the_addition():
    settings = settings_of(MEAN_TEACHER, "transferable_augmentation.weight=0.2", "consistency_weight=0.5")
    assert settings.transferable_augmentation.weight == 0.2
    assert settings.transferable_augmentation.strength == 0.25
    assert settings.consistency_weight == 0.5
    settings = settings_of(
        "transmedseg", "transferable_augmentation={strength: 1, weight: 3}", "transferable_augmentation.weight=0.2"
    )
    assert (settings.transferable_augmentation.weight, settings.transferable_augmentation.strength) == (0.2, 1)


@pytest.mark.parametrize(
    ("name", "assignment", "message"),
    [
        ("mean_teacher", "transferable_augmentation.weight=1", "--method mean_teacher[+]transferable_augmentation"),
        (MEAN_TEACHER, "transferable_augmentation.weigt=1", "weigt"),
        (MEAN_TEACHER, "transferable_augmentation.weight=-1", "weight"),
        (MEAN_TEACHER, "transferable_augmentation.decay=1", "decay"),
        (MEAN_TEACHER, "transferable_augmentation.source=mixed", "source"),
        (MEAN_TEACHER, "consistency_weigt=1", "did you mean 'consistency_weight'"),
    ],
)
def test_a_wrong_setting_is_one_line(name, assignment, message):
    with pytest.raises(SettingError, match=message) as caught:
        settings_of(name, assignment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["supervised", "fixmatch", "cross_pseudo_supervision", "self_training"])
def test_a_method_without_a_teacher_is_refused_with_one_that_would_do(name):
    with pytest.raises(SettingError, match="needs a method with a student and a teacher; add it to mean_teacher") as e:
        Workbench(f"{name}+tsa")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", [MEAN_TEACHER, "transmedseg"])
def test_no_method_has_the_addition_twice(name):
    with pytest.raises(SettingError, match="has transferable_augmentation already; name it without"):
        find_method(f"{name}+tsa")


METHOD_FILE = """
import torch
from semivox.methods.mean_teacher import MeanTeacher

class Mine(MeanTeacher):
    {}
"""
CHANGED_LOGITS = """def losses(self, batch, clock):
        terms = super().losses(batch, clock)
        terms["supervised"] = self.problem.supervised_loss(2 * self.student(batch.labelled.image), batch.labelled)
        return terms
"""
TURNS = """def steps(self, batch, clock):
        yield "main", lambda: self.losses(batch, clock)
"""
NO_NETWORK = """def build(self, problem):
        super().build(problem)
        self.teacher = problem.average(torch.nn.ModuleList([self.student]), 0.9)
"""


def method_in(folder, body):
    file = folder / "mine.py"
    file.write_text(METHOD_FILE.format(body))
    return f"{file}:Mine+tsa"


def test_a_method_that_changes_its_students_logits_is_refused_unless_the_source_is_clean(tmp_path):
    name = method_in(tmp_path, CHANGED_LOGITS)
    bench = Workbench(name)
    with pytest.raises(SettingError, match=r"set transferable_augmentation\.source=clean") as caught:
        bench.losses(bench.batch())
    assert "\n" not in str(caught.value)
    bench = Workbench(name, settings={"transferable_augmentation.source": "clean"})
    assert bench.losses(bench.batch())["transferable"] > 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (TURNS, "cannot be added to Mine, whose networks take turns"),
        (NO_NETWORK, "the teacher of Mine is the average of a ModuleList, not of a network"),
    ],
)
def test_a_method_that_cannot_be_listened_to_is_refused(tmp_path, body, message):
    with pytest.raises(SettingError, match=message) as caught:
        Workbench(method_in(tmp_path, body))
    assert "\n" not in str(caught.value)


def test_a_classifier_that_is_not_linear_is_refused_with_a_network_that_would_do():
    network = make_bench().method.base.student
    assert linear_part(network) is network.classifier[1]
    for classifier in (nn.Identity(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))):
        network.classifier = classifier
        with pytest.raises(
            SettingError, match=r"that of UNet is not; choose unet, vnet or .* with --network"
        ) as caught:
            linear_part(network)
        assert "\n" not in str(caught.value)


def test_names_in_a_stage_lead_into_the_method(monkeypatch):
    method = make_bench().method
    stages = (Stage("one"), Stage("two", initialise={"teacher.module": "student"}, keep_optimisers=False))
    monkeypatch.setattr(method.base, "stages", lambda: stages)
    _, second = method.stages()
    assert second.initialise == {"base.teacher.module": "base.student"}
    assert set(second.initialise) | set(second.initialise.values()) <= dict(method.named_modules()).keys()
    assert not second.keep_optimisers
