"""How samples are moved in space: flips, quarter turns and small affine changes, drawn once and replayed at will.

A geometry first rotates and scales the crop about its centre (interpolated), then turns and flips it (exact). The order
of axes is that of the patch; angles and scales are meant in millimetres, so voxels need not be cubes. In 3-D a sample
is rotated about one of its axes: then trilinear interpolation falls apart into a plane and a line, which on a CPU is
some ten times faster than in one go, at equal values.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.sampling.draws import generator
from semivox.settings import Part

Probability = Annotated[float, Field(ge=0, le=1)]

SIDES = (
    (("left", "right"), ("l", "r"), ("lh", "rh"), ("lt", "rt")),
    (("anterior", "posterior"), ("ant", "post"), ("front", "back")),
    (("superior", "inferior"), ("sup", "inf"), ("upper", "lower")),
)
"""Per axis X, Y, Z, the words in label names that tell its two sides apart."""


class WeakSettings(Part):
    """The weak view: flips, quarter turns, rotation and scale. Intensities stay as they are."""

    flip_axes: tuple[Literal[0, 1, 2], ...] | None = None
    """Axes (0, 1, 2 for X, Y, Z: left-right, back-front, foot-head) flipped with probability one half each. null: all
    of them, but not those whose sides label names tell apart ('kidney_left' beside 'kidney_right' stops 0)."""
    turn_probability: Probability = 0.0
    """How often a sample is turned by 90°, 180° or 270° in a plane whose two axes have equal patch size and spacing.
    Off unless asked for, since scans come in one orientation; the literature's LA recipe has 0.75."""
    affine_probability: Probability = 0.3
    """How often a sample is rotated and scaled by the two settings below."""
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 20.0
    """Largest angle in degrees, drawn evenly from minus to plus this; in 3-D about one of the axes."""
    scale: tuple[float, float] = (0.8, 1.25)
    """Smallest and largest magnification (1.25: what is seen grows by a quarter), drawn evenly in its logarithm."""

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= scale[0] <= scale[1] <= 10:
            raise ValueError(f"{list(scale)} is no range of magnifications; give [low, high] between 0.1 and 10")
        return scale


def flip_axes(settings: WeakSettings, names: Iterable[str], anatomical: bool = True) -> tuple[int, ...]:
    """Axes of the scan (0, 1, 2 for X, Y, Z) that may be flipped, given the label names.

    anatomical: whether these axes are left-right, back-front and foot-head; where they are not, none is flipped if
    names tell any sides apart.
    """
    if settings.flip_axes is not None:
        return settings.flip_axes
    lower = {name.lower() for name in names}
    free = tuple(axis for axis in range(3) if not _tells_apart(lower, SIDES[axis]))
    return free if anatomical or len(free) == 3 else ()


def _tells_apart(names: set[str], sides: Iterable[tuple[str, str]]) -> bool:
    """Whether some name is another one with its sides exchanged. Short words count only where they stand alone."""
    for one, other in sides:
        word = one if len(one) > 3 else rf"(?<![a-z]){one}(?![a-z])"
        if any(re.search(word, name) and re.sub(word, other, name) in names for name in names):
            return True
    return False


def square_planes(patch: Sequence[int], spacing_mm: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of axes of equal patch size and voxel size, in which a patch can be turned by 90°."""
    return [
        (a, b)
        for a, b in itertools.combinations(range(len(patch)), 2)
        if patch[a] == patch[b] and np.isclose(spacing_mm[a], spacing_mm[b], rtol=0.01)
    ]


@dataclass(frozen=True, eq=False)
class Geometry:
    """What was drawn for B samples of D space axes: `apply` replays it on any map, `undo` takes it back.

    The parameters are small and stay on the CPU whatever the device of the maps. `affine` maps an offset from the
    patch's centre, in voxels, to the offset in the crop where its value is read.
    """

    patch: tuple[int, ...]
    affine: np.ndarray
    """(B, D, D) float64."""
    axes: np.ndarray
    """(B, D) int: axis d of the result is axis `axes[b, d]` of the rotated crop."""
    flips: np.ndarray
    """(B, D) bool: axes of the result that are then reversed."""

    @classmethod
    def identity(cls, count: int, patch: tuple[int, ...]) -> "Geometry":
        """Nothing moves."""
        dimensions = len(patch)
        return cls(
            patch=patch,
            affine=np.tile(np.eye(dimensions), (count, 1, 1)),
            axes=np.tile(np.arange(dimensions), (count, 1)),
            flips=np.zeros((count, dimensions), bool),
        )

    @classmethod
    def draw(
        cls,
        seeds: Sequence[int],
        patch: tuple[int, ...],
        spacing_mm: np.ndarray,
        settings: WeakSettings,
        flippable: Sequence[int],
        rotatable: Sequence[int],
    ) -> "Geometry":
        """One draw per seed. `spacing_mm` is (B, D).

        `flippable` and `rotatable` are axes of the patch; rotation and scale leave the other axes alone.
        """
        geometry = cls.identity(len(seeds), patch)
        for row, (seed, spacing) in enumerate(zip(seeds, spacing_mm, strict=True)):
            random = generator(seed, "geometry")
            for axis in flippable:
                geometry.flips[row, axis] = random.random() < 0.5
            planes = square_planes(patch, spacing)
            if planes and random.random() < settings.turn_probability:
                geometry._add_turns(row, planes[random.integers(len(planes))], int(random.integers(1, 4)))
            if rotatable and random.random() < settings.affine_probability:
                inside = np.ix_(rotatable, rotatable)
                geometry.affine[row][inside] = _draw_affine(random, spacing[list(rotatable)], settings)
        return geometry

    @classmethod
    def draw_turns(cls, seeds: Sequence[int], patch: tuple[int, ...], spacing_mm: Sequence[float]) -> "Geometry":
        """Per seed 0 to 3 quarter turns in a square plane of the patch; 0 or 2 in any plane where none is square."""
        geometry = cls.identity(len(seeds), patch)
        square = square_planes(patch, spacing_mm)
        planes = square or list(itertools.combinations(range(len(patch)), 2))
        for row, seed in enumerate(seeds):
            random = generator(seed, "turns")
            plane = planes[random.integers(len(planes))]
            geometry._add_turns(row, plane, int(random.integers(4) if square else 2 * random.integers(2)))
        return geometry

    def _add_turns(self, row: int, plane: tuple[int, int], turns: int) -> None:
        """Turns sample `row`, whose axes are in order yet, by `turns` times 90°."""
        first, second = plane
        if turns % 2:
            self.axes[row, [first, second]] = second, first
        self.flips[row, first] ^= turns in (1, 2)
        self.flips[row, second] ^= turns in (2, 3)

    def __len__(self) -> int:
        return len(self.affine)

    def __getitem__(self, rows: slice) -> "Geometry":
        """What was drawn for some of the samples."""
        return Geometry(self.patch, *(part[rows] for part in (self.affine, self.axes, self.flips)))

    def repeat(self, times: int) -> "Geometry":
        """Each sample's draw `times` in a row, for the slices of a clip."""
        return Geometry(self.patch, *(np.repeat(part, times, axis=0) for part in (self.affine, self.axes, self.flips)))

    def margin(self) -> np.ndarray:
        """(B, D) int: voxels on both sides of the patch that a crop must hold so that rotation brings in no border."""
        half = (np.array(self.patch) - 1) / 2
        return np.maximum(0, np.ceil(np.abs(self.affine) @ half - half - 1e-6)).astype(int)

    def reach(self) -> np.ndarray:
        """(B, D): half sides, in voxels, of the centred box in the crop that is surely seen in the patch."""
        half = (np.array(self.patch) - 1) / 2
        extent = np.abs(np.linalg.inv(self.affine)) @ half
        fit = np.divide(half, extent, out=np.ones_like(extent), where=extent > half)
        return fit.min(axis=1, keepdims=True) * half

    def take(self, row: int, *crops: Tensor) -> list[Tensor]:
        """The patch of sample `row` from each of its crops (..., *space), which extend the patch by its `margin`.

        Fractions are interpolated linearly, labels and masks by their nearest voxel. Samples that are not rotated are
        the crop bit for bit. Outside the crop lies 0, False or, for integers, `IGNORE`.
        """
        source = np.array(self.patch) + 2 * self.margin()[row]
        return [self._turn(self._rotate(crop, row, self.affine[row], source, self.patch), row) for crop in crops]

    def apply(self, maps: Tensor) -> Tensor:
        """Moves maps (B, ..., *space) as the samples were moved; same shape and type, differentiable.

        `space` is the patch or a coarser or finer grid over it. Nothing is known beyond the patch: what a rotation
        brings in is 0, False or, for integers, `IGNORE`.
        """
        space = maps.shape[maps.dim() - len(self.patch) :]
        patch = np.array(self.patch)
        moved = [self._rotate(one, row, self.affine[row], patch, space) for row, one in enumerate(maps)]
        return torch.stack([self._turn(one, row) for row, one in enumerate(moved)])

    def undo(self, maps: Tensor) -> Tensor:
        """The inverse of `apply`: exact for flips and turns, interpolated where a sample was rotated or scaled."""
        space = maps.shape[maps.dim() - len(self.patch) :]
        patch = np.array(self.patch)
        back = []
        for row, one in enumerate(maps):
            lead = one.dim() - len(self.patch)
            one = one.flip([lead + int(axis) for axis in np.flatnonzero(self.flips[row])])
            one = _permute(one, np.argsort(self.axes[row]))
            back.append(self._rotate(one, row, np.linalg.inv(self.affine[row]), patch, space))
        return torch.stack(back)

    def _rotate(self, maps: Tensor, row: int, affine: np.ndarray, source: np.ndarray, target: Sequence[int]) -> Tensor:
        """Reads maps, which extend over `source` voxels of the patch's grid, at `target` places all over the patch."""
        if np.array_equal(self.affine[row], np.eye(len(self.patch))):
            return maps
        return _interpolate(maps, affine * np.array(self.patch)[None, :] / source[:, None], target)

    def _turn(self, one: Tensor, row: int) -> Tensor:
        lead = one.dim() - len(self.patch)
        axes = [lead + int(axis) for axis in np.flatnonzero(self.flips[row])]
        turned = _permute(one, self.axes[row])
        return turned.flip(axes) if axes else turned


def _draw_affine(random: np.random.Generator, spacing_mm: np.ndarray, settings: WeakSettings) -> np.ndarray:
    """(d, d) voxel offsets in the patch → voxel offsets in the crop, for the d axes that may be rotated."""
    count = len(spacing_mm)
    zoom = np.exp(random.uniform(*np.log(settings.scale)))
    angle = np.deg2rad(random.uniform(-1, 1) * settings.rotation_deg)
    rotation = np.eye(count)
    if count > 1:
        first, second = sorted(random.permutation(count)[:2])
        rotation[first, first] = rotation[second, second] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
    return rotation / zoom * spacing_mm[None, :] / spacing_mm[:, None]


def _permute(maps: Tensor, axes: np.ndarray) -> Tensor:
    """Permutes the space axes, which are the last ones."""
    lead = maps.dim() - len(axes)
    return maps.permute(*range(lead), *(lead + int(axis) for axis in axes))


def _interpolate(maps: Tensor, affine: np.ndarray, target: Sequence[int]) -> Tensor:
    """Values of maps (..., *space) at the places of a grid: (..., *target), of the same type.

    Both grids extend over [-1, 1] along each axis; `affine` (D, D) leads from a place in the target to one in the maps.
    In 3-D it rotates about one axis at most.
    """
    dimensions = len(affine)
    lead, space = maps.shape[: maps.dim() - dimensions], maps.shape[maps.dim() - dimensions :]
    # Interpolation pads with zeros, so the value meant for outside is made zero meanwhile.
    outside = 0 if maps.is_floating_point() or maps.dtype == torch.bool else IGNORE
    precision = torch.float64 if maps.dtype == torch.float64 else torch.float32
    values = maps.reshape(-1, *space).to(precision)
    if outside:
        values = values - outside
    linear = maps.is_floating_point()
    if dimensions == 2:
        values = _in_plane(values, affine, target, linear)
    else:
        axis = _axis_apart(affine)
        plane = [other for other in range(3) if other != axis]
        values = _along_line(values.movedim(1 + axis, 1), affine[axis, axis], target[axis], linear)
        stacked = values.flatten(0, 1)
        moved = _in_plane(stacked, affine[np.ix_(plane, plane)], [target[other] for other in plane], linear)
        values = moved.unflatten(0, values.shape[:2]).movedim(1, 1 + axis)
    if outside:
        values = values + outside
    return values.reshape(*lead, *target).to(maps.dtype)


def _axis_apart(affine: np.ndarray) -> int:
    """The axis that a rotation (3, 3) is about."""
    mixed = (affine != 0) & ~np.eye(3, dtype=bool)
    return int(np.flatnonzero(~(mixed | mixed.T).any(axis=0))[0])


def _in_plane(values: Tensor, affine: np.ndarray, target: Sequence[int], linear: bool) -> Tensor:
    """(N, a, b) → (N, *target)."""
    # grid_sample counts axes from the last to the first.
    theta = torch.from_numpy(np.pad(affine[::-1, ::-1], ((0, 0), (0, 1)))[None]).to(values)
    grid = F.affine_grid(theta, [1, 1, *target], align_corners=False)
    return F.grid_sample(values[None], grid, mode="bilinear" if linear else "nearest", align_corners=False)[0]


def _along_line(values: Tensor, factor: float, target: int, linear: bool) -> Tensor:
    """(N, n, a, b) → (N, target, a, b), as a product with a matrix of interpolation weights."""
    count = values.shape[1]
    if factor == 1 and count == target:
        return values
    ends = torch.arange(target, device=values.device, dtype=values.dtype)
    places = (((ends + 0.5) / target - 0.5) * factor + 0.5) * count - 0.5
    voxels = torch.arange(count, device=values.device, dtype=values.dtype)
    if linear:
        weights = (1 - (places[:, None] - voxels).abs()).clamp_min(0)
    else:
        weights = (places.round()[:, None] == voxels).to(values)
    return torch.einsum("kj,njab->nkab", weights, values)
