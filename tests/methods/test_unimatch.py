from dataclasses import replace

import numpy as np
import pytest
import torch
from slow_pseudo_labels import cut, dice, log_likelihoods, softmax

from semivox.errors import SettingError
from semivox.methods import find_method
from semivox.methods.model import build_method
from semivox.methods.unimatch import UniMatch, occasional_boxes
from semivox.planning.demand import DECODER_PASS
from semivox.planning.plan import NetworkChoice
from semivox.sampling.draws import generator
from semivox.testing import Workbench

NAME = "unimatch"
ALWAYS = {"cutmix_probability": 1.0, "box_share": (0.2, 0.6)}


def make_bench(dimensions=2, **settings):
    return Workbench(NAME, dimensions, settings=ALWAYS | settings, dropout=False, batch=4).decide()


def padded(batch):
    """The batch with padding that differs between neighbours."""
    batch.unlabelled.valid[0, :5] = False
    batch.unlabelled.valid[3, :, 9:] = False
    return batch


def cuts(bench, batch, shares):
    drawn = [occasional_boxes(batch.unlabelled, 1.0, shares, draw).numpy() for draw in range(2)]
    assert (drawn[0] != drawn[1]).any(), "each strong view has a box of its own"
    return drawn


def dropped_features(student, weak, seeds):
    """Logits of the weak view with half of the channels of every feature of the encoder gone, the others doubled."""
    features = student.encode(weak)
    for level, feature in enumerate(features):
        for sample, seed in enumerate(seeds):
            gone = generator(seed, "channels", level).random(feature.shape[1]) < 0.5
            for channel, is_gone in enumerate(gone):
                feature[sample, channel] *= 0 if is_gone else 2
    return student.head(student.decode(features)[-1])


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", ["dice", "cross_entropy"])
def test_three_streams_learn_the_confident_labels_of_the_weak_view(dimensions, kind):
    bench = make_bench(dimensions, unlabelled_loss=kind)
    batch = padded(bench.batch())
    terms = bench.losses(batch)
    weak, *strong = (view.numpy() for view in batch.unlabelled.views)
    boxes = cuts(bench, batch, (0.2, 0.6))
    student, valid = bench.method.student, batch.unlabelled.valid.numpy()
    with torch.no_grad():
        p = softmax(student(torch.from_numpy(weak)).numpy())
        streams = {
            f"strong_{i + 1}": (student(torch.from_numpy(cut(strong[i], boxes[i]))).numpy(), boxes[i], 1 / 8)
            for i in range(2)
        }
        fp = dropped_features(student, torch.from_numpy(weak), batch.unlabelled.seeds).numpy()
        supervised = bench.problem.supervised_loss(student(batch.labelled.image), batch.labelled).item()
    streams["feature"] = (fp, np.zeros_like(valid), 1 / 4)
    label, kept = p.argmax(1), valid & (p.max(1) >= 0.95)
    assert 0.05 < kept.sum() / valid.sum() < 0.95, "the threshold must matter"

    for name, (logits, box, weight) in streams.items():
        own_label, own_kept, own_valid = (cut(each, box) for each in (label, kept, valid))
        if kind == "dice":
            expected = dice(logits, own_label, own_kept)
        else:
            expected = -log_likelihoods(logits, own_label)[own_kept].sum() / own_valid.sum()
        assert terms[name].item() == pytest.approx(weight * expected, rel=1e-3), name
    assert terms["supervised"].item() == pytest.approx(supervised / 2, rel=1e-4)


def test_the_label_is_decoded_from_whole_features_without_gradient():
    bench = make_bench()
    decoder, seen = bench.method.student.decoder, []
    decoder.register_forward_hook(lambda module, inputs, maps: seen.append((len(maps[-1]), maps[-1].requires_grad)))
    encoded = []
    bench.method.student.encoder.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
    bench.losses(bench.batch())
    assert encoded == [4, 12], "labelled apart; two strong views and the weak one together"
    assert sorted(seen) == [(4, False), (4, True), (12, True)]


def test_the_demand_counts_three_whole_streams_and_a_decoder_for_the_labels():
    demand = UniMatch.demand(UniMatch.Settings())
    assert demand.unlabelled_forwards == 3
    assert 0 < demand.teacher_forwards == DECODER_PASS < 1


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_boxes_come_with_their_probability_and_within_their_share(probability):
    stream = Workbench(NAME).batch().unlabelled
    stream.seeds = tuple(range(400))
    shares = occasional_boxes(stream, probability, (0.1, 0.5), draw=0).flatten(1).float().mean(1)
    assert (shares > 0).float().mean() == pytest.approx(probability, abs=0.06)
    assert all(0.07 < share < 0.55 for share in shares.tolist() if share)


def test_without_boxes_the_strong_views_go_in_as_they_are():
    bench = make_bench(cutmix_probability=0.0)
    batch, seen = bench.batch(), []
    bench.method.student.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    bench.losses(batch)
    weak, *strong = batch.unlabelled.views
    assert torch.equal(seen[1], torch.cat([*strong, weak]))


@pytest.mark.parametrize("name", ["unimatch", "unimatch_v2", "alternate_diverse_teaching"])
def test_a_batch_in_which_someone_has_no_neighbour_is_refused_with_its_mend(name):
    with pytest.raises(SettingError, match="gives 3 samples a step, but the method mixes 2 at a time on each device"):
        Workbench(name, batch=3).batch()
    with pytest.raises(SettingError, match="set it to a multiple of 4"):
        Workbench(name, batch=2, devices=2).batch()


@pytest.mark.parametrize("name", ["unimatch", "unimatch_v2"])
def test_a_network_whose_features_cannot_be_reached_is_refused(name):
    """MONAI's networks have no encoder and decoder that a method could come between."""
    problem = Workbench(name).problem
    network = NetworkChoice(name="monai:BasicUNet", settings={"features": (4, 4, 4, 4, 4, 4)})
    problem = replace(problem, plan=problem.plan.model_copy(update={"network": network, "patch": (32, 32)}))
    with pytest.raises(SettingError, match="cannot give features, which this method needs"):
        build_method(name, find_method(name).Settings(), problem)
