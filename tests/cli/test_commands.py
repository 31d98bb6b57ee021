"""The command line as a user types it: help, exit codes, what is printed."""

import subprocess
import sys

import pytest

from semivox.cli import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert f"semivox {command}" in text.partition("examples:")[2]


def test_importing_semivox_and_its_help_touch_nothing_heavy():
    """Together they are to stay under a second; what takes longer is one of these."""
    code = (
        "import sys, semivox, semivox.cli; semivox.cli.main(['--help']);"
        "heavy = {'torch', 'lightning', 'monai', 'SimpleITK', 'scipy', 'matplotlib', 'numpy', 'pydantic'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_methods_and_networks_tell_their_settings(capsys):
    for arguments, told in (
        (["methods"], "mean_teacher"),
        (["methods", "mt"], "consistency_weight = 0.1"),
        (["networks", "vnet"], "width = 16"),
        (["networks", "monai:UNet"], "channels = (16, 32, 64, 128, 256)"),
        (["networks", "monai:SegResNet"], "init_filters = 8"),
    ):
        assert main(arguments) == 0
        assert told in capsys.readouterr().out


def test_train_predict_evaluate_compare_and_report_follow_one_another(phantom, make_config, tmp_path, capsys):
    plan, out = tmp_path / "plan.yaml", tmp_path / "predictions"
    make_config().plan.save(plan)
    runs = [str(tmp_path / f"seed{seed}") for seed in range(2)]
    for seed, run in enumerate(runs):
        budget = ["--iterations", "3", "--device", "cpu", "--precision", "32", "--seed", str(seed)]
        command = ["train", str(phantom.root), "--plan", str(plan), *budget, "-s", "training.nesterov=yes"]
        assert main([*command, "consistency_weight=1", "--out", run]) == 0
    assert main(["predict", runs[0], str(phantom.root / "imagesTs"), "--out", str(out), "-s", "overlap=0.25"]) == 0
    assert main(["evaluate", str(out), str(phantom.root / "labelsTs"), "--out", str(tmp_path / "m.json")]) == 0
    assert main(["compare", *runs]) == 0
    assert main(["report", runs[0]]) == 0
    assert (tmp_path / "m.json").is_file()
    assert main(["train", str(phantom.root), "--plan", str(plan), "--iterations", "3", "--out", runs[0]]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"semivox: {runs[0]} already holds a run; continue it")
