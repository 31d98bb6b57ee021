"""nnU-Net v2: preprocessing, data loader with augmentation, sliding window, first training step."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from benchmarks.peers import ROTATION_DEG, SCALE

CONFIGURATION = "3d_fullres"
FOREGROUND_SHARE = 0.33
OWN_ROTATION_DEG, OWN_SCALE = 30.0, (0.85, 1.25)
"""What nnU-Net's trainer has, of patches that must hold foreground and of the margin that it reads round them."""


def in_memory(image: str, label: str, spacing_mm: float, order: int) -> Callable[[], dict[str, np.ndarray]]:
    """One case of two classes, already read: crop, z-score, resampling, sampled places of each class."""
    reader = SimpleITKIO()
    values, properties = reader.read_images([image])
    truth, _ = reader.read_seg(label)
    plans, configuration, description = *planned(spacing_mm, order=order), dataset(2)
    preprocessor = DefaultPreprocessor(verbose=False)

    def turn() -> dict[str, np.ndarray]:
        found, segmentation, _ = preprocessor.run_case_npy(
            values, truth, dict(properties), plans, configuration, description
        )
        # SimpleITK's arrays are Z, Y, X.
        return {"image": found.transpose(0, 3, 2, 1), "label": segmentation[0].transpose(2, 1, 0)}

    return turn


def to_store(image: str, label: str, spacing_mm: float, order: int, folder: str) -> Callable[[], None]:
    """One case of two classes from its files to those that training reads."""
    Path(folder).mkdir()
    plans, configuration, description = *planned(spacing_mm, order=order), dataset(2)
    preprocessor = DefaultPreprocessor(verbose=False)

    names = (f"{folder}/case_{number}" for number in count())

    def turn() -> None:
        preprocessor.run_case_save(next(names), [image], label, plans, configuration, description)

    return turn


def batches(
    labelled: Sequence[Sequence[str]],
    classes: int,
    patch: Sequence[int],
    steps: int,
    folder: str,
    augmentation: str,
    unlabelled: Sequence[str] = (),
) -> Callable[[], None]:
    """Batches of four from nnU-Net's compressed files of scans that need no further resampling.

    labelled: (image, label) files. unlabelled: left aside, as nnU-Net has no use for them. augmentation: see
    `augmentations`.
    """
    Path(folder).mkdir()
    patch = tuple(reversed(patch))
    plans, configuration, description = *planned(1.0, patch), dataset(classes)
    preprocessor = DefaultPreprocessor(verbose=False)
    for number, (image, label) in enumerate(labelled):
        preprocessor.run_case_save(f"{folder}/case_{number}", [image], label, plans, configuration, description)
    first_patch, transforms = augmentations(patch)[augmentation]
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(folder),
        batch_size=4,
        patch_size=first_patch,
        final_patch_size=patch,
        label_manager=plans.get_label_manager(description),
        oversample_foreground_percent=FOREGROUND_SHARE,
        transforms=transforms,
    )

    def turn() -> None:
        for _ in range(steps):
            batch = next(loader)
            assert batch["data"].shape == (4, 1, *patch)

    return turn


def augmentations(patch: Sequence[int]) -> dict[str, tuple[Sequence[int], BasicTransform]]:
    """Name → the patch that is read, and what is done with it.

    `turned`: quarter turns in the square plane, mirrored. `rotated`: besides, one in three is rotated, scaled or both.
    `strong`: what nnU-Net trains with.
    """
    turned = [
        Rot90Transform(num_axis_combinations=1, num_rot_per_combination=(0, 1, 2, 3), allowed_axes={1, 2}),
        MirrorTransform(allowed_axes=(0, 1, 2)),
    ]
    angle, own_angle = np.deg2rad(ROTATION_DEG), np.deg2rad(OWN_ROTATION_DEG)
    either = 1 - (2 / 3) ** 0.5  # drawn on their own; one patch in three is rotated or scaled
    moved = SpatialTransform(
        patch,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=either,
        rotation=(-angle, angle),
        p_scaling=either,
        scaling=SCALE,
        p_synchronize_scaling_across_axes=1,
        mode_seg="nearest",
    )
    own = nnUNetTrainer.get_training_transforms(
        patch, (-own_angle, own_angle), None, mirror_axes=(0, 1, 2), do_dummy_2d_data_aug=False
    )
    return {
        "turned": (patch, ComposeTransforms(turned)),
        "rotated": (get_patch_size(patch, angle, angle, angle, SCALE), ComposeTransforms([moved, *turned])),
        "strong": (get_patch_size(patch, own_angle, own_angle, own_angle, OWN_SCALE), own),
    }


def sliding_window(
    network: str, scan: str, window: Sequence[int], overlap: float, classes: int
) -> Callable[[], dict[str, np.ndarray]]:
    """Classes of a scan, of a network that `torch.export` saved; without mirroring."""
    predictor = nnUNetPredictor(
        tile_step_size=1 - overlap,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    values = torch.from_numpy(np.load(scan))
    plans, configuration = planned(1.0, window)
    predictor.manual_initialization(
        Exported(network),
        plans,
        configuration,
        None,
        dataset(classes),
        "nnUNetTrainer",
        inference_allowed_mirroring_axes=None,
    )

    def turn() -> dict[str, np.ndarray]:
        logits = predictor.predict_sliding_window_return_logits(values)
        return {"classes": logits.argmax(0).byte().numpy()}

    return turn


class Exported(torch.nn.Module):
    """A saved network. Hidden from the module's children, for it is as it was exported and refuses `eval`."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.run = (torch.export.load(file).module(),)

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        return self.run[0](patch)


def first_step(dataset_id: int) -> None:
    """Trains one step, then says so. The data set has been planned and preprocessed."""
    trainer = get_trainer_from_args(str(dataset_id), CONFIGURATION, "all", device=torch.device("cpu"))
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    print("first step", flush=True)


def planned(
    spacing_mm: float, patch: Sequence[int] = (64, 64, 64), order: int = 3
) -> tuple[PlansManager, ConfigurationManager]:
    """Plans as nnU-Net's planner writes them, whose images are cubic, for isotropic voxels and one channel."""
    resampling: dict[str, Any] = {}
    for what, is_label, spline in (("data", False, order), ("seg", True, 1), ("probabilities", False, 1)):
        resampling[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        settings = {"is_seg": is_label, "order": spline, "order_z": 0, "force_separate_z": None}
        resampling[f"resampling_fn_{what}_kwargs"] = settings
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "spacing": [spacing_mm] * 3,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {},
        **resampling,
    }
    plans = PlansManager(
        {
            "dataset_name": "Dataset001_Benchmark",
            "plans_name": "nnUNetPlans",
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "foreground_intensity_properties_per_channel": {"0": {}},
            "configurations": {CONFIGURATION: configuration},
        }
    )
    return plans, plans.get_configuration(CONFIGURATION)


def dataset(classes: int) -> dict[str, Any]:
    """dataset.json of so many classes, the background among them."""
    labels = {"background": 0} | {f"class_{index}": index for index in range(1, classes)}
    return {"channel_names": {"0": "image"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
