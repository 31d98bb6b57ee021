"""Prompts from predictions: what continues from slice to slice becomes a box, the rest is noise.

Physical constraints with a sliding window of SSS (Zhu et al., 2025). Its stages are known, its rules are not: those
here, and their numbers, are ours. All is done on runs, stretches of one class in a row of pixels: there are few of
them, so that components, overlaps and boxes of all classes and slices take milliseconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from semivox.settings import Part

UNIT_PIXELS = 256 * 256
"""Pixels of a slice in which a component of `UNIT_AREA` is the smallest that counts."""
UNIT_AREA = 16


class PromptRules(Part):
    """What counts as continuous."""

    window: int = Field(default=3, ge=2)
    """N: slices of a window; components at most N - 1 slices apart can be linked."""
    confidence: float = Field(default=0.5, ge=0, le=1)
    """τ_p: least confidence of a pixel that counts."""
    minimum_area: int | None = Field(default=None, ge=1)
    """a_min: least pixels of a component; None: 16 at 256x256, in proportion at other sizes."""
    overlap: float = Field(default=0.5, ge=0, le=1)
    """τ_o: least |u ∩ v| / min(|u|, |v|) of linked components."""
    area_ratio: float = Field(default=0.25, ge=0, le=1)
    """τ_a: least min(|u|, |v|) / max(|u|, |v|) of linked components."""
    minimum_slices: int = Field(default=2, ge=1)
    """L_min: least slices that a group covers, or all where there are fewer."""
    margin: float = Field(default=0.05, ge=0)
    """m: by how much of its side a box is widened at each end."""
    keep: Literal["all", "largest"] = "all"
    """Groups that are kept of each class; the largest has most pixels, of equal ones it is the first."""


@dataclass(frozen=True)
class BoxStack:
    """A box for each slice and foreground class, in the kind of array, and on the device, of what it was made of."""

    boxes: Tensor
    """(T, K, 4) float32: x0, y0, x1, y1 in pixels, x along the last axis; pixels at their index; 0 where not valid."""
    valid: Tensor
    """(T, K) bool. A box between two slices that have the class may be valid though the slice itself is empty."""
    label: Tensor
    """(T, H, W) uint8: the continuous components, classes 1 to K, 0 elsewhere."""

    @property
    def masks(self) -> Tensor:
        """(T, K, H, W) bool."""
        classes = torch.arange(1, self.valid.shape[1] + 1, device=self.label.device)
        return self.label.unsqueeze(1) == classes.view(1, -1, 1, 1)


def find_prompts(
    label: Tensor | np.ndarray,
    confidence: Tensor | np.ndarray | None,
    classes: int,
    rules: PromptRules | None = None,
    clip: Sequence[int] | Tensor | np.ndarray | None = None,
) -> BoxStack:
    """Boxes and cleaned masks of a stack of slices.

    label: (T, H, W), 0 to K, of adjacent slices in order; other values are background. confidence: (T, H, W), None:
    all count. classes: K + 1, background included. clip: (T,), which of several stacks each slice is of, equal ones
    side by side; nothing is linked between two. Tensors of a device are sent to the CPU once, as bytes, and back once.
    No confident foreground gives no valid box.
    """
    rules = rules or PromptRules()
    label = torch.as_tensor(label)
    stack = label.to(torch.uint8)
    if confidence is not None:
        stack = stack * (torch.as_tensor(confidence) >= rules.confidence)
    clips = np.zeros(len(stack), int) if clip is None else torch.as_tensor(clip).cpu().numpy()
    found = _find(stack.cpu().numpy(), classes - 1, rules, clips)
    return BoxStack(*(torch.from_numpy(part).to(label.device) for part in found))


def tight_boxes(label: Tensor | np.ndarray, classes: int, margin: float = 0.0) -> BoxStack:
    """The bounds of each class in each slice, widened by `margin` of a side, whatever its components; for masks that
    are clean already, as mixed ones, or true ones. Shapes as in `find_prompts`."""
    label = torch.as_tensor(label)
    stack = label.to(torch.uint8).cpu().numpy()
    runs = _runs(stack, classes - 1)
    boxes, valid = _bounds(runs, stack.shape, classes - 1, margin)
    made = (boxes.astype(np.float32), valid, _painted(runs, stack.shape))
    return BoxStack(*(torch.from_numpy(part).to(label.device) for part in made))


def box_maps(stack: BoxStack, size: Sequence[int]) -> Tensor:
    """The boxes as maps (T, K, H, W) bool of slices of `size` (H, W), ends rounded to whole pixels; see `bounds`."""
    ends = stack.boxes.round()
    y, x = (torch.arange(length, device=ends.device) for length in size)
    across = (x >= ends[..., 0, None]) & (x <= ends[..., 2, None])
    along = (y >= ends[..., 1, None]) & (y <= ends[..., 3, None])
    return along[..., None] & across[..., None, :] & stack.valid[..., None, None]


def bounds(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (B, K, 4) float32 around what is True in maps (B, K, H, W), and which there are (B, K); on the device."""
    ends = []
    for axis in (3, 2):  # x, of columns that have any pixel, then y
        has = maps.any(5 - axis).to(torch.uint8)
        ends.append((has.argmax(2), has.shape[2] - 1 - has.flip(2).argmax(2)))
    (left, right), (top, bottom) = ends
    valid = maps.flatten(2).any(2)
    return torch.stack([left, top, right, bottom], 2) * valid[..., None].float(), valid


def keep_continuous(classes: np.ndarray, rules: PromptRules | None = None, slice_axis: int = 2) -> np.ndarray:
    """A label map (X, Y, Z), classes up to 254, of which only what continues from slice to slice across `slice_axis` is
    left; the rest becomes background."""
    stack = np.ascontiguousarray(np.moveaxis(classes, slice_axis, 0))
    cleaned = find_prompts(stack, None, int(stack.max(initial=0)) + 1, rules).label.numpy()
    return np.moveaxis(cleaned, 0, slice_axis).astype(classes.dtype)


@dataclass(frozen=True)
class _Runs:
    """Stretches of one foreground class in a row, in raster order; slices follow one another."""

    row: np.ndarray
    """Over all slices: slice · H + y."""
    first: np.ndarray
    """x of its first pixel."""
    last: np.ndarray
    kind: np.ndarray
    """Its class, 1 to K."""

    @property
    def length(self) -> np.ndarray:
        return self.last - self.first + 1

    def __getitem__(self, chosen: np.ndarray) -> "_Runs":
        return _Runs(self.row[chosen], self.first[chosen], self.last[chosen], self.kind[chosen])

    def meeting(self, rows_on: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (i, j) of runs of one class, j so many rows after i, with pixels at most `reach` columns apart."""
        stride = int(self.last.max(initial=0)) + 3
        starts, ends = self.row * stride + self.first, self.row * stride + self.last
        offset = rows_on * stride
        begin = np.searchsorted(ends, starts + offset - reach)
        count = np.searchsorted(starts, ends + offset + reach, side="right") - begin
        i = np.repeat(np.arange(len(count)), count)
        j = np.arange(len(i)) + np.repeat(begin - (np.cumsum(count) - count), count)
        same = self.kind[i] == self.kind[j]
        return i[same], j[same]


def _runs(stack: np.ndarray, kinds: int) -> _Runs:
    """The runs of classes 1 to `kinds` in (T, H, W) uint8."""
    width = stack.shape[2]
    change = np.ones(stack.shape, bool)
    np.not_equal(stack[..., 1:], stack[..., :-1], out=change[..., 1:])
    start = np.flatnonzero(change)
    end = np.append(start[1:], stack.size)
    kind = stack.reshape(-1)[start]
    chosen = (kind > 0) & (kind <= kinds)
    row, first = np.divmod(start[chosen], width)
    return _Runs(row, first, first + (end - start)[chosen] - 1, kind[chosen].astype(int))


def _components(count: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Number of the component of each of `count` nodes, with edges i-j; numbered by their first nodes."""
    found = connected_components(coo_array((np.ones(len(i), bool), (i, j)), (count, count)), directed=False)[1]
    _, first, which = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]


def _find(
    stack: np.ndarray, kinds: int, rules: PromptRules, clips: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (T, K, 4), which are valid (T, K), and the kept label map (T, H, W), of the pixels that count."""
    depth, height, width = stack.shape
    least = rules.minimum_area or max(1, round(UNIT_AREA * height * width / UNIT_PIXELS))
    runs = _runs(stack, kinds)
    i, j = runs.meeting(1, 1)
    inside = runs.row[j] % height > 0  # the first row of a slice does not touch the last one of the slice before
    node = _components(len(runs.row), i[inside], j[inside])
    large = np.bincount(node, runs.length) >= least
    runs, node = runs[large[node]], (np.cumsum(large) - 1)[node[large[node]]]
    if not len(node):
        return np.zeros((depth, kinds, 4), np.float32), np.zeros((depth, kinds), bool), np.zeros_like(stack)

    _, one = np.unique(node, return_index=True)
    place, kind = runs.row[one] // height, runs.kind[one]
    area = np.bincount(node, runs.length).astype(int)
    u, v = _judged(runs, node, place, area, height, rules, clips)
    group = _components(len(area), u, v)
    kept_group = _kept_groups(group, place, kind, area, clips, rules)
    kept = kept_group[group]

    chosen = kept[node]
    boxes, valid = _bounds(runs[chosen], stack.shape, kinds, rules.margin)
    for t, k, ends in _gaps(u[kept[u]], v[kept[u]], place, kind):
        if not valid[t, k]:
            boxes[t, k] = boxes[ends, k].mean(0)
            valid[t, k] = True
    return boxes.astype(np.float32), valid, _painted(runs[chosen], stack.shape)


def _judged(
    runs: _Runs,
    node: np.ndarray,
    place: np.ndarray,
    area: np.ndarray,
    height: int,
    rules: PromptRules,
    clips: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Edges u-v, in node order, between components of a class in slices at most N - 1 apart that overlap enough and do
    not differ too much in area."""
    pairs, shared = [], []
    for apart in range(1, rules.window):
        i, j = runs.meeting(apart * height, 0)
        pairs.append(node[i] * len(area) + node[j])
        shared.append(np.minimum(runs.last[i], runs.last[j]) - np.maximum(runs.first[i], runs.first[j]) + 1)
    pair, which = np.unique(np.concatenate(pairs), return_inverse=True)
    overlap = np.bincount(which, np.concatenate(shared), minlength=len(pair))
    u, v = np.divmod(pair, len(area))
    smaller, larger = np.minimum(area[u], area[v]), np.maximum(area[u], area[v])
    linked = (overlap >= rules.overlap * smaller) & (smaller >= rules.area_ratio * larger)
    linked &= (overlap > 0) & (clips[place[u]] == clips[place[v]])
    return u[linked], v[linked]


def _kept_groups(
    group: np.ndarray, place: np.ndarray, kind: np.ndarray, area: np.ndarray, clips: np.ndarray, rules: PromptRules
) -> np.ndarray:
    """Which groups cover enough slices; with `keep: largest`, the largest one of each class in each clip."""
    count = int(group.max()) + 1
    _, one = np.unique(group, return_index=True)
    covered = np.bincount(np.unique(group * len(clips) + place) // len(clips), minlength=count)
    clip = clips[place[one]]
    slices = (clips == clip[:, None]).sum(1)
    kept = covered >= np.minimum(rules.minimum_slices, slices)
    if rules.keep == "largest":
        pixels = np.where(kept, np.bincount(group, area), -1)
        order = np.lexsort((np.arange(count), -pixels, kind[one], clip))
        belongs = np.stack([clip, kind[one]])[:, order]
        is_first = np.append(True, (belongs[:, 1:] != belongs[:, :-1]).any(0))
        kept &= np.isin(np.arange(count), order[is_first])
    return kept


def _gaps(
    u: np.ndarray, v: np.ndarray, place: np.ndarray, kind: np.ndarray
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Slice, class index and the slices of both ends, for each slice that an edge leaps over, in node order."""
    wide = place[v] - place[u] > 1
    for begin, end, k in zip(place[u[wide]], place[v[wide]], kind[u[wide]] - 1, strict=True):
        for between in range(begin + 1, end):
            yield between, k, (begin, end)


def _bounds(runs: _Runs, shape: Sequence[int], kinds: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Widened bounds (T, K, 4), float64, within the slice, of each class in each slice, and which there are (T, K)."""
    depth, height, width = shape
    slice_index, y = np.divmod(runs.row, height)
    cell = slice_index * kinds + runs.kind - 1
    low = np.full((2, depth * kinds), np.inf)
    high = np.full((2, depth * kinds), -np.inf)
    for axis, (begin, end) in enumerate(((runs.first, runs.last), (y, y))):
        np.minimum.at(low[axis], cell, begin)
        np.maximum.at(high[axis], cell, end)
    valid = np.isfinite(low[0])
    low, high = np.where(valid, low, 0.0), np.where(valid, high, -1.0)
    border = margin * (high - low + 1)
    largest = np.array([[width - 1], [height - 1]])
    ends = np.concatenate([np.clip(low - border, 0, largest), np.clip(high + border, 0, largest)])
    boxes = np.where(valid, ends, 0.0).T.reshape(depth, kinds, 4)
    return boxes, valid.reshape(depth, kinds)


def _painted(runs: _Runs, shape: Sequence[int]) -> np.ndarray:
    """The label map (T, H, W) uint8 that has these runs."""
    depth, height, width = shape
    begin = runs.row * width + runs.first
    end = begin + runs.length
    size = depth * height * width
    # Background and run in turn.
    lengths = np.stack([np.append(begin, size) - np.append(0, end), np.append(runs.length, 0)], 1)
    values = np.stack([np.zeros(len(begin) + 1, np.uint8), np.append(runs.kind, 0).astype(np.uint8)], 1)
    return np.repeat(values.ravel(), lengths.ravel()).reshape(depth, height, width)
