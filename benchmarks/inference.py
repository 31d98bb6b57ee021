"""Sliding-window inference on a CPU: MONAI's inferer and nnU-Net v2's predictor beside Semivox, same network, window
and overlap.

The literature's V-Net, trained for a few steps so that its answers are decided, on a made-up scan of the left atrium
set's median size: windows of 112x112x80, overlap 0.5, Gaussian weights. MONAI runs as its documentation shows it,
nnU-Net without mirroring and with the network that `torch.export` saved; Semivox as `semivox predict` does (bfloat16,
memory layout, kept heap). Each way has a process of its own, for the allocator is set once per process and its peak
memory is its own; they run in turns, and seconds are of processor time on one thread, so that the ratio holds though
the machine's speed may change.

    python -m benchmarks inference
"""

import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, cross_entropy

from benchmarks.turns import MODULES, Way, beside, peers_versions, take_turns
from semivox.inference.windows import Windows
from semivox.networks import make_network
from semivox.networks.network import Network
from semivox.training.cpu import keep_heap, lay_out

PEERS = ("MONAI", "nnU-Net")
SCAN, WINDOW, OVERLAP = (193, 143, 88), (112, 112, 80), 0.5
"""The median size of the left atrium set's published crops, and the window that its papers use."""
LARGE, LARGE_CLASSES = (512, 512, 800), 5
TRAINING_STEPS, TRAINING_PATCH = 80, (32, 32, 32)
SETTINGS = {"levels": 5, "dropout": 0.0}


def measure(rounds: int = 3) -> dict[str, Any]:
    """Median seconds of each way and their ratios, the share of voxels with the same class, peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder / "weights.pt")
        export(load(folder / "weights.pt"), folder / "network.pt2")
        scan, _ = blobs(SCAN, seed=1)
        np.save(folder / "scan.npy", scan.numpy())
        taken = take_turns([way(who, folder) for who in ("Semivox", *PEERS)], rounds)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            large_gib = pool.submit(large_peak_gib, folder).result()
        found = {who: np.load(folder / f"{who}.npz")["classes"] for who in taken}
    ours = found["Semivox"]
    return {
        **beside({who: turns.median for who, turns in taken.items()}, PEERS, "s"),
        **{
            f"argmax agreement with {who}": round(float((ours == found[who]).mean()), 5)
            for who in PEERS
            if who in found
        },
        "share of foreground": round(float((ours > 0).mean()), 3),
        **{f"{who} peak (GiB)": round(turns.peak_gib, 2) for who, turns in taken.items()},
        f"Semivox peak at {'x'.join(map(str, LARGE))}, {LARGE_CLASSES} classes (GiB)": round(large_gib, 2),
        "versions": peers_versions("nnunetv2", "monai", "torch"),
    }


def way(who: str, folder: Path) -> Way:
    """How one of them predicts the scan."""
    keep = folder / f"{who}.npz"
    if who == "nnU-Net":
        arguments = {"network": folder / "network.pt2", "scan": folder / "scan.npy"}
        window = {"window": WINDOW, "overlap": OVERLAP, "classes": 2}
        return Way(who, MODULES[who], "sliding_window", arguments | window, keep)
    return Way(who, __name__, f"of_{who.lower()}", {"folder": folder}, keep)


def of_semivox(folder: str) -> Callable[[], dict[str, np.ndarray]]:
    """The scan's classes as `semivox predict` finds them."""
    keep_heap()
    network = load(Path(folder) / "weights.pt")
    lay_out(network)
    scan = torch.from_numpy(np.load(Path(folder) / "scan.npy"))
    return lambda: {"classes": semivox(network, scan).argmax(0).byte().numpy()}


def of_monai(folder: str) -> Callable[[], dict[str, np.ndarray]]:
    """The scan's classes as MONAI's inferer finds them. MONAI is in this environment too, in the same version."""
    network = load(Path(folder) / "weights.pt")
    scan = torch.from_numpy(np.load(Path(folder) / "scan.npy"))
    return lambda: {"classes": monai(network, scan).argmax(0).byte().numpy()}


def semivox(network: Network, scan: Tensor) -> Tensor:
    windows = Windows(WINDOW, overlap=OVERLAP, autocast=torch.bfloat16)
    return windows.run(lambda patch: network(patch).float().softmax(1), scan)


@torch.no_grad()
def monai(network: Network, scan: Tensor) -> Tensor:
    from monai.inferers import sliding_window_inference

    logits = sliding_window_inference(scan[None], WINDOW, 2, network, overlap=OVERLAP, mode="gaussian")
    assert isinstance(logits, Tensor)
    return logits[0].softmax(0)


def large_peak_gib(folder: Path) -> float:
    """Peak memory of a large CT's sliding window. The network runs once; its answer stands for all further windows."""
    torch.set_num_threads(1)
    keep_heap()
    network = make_network("vnet", 3, 1, LARGE_CLASSES, {}, WINDOW).eval()
    lay_out(network)
    answers: list[Tensor] = []

    def once(patch: Tensor) -> Tensor:
        if not answers:
            answers.append(network(patch).float().softmax(1))
        return answers[0][: len(patch)]

    Windows(WINDOW, overlap=OVERLAP, autocast=torch.bfloat16).run(once, torch.zeros(1, *LARGE))
    return peak_gib()


def train(weights: Path) -> None:
    """A V-Net that tells bright blobs in noise, and writes its weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = make_network("vnet", 3, 1, 2, SETTINGS).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(TRAINING_STEPS):
        images, labels = zip(*(blobs(TRAINING_PATCH, seed=100 + 2 * step + index) for index in range(2)), strict=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.stack(images))
        loss = cross_entropy(logits.float(), torch.stack(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(network.state_dict(), weights)


def export(network: Network, file: Path) -> None:
    """Writes the network so that it runs where there is no Semivox, one window at a time."""
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, *WINDOW),)), file)


def load(weights: Path) -> Network:
    network = make_network("vnet", 3, 1, 2, SETTINGS)
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


def blobs(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """A scan (1, X, Y, Z) of bright blobs in noise, and their label (X, Y, Z)."""
    noise = torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))
    smooth = noise
    for _ in range(3):
        smooth = avg_pool3d(smooth, 9, stride=1, padding=4, count_include_pad=False)
    label = smooth > 0.7 * smooth.std()
    return 2 * label + 0.5 * noise, label[0].long()


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
