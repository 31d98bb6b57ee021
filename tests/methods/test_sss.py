from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from slow_pseudo_labels import dice, log_likelihoods, softmax

from semivox.errors import SettingError
from semivox.inference.prompts import BoxStack, find_prompts, tight_boxes
from semivox.inference.windows import Windows
from semivox.methods import remembering, sss
from semivox.methods.sss import completed, cutmixed, enhanced, in_clips_with, shifted
from semivox.methods.unimatch import occasional_boxes
from semivox.networks import make_network
from semivox.networks.memory_bank import Memories
from semivox.networks.sam2_memory import answer
from semivox.networks.sam2_prompts import Prompts, class_logits
from semivox.planning.demand import Demand, Views
from semivox.planning.planner import batch_size
from semivox.sampling.draws import generator
from semivox.testing import Workbench

SLICES = 2
LOOSE = {"slices": SLICES, "rules.confidence": 0.3, "rules.overlap": 0.0, "rules.area_ratio": 0.0, "threshold": 0.5}
"""Rules that find boxes in what untrained networks say."""
STILL = {"cutmix_probability": 0.0, "enhancement": 0.0}


def make_bench(**settings) -> Workbench:
    return Workbench("sss", settings=LOOSE | settings, batch=2)


def find_bright_pixels(network, sharpness=30.0):
    """The network's semantic head now finds class 1 where the image is bright, whatever the encoder says."""

    def read(features):
        image = features[0].mean(1, keepdim=True)
        level = image.flatten(1).quantile(0.8, 1).view(-1, 1, 1, 1)
        return [torch.sigmoid(4 * (image - level))]

    def logits(x):
        other = torch.full_like(x, -sharpness)
        return torch.cat([sharpness * (0.5 - x), sharpness * (x - 0.5), *[other] * (network.classes - 2)], 1)

    network.decode, network.head = read, logits


@torch.no_grad()
def decide_masks(prompter, sharpness=2e5):
    """Masks of a decoder that has learnt: sure of some pixels and not of others."""
    layer = prompter.mask_decoder.output_hypernetworks_mlps[0].proj_out
    layer.weight.mul_(sharpness)


@lru_cache(maxsize=1)
def prompted_step():
    """One step whose weak and strong views have boxes, what the decoders were given, and the bench."""
    bench = make_bench(cutmix_probability=1.0, box_share=(0.2, 0.5), threshold=0.6)
    find_bright_pixels(bench.method.teacher.module)
    decide_masks(bench.method.prompter_average.module)
    batch = bench.batch()
    batch.unlabelled.valid[0, :5] = False
    asked, encoded = [], []
    for name, prompter in (("student", bench.method.prompter), ("teacher", bench.method.prompter_average.module)):
        prompter.register_forward_hook(lambda m, given, out, name=name: asked.append((name, given, out[0])))
    bench.method.teacher.module.encoder.register_forward_pre_hook(lambda m, given: encoded.append(given[0]))
    bench.method.student.encoder.register_forward_pre_hook(lambda m, given: encoded.append(given[0]))
    terms = bench.losses(batch)
    return bench, batch, terms, asked, encoded


def test_the_terms_are_those_of_a_slow_computation():
    bench, batch, terms, asked, _ = prompted_step()
    stream, settings = batch.unlabelled, bench.method.settings
    ((_, (_, weak), masks),) = [entry for entry in asked if entry[0] == "teacher"]
    _, *students = [entry for entry in asked if entry[0] == "student"]
    assert weak.valid.any(), "the weak view must have a box here"
    with torch.no_grad():
        p = softmax(class_logits(masks).numpy())
        own = [bench.method.teacher.module.encode(view) for view in stream.views]
        rough = softmax(sss.semantic_logits(bench.method.teacher.module, own[0]).numpy())
    clips = stream.clip.numpy()
    for clip in set(clips):
        if not weak.valid.numpy()[clips == clip].any():
            p[clips == clip] = rough[clips == clip]
    valid = stream.valid.numpy()
    label, kept = p.argmax(1), valid & (p.max(1) >= settings.threshold)
    assert 0.05 < kept.sum() / valid.sum() < 1
    order = np.arange(len(label)).reshape(-1, SLICES)[::-1].ravel()  # two clips, slice for slice

    def mixed(maps, boxes):
        return np.where(boxes, maps[order], maps)

    for draw, (_, (_, prompts), logits) in enumerate(students):
        boxes = occasional_boxes(stream, 1.0, (0.2, 0.5), draw).numpy()
        own_label, own_kept, own_valid = (mixed(each, boxes) for each in (label, kept, valid))
        assert prompts.valid.reshape(-1, SLICES, prompts.valid.shape[1]).any(2).any(1).all(), "every clip is prompted"
        z = class_logits(logits.detach()).numpy()
        ce = -log_likelihoods(z, own_label)[own_kept].sum() / own_valid.sum()
        expected = (ce + dice(z, own_label, own_kept)) / 2 / 4
        assert terms[f"strong_{draw + 1}"].item() == pytest.approx(expected, rel=1e-3)
    assert len(students) == 2


def test_labelled_slices_teach_the_masks_by_half_and_the_semantic_head_whole():
    bench, batch, terms, asked, _ = prompted_step()
    labelled = next(out for name, _, out in asked if name == "student").detach()
    expected = bench.problem.supervised_loss(class_logits(labelled), batch.labelled).item() / 2
    assert terms["supervised"].item() == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        head = bench.problem.supervised_loss(bench.method.student(batch.labelled.image), batch.labelled).item()
    assert terms["supervised_head"].item() == pytest.approx(head, rel=1e-4)


def test_the_teacher_sees_views_that_nothing_mixed_and_keeps_no_gradient():
    _, batch, _, asked, encoded = prompted_step()
    labelled, *taught, first, second = encoded[:6]
    assert torch.equal(labelled, batch.labelled.image)
    assert all(torch.equal(seen, view) for seen, view in zip(taught, batch.unlabelled.views, strict=True))
    for draw, seen in enumerate((first, second)):
        boxes = occasional_boxes(batch.unlabelled, 1.0, (0.2, 0.5), draw)[:, None]
        view = batch.unlabelled.views[draw + 1]
        assert torch.equal(seen, torch.where(boxes, view[[2, 3, 0, 1]], view))
    assert not any(out.requires_grad for name, _, out in asked if name == "teacher")
    assert all(out.requires_grad for name, _, out in asked if name == "student")


def test_boxes_of_mixed_clips_are_drawn_anew_around_the_mixed_masks():
    _, batch, _, asked, _ = prompted_step()
    boxes = occasional_boxes(batch.unlabelled, 1.0, (0.2, 0.5), 0).numpy()
    assert boxes.reshape(len(boxes), -1).any(1).all()
    prompts = [given[1] for name, given, _ in asked if name == "student"][1]
    assert prompts.valid.any()
    found = prompts.boxes[prompts.valid]
    assert (found[:, :2] >= 0).all()
    assert (found <= 23).all()


def test_only_the_average_moves_the_teacher():
    bench = make_bench()
    before = {name: tensor.clone() for name, tensor in bench.method.state_dict().items()}
    batch = bench.batch()
    bench.gradients(batch)
    copies = [name for name in before if name.startswith(("teacher.", "prompter_average."))]
    state = bench.method.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in copies)
    bench.train_step(batch)
    state = bench.method.state_dict()
    moved = {name.split(".")[0] for name in copies if not torch.equal(state[name], before[name])}
    assert moved == {"teacher", "prompter_average"}


def test_without_a_box_the_semantic_head_teaches_and_learns_and_it_is_said_once(monkeypatch):
    said = []
    monkeypatch.setattr(sss, "say", said.append)
    monkeypatch.setattr(sss, "PATIENCE_STEPS", 2)
    bench = make_bench(**({"rules.confidence": 1.0, "threshold": 0.0, "true_box_probability": 0.0} | STILL))
    for _ in range(4):
        gradients = bench.gradients(batch := bench.batch())
    assert len(said) == 1
    assert "lower rules.confidence" in said[0]
    assert not any(name.startswith("prompter.") and g.abs().max() > 0 for name, g in gradients.items())
    terms, stream = bench.losses(batch), batch.unlabelled
    with torch.no_grad():
        label = softmax(bench.method.teacher(stream.views[0]).numpy()).argmax(1)
        logits = bench.method.student(stream.views[1]).numpy()
    valid = stream.valid.numpy()
    ce = -log_likelihoods(logits, label)[valid].mean()
    assert terms["strong_1"].item() == pytest.approx((ce + dice(logits, label, valid)) / 2 / 4, rel=1e-3)
    figures = bench.method.diagnostics(bench.problem.labels.names)
    assert figures["confidence/semantic_head"] == 1
    assert all(value == 0 for name, value in figures.items() if name != "confidence/semantic_head")


def test_head_and_masks_learn_a_batch():
    bench = Workbench("sss", settings=LOOSE, batch=2, optimiser="adamw", learning_rate=2e-3, iterations=1000)
    batch = bench.batch()
    first = bench.losses(batch)
    for _ in range(40):
        bench.train_step(batch)
    last = bench.losses(batch)
    for name in ("supervised", "supervised_head"):
        assert last[name] < 0.8 * first[name], name


def test_the_first_steps_learn_from_labels_alone():
    bench = make_bench(warmup_share=0.9)
    assert set(bench.losses(bench.batch())) == {"supervised", "supervised_head"}


@pytest.mark.parametrize("views", [1, 2])
def test_strong_views_share_their_weight(views):
    bench = make_bench(strong_views=views, prompts=False)
    terms = bench.losses(bench.batch())
    assert set(terms) == {"supervised_head", *(f"strong_{n + 1}" for n in range(views))}
    demand = type(bench.method).demand(bench.method.settings)
    assert (demand.networks, demand.averages) == (1, 1)
    assert (demand.labelled_forwards, demand.unlabelled_forwards, demand.teacher_forwards) == (1, views, 1 + views)
    assert not hasattr(bench.method, "prompter")


def test_the_weak_view_is_the_mean_over_its_pairs_and_equal_views_stay():
    weak, first, second = ([torch.randn(2, 3, 4, 4) for _ in range(3)] for _ in range(3))
    both = enhanced([weak, first, second], 0.5, "difference")
    alone = [enhanced([weak, other], 0.5, "difference") for other in (first, second)]
    for level in (1, 2):
        assert torch.allclose(both[0][level], (alone[0][0][level] + alone[1][0][level]) / 2)
        assert torch.allclose(both[2][level], alone[1][1][level])
        assert not torch.allclose(both[1][level], first[level])
    assert all(view[0] is given[0] for view, given in zip(both, (weak, first, second), strict=True))
    for view in enhanced([weak, weak, weak], 0.5, "difference"):
        assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(view, weak, strict=True))
    off = enhanced([weak, first, second], 0.0, "difference")
    assert torch.equal(off[1][1], first[1])


def stack_of(label) -> BoxStack:
    return tight_boxes(torch.tensor(label), 3)


def test_what_a_strong_view_does_not_find_the_weak_one_gives():
    own = stack_of([[[1, 1, 0, 0], [0, 0, 0, 0]]])
    weak = stack_of([[[0, 2, 2, 1], [0, 0, 2, 1]]])
    merged = completed(own, weak)
    assert merged.valid.tolist() == [[True, True]]
    assert merged.boxes.tolist() == [[[0, 0, 1, 0], [1, 0, 2, 1]]]
    assert merged.label.tolist() == [[[1, 1, 2, 0], [0, 0, 2, 0]]], "own class 1 stays as it is"


def test_boxes_follow_the_masks_that_are_mixed_and_stay_where_nothing_is():
    stack = stack_of([[[1, 1, 0, 0]], [[0, 0, 2, 2]]])
    stack = replace(stack, boxes=stack.boxes + 0.25)
    cuts = torch.tensor([[[False, True, True, False]], [[False] * 4]])
    prompts = cutmixed(stack, torch.tensor([1, 0]), cuts, 0.0)
    assert prompts.valid.tolist() == [[True, True], [False, True]]
    assert prompts.boxes[0].tolist() == [[0, 0, 0, 0], [2, 0, 2, 0]]
    assert torch.equal(prompts.boxes[1], stack.boxes[1])


def test_a_clip_is_prompted_as_a_whole():
    valid = torch.tensor([[False, True], [False, False], [False, False]])
    assert in_clips_with(valid, torch.tensor([0, 0, 1])).flatten().tolist() == [True, True, False]


def test_sides_move_by_shares_of_their_length_and_stay_in_the_slice():
    boxes = torch.tensor([[[2.0, 3.0, 5.0, 4.0]]])
    shift = torch.tensor([[[0.1, -0.1, -0.1, 0.1]]])
    assert torch.allclose(shifted(boxes, shift, (6, 8)), torch.tensor([[[2.4, 2.8, 4.6, 4.2]]]))
    everything = torch.tensor([[[0.0, 0.0, 7.0, 5.0]]])
    assert torch.equal(shifted(everything, torch.tensor([[[-0.1, -0.1, 0.1, 0.1]]]), (6, 8)), everything)


def test_true_boxes_are_drawn_for_each_slice():
    bench = make_bench(box_shift=0.0)
    stream = bench.batch().labelled
    rough = torch.full((len(stream), bench.problem.classes, 24, 24), 0.0)
    prompts = bench.method._labelled_prompts(stream, rough)
    true = tight_boxes(stream.label, bench.problem.classes)
    for row, seed in enumerate(stream.seeds):
        takes = generator(seed, "labelled boxes", row % SLICES).random() < 0.5
        assert torch.equal(prompts.valid[row], true.valid[row] & takes)
        assert torch.equal(prompts.boxes[row][prompts.valid[row]], true.boxes[row][prompts.valid[row]])


def test_a_class_that_fills_the_slice_has_a_box_of_the_slice_and_a_clip_may_be_shorter_than_the_window():
    bench = make_bench(slices=1)
    method = bench.method
    p = torch.zeros(1, bench.problem.classes, 24, 24)
    p[:, 2] = 1
    found = method._find(p, torch.ones(1, 24, 24, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    assert found.boxes[0, 1].tolist() == [0, 0, 23, 23]
    find_bright_pixels(method.teacher.module)
    assert all(term.isfinite() for term in bench.losses(bench.batch()).values())
    assert method.found.sum() > 0


@pytest.fixture(scope="module")
def predictor():
    bench = make_bench()
    bench.method.eval()
    find_bright_pixels(bench.method.teacher.module)
    return bench.method


def windows_of(size: int) -> Windows:
    return Windows(window=(size, size, 1), dimensions=2, slice_axis=2, batch=2)


def test_a_volume_is_prompted_over_its_slices_and_encoded_once(predictor):
    volume = torch.randn(1, 24, 24, 5)
    volume[:, 4:14, 6:20, 1:4] += 6
    seen = []
    hook = predictor.teacher.module.encoder.register_forward_pre_hook(lambda m, given: seen.append(len(given[0])))
    found = predictor.predict_volume(volume, windows_of(24), "default")
    hook.remove()
    assert sum(seen) == 5
    with torch.no_grad():
        features = predictor.teacher.module.encode(volume.permute(3, 0, 1, 2))
        rough = sss.semantic_logits(predictor.teacher.module, features).softmax(1)
        confidence, label = rough.max(1)
        stack = find_prompts(label, confidence, predictor.problem.classes, predictor.settings.rules)
        assert stack.valid.any()
        masks, _ = predictor.prompter_average.module(features, Prompts(stack.valid, boxes=stack.boxes.round()))
        expected = class_logits(masks).softmax(1).permute(1, 2, 3, 0)
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_slice_larger_than_the_patch_is_covered_by_windows_with_their_part_of_each_box(predictor):
    volume = torch.randn(1, 40, 30, 3)
    volume[:, 4:24, 6:20] += 6
    flipped = replace(windows_of(24), flips=(0,))
    for windows in (windows_of(24), flipped):
        found = predictor.predict_volume(volume, windows, "default")
        assert found.shape == (predictor.problem.classes, 40, 30, 3)
        assert torch.allclose(found.sum(0), torch.ones(40, 30, 3), atol=1e-4)


def test_features_that_are_too_many_are_computed_again_with_the_same_result(predictor, monkeypatch):
    volume = torch.randn(1, 24, 24, 5)
    volume[:, 4:14, 6:20] += 6
    usual = predictor.predict_volume(volume, windows_of(24), "default")
    monkeypatch.setattr(sss, "KEPT_BYTES", 40_000)
    assert torch.allclose(predictor.predict_volume(volume, windows_of(24), "default"), usual, atol=1e-5)


def test_a_volume_without_a_box_is_as_the_semantic_head_says(predictor):
    volume = torch.zeros(1, 24, 24, 3)
    strict = predictor.settings.model_copy(
        update={"rules": predictor.settings.rules.model_copy(update={"confidence": 1.1})}
    )
    usual, predictor.settings = predictor.settings, strict
    found = predictor.predict_volume(volume, windows_of(24), "default")
    predictor.settings = usual
    with torch.no_grad():
        network = predictor.teacher.module
        rough = sss.semantic_logits(network, network.encode(volume.permute(3, 0, 1, 2))).softmax(1)
    assert torch.allclose(found, rough.permute(1, 2, 3, 0), atol=1e-5)


def test_the_boxes_of_a_label_prompt_in_place_of_those_it_finds(predictor):
    volume = torch.randn(1, 24, 24, 4)
    label = torch.zeros(24, 24, 4, dtype=torch.uint8)
    label[3:9, 5:20, 1], label[10:14, 2:7, 1], label[8:12, 8:12, 2] = 1, 2, 1
    assert predictor.takes_prompts
    found = predictor.predict_prompted_volume(volume, label, windows_of(24), "default")
    valid = torch.zeros(4, predictor.problem.classes - 1, dtype=torch.bool)
    boxes = torch.zeros(4, predictor.problem.classes - 1, 4)
    valid[1, 0] = valid[1, 1] = valid[2, 0] = True
    # x along the last axis of a slice.
    boxes[1, 0], boxes[1, 1], boxes[2, 0] = (
        torch.tensor(box).float() for box in ((5, 3, 19, 8), (2, 10, 6, 13), (8, 8, 11, 11))
    )
    with torch.no_grad():
        features = predictor.teacher.module.encode(volume.permute(3, 0, 1, 2))
        masks, _ = predictor.prompter_average.module(features, Prompts(valid, boxes=boxes))
        expected = class_logits(masks).softmax(1).permute(1, 2, 3, 0)
    assert torch.allclose(found, expected, atol=1e-4)


@lru_cache(maxsize=1)
def remembered_step():
    """One step with memory whose views all have boxes: what each call of the decoders read and left, and the bench."""
    bench = make_bench(memory=True, complementary_dropout=True)
    find_bright_pixels(bench.method.teacher.module)
    find_bright_pixels(bench.method.student)
    asked = []

    def note(prompter, features, prompts, valid, memories, numbers):
        found = answer(prompter, features, prompts, valid, memories, numbers)
        asked.append((prompter, memories, numbers, found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sss, "answer", note)
        batch = bench.batch()
        terms = bench.losses(batch)
    return bench, batch, terms, asked


def test_labelled_slices_are_remembered_first_then_weak_views_and_strong_views_only_read():
    bench, _, _, asked = remembered_step()
    method = bench.method
    assert [call[0] for call in asked] == [method.prompter, method.prompter_average.module, *[method.prompter] * 2]
    (labelled, present), (weak, weak_present) = (call[3][2:] for call in asked[:2])
    assert present.any()
    assert weak_present.any()
    first, second, third, fourth = (call[1] for call in asked)
    assert len(first) == 0
    assert torch.equal(second.features, labelled[present].features)
    expected = torch.cat([labelled[present].scores, weak[weak_present].scores])
    for bank in (third, fourth, method.bank.read()):
        assert torch.equal(bank.scores, expected)
        assert not any(part.requires_grad for part in vars(bank).values())


def test_what_is_drawn_from_the_bank_depends_on_sample_slice_and_view_alone():
    _, batch, _, asked = remembered_step()
    weak, first, second = (call[2] for call in asked[1:])
    assert weak.shape == (2 * SLICES, SLICES)
    for row, seed in enumerate(batch.unlabelled.seeds):
        expected = generator(seed, "memories", "weak", row % SLICES).random(SLICES)
        assert weak[row].tolist() == expected.tolist()
    assert not torch.equal(first, second)
    assert len({tuple(row.tolist()) for row in weak}) == len(weak)


def test_the_score_that_ranks_memories_learns_the_true_iou():
    _, batch, terms, asked = remembered_step()
    masks, scores = asked[0][3][:2]
    prompts_valid = scores != 0
    errors = []
    for row, k in prompts_valid.nonzero().tolist():
        found, true = masks[row, k] > 0, batch.labelled.label[row] == k + 1
        known = batch.labelled.valid[row]
        iou = (found & true & known).sum() / ((found | true) & known).sum().clamp_min(1)
        errors.append((scores[row, k] - iou).square())
    assert terms["supervised_score"].item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)
    assert "supervised_score" not in make_bench().losses(batch)


def test_a_volume_begins_without_memory_and_each_slice_reads_those_before_it(monkeypatch):
    bench = make_bench(memory=True)
    method = bench.method.eval()
    find_bright_pixels(method.teacher.module)
    decide_masks(method.prompter_average.module)
    lengths = []

    def note(prompter, features, prompts, valid, memories, numbers):
        lengths.append(len(memories))
        return answer(prompter, features, prompts, valid, memories, numbers)

    monkeypatch.setattr(remembering, "answer", note)
    volume = torch.randn(1, 24, 24, 5)
    volume[:, 4:14, 6:20, 1:4] += 6
    found = method.predict_volume(volume, windows_of(24), "default")
    assert lengths[0] == 0
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 2
    assert len(method.bank.read()) == 0, "the run's bank is left alone"
    again = method.predict_volume(volume, replace(windows_of(24), batch=5), "default")
    assert torch.allclose(again, found, atol=1e-3), "whatever the number of windows per call"
    method.settings = method.settings.model_copy(update={"memory": False})
    without = method.predict_volume(volume, windows_of(24), "default")
    first = lengths.index(1)
    assert torch.allclose(found[..., :first], without[..., :first], atol=1e-3)
    assert not torch.allclose(found[..., first:], without[..., first:], atol=1e-3)


def test_strong_views_see_complementary_halves_of_the_same_channels_at_all_scales():
    ones = [[torch.ones(6, c, 2, 2) for c in (3, 8, 8)] for _ in range(2)]
    seeds = (3, 3, 4, 7, 5, 6)
    first, second = sss.halved(ones, seeds)
    assert torch.equal(first[0], ones[0][0]), "the image, of which the decoder needs the size"
    assert all(torch.equal(a + b, torch.full_like(a, 2.0)) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[1], first[2])
    assert torch.equal(first[1][0], first[1][1]), "slices of a clip alike"
    assert set(torch.cat([first[1], second[1]]).unique().tolist()) == {0.0, 1.0, 2.0}


def test_halved_channels_are_what_the_student_decodes(monkeypatch):
    seen = []
    bench = make_bench(complementary_dropout=True, prompts=False)
    monkeypatch.setattr(sss, "halved", lambda views, seeds: seen.append(seeds) or [[*view] for view in views])
    decoded = []
    decode = bench.method.student.decode
    monkeypatch.setattr(bench.method.student, "decode", lambda features: decoded.append(features) or decode(features))
    batch = bench.batch()
    bench.losses(batch)
    assert seen == [batch.unlabelled.seeds]
    assert len(decoded) == 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"complementary_dropout": True, "strong_views": 1}, "needs two strong views; set strong_views=2"),
        ({"memory": True, "prompts": False}, "set prompts=true or memory=false"),
    ],
)
def test_settings_that_contradict_one_another_are_refused_in_one_line(settings, told):
    with pytest.raises(SettingError, match=told) as error:
        make_bench(**settings)
    assert "\n" not in str(error.value)


def kept_bytes(function, module):
    """What comes of a call, and bytes of what it keeps for the backward pass, the module's weights left out."""
    kept, weights = {}, {weight.untyped_storage()._cdata for weight in module.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = function()
    return found, sum(part.untyped_storage().nbytes() for name, part in kept.items() if name not in weights)


def test_the_demand_counts_what_prompts_and_memory_keep():
    """Held to SAM-2 hiera-small, the default, on a slice with boxes of three classes."""
    network = make_network("sam2", 2, 1, 4, {"size": "small"})
    prompter = network.new_prompter(3, score=True, memory=True)
    features, encoded = kept_bytes(lambda: network.encode(torch.zeros(1, 1, 128, 128)), network)
    _, decoded = kept_bytes(lambda: sss.semantic_logits(network, features), network)
    given = [level.detach().requires_grad_() for level in features]
    prompts = Prompts(torch.ones(1, 3, dtype=torch.bool), boxes=torch.tensor([9.0, 9, 60, 60]).expand(1, 3, 4))
    _, prompted = kept_bytes(lambda: prompter(given, prompts), prompter)
    memories = Memories(torch.zeros(16, 64, 8, 8), torch.zeros(16, 256, 8, 8), torch.zeros(16))
    inside, numbers = torch.ones(1, 128, 128, dtype=torch.bool), torch.rand(1, 4)
    _, remembered = kept_bytes(lambda: answer(prompter, given, prompts, inside, memories, numbers), prompter)
    own = encoded + decoded
    assert prompted / own == pytest.approx(sss.DECODER_PASS, rel=0.3)
    assert (remembered - prompted) / own == pytest.approx(sss.MEMORY_PASS, rel=0.3)

    def weights(module):
        return sum(weight.numel() for weight in module.parameters())

    of_memory = weights(prompter.memory)
    assert of_memory / weights(network) == pytest.approx(sss.MEMORY_WEIGHTS, rel=0.1)
    assert (weights(prompter) - of_memory) / weights(network) == pytest.approx(sss.DECODER_WEIGHTS, rel=0.1)
    usual, with_memory = (sss.SSS.demand(sss.SSS.Settings(memory=memory)) for memory in (False, True))
    assert usual.teacher_forwards == pytest.approx(3 + sss.DECODER_PASS), "strong views are not prompted"
    assert usual.unlabelled_forwards == pytest.approx(2 * usual.labelled_forwards)
    assert with_memory.labelled_forwards == pytest.approx(usual.labelled_forwards + sss.MEMORY_PASS)
    assert with_memory.networks == pytest.approx(usual.networks + sss.MEMORY_WEIGHTS)


def test_clips_are_planned_in_pairs():
    clips = Demand(views=Views(unlabelled=("weak",), clip=4, unlabelled_multiple=2))
    size = batch_size((256, 256), clips, 1.0)
    assert (size.labelled, size.unlabelled) == (3, 2)
