"""TransMedSeg."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.losses.graph import Affinity, cell_affinity, correlation_clustering, normalised_graph
from semivox.losses.reduction import batch_sum
from semivox.methods.augmented import Augmented
from semivox.methods.bidirectional_copy_paste import BidirectionalCopyPaste, interleave, pair
from semivox.methods.clock import Clock
from semivox.methods.method import Optimiser, Terms
from semivox.methods.problem import Problem
from semivox.networks.network import Network
from semivox.sampling.batch import Batch


class TransMedSeg(Augmented):
    """TransMedSeg: a transferable semantic framework for semi-supervised medical image segmentation (Wang et al., arXiv
    2505.14753, 2025).

    The labelled scans are a source domain, the unlabelled ones a target. On top of bidirectional copy-paste with graph
    terms (GraphCL, Wang et al., ICML 2025) lies transferable semantic augmentation: the student's features f of
    labelled voxels move, class by class, as a Gaussian does whose mean is the shift of the class's mean from source to
    target and whose covariance is the class's in the target, δ ~ N(α Δμ_y, α Σ_y). Nothing is drawn; the expected
    cross-entropy has an upper bound in closed form: L = L_BCP + κ L_CC + β mean CE(o + Q[y, :], y), with the table
    Q[k, c] = α (w_c - w_k)·Δμ_k + (α/2) (w_c - w_k)ᵀ Σ_k (w_c - w_k). α grows linearly from 0 to α₀ over the
    self-training. Prediction is the student's, or its average's, alone.

    No code of the paper is public and its full text could not be read: what its abstract and a summary tell is followed
    (the shift, the covariance, the one α), the rest is ours, each open choice a setting. Copy-paste is as in
    `bidirectional_copy_paste`. The graph terms rest on a summary of GraphCL and on DeepCut, from which its clustering
    loss follows. Clustering: the cells of a scan's coarsest map, of unit length, are put into K clusters by one graph
    convolution and two layers, and L_CC = -Tr(W S Sᵀ) / n² asks that like cells share one. Alignment: the coarsest
    maps X of a batch are mixed by how alike the samples' structure scores s are, X + D^{-1/2} s sᵀ D^{-1/2} X W_g, W_g
    near 0 at first; in prediction each sample is its own graph.
    """

    Base = BidirectionalCopyPaste

    class Settings(Augmented.Settings, BidirectionalCopyPaste.Settings):
        graph: Literal["none", "clustering", "clustering_and_alignment"] = "clustering"
        """GraphCL's terms that take part. none: copy-paste with the augmentation alone. Alignment, of which one summary
        is all that is known, is out by default: measured by us, one of two runs on development cases fell apart."""
        clustering_weight: float = Field(0.01, ge=0)
        """κ: weight of the clustering term."""
        temperature: float = Field(2.0, gt=0)
        """τ: the larger, the more cells attract one another."""
        clusters: int = Field(10, ge=2)
        """K: clusters at most."""
        affinity: Affinity = "deepcut"
        """W: F Fᵀ - max / τ (deepcut), or (F Fᵀ - max) / τ as the summary prints it, which attracts nothing."""

    settings: Settings
    views = BidirectionalCopyPaste.views
    requires = frozenset({"features"})
    paper: ClassVar[str] = "Wang et al., arXiv 2505.14753, 2025"

    def build(self, problem: Problem) -> None:
        super().build(problem)
        self.maps: list[Tensor] = []
        if self.settings.graph == "none":
            return
        teacher = self.base.teachers()[0]
        student, averaged = teacher.source, teacher.module
        assert isinstance(student, Network)
        assert isinstance(averaged, Network)
        width = student.feature_channels[-1]
        self.clustering = Clustering(width, self.settings.clusters)
        student.encoder.register_forward_hook(self._read_maps)
        if self.settings.graph == "clustering_and_alignment":
            self.graph = StructureGraph(width)
            for network in (student, averaged):
                aligned = network.encoder.get_submodule("1")
                assert isinstance(aligned, Aligned)
                aligned.neighbours.register_forward_hook(self._ask_neighbours)

    def dressed(self, network: Network) -> Network:
        if self.settings.graph == "clustering_and_alignment":
            network.encoder = nn.Sequential(network.encoder, Aligned(network.feature_channels[-1]))
        return network

    def _read_maps(self, module: nn.Module, read: tuple[Tensor], gave: list[Tensor]) -> None:
        if self.training:
            self.maps.append(gave[-1])

    def _ask_neighbours(self, module: nn.Module, read: tuple[Tensor], gave: Tensor) -> Tensor:
        return self.graph(gave) if self.training else gave

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        self.maps.clear()
        terms = super().losses(batch, clock)
        if batch.unlabelled is not None and self.settings.graph != "none":
            (a, b), (p, q) = pair(batch.labelled), pair(batch.unlabelled)
            valid = interleave(p.valid & a.valid, b.valid & q.valid)
            terms["clustering"] = self.settings.clustering_weight * self.cluster(self.maps[0], valid)
        self.maps.clear()
        return terms

    def cluster(self, features: Tensor, valid: Tensor) -> Tensor:
        """L_CC of the student's coarsest map (B, A, *cells); valid: (B, *space), a cell of padding alone is out."""
        cells = F.adaptive_max_pool3d if features.ndim == 5 else F.adaptive_max_pool2d
        counted = cells(valid.float(), features.shape[2:]).flatten(1) > 0
        nodes = F.normalize(features.flatten(2).transpose(1, 2).float(), dim=2) * counted.unsqueeze(2)
        affinity = cell_affinity(nodes, self.settings.temperature, self.settings.affinity)
        return correlation_clustering(affinity, self.clustering(nodes), counted)

    def optimisers(self) -> Sequence[Optimiser]:
        return (Optimiser("main", (self,)),)


class Clustering(nn.Module):
    """One graph convolution and two layers: cells (B, N, A) of unit length → shares in K clusters (B, N, K)."""

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__()
        self.convolution = nn.Linear(width, width, bias=False)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.Linear(width, clusters))

    def forward(self, cells: Tensor) -> Tensor:
        graph = normalised_graph((cells @ cells.transpose(1, 2)).clamp(min=0))
        return self.layers(F.elu(self.convolution(graph @ cells))).float().softmax(2)


class Aligned(nn.Module):
    """X + N(X) W_g on the coarsest map X; features → features. N is the batch's graph in training, else X itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.neighbours = nn.Identity()
        self.mixed = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.mixed.weight, std=0.01 / width**0.5)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        x = features[-1]
        mixed = self.mixed(self.neighbours(x.flatten(2).transpose(1, 2)))
        return [*features[:-1], x + mixed.transpose(1, 2).reshape(x.shape)]


class StructureGraph(nn.Module):
    """Mixes the samples of a batch by how alike their structure is: cells (B, N, A) → D^{-1/2} s sᵀ D^{-1/2} cells.

    A small network gives each sample structure scores s (B, S), positive; D_ii = Σ_j s_i·s_j. As s sᵀ has few ranks,
    the sum over the batch is taken once for each score, over all processes.
    """

    def __init__(self, width: int, scores: int = 8) -> None:
        super().__init__()
        self.analyser = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, scores))

    def forward(self, cells: Tensor) -> Tensor:
        scores = self.analyser(cells.mean(1)).float().softmax(1)
        scores = scores * (scores @ batch_sum(scores.sum(0))).rsqrt().unsqueeze(1)
        together = batch_sum(torch.einsum("jr,jna->rna", scores, cells.float()))
        return torch.einsum("ir,rna->ina", scores, together).to(cells.dtype)
