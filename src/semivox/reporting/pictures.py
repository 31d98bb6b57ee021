"""Overlays: a slice as a small PNG, contours as SVG path data over it, both in millimetres.

Scans are turned to the nearest RAS axes and shown as radiologists see them: the patient's right on the left of the
picture, anterior (axial) or superior (coronal, sagittal) at the top.
"""

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np
from contourpy import LineType, contour_generator
from PIL import Image

from semivox.data.volume import Volume

DISTINCT = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
"""Okabe and Ito's palette, told apart with any colour vision."""

COLOURS = (*DISTINCT, "#9a6fe0", "#a6d854", "#7f4f24", "#ff9da7", "#882255", "#00d5c8", "#c9b18c")
"""Then others, for joined sets of many organs; more classes than these start over."""

LEAST_MARGIN = 8
"""Voxels shown at least around what is segmented."""

BARS_MM = (100, 50, 20, 10, 5, 2, 1)
"""Lengths that a scale bar may have."""

LONGEST_PIXELS = 512
"""Slices with more pixels along a side are reduced to this, so that the page stays small."""


@dataclass(frozen=True)
class Plane:
    """A cut across one axis; the other two run to the right and downwards, in order.

    `letters` stand at the left, right, top and bottom of the picture.
    """

    name: str
    across: int
    letters: tuple[str, str, str, str]

    @property
    def inside(self) -> tuple[int, int]:
        right, down = (axis for axis in range(3) if axis != self.across)
        return right, down


PLANES = (
    Plane("axial", 2, ("R", "L", "A", "P")),
    Plane("coronal", 1, ("R", "L", "S", "I")),
    Plane("sagittal", 0, ("A", "P", "S", "I")),
)
PICTURE = Plane("", 2, ("", "", "", ""))
"""A photograph or slice without anatomy: as it is stored."""


@dataclass(frozen=True)
class Contour:
    """Outlines of one class in one slice, as SVG path data in mm; empty where the class is not there."""

    colour: str
    prediction: str
    reference: str


@dataclass(frozen=True)
class Picture:
    """One slice: a data URI to be stretched over width × height mm, and what is drawn on it."""

    plane: str
    letters: tuple[str, str, str, str]
    width: float
    height: float
    image: str
    contours: tuple[Contour, ...]
    scale_mm: int
    """Length of the bar drawn as a scale; 0 for a photograph."""


def overlay(
    image: Volume, prediction: np.ndarray, reference: np.ndarray | None, classes: Mapping[str, tuple[int, ...]]
) -> tuple[Picture, ...]:
    """Pictures of one case: three planes through the largest extent of the reference, or one for a flat scan.

    `image` (channel, X, Y, Z); `prediction` and `reference` class indices (X, Y, Z) on its grid; `classes` name →
    class indices whose union is outlined. Of several channels the first is shown, of three of a picture the colours.
    """
    channels = image.array[:3] if image.is_picture and len(image.array) >= 3 else image.array[:1]
    maps = [prediction] if reference is None else [prediction, reference]
    if image.is_picture:
        white = max(float(channels.max()), 1.0)
        return (_picture(PICTURE, _Scene(list(channels), maps, classes, (1.0, 1.0, 1.0), (0.0, white))),)
    turn = nib.orientations.io_orientation(image.grid.affine)
    scan = _turn(channels[0], turn)
    x, y, z = (image.grid.spacing_mm[int(axis)] for axis in np.argsort(turn[:, 0]))
    scene = _Scene([scan], [_turn(part, turn) for part in maps], classes, (x, y, z), _window(scan))
    flat = [plane for plane in PLANES if scan.shape[plane.across] == 1]
    return tuple(_picture(plane, scene) for plane in flat[:1] or PLANES)


def domain_colours(names: Iterable[str]) -> dict[str, str]:
    """Domain → colour; the palette from its dark end, for thin lines on a white page."""
    return {name: DISTINCT[-1 - index % len(DISTINCT)] for index, name in enumerate(names)}


def colours(names: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Name → colour, the same in every picture, table and chart of a report."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


@dataclass(frozen=True, eq=False)
class _Scene:
    """A case as it is shown: axes in display order, `maps` the prediction and, where there is one, the reference."""

    channels: list[np.ndarray]
    maps: list[np.ndarray]
    classes: Mapping[str, tuple[int, ...]]
    spacing_mm: tuple[float, float, float]
    window: tuple[float, float]

    @cached_property
    def foreground(self) -> list[np.ndarray]:
        """Voxels (X, Y, Z) of each map that belong to a class."""
        indices = [index for indices in self.classes.values() for index in indices]
        return [np.isin(part, indices) for part in self.maps]

    @cached_property
    def leading(self) -> np.ndarray:
        """The foreground that decides which slices are shown: the reference's, where it is empty the prediction's.

        Not both together, for a prediction that is far too large would lead away from what had to be found.
        """
        return self.foreground[-1] if self.foreground[-1].any() else self.foreground[0]

    @cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """What is shown: what is segmented and half its size around it, all where nothing is."""
        segmented = np.logical_or.reduce(self.foreground)
        slices = []
        for axis in range(3):
            there = np.flatnonzero(segmented.any(axis=tuple(other for other in range(3) if other != axis)))
            if not len(there):
                return slice(None), slice(None), slice(None)
            first, last = int(there[0]), int(there[-1]) + 1
            margin = max((last - first) // 2, LEAST_MARGIN)
            slices.append(slice(max(first - margin, 0), last + margin))
        return slices[0], slices[1], slices[2]


def _turn(array: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The array in RAS axis order, then mirrored, so that indices grow to the left, posterior and inferior."""
    return nib.orientations.apply_orientation(array, turn)[::-1, ::-1, ::-1]


def _picture(plane: Plane, scene: _Scene) -> Picture:
    right, down = plane.inside
    areas = scene.leading.sum(axis=plane.inside)
    place = int(areas.argmax()) if areas.any() else len(areas) // 2

    def cut(array: np.ndarray) -> np.ndarray:
        """The slice (rows downwards, columns to the right) of an (X, Y, Z) array, inside the box."""
        return np.take(array, place, axis=plane.across)[scene.box[right], scene.box[down]].T

    pitch = scene.spacing_mm[right], scene.spacing_mm[down]
    slices = [cut(part) for part in scene.maps]
    contours = []
    for colour, indices in zip(colours(scene.classes).values(), scene.classes.values(), strict=True):
        paths = [_outline(np.isin(part, indices), pitch) for part in slices]
        contours.append(Contour(colour, paths[0], paths[1] if len(paths) > 1 else ""))
    image = _data_uri(np.stack([cut(channel) for channel in scene.channels], axis=-1), scene.window)
    rows, columns = slices[0].shape
    width, height = columns * pitch[0], rows * pitch[1]
    scale_mm = 0 if plane is PICTURE else next((bar for bar in BARS_MM if bar <= 0.4 * width), BARS_MM[-1])
    return Picture(plane.name, plane.letters, width, height, image, tuple(contours), scale_mm)


def _window(scan: np.ndarray) -> tuple[float, float]:
    """Intensities shown as black and white: the 0.5 and 99.5 percentiles of the scan without its darkest value."""
    # A percentile needs no more than every so many voxels, and a large scan has a hundred million.
    thin = tuple(slice(None, None, max(1, size // 100)) for size in scan.shape)
    values = scan[thin][np.isfinite(scan[thin])]
    body = values[values > values.min()] if values.size else values
    if not body.size:
        return 0.0, 1.0
    low, high = np.percentile(body, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _outline(mask: np.ndarray, pitch: tuple[float, float]) -> str:
    """SVG path data of the mask's outlines, in mm: column × pitch[0] to the right, row × pitch[1] downwards."""
    if not mask.any():
        return ""
    generator = contour_generator(z=np.pad(mask, 1).astype(np.float32), line_type=LineType.Separate)
    path = []
    for line in generator.lines(0.5):
        # The padded sample i stands for the voxel from i - 1 to i; its centre is at i - 0.5.
        points = np.asarray(line) - 0.5
        step = np.diff(points, axis=0)
        turn = np.ones(len(points), bool)
        turn[1:-1] = np.abs(step[1:, 0] * step[:-1, 1] - step[1:, 1] * step[:-1, 0]) > 1e-6
        corners = points[turn][:-1] * pitch
        path.append("M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in corners) + "Z")
    return "".join(path)


def _data_uri(pixels: np.ndarray, window: tuple[float, float]) -> str:
    """A slice (rows, columns, 1 or 3 channels) as the data URI of a PNG, of a JPEG for a colour picture."""
    low, high = window
    grey = (np.nan_to_num((pixels.astype(np.float32) - low) / (high - low)).clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(grey[..., 0] if grey.shape[-1] == 1 else grey)
    picture.thumbnail((LONGEST_PIXELS, LONGEST_PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    kind = "png" if picture.mode == "L" else "jpeg"
    picture.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
