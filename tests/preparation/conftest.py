import pytest

from semivox.data.case import Dataset
from semivox.data.phantom import write_phantom
from semivox.preparation.settings import Normalisation, Preparation


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four training cases (two with a label) and one test case with a label; never written to."""
    folder = tmp_path_factory.mktemp("scans") / "phantom"
    return write_phantom(folder, cases=4, labelled=2, validation=0, test=1, size=(20, 20, 14))


@pytest.fixture
def preparation() -> Preparation:
    return Preparation(spacing_mm=(4.0, 4.0, 5.0), normalisation=(Normalisation(),))
