"""Sliding-window inference on a CPU: MONAI's inferer beside Semivox, same network, window and overlap.

The literature's V-Net, trained for a few steps so that its answers are decided, on a made-up scan of the left atrium
set's median size: windows of 112x112x80, overlap 0.5, Gaussian weights. MONAI runs as its documentation shows it;
Semivox as `semivox predict` does (bfloat16, memory layout, kept heap). Each way has a process of its own, for the
allocator is set once per process and its peak memory is its own; they run in turns, and seconds are of processor time
on one thread, so that the ratio holds though the machine's speed may change.

    python benchmarks/inference.py
"""

import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, cross_entropy

from semivox.inference.windows import Windows
from semivox.networks import make_network
from semivox.networks.network import Network
from semivox.training.cpu import keep_heap, lay_out

WAYS = ("monai", "semivox")
SCAN, WINDOW, OVERLAP = (193, 143, 88), (112, 112, 80), 0.5
"""The median size of the left atrium set's published crops, and the window that its papers use."""
LARGE, LARGE_CLASSES = (512, 512, 800), 5
TRAINING_STEPS, TRAINING_PATCH = 80, (32, 32, 32)
SETTINGS = {"levels": 5, "dropout": 0.0}


def measure(rounds: int = 2) -> dict[str, float]:
    """Seconds of each way (median) and their ratio, the share of voxels with the same class, peak memory."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder / "weights.pt")
        pools = {way: ProcessPoolExecutor(1, context) for way in WAYS}
        runs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                runs[way].append(pools[way].submit(run, way, folder).result())
        with ProcessPoolExecutor(1, context) as pool:
            large_gib = pool.submit(large_peak_gib, folder).result()
        for pool in pools.values():
            pool.shutdown()
        monai, ours = (np.load(folder / f"{way}.npy") for way in WAYS)
    seconds = {way: statistics.median([second for second, _ in runs[way]]) for way in WAYS}
    return {
        "MONAI (s)": round(seconds["monai"], 2),
        "Semivox (s)": round(seconds["semivox"], 2),
        "ratio": round(seconds["monai"] / seconds["semivox"], 2),
        "argmax agreement": round(float((monai == ours).mean()), 5),
        "share of foreground": round(float((monai > 0).mean()), 3),
        "MONAI peak (GiB)": round(runs["monai"][-1][1], 2),
        "Semivox peak (GiB)": round(runs["semivox"][-1][1], 2),
        f"Semivox peak at {'x'.join(map(str, LARGE))}, {LARGE_CLASSES} classes (GiB)": round(large_gib, 2),
    }


def run(way: str, folder: Path) -> tuple[float, float]:
    """Predicts the scan one way, writes the classes beside the weights; processor seconds, and peak memory in GiB."""
    torch.set_num_threads(1)
    network = load(folder / "weights.pt")
    scan, _ = blobs(SCAN, seed=1)
    if way == "semivox":
        keep_heap()
        lay_out(network)
    started = time.process_time()
    probabilities = semivox(network, scan) if way == "semivox" else monai(network, scan)
    seconds = time.process_time() - started
    np.save(folder / f"{way}.npy", probabilities.argmax(0).byte().numpy())
    return seconds, peak_gib()


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


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
