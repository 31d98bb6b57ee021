import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semivox.data.labels import IGNORE, LabelMap
from semivox.errors import DataError, SettingError

any_value = st.integers(-(2**31), 2**31 - 1)


@st.composite
def label_maps(draw: st.DrawFn) -> LabelMap:
    values = draw(st.lists(any_value, min_size=2, max_size=9, unique=True))
    has_ignore = len(values) > 2 and draw(st.booleans())
    ignore = values.pop() if has_ignore else None
    names = tuple(f"class {index}" for index in range(len(values)))
    return LabelMap(names, tuple(values), ignore)


@given(label_maps(), st.data())
def test_values_of_any_kind_come_back_from_classes(labels: LabelMap, data: st.DataObject) -> None:
    voxels = data.draw(st.lists(st.sampled_from(labels.declared), min_size=1, max_size=30))
    array = np.array(voxels, np.int64).reshape(-1, 1, 1)
    classes = labels.to_classes(array)
    assert classes.dtype == np.uint8
    expected = [IGNORE if value == labels.ignore_value else labels.values.index(value) for value in voxels]
    assert classes.ravel().tolist() == expected
    restored = labels.to_values(classes)
    assert restored.ravel().tolist() == voxels
    assert all(np.can_cast(value, restored.dtype) for value in map(np.min_scalar_type, labels.declared))


@given(label_maps(), any_value)
def test_an_undeclared_value_is_refused_and_named(labels: LabelMap, value: int) -> None:
    array = np.array([labels.values[0], value])
    if value in labels.declared:
        assert labels.undeclared(array) == []
    else:
        assert labels.undeclared(array) == [value]
        with pytest.raises(DataError, match=str(value)):
            labels.to_classes(array)


def test_tables_and_single_values_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = LabelMap(("background", "a", "b"), (3, -5, 40), ignore_value=7)
    array = np.random.default_rng(0).choice(labels.declared, (4, 5, 6))
    for order in ("C", "F"):
        arranged = np.asarray(array, order=order)
        from_table = labels.to_classes(arranged)
        with monkeypatch.context() as patch:
            patch.setattr("semivox.data.labels.LARGEST_TABLE", 2)
            np.testing.assert_array_equal(labels.to_classes(arranged), from_table)
        np.testing.assert_array_equal(labels.to_values(from_table), array)


def test_small_values_are_written_in_one_byte() -> None:
    assert LabelMap(("background", "organ"), (0, 255)).to_values(np.array([0, 1], np.uint8)).dtype == np.uint8


def test_negative_values_keep_their_sign() -> None:
    labels = LabelMap(("background", "organ"), (-1, 200))
    assert labels.to_values(np.array([0, 1], np.uint8)).tolist() == [-1, 200]


def test_background_need_not_be_zero() -> None:
    labels = LabelMap(("background", "organ"), (7, 0))
    assert labels.to_classes(np.array([7, 0])).tolist() == [0, 1]


def test_labels_with_many_undeclared_values_are_told_in_one_short_line() -> None:
    labels = LabelMap(("background", "organ"), (0, 1))
    with pytest.raises(DataError) as error:
        labels.to_classes(np.arange(1000))
    assert len(str(error.value)) < 250
    assert "998 values" in str(error.value)


@pytest.mark.parametrize(
    ("names", "values", "ignore"),
    [(("a", "a"), (0, 1), None), (("a", "b"), (0, 0), None), (("a", "b"), (0,), None), (("a", "b"), (0, 1), 1)],
)
def test_contradicting_declarations_are_refused(names: tuple, values: tuple, ignore: int | None) -> None:
    with pytest.raises(DataError):
        LabelMap(names, values, ignore)


def test_restricting_reads_all_other_values_as_background() -> None:
    labels = LabelMap(("background", "RV", "MYO", "LV"), (0, 10, 20, 30), ignore_value=99)
    only = labels.restrict(["LV"])
    assert only.names == ("background", "LV")
    assert only.to_classes(np.array([0, 10, 20, 30, 99])).tolist() == [0, 0, 0, 1, IGNORE]
    assert only.to_values(np.array([0, 1], np.uint8)).tolist() == [0, 30]
    assert only.undeclared(np.array([40])) == [40]


def test_restricting_to_an_unknown_name_says_the_nearest() -> None:
    labels = LabelMap(("background", "left_atrium"), (0, 1))
    with pytest.raises(SettingError, match="did you mean 'left_atrium'"):
        labels.restrict(["left_atrum"])


def test_restricting_to_a_region_keeps_its_classes_and_the_region() -> None:
    labels = LabelMap(
        ("background", "oedema", "core", "cyst"),
        (0, 1, 2, 3),
        regions={"tumour": (1, 2), "core": (2,), "all": (1, 2, 3)},
    )
    only = labels.restrict(["tumour"])
    assert only.names == ("background", "oedema", "core")
    assert only.scored() == {"tumour": (1, 2)}
    assert only.to_classes(np.array([0, 1, 2, 3])).tolist() == [0, 1, 2, 0]


def test_regions_are_what_is_scored_where_they_are_declared() -> None:
    plain = LabelMap(("background", "a", "b"), (0, 1, 2))
    assert plain.scored() == {"a": (1,), "b": (2,)}
    assert LabelMap(plain.names, plain.values, regions={"both": (1, 2)}).scored() == {"both": (1, 2)}
