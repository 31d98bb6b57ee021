"""Settings: every one can be set from text, a wrong one is answered with the nearest."""

import pytest

from semivox.errors import RunError, SettingError
from semivox.training.config import Config, MethodChoice, method_settings, override, parse_assignments


def changed(config: Config, *texts: str) -> Config:
    _, values = parse_assignments(texts)
    return override(config, values)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("training.learning_rate=0.01", lambda c: c.training.learning_rate == 0.01),
        ("training.learning_rate=1e-2", lambda c: c.training.learning_rate == 0.01),
        ("training.nesterov=true", lambda c: c.training.nesterov is True),
        ("training.nesterov=false", lambda c: c.training.nesterov is False),
        ("plan.patch=[8, 8, 8]", lambda c: c.plan.patch == (8, 8, 8)),
        ("plan.batch.unlabelled=6", lambda c: c.plan.batch.unlabelled == 6),
        ("plan.preparation.coarse_axis=null", lambda c: c.plan.preparation.coarse_axis is None),
        ("plan.network.settings.width=8", lambda c: c.plan.network.settings["width"] == 8),
        ("inference.flips=[0,1]", lambda c: c.inference.flips == (0, 1)),
        ("views.weak.flip_axes=[]", lambda c: c.views.weak.flip_axes == ()),
        ("seed=7", lambda c: c.seed == 7),
    ],
)
def test_a_setting_is_set_by_its_dotted_name_and_survives_yaml(make_config, tmp_path, text, read):
    config = changed(make_config(), text)
    assert read(config)
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.learning_rat=1", "did you mean 'training.learning_rate'"),
        ("training.learning_rate=fast", "training.learning_rate"),
        ("training.learning_rate=-1", "training.learning_rate: input should be greater than 0"),
        ("plan.patch=[8]", "patch"),
        ("training", "give name=value"),
        ("seed=[", "not YAML"),
        ("plan.batch.labelled.more=1", "unknown setting"),
    ],
)
def test_a_wrong_setting_is_one_line(make_config, text, message):
    with pytest.raises(SettingError) as caught:
        changed(make_config(), text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_without_section_is_a_setting_of_the_method():
    method, config = parse_assignments(["consistency_weight=1", "seed=3", "method.settings.ramp_share=0.5"])
    assert method == {"consistency_weight": 1, "ramp_share": 0.5}
    assert config == {"seed": 3}


def test_an_unknown_setting_of_a_method_names_the_nearest():
    with pytest.raises(SettingError, match="did you mean 'consistency_weight'"):
        method_settings(MethodChoice(name="mean_teacher", settings={"consistency_wait": 1}))
    with pytest.raises(SettingError, match="consistency_weight: input should be greater than or equal to 0"):
        method_settings(MethodChoice(name="mean_teacher", settings={"consistency_weight": -1}))


def test_a_damaged_config_is_one_line(make_config, tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(RunError, match="not a run folder"):
        Config.load(path)
    make_config().save(path)
    path.write_text(path.read_text().replace("iterations: 6", "iterations: many"))
    with pytest.raises(RunError, match=r"training\.iterations"):
        Config.load(path)
    path.write_text("a: [")
    with pytest.raises(RunError, match="cannot be read"):
        Config.load(path)
