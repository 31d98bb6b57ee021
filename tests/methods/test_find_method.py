"""Methods are found by name, alias and file; a typo names the nearest."""

import pytest

from semivox.errors import SettingError
from semivox.methods import ALIASES, find_method


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
