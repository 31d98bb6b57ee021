"""Which crop: a stateless map from a step to raw samples.

Sample i of a stream's global batch at a step is a function of (seed, stream, step, i) alone: not of the number of ranks
or workers, nor of the steps before. So a resumed run goes on as if never stopped, and nothing of the loader is saved.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from semivox.data.case import Case, Dataset
from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.planning.demand import Views
from semivox.planning.plan import Plan
from semivox.preparation.store import Store
from semivox.sampling.batch import RawBatch, RawStream
from semivox.sampling.draws import generator, seed_of
from semivox.sampling.geometry import Geometry, flip_axes
from semivox.sampling.order import LABELLED, UNLABELLED, CaseOrder, ClassOrder, Fork, case_order
from semivox.sampling.signed_distance import signed_distances
from semivox.sampling.views import ViewSettings


class PatchLoader(TorchDataset[RawBatch]):
    """A map step → `RawBatch`: this rank's contiguous share of the global batch, for any step from 0 on.

    store: the prepared scans. dataset: as the run sees it, hidden labels gone. plan: patch and batch size. views: what
        the method declares. seed: of the run.
    settings: how the weak view moves, for the margins that rotation needs.
    foreground_share: how often a labelled crop is made to hold a voxel of a class drawn evenly from those the case has;
        unlabelled crops never look at a label.
    forks: whether the tasks, or domains, of a stream come equally often, however many cases they have.
    balance_classes: whether labelled crops that must hold foreground are drawn by their class, from all cases that
        have it, each class equally often; else the case comes first and then one of its classes.
    order: another choice of cases.
    pseudo: case id → stored pseudo-label (X, Y, Z) uint8 on the prepared grid, for the unlabelled stream.

    Scans smaller than the patch are padded: image 0, label `IGNORE`, `valid` False. Raises SettingError where the data
    or the plan cannot fill a stream.
    """

    def __init__(
        self,
        store: Store,
        dataset: Dataset,
        plan: Plan,
        views: Views,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        *,
        settings: ViewSettings | None = None,
        foreground_share: float = 0.5,
        forks: Sequence[Fork] = (),
        balance_classes: bool = False,
        order: CaseOrder | None = None,
        pseudo: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        self.store = store
        self.dataset = dataset
        self.plan = plan
        self.kinds = {LABELLED: views.labelled}
        self.places = {LABELLED: plan.batch.labelled}
        """Samples (or clips) of each stream's global batch."""
        if views.unlabelled:
            self.kinds[UNLABELLED] = views.unlabelled
            self.places[UNLABELLED] = plan.batch.unlabelled * views.unlabelled_batches
        self.clip = views.clip
        self.multiples = {LABELLED: views.labelled_multiple, UNLABELLED: views.unlabelled_multiple}
        self.signed_distance = views.signed_distance
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.settings = settings or ViewSettings()
        self.foreground_share = foreground_share
        self.order = order or case_order(dataset, seed, forks)
        self.pseudo = pseudo
        self._check()
        self.class_order = ClassOrder(dataset, seed, store.classes, forks) if balance_classes else None
        if self.class_order is not None and not self.class_order.tree:
            raise SettingError(
                f"{dataset.name}: crops are to be drawn by class but no labelled case holds one; set"
                " training.balance.classes to false"
            )

        self._slice_axis = plan.slice_axis if plan.dimensions == 2 else None
        self._axes = [axis for axis in range(3) if axis != self._slice_axis]
        """The patch's axes among X, Y, Z."""
        flippable = flip_axes(self.settings.weak, dataset.labels.names, not plan.preparation.slices_last)
        self._flippable = tuple(place for place, axis in enumerate(self._axes) if axis in flippable)
        coarse = plan.preparation.coarse_axis
        self._fine = tuple(place for place, axis in enumerate(self._axes) if axis != coarse)
        self._window = np.array(plan.window)
        if self._slice_axis is not None:
            self._window[self._slice_axis] = self.clip
        self._known = {task: np.array(dataset.known_classes(task)) for task in {case.task for case in dataset}}
        self._spacing_mm: dict[str, np.ndarray] = {}

    def _check(self) -> None:
        name = self.dataset.name
        if not self.dataset.labelled():
            raise SettingError(f"{name}: no training case has a label; give at least one case a file in labelsTr")
        if UNLABELLED in self.places and not self.dataset.unlabelled():
            raise SettingError(
                f"{name}: the method learns from unlabelled scans but every training case has a label; add scans with "
                "--unlabelled DIR, hide labels with --labelled N, or use --method supervised"
            )
        if not 0 <= self.foreground_share <= 1:
            raise SettingError(f"foreground_share is {self.foreground_share}; give a number from 0 to 1")
        if self.clip > 1 and self.plan.dimensions == 3:
            raise SettingError("the method sees clips of slices but the plan is 3-D; give it a patch of two numbers")
        for stream, places in self.places.items():
            if places == 0:
                raise SettingError(f"batch.{stream} is 0 but the method needs {stream} scans; set it to 1 or more")
            if places % self.ranks:
                raise SettingError(
                    f"batch.{stream} gives {places} samples a step, which {self.ranks} devices cannot share evenly; "
                    f"set it to a multiple of {self.ranks}"
                )
            multiple = self.multiples[stream] * self.ranks
            if places % multiple:
                raise SettingError(
                    f"batch.{stream} gives {places} samples a step, but the method mixes {self.multiples[stream]} at a"
                    f" time on each device; set it to a multiple of {multiple}"
                )

    def __getitem__(self, step: int) -> RawBatch:
        if step < 0:
            raise IndexError(f"step {step}: steps count from 0")
        unlabelled = self._read(UNLABELLED, step) if UNLABELLED in self.places else None
        return RawBatch(self._read(LABELLED, step), unlabelled, step)

    def _read(self, stream: str, step: int) -> RawStream:
        """One stream of this rank. What follows is per place first, then per sample: a place has `clip` of them."""
        places, clip = self.places[stream], self.clip
        share = places // self.ranks
        mine = range(self.rank * share, (self.rank + 1) * share)
        seeds = [seed_of(self.seed, stream, step, place) for place in mine]
        drawn = [self._draw(stream, step * places + place, seed) for place, seed in zip(mine, seeds, strict=True)]
        cases = [case for case, _ in drawn]
        images = [self.store.image(case.id) for case in cases]
        geometry = self._geometry(stream, cases, seeds)
        boxes = self._boxes(stream, drawn, seeds, images, geometry)

        label = pseudo = None
        if stream == LABELLED:
            label = self._gather([self.store.label(case.id) for case in cases], boxes, np.uint8, IGNORE)
        elif self.pseudo is not None:
            pseudo = self._gather([self.pseudo(case.id) for case in cases], boxes, np.uint8, IGNORE)

        cases = [case for case in cases for _ in range(clip)]
        inside = np.array([[box.first, box.last] for box in boxes])[:, :, self._axes].repeat(clip, axis=0)
        clips = slices = None
        if self._slice_axis is not None:
            clips = np.arange(share).repeat(clip)
            slices = np.concatenate([box.corner[self._slice_axis] + np.arange(clip) for box in boxes])
            depths = np.array([box.scan[self._slice_axis] for box in boxes]).repeat(clip)
            # A slice before or after the scan is all padding.
            inside[(slices < 0) | (slices >= depths)] = 0
        raw = RawStream(
            image=self._gather(images, boxes, np.float32, 0),
            label=label,
            pseudo=pseudo,
            channels=images[0].shape[0],
            shapes=tuple(tuple(box.size[self._axes].tolist()) for box in boxes for _ in range(clip)),
            inside=inside,
            geometry=geometry.repeat(clip),
            case=tuple(case.id for case in cases),
            domain=tuple(case.domain for case in cases),
            task=tuple(case.task for case in cases),
            known=np.array([self._known[case.task] for case in cases]),
            seeds=tuple(seed for seed in seeds for _ in range(clip)),
            clip=clips,
            slice_index=slices,
            fine_axes=self._fine,
        )
        if stream == LABELLED and self.signed_distance:
            raw = replace(raw, signed_distance=signed_distances(raw, self.dataset.labels.count))
        return raw

    def _draw(self, stream: str, n: int, seed: int) -> tuple[Case, int | None]:
        """The case of a stream's n-th sample and, where classes are balanced, the one that its crop must hold."""
        by_class = self.class_order if stream == LABELLED else None
        if by_class is not None and generator(seed, "class").random() < self.foreground_share:
            return by_class(n)
        return self.order(stream, n), None

    def _geometry(self, stream: str, cases: Sequence[Case], seeds: Sequence[int]) -> Geometry:
        if set(self.kinds[stream]) == {"plain"}:
            return Geometry.identity(len(seeds), self.plan.patch)
        for case in cases:
            if case.id not in self._spacing_mm:
                self._spacing_mm[case.id] = np.array(self.store.placement(case.id).spacing_mm)[self._axes]
        spacing_mm = np.array([self._spacing_mm[case.id] for case in cases])
        return Geometry.draw(seeds, self.plan.patch, spacing_mm, self.settings.weak, self._flippable, self._fine)

    def _boxes(
        self,
        stream: str,
        drawn: Sequence[tuple[Case, int | None]],
        seeds: Sequence[int],
        images: Sequence[np.ndarray],
        geometry: Geometry,
    ) -> list["_Box"]:
        """Per place, what is read: the patch (or the clip's patches) with the margin that its rotation needs."""
        margins = np.zeros((len(drawn), 3), int)
        margins[:, self._axes] = geometry.margin()
        # Along the slice axis a voxel may lie in any slice of the clip.
        reaches = np.full((len(drawn), 3), (self.clip - 1) / 2)
        reaches[:, self._axes] = geometry.reach()
        boxes = []
        for (case, wanted), seed, image, margin, reach in zip(drawn, seeds, images, margins, reaches, strict=True):
            scan = np.array(image.shape[1:])
            random = generator(seed, "crop")
            voxels = self._voxels(stream, case, wanted, random)
            start = self._start(voxels, scan, reach, random)
            boxes.append(_Box(start - margin, self._window + 2 * margin, scan))
        return boxes

    def _voxels(self, stream: str, case: Case, wanted: int | None, random: np.random.Generator) -> np.ndarray | None:
        """The voxels of which a crop must hold one: of the class that is wanted, else of a class drawn evenly from
        those that the case has; None where it may lie anywhere."""
        if stream != LABELLED or (self.class_order is not None and wanted is None):
            return None
        if self.class_order is None and random.random() >= self.foreground_share:
            return None
        foreground = self.store.foreground(case.id)
        if wanted is not None:
            return foreground[wanted]
        present = sorted(index for index, voxels in foreground.items() if 0 < index < IGNORE and len(voxels))
        return foreground[present[random.integers(len(present))]] if present else None

    def _start(
        self, voxels: np.ndarray | None, scan: np.ndarray, reach: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """The patch's first voxel, even over all places inside the scan (or round it, where the scan is smaller).

        Where the crop is to hold one of `voxels`, over those that keep it within `reach` of the patch's centre.
        """
        low = np.minimum(0, scan - self._window)
        high = np.maximum(0, scan - self._window)
        if voxels is not None:
            middle = voxels[random.integers(len(voxels))] - (self._window - 1) / 2
            first = np.clip(np.ceil(middle - reach), low, high).astype(int)
            high = np.maximum(first, np.clip(np.floor(middle + reach), low, high).astype(int))
            low = first
        return random.integers(low, high + 1)

    def _gather(self, arrays: Sequence[np.ndarray], boxes: Sequence["_Box"], dtype: type, fill: int) -> Tensor:
        """The boxes of arrays ([C,] X, Y, Z) one after another in one flat tensor, each copied once from where it lies.

        In 2-D a box falls into its slices ([C,] *space).
        """
        leads = [array.shape[:-3] for array in arrays]
        lengths = [int(np.prod(lead) * box.size.prod()) for lead, box in zip(leads, boxes, strict=True)]
        flat: np.ndarray = np.empty(sum(lengths), dtype)
        parts = np.split(flat, np.cumsum(lengths)[:-1])
        for part, array, lead, box in zip(parts, arrays, leads, boxes, strict=True):
            if self._slice_axis is None:
                target = part.reshape(*lead, *box.size)
            else:
                slices = part.reshape(self.clip, *lead, *box.size[self._axes])
                target = np.moveaxis(slices, 0, len(lead) + self._slice_axis)
            if not box.is_whole:
                target[...] = fill
            every = (slice(None),) * len(lead)
            scan_box = tuple(map(slice, box.corner + box.first, box.corner + box.last))
            target[(*every, *map(slice, box.first, box.last))] = array[(*every, *scan_box)]
        return torch.from_numpy(flat)


class _Box:
    """A box in a scan of size `scan`: `corner` and `size` in voxels along X, Y, Z; it may reach beyond the scan."""

    def __init__(self, corner: np.ndarray, size: np.ndarray, scan: np.ndarray) -> None:
        self.corner = corner
        self.size = size
        self.scan = scan
        self.first = np.clip(-corner, 0, size)
        """First voxel of the box that lies in the scan."""
        self.last = np.clip(scan - corner, self.first, size)
        """One past the last."""

    @property
    def is_whole(self) -> bool:
        """Whether all of the box lies in the scan."""
        return bool((self.first == 0).all() and (self.last == self.size).all())


def batches(loader: PatchLoader, first: int, last: int, workers: int = 0, pin: bool = False) -> DataLoader[RawBatch]:
    """The raw batches of steps first..last-1, in order, read ahead by `workers` processes (0: read when asked for)."""
    return DataLoader(
        loader,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
