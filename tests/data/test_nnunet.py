"""Images as nnU-Net v2 reads them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from semivox.data.case import Case
from semivox.data.image import read_volume
from semivox.data.nnunet import ending_for, label_map, place_images


@pytest.mark.parametrize(
    ("images", "ending"),
    [
        (["a.nii.gz", "b.NII.GZ"], ".nii.gz"),
        (["a.mha"], ".mha"),
        (["a.nii"], ".nii.gz"),
        (["a.mhd"], ".nii.gz"),
        (["a.nrrd", "b.nii.gz"], ".nii.gz"),
        (["a.jpg", "b.png"], ".png"),
        (["a.tiff", "b.tif"], ".tif"),
        (["a.png", "b.nii.gz"], ".nii.gz"),
    ],
)
def test_the_ending_is_the_images_own_where_nnunet_reads_it(images, ending):
    assert ending_for(Path(name) for name in images) == ending


def test_labels_are_consecutive_and_ignore_is_last():
    labels = label_map(("Background", "liver", "kidney"), {}, ignore=True)
    assert labels.names == ("background", "liver", "kidney")
    assert labels.values == (0, 1, 2)
    assert labels.ignore_value == 3


def colour(path: Path, mode: str) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 4), np.uint8)
    if mode == "P":
        Image.fromarray(pixels[..., :3]).quantize(16).save(path)
    else:
        Image.fromarray(pixels[..., : len(mode)]).save(path)
    return path


@pytest.mark.parametrize(("name", "mode", "files"), [("a.png", "RGB", 1), ("a.png", "RGBA", 3), ("a.png", "P", 3)])
def test_colours_are_one_file_where_nnunet_reads_three_channels_from_it(tmp_path, name, mode, files):
    image = colour(tmp_path / name, mode)
    placed = place_images(Case("case", (image,)), tmp_path / "out", ".png", link=False)
    assert [path.name for path in placed] == [f"case_{index:04d}.png" for index in range(files)]
    channels = np.concatenate([read_volume(path).array for path in placed])
    np.testing.assert_array_equal(channels, read_volume(image).array)


def test_a_lossy_picture_is_stored_without_further_loss(tmp_path):
    image = colour(tmp_path / "a.jpg", "RGB")
    placed = place_images(Case("case", (image,)), tmp_path / "out", ".png", link=True)
    np.testing.assert_array_equal(
        np.concatenate([read_volume(path).array for path in placed]), read_volume(image).array
    )
    assert not any(path.is_symlink() for path in placed)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7, 1), (5, 6, 7)])
def test_a_volume_has_three_axes_the_label_s_too(tmp_path, shape):
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine)
    nib.save(image, tmp_path / "a.nii.gz")
    (placed,) = place_images(Case("case", (tmp_path / "a.nii.gz",)), tmp_path / "out", ".nii.gz", link=False)
    ours, theirs = read_volume(placed), read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(ours.array, theirs.array)
    np.testing.assert_allclose(ours.grid.affine, theirs.grid.affine)
    assert sitk.ReadImage(str(placed)).GetDimension() == 3
    assert (placed.read_bytes() == (tmp_path / "a.nii.gz").read_bytes()) == (len(shape) == 3)


def test_a_format_that_nnunet_does_not_read_is_converted_with_its_values_and_grid(tmp_path):
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    image.SetSpacing((0.5, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    (placed,) = place_images(Case("case", (tmp_path / "a.mhd",)), tmp_path / "out", ".nii.gz", link=True)
    found = sitk.ReadImage(str(placed))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(found.GetSpacing(), image.GetSpacing())


def test_links_lead_to_the_images_and_differing_names_of_one_format_are_made_equal(tmp_path):
    image = colour(tmp_path / "a.TIFF", "RGB")
    (placed,) = place_images(Case("case", (image,)), tmp_path / "out", ".tif", link=True)
    assert placed.name == "case_0000.tif"
    assert placed.is_symlink()
    assert placed.resolve() == image.resolve()
