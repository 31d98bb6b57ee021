import subprocess

import pytest

from semivox.training.environment import commit


def git(folder, *words):
    identity = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A package of one file in a checkout with one commit."""
    package = tmp_path / "src" / "semivox"
    package.mkdir(parents=True)
    (package / "code.py").write_text("one = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "One")
    return package


def test_a_checkout_tells_its_commit_and_whether_files_were_changed(package, tmp_path):
    git(tmp_path, "tag", "--annotate", "v1", "--message", "a tag is no commit")
    head = git(tmp_path, "rev-parse", "--short=7", "HEAD")
    assert commit(package) == head
    (package / "code.py").write_text("one = 2\n")
    assert commit(package) == f"{head}-dirty"


def test_an_installed_package_has_no_commit_not_even_in_somebody_elses_repository(package, tmp_path):
    installed = tmp_path / ".venv" / "lib" / "python3" / "site-packages" / "semivox"
    installed.mkdir(parents=True)
    assert commit(installed) is None


def test_without_git_there_is_no_commit(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit(package) is None
