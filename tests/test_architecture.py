"""The promises that docs/architecture.md makes of the code as a whole."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "semivox"
ORDER = (
    "data",
    "preparation",
    "networks",
    "planning",
    "sampling",
    "losses",
    "inference",
    "evaluation",
    "methods",
    "training",
    "reporting",
    "experiments",
    "testing",
    "cli",
)
FOLDERS = [folder for folder in ORDER if (SOURCE / folder).is_dir()]


def imported_folders(file: Path) -> set[str]:
    """The folders of semivox that a file imports from, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {module.split(".")[1] for module in modules if module.startswith("semivox.")}
    return found & set(ORDER)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_one_way(folder):
    allowed = set(ORDER[: ORDER.index(folder) + 1])
    for file in (SOURCE / folder).rglob("*.py"):
        assert imported_folders(file) <= allowed, file.name


def test_protocols_are_data_without_code():
    names = [file.name for file in (SOURCE / "protocols").iterdir()]
    assert names
    assert all(name.endswith(".yaml") for name in names)


def test_methods_import_nothing_of_the_engine():
    for folder in ("methods", "losses", "networks", "sampling"):
        for file in (SOURCE / folder).rglob("*.py"):
            assert "lightning" not in file.read_text(encoding="utf-8"), file.name


def test_the_command_line_holds_no_torch_and_no_logic_of_training():
    for file in (SOURCE / "cli").glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not names & {"torch", "lightning", "numpy", "monai"}, file.name


@pytest.mark.parametrize("statement", ["import semivox", "from semivox.cli import main; main(['--help'])"])
def test_start_up_imports_nothing_heavy(statement):
    heavy = ("torch", "lightning", "monai", "scipy", "SimpleITK", "matplotlib", "nibabel", "pydicom", "numpy")
    code = f"import sys\n{statement}\nprint([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_no_torchvision_is_installed_beside_a_cpu_torch():
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True)
    assert done.returncode != 0


def test_nothing_is_unpickled_or_evaluated():
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for forbidden in (
            "pickle.load",
            "yaml.load(",
            "eval(",
            "shell=True",
            "allow_pickle=True",
            "weights_only=False",
        ):
            if forbidden == "eval(":
                assert not any(
                    isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "eval"
                    for node in ast.walk(ast.parse(text))
                ), file.name
            else:
                assert forbidden not in text, (file.name, forbidden)
