"""How far domains lie apart: their intensities as scanned and as prepared, and what the trained encoder makes of them.

From images alone, a few scans of each domain; no label is opened.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from semivox.atomic import atomic_write_text
from semivox.data.case import Case, Dataset
from semivox.data.image import read_image
from semivox.errors import RunError
from semivox.inference.windows import Windows
from semivox.networks.network import Network
from semivox.planning.fingerprint import body_of, sampled
from semivox.preparation.orientation import ras_axes, reorient
from semivox.preparation.prepare import prepare_image
from semivox.preparation.settings import Preparation
from semivox.settings import Part, first_fault

CASES = 8
"""Scans of each domain that are looked at, evenly spread over its cases."""
WINDOWS = 4
"""Windows of each scan that are encoded: those nearest to its middle."""
BINS = 50


class Histogram(Part):
    """Voxels in `BINS` equal parts of [low, high], from the least 1st percentile of a domain to the greatest 99th."""

    channel: str
    low: float
    high: float
    shares: dict[str, tuple[float, ...]]
    """Domain → shares of all its voxels."""


class Place(Part):
    """A scan in the plane of the first two principal components of the encoder's features."""

    case: str
    domain: str
    is_trained: bool
    """Whether training saw its image."""
    first: float
    second: float


class DomainShift(Part):
    """What the picture of domain shift shows."""

    cases: dict[str, int]
    """Domain → scans that were looked at."""
    scanned: tuple[Histogram, ...]
    """Intensities inside the body, a histogram per channel."""
    prepared: tuple[Histogram, ...]
    """The same after preparation: what the network sees."""
    places: tuple[Place, ...] = ()
    """Empty where the network has no features to look at."""
    explained: tuple[float, float] = (0.0, 0.0)
    """Shares of the features' variance along the two components."""
    between: float = 0.0
    """Share of the features' variance that lies between the domains' means."""

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        atomic_write_text(path, self.model_dump_json(indent=1))

    @classmethod
    def load(cls, path: Path) -> "DomainShift":
        """Reads what `save` wrote; RunError where it is something else."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise RunError(f"{path}: is no picture of domains ({first_fault(error)}); delete it") from None


def domain_shift(
    dataset: Dataset,
    preparation: Preparation,
    network: Network | None,
    windows: Windows,
    progress: Callable[[int, int], None] | None = None,
) -> DomainShift:
    """Looks at a few scans of each domain of `dataset`, of all splits. `network`: a trained one, in evaluation mode."""
    chosen = [case for domain in dataset.domains for case in spread(dataset, domain)]
    raw, prepared, features = [], [], []
    for done, case in enumerate(chosen, start=1):
        volume = read_image(case, dataset)
        axes, flips = ras_axes(volume.grid.affine)
        channels = dataset.channels_of(case)
        raw.append(sampled(body_of(reorient(volume.array, axes, flips)), channels))
        array, _ = prepare_image(volume, preparation.of(dataset.modality(case)))
        prepared.append(sampled(array, channels))
        if network is not None and "features" in network.capabilities:
            features.append(bottleneck(network, torch.from_numpy(array), windows))
        if progress:
            progress(done, len(chosen))
    domains = [case.domain for case in chosen]
    shift = DomainShift(
        cases={domain: domains.count(domain) for domain in dataset.domains},
        scanned=histograms(raw, domains, dataset.channels),
        prepared=histograms(prepared, domains, dataset.channels),
    )
    if len(features) < 3:
        return shift
    return shift.model_copy(update=embedding(np.stack(features), chosen))


def spread(dataset: Dataset, domain: str) -> list[Case]:
    """At most `CASES` scans of a domain."""
    own = [case for case in dataset if case.domain == domain]
    places = np.linspace(0, len(own) - 1, min(len(own), CASES)).round().astype(int)
    return [own[place] for place in places]


def histograms(samples: Sequence[np.ndarray], domains: Sequence[str], channels: Sequence[str]) -> tuple[Histogram, ...]:
    """A histogram per channel of samples (C, n), one for each scan; every scan counts alike."""
    found = []
    for channel, name in enumerate(channels):
        own = {
            domain: np.concatenate([s[channel] for s, d in zip(samples, domains, strict=True) if d == domain])
            for domain in dict.fromkeys(domains)
        }
        ends = [np.percentile(values, (1, 99)) for values in own.values()]
        low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
        high = high if high > low else low + 1
        shares = {}
        for domain, values in own.items():
            counts, _ = np.histogram(values, BINS, (low, high))
            shares[domain] = tuple((counts / values.size).tolist())
        found.append(Histogram(channel=name, low=low, high=high, shares=shares))
    return tuple(found)


@torch.no_grad()
def bottleneck(network: Network, volume: Tensor, windows: Windows) -> np.ndarray:
    """The encoder's coarsest features (A,), a mean over space and over the windows in the middle of a scan (C, *)."""
    device = next(network.parameters()).device
    padded, _ = windows.pad(volume)
    middle = (np.array(padded.shape[1:]) - windows.window) / 2
    corners = sorted(product(*windows.starts(padded.shape[1:])), key=lambda corner: np.abs(corner - middle).sum())
    patches = [windows.patch(padded, corner) for corner in corners[:WINDOWS]]
    pooled = [network.encode(patch[None].to(device))[-1].flatten(2).mean(2)[0] for patch in patches]
    return torch.stack(pooled).float().mean(0).cpu().numpy()


def embedding(features: np.ndarray, cases: Sequence[Case]) -> dict[str, object]:
    """Principal components of features (n, A), one row for each case: what `DomainShift` holds of them."""
    centred = features.astype(np.float64) - features.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    total = max(float((sizes**2).sum()), np.finfo(float).tiny)
    names = np.array([case.domain for case in cases])
    between = sum((names == name).sum() * (centred[names == name].mean(0) ** 2).sum() for name in set(names))
    planar = left[:, :2] * sizes[:2]
    return {
        "places": tuple(
            Place(case=case.id, domain=case.domain, is_trained=case.split == "train", first=x, second=y)
            for case, (x, y) in zip(cases, planar.tolist(), strict=True)
        ),
        "explained": (float(sizes[0] ** 2 / total), float(sizes[1] ** 2 / total)),
        "between": float(between / total),
    }
