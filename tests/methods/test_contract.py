"""What every method must do, whatever it is about."""

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.methods import ALIASES, METHODS, find_method
from semivox.methods.average import Average
from semivox.methods.clock import Clock
from semivox.methods.model import inference_state, load_model, save_model
from semivox.training.checkpoint import load_checkpoint
from semivox.training.engine import seed_torch
from semivox.training.fit import build, fit, make_engine, open_store, read_data, training_data, validation_score
from semivox.training.log import read_log
from semivox.training.run import RunFolder

METHOD_NAMES = list(METHODS)
CLOCK = Clock(step=3, iterations=6, stage_step=3, stage_iterations=6)


class Built:
    """A method with a real batch of the phantom, outside any loop."""

    def __init__(self, config) -> None:
        self.config = config
        self.whole = read_data(config.data)
        self.dataset = training_data(self.whole, config.data.labelled)
        self.method, self.problem = build(config, self.dataset)
        self.store = open_store(config, self.dataset)
        self.engine = make_engine(config, self.dataset, self.store, self.method)
        self.method.train()

    def batch(self, step: int = 0):
        raw = self.engine.make_loader(self.engine.views(self.engine.spans[0].stage))[step]
        return self.engine.on_after_batch_transfer(raw, 0)

    def losses(self, batch) -> dict[str, torch.Tensor]:
        seed_torch(0, 0, 0)
        terms: dict[str, torch.Tensor] = {}
        for _, function in self.method.steps(batch, CLOCK):
            terms |= function()
        return terms


@pytest.fixture(params=METHOD_NAMES)
def method_name(request) -> str:
    return request.param


@pytest.fixture(params=[2, 3])
def built(request, method_name, make_config) -> Built:
    return Built(make_config(method_name, dimensions=request.param))


def test_losses_are_finite_and_named(built):
    terms = built.losses(built.batch())
    assert terms
    assert all(torch.isfinite(term) and term.ndim == 0 for term in terms.values())


def test_gradient_reaches_every_trained_weight_and_no_average(built):
    sum(built.losses(built.batch()).values()).backward()
    averaged = {id(p) for module in built.method.modules() if isinstance(module, Average) for p in module.parameters()}
    for name, parameter in built.method.named_parameters():
        if id(parameter) in averaged:
            assert parameter.grad is None, name
        else:
            assert parameter.requires_grad, name
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_a_batch_without_any_foreground_or_known_voxel_is_finite(built):
    batch = built.batch()
    batch.labelled.label.zero_()
    assert all(torch.isfinite(term) for term in built.losses(batch).values())
    batch.labelled.label.fill_(IGNORE)
    assert all(torch.isfinite(term) for term in built.losses(batch).values())


def test_losses_in_bf16_are_near_those_in_float32(built):
    batch = built.batch()
    full = built.losses(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = built.losses(batch)
    for name in full:
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.05, abs=2e-3), name


def test_an_unlabelled_stream_never_has_a_label(built):
    batch = built.batch()
    if batch.unlabelled is not None:
        assert batch.unlabelled.label is None
        hidden = {case.id for case in built.dataset.unlabelled()}
        assert set(batch.unlabelled.case) <= hidden


def test_a_loaded_model_predicts_what_the_trained_one_does(built, tmp_path):
    batch = built.batch()
    built.engine.step = 1
    for step in range(2):
        built.method.after_step(Clock(step, 6))
    built.method.eval()
    save_model(
        tmp_path,
        built.method,
        built.problem,
        channels=built.dataset.channels,
        tasks={},
        file_ending=".nii.gz",
        facts={"method": built.config.method.name},
    )
    model = load_model(tmp_path)
    with torch.no_grad():
        mine, loaded = (method.predict(batch.labelled.image, "default") for method in (built.method, model.method))
    assert torch.equal(mine, loaded)
    assert mine.shape == (2, 4, *built.config.plan.patch)
    torch.testing.assert_close(mine.sum(1), torch.ones_like(mine[:, 0]))


def test_a_model_folder_holds_only_what_prediction_needs(built):
    wanted = {id(p) for module in built.method.inference_modules() for p in module.parameters()}
    kept = inference_state(built.method)
    names = {name for name, parameter in built.method.named_parameters() if id(parameter) in wanted}
    assert names <= set(kept)
    assert len(kept) < len(built.method.state_dict())


def test_odd_sizes_predict(built):
    size = (15, 13, 9)[: built.problem.dimensions]
    built.method.eval()
    with torch.no_grad():
        assert built.method.predict(torch.randn(1, 1, *size), "default").shape == (1, 4, *size)


def test_the_consistency_term_pulls_the_student_towards_its_target(make_config):
    """A step along the gradient of the consistency term alone must lower it: a flipped sign would raise it."""
    built = Built(make_config("mean_teacher", settings={"consistency_weight": 1.0}))
    with torch.no_grad():
        for parameter in built.method.teacher.parameters():
            parameter.mul_(1.5)
    batch = built.batch()
    before = built.losses(batch)["consistency"]
    before.backward()
    with torch.no_grad():
        for parameter in built.method.student.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad / (parameter.grad.norm() + 1e-12)
    after = built.losses(batch)["consistency"]
    assert float(after) < float(before)
    assert float(before) > 0


def test_mean_teacher_equals_a_slow_version(make_config):
    built = Built(make_config("mean_teacher", settings={"consistency_weight": 0.7}))
    for module in built.method.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout3d):
            module.p = 0.0
    batch = built.batch()
    terms = built.losses(batch)
    clean, noisy = batch.unlabelled.views
    with torch.no_grad():
        student = built.method.student(clean).softmax(1).double().numpy()
        teacher = built.method.teacher(noisy).softmax(1).double().numpy()
    total = 0.0
    for index in np.ndindex(student.shape):
        total += (student[index] - teacher[index]) ** 2
    ramp = np.exp(-5 * (1 - 0.5) ** 2)
    assert float(terms["consistency"]) == pytest.approx(0.7 * ramp * total / student.size, rel=1e-4)


def test_cross_supervision_equals_a_slow_version(make_config):
    built = Built(make_config("cross_pseudo_supervision", settings={"consistency_weight": 0.7}))
    for module in built.method.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout3d):
            module.p = 0.0
    batch = built.batch()
    terms = built.losses(batch)
    with torch.no_grad():
        first, second = (
            network(batch.unlabelled.image).double().softmax(1).numpy()
            for network in (built.method.first, built.method.second)
        )
    ramp = np.exp(-5 * (1 - 0.5) ** 2)
    for name, own, other in (("cross_1", first, second), ("cross_2", second, first)):
        pseudo = other.argmax(1)
        total = 0.0
        for index in np.ndindex(pseudo.shape):
            total -= np.log(own[(index[0], pseudo[index], *index[1:])])
        assert float(terms[name]) == pytest.approx(0.7 * ramp * total / pseudo.size, rel=1e-4)


def test_hard_labels_carry_no_gradient(make_config):
    built = Built(make_config("cross_pseudo_supervision"))
    built.losses(built.batch())["cross_1"].backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in built.method.second.parameters())


def test_averages_move_after_a_step(built):
    averages = [module for module in built.method.modules() if isinstance(module, Average)]
    assert averages
    for average in averages:
        (source,) = average._source
        with torch.no_grad():
            next(source.parameters()).add_(1.0)
    built.method.after_step(Clock(step=9, iterations=20))
    for average in averages:
        (source,) = average._source
        gap = (next(average.module.parameters()) - next(source.parameters())).abs().max()
        assert float(gap.detach()) == pytest.approx(0.9, rel=1e-3)  # α = 0.9 at step 9


def test_loss_falls_and_dice_rises_on_a_case_never_trained_on(method_name, make_config, tmp_path):
    config = make_config(method_name, iterations=150, learning_rate=1e-2, checkpoint_every=150)
    network = config.plan.network.model_copy(update={"settings": {"width": 8, "levels": 3, "dropout": 0.0}})
    config = config.model_copy(update={"plan": config.plan.model_copy(update={"network": network})})
    run = RunFolder(tmp_path / "run")
    run.create()
    built = Built(config)
    score = validation_score(config, built.dataset, built.store, built.method.eval())
    before = score()
    fit(config, run)
    built.method.load_state_dict(load_checkpoint(run.last)["method"])
    losses = [float(row["loss"]) for row in read_log(run.log)]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert score() > before + 0.3


def test_aliases_name_methods():
    for alias, name in ALIASES.items():
        assert find_method(alias) is find_method(name)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(SettingError, match="unknown method 'mean_techer'; did you mean 'mean_teacher'"):
        find_method("mean_techer")


def test_a_method_from_a_file_is_found_and_a_wrong_class_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from semivox.methods.supervised import Supervised\n\nclass Mine(Supervised):\n    'Mine.'\n")
    assert find_method(f"{file}:Mine").__name__ == "Mine"
    with pytest.raises(SettingError, match="did you mean 'Mine'"):
        find_method(f"{file}:Mime")
    with pytest.raises(SettingError, match="there is no file"):
        find_method(f"{tmp_path / 'other.py'}:Mine")
    file.write_text("import nothing_of_that_name\n")
    with pytest.raises(SettingError, match="does not import"):
        find_method(f"{file}:Mine")
