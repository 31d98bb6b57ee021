import importlib

import pytest
from benchmarks.__main__ import ROOT

MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith(("_", ".")))


@pytest.mark.parametrize("name", MODULES)
def test_benchmarks_import_what_the_package_still_has(name):
    importlib.import_module(f"benchmarks.{name}")
