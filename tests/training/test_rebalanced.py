"""From a run's setting to the order in which pseudo-labelled cases come."""

import numpy as np
import pytest

from semivox.sampling.order import EqualOrder
from semivox.sampling.rebalancing import case_rates
from semivox.testing import Workbench
from semivox.training.labelling import BlankLabels


def loader_of(stage, labels=None, **training):
    bench = Workbench("self_training", stage=stage, **training)
    return bench, bench.engine.make_loader(bench.engine.views(bench.stage), labels or bench.phantom.pseudo_labels)


def counted(label):
    return np.bincount(np.asarray(label).ravel(), minlength=4)


def test_cases_come_at_the_rates_of_their_pseudo_labels():
    bench, loader = loader_of(1, resampling=1.0)
    labels, truth = bench.phantom.pseudo_labels, bench.phantom.truth
    known = [counted(truth.label(case.id)) for case in bench.dataset.labelled()]
    rates = case_rates(known, {case: counted(labels.read(case)) for case in labels.kept}, 1.0)
    shares = np.diff([0, *loader.order.ends])
    assert shares == pytest.approx([rates[case.id] / sum(rates.values()) for case in loader.order.cases])
    assert [case.id for case in loader.order.cases] == list(labels.kept)


def test_without_the_setting_all_come_alike():
    _, loader = loader_of(1)
    assert isinstance(loader.order, EqualOrder)


def test_a_stage_that_is_only_timed_has_blank_labels_and_draws_all_alike():
    bench, _ = loader_of(1)
    store = bench.engine.labelling.store
    cases = [case.id for case in bench.dataset.unlabelled()]
    _, loader = loader_of(1, BlankLabels(store, cases), resampling=1.0)
    assert {loader.order("unlabelled", n).id for n in range(len(cases))} == set(cases)
