"""Semivox's and, where `make peers` was run, the peers' ways on scans so small that nothing is measured."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.turns import take_turns

from benchmarks import batches, inference, preparation, startup, turns
from semivox.data import nifti
from semivox.data.layout import read_dataset
from semivox.data.phantom import write_phantom
from semivox.networks import make_network
from semivox.preparation.store import make_store

with_peers = pytest.mark.skipif(not turns.has_peers(), reason="needs the peers' environment, which `make peers` makes")
SMALL_SCAN, SMALL_PATCH = (40, 40, 24), (24, 24, 16)


@pytest.fixture
def small_batches(tmp_path, monkeypatch):
    """A function: who, augmentation → the way that makes batches of a small phantom."""
    monkeypatch.setattr(batches, "SCAN", SMALL_SCAN)
    monkeypatch.setattr(batches, "PATCH", SMALL_PATCH)
    dataset = write_phantom(tmp_path / "phantom", cases=6, labelled=3, test=0, size=SMALL_SCAN)
    store = make_store(dataset, batches.PREPARATION, tmp_path / "store")
    files = batches.write_prepared(dataset, store, tmp_path / "prepared")
    return lambda who, augmentation, steps=2: batches.way(who, augmentation, tmp_path, files, steps)


def test_others_read_the_values_of_our_store(small_batches, tmp_path):
    way = small_batches("MONAI", "turned")
    store = make_store(read_dataset(tmp_path / "phantom"), batches.PREPARATION, tmp_path / "store")
    assert [len(way.arguments[stream]) for stream in ("labelled", "unlabelled")] == [3, 3]
    for image, label in way.arguments["labelled"]:
        case = Path(image).name.removesuffix(".nii.gz")
        assert np.array_equal(nifti.read(Path(image)).array, store.image(case))
        assert np.array_equal(nifti.read(Path(label)).array[0], store.label(case))


@pytest.mark.parametrize("augmentation", batches.PEERS)
def test_our_batches_have_the_views_that_are_compared(small_batches, augmentation, monkeypatch):
    made = []
    make_batch = batches.make_batch
    monkeypatch.setattr(batches, "make_batch", lambda *given: made.append(make_batch(*given)))
    batches.semivox(**small_batches("Semivox", augmentation).arguments)()
    assert [batch.step for batch in made] == [0, 1]
    for batch in made:
        assert [tuple(view.shape) for view in batch.unlabelled.views] == [(2, 1, *SMALL_PATCH)] * 2
        assert [tuple(view.shape) for view in batch.labelled.views] == [(2, 1, *SMALL_PATCH)]
        rotated = np.abs(batch.labelled.geometry.affine - np.eye(3)).max() > 0
        assert not rotated or augmentation != "turned"


def test_the_usual_way_makes_the_same_batch(small_batches, tmp_path):
    batches.usual(**small_batches("h5", "rotated").arguments)()
    pools = [sorted((tmp_path / "prepared" / stream).glob("*.h5")) for stream in ("labelled", "unlabelled")]
    images, labels, noisy = batches.usual_batch(pools, 1.0, np.random.default_rng(0))
    assert images.shape == (4, 1, *SMALL_PATCH)
    assert labels.shape == (4, *SMALL_PATCH)
    assert 0 < (noisy - images[2:]).abs().max() <= 0.2 + 1e-6


@pytest.mark.slow
@with_peers
@pytest.mark.parametrize(
    ("who", "augmentation"), [(who, name) for name, peers in batches.PEERS.items() for who in peers if who != "h5"]
)
def test_every_peer_makes_batches(small_batches, who, augmentation):
    assert take_turns([small_batches(who, augmentation)], 1)[who].seconds[0] > 0


def test_preparation_is_measured_without_the_peers(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(preparation, "SHAPE", (30, 26, 20))
    monkeypatch.setattr(turns, "PEERS", tmp_path / "nowhere")
    figures = preparation.measure(rounds=1)
    assert figures["cubic, in memory"]["nnU-Net (ms)"] == "not run"
    assert all(figures[work]["Semivox (ms)"] > 0 for work in preparation.WORKS)


@pytest.mark.slow
@with_peers
def test_nnunet_gives_our_values_and_all_peers_prepare(monkeypatch):
    monkeypatch.setattr(preparation, "SHAPE", (38, 30, 24))
    figures = preparation.measure(rounds=1)
    assert figures["cubic, in memory"]["largest difference to nnU-Net's image"] < 1e-5
    for work, peers in preparation.WORKS.items():
        assert all(figures[work][f"{peer} (ms)"] > 0 for peer in peers)


@pytest.mark.slow
@with_peers
def test_nnunets_windows_give_the_classes_of_monais(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "WINDOW", (32, 32, 16))
    torch.manual_seed(0)
    network = make_network("vnet", 3, 1, 2, inference.SETTINGS).eval()
    inference.export(network, tmp_path / "network.pt2")
    scan, _ = inference.blobs((48, 40, 24), seed=1)
    np.save(tmp_path / "scan.npy", scan.numpy())
    take_turns([inference.way("nnU-Net", tmp_path)], 1)
    theirs, ours = np.load(tmp_path / "nnU-Net.npz")["classes"], inference.monai(network, scan).argmax(0).numpy()
    assert 0 < ours.mean() < 1
    assert (theirs == ours).mean() > 0.98


def test_values_that_are_not_nnunets_are_told(tmp_path):
    image, label = np.random.default_rng(0).normal(size=(1, 4, 5, 6)), np.zeros((4, 5, 6), np.uint8)
    np.savez(tmp_path / "Semivox.npz", image=image, label=label)
    np.savez(tmp_path / "nnU-Net.npz", image=image[:, ::-1, ::-1], label=label)
    assert max(preparation.differences(tmp_path).values()) == 0
    np.savez(tmp_path / "nnU-Net.npz", image=image, label=label)
    with pytest.raises(ValueError, match="not ours"):
        preparation.differences(tmp_path)


def test_a_training_is_timed_until_its_first_step_and_then_ended(tmp_path, monkeypatch):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    (tmp_path / ".installed").touch()
    # A loading process that outlives its parent, as nnU-Net has them.
    python.write_text(
        '#!/bin/sh\nsleep 40 &\necho $! >"$PIDS"\necho "some words"\nsleep 0.2\necho "first step"\nwait\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(turns, "PEERS", tmp_path)
    began = time.perf_counter()
    took = startup.said("MONAI", {}, {"PIDS": str(tmp_path / "pids")})()
    assert 0.2 <= took <= time.perf_counter() - began < 30, "its processes are ended, not waited for"
    child = (tmp_path / "pids").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout
    assert not state or state.startswith("Z")


def test_a_training_that_makes_no_step_is_told(tmp_path, monkeypatch):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    (tmp_path / ".installed").touch()
    python.write_text("#!/bin/sh\necho broken\n")
    python.chmod(0o755)
    monkeypatch.setattr(turns, "PEERS", tmp_path)
    with pytest.raises(RuntimeError, match="MONAI's training ended before its first step"):
        startup.said("MONAI", {}, {})()


def test_commands_are_timed_in_turns_and_what_is_missing_is_left_out(tmp_path):
    came = []
    clocks = {name: lambda name=name: came.append(name) or float(len(came)) for name in ("Semivox", "nnU-Net")}
    found = startup.in_turns(clocks | {"missing": startup.ended(str(tmp_path / "nothing"))}, 3)
    assert came == ["Semivox", "nnU-Net"] * 4
    assert found == {"Semivox": 5.0, "nnU-Net": 6.0}
    assert 0 < startup.ended(sys.executable, "-c", "pass")() < 20
