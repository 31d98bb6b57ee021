"""Settings that any method may have, given to one for which they would do nothing."""

import pytest

from semivox.errors import SettingError
from semivox.experiments.configure import refuse_idle_settings
from semivox.methods import METHODS, find_method
from semivox.sampling.style import StyleSettings
from semivox.sampling.views import ViewSettings
from semivox.testing import Workbench


def test_resampling_needs_stored_pseudo_labels(make_config):
    refuse_idle_settings(make_config("self_training", resampling=0.3))
    with pytest.raises(SettingError, match="'mean_teacher' has none of"):
        refuse_idle_settings(make_config("mean_teacher", resampling=0.3))


def test_a_method_that_weighs_classes_itself_takes_no_class_weights(make_config):
    refuse_idle_settings(make_config("mean_teacher", class_weighting="difficulty"))
    with pytest.raises(SettingError, match="'aggregating_decoupling' weighs the classes"):
        refuse_idle_settings(make_config("aggregating_decoupling", class_weighting="difficulty"))


@pytest.mark.parametrize("name", METHODS)
def test_every_other_method_hears_of_class_weights_in_its_supervised_terms(name):
    kind = find_method(name)
    if kind.weighs_classes:
        return
    bench = Workbench(name, class_weighting="difficulty")
    bench.train_step(bench.batch())
    assert bench.method.class_weighting.states


def test_looks_need_a_view_that_gets_one(make_config):
    def config(method, labelled):
        style = StyleSettings(fourier_probability=0.5, labelled=labelled)
        return make_config(method).model_copy(update={"views": ViewSettings(style=style)})

    refuse_idle_settings(config("mean_teacher", labelled=True))
    refuse_idle_settings(config("fixmatch", labelled=False))
    with pytest.raises(SettingError, match="'mean_teacher' has no strong view"):
        refuse_idle_settings(config("mean_teacher", labelled=False))
