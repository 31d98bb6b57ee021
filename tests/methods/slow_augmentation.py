"""Transferable semantic augmentation once more, in NumPy, for the tests of the methods that have it."""

import itertools

import numpy as np
import torch

from semivox.data.labels import IGNORE
from semivox.inference.postprocessing import keep_largest_component


@torch.no_grad()
def read_by_classifier(network, image):
    """The map that the network's classifier reads of an image, and its logits; NumPy, float64."""
    features = network.decode(network.encode(image))[-1]
    return features.double().numpy(), network.head(features).double().numpy()


def pseudo_labels(logits, valid, largest_component=True, confidence=0.0):
    """The likeliest class, cleaned, `IGNORE` on padding and below the confidence."""
    label = np.where(valid, logits.argmax(1), 0)
    if largest_component:
        volumes = label if label.ndim == 4 else label[..., None]
        label = np.stack([keep_largest_component(volume) for volume in volumes]).reshape(label.shape)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    sure = powers.max(1) / powers.sum(1) >= confidence
    return np.where(valid & sure, label, IGNORE)


def tap_sum(convolution):
    """w_c, Σ over the positions of the kernel."""
    kernel = convolution.weight.detach().double().numpy()
    return sum(kernel[(slice(None), slice(None), *tap)] for tap in itertools.product(*map(range, kernel.shape[2:])))


class SlowAugmentation:
    """The statistics of both domains, and the term."""

    def __init__(self, classes, decay=0.99):
        self.classes = classes
        self.decay = decay
        self.seen = {"source": {}, "target": {}}
        """Domain → class → (count, mean, covariance)."""

    def update(self, domain, features, label):
        """features: (B, A, *space). label: (B, *space). decay None: every voxel counts alike."""
        known = self.seen[domain]
        for k in range(self.classes):
            rows = np.moveaxis(features, 1, -1)[label == k]
            if not len(rows):
                continue
            n, mean, covariance = len(rows), rows.mean(0), np.cov(rows.T, bias=True)
            if k in known:
                count, old_mean, old_covariance = known[k]
                w = n / (count + n) if self.decay is None else 1 - self.decay
                apart = np.outer(old_mean - mean, old_mean - mean)
                covariance = (1 - w) * old_covariance + w * covariance + w * (1 - w) * apart
                mean, n = (1 - w) * old_mean + w * mean, count + n
            known[k] = n, mean, covariance

    def table(self, weights, strength, diagonal=False, reverse=False):
        """Q, entry by entry."""
        start, end = ("target", "source") if reverse else ("source", "target")
        table = np.zeros((self.classes, self.classes))
        for k, c in itertools.product(range(self.classes), repeat=2):
            apart = weights[c] - weights[k]
            if k in self.seen[end]:
                covariance = self.seen[end][k][2]
                covariance = np.diag(np.diag(covariance)) if diagonal else covariance
                table[k, c] += 0.5 * strength * apart @ covariance @ apart
                if k in self.seen[start]:
                    table[k, c] += strength * apart @ (self.seen[end][k][1] - self.seen[start][k][1])
        return table


def corrected_cross_entropy(logits, label, table, per_class=False):
    """Mean of CE(o + Q[y, :], y) over the voxels with a label, or over the classes' means."""
    means, counts = [], []
    for k, row in enumerate(table):
        o = np.moveaxis(logits, 1, -1)[label == k] + row
        if len(o):
            means.append(np.mean(np.log(np.exp(o - o[:, k : k + 1]).sum(1))))
            counts.append(len(o))
    return np.mean(means) if per_class else np.average(means, weights=counts)
