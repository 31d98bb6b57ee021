import gzip
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from small_set import save_nifti, set_scaling

from semivox.data.case import Case, Dataset
from semivox.data.fault import FaultError
from semivox.data.image import (
    ending_of,
    label_ending,
    map_ending,
    read_classes,
    read_image,
    read_label,
    read_volume,
    write_label,
    write_map,
)
from semivox.data.labels import LabelMap
from semivox.data.volume import Grid
from semivox.errors import ResourceError

random = np.random.default_rng(7)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([0.7, 0.9, 3.0]), [11.5, -42.25, 7.0]
)


def orientations() -> list[np.ndarray]:
    """All 48: every order of the axes with every choice of signs."""
    found = []
    for axes, signs in product(permutations(range(3)), product((-1, 1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3)[list(axes)] * np.array(signs)[:, None]) @ np.diag([0.5, 1.25, 3.0])
        affine[:3, 3] = [-20.0, 13.0, 100.5]
        found.append(affine)
    return found


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_a_label_comes_back_as_it_was_written(tmp_path: Path, ending: str, dtype: type) -> None:
    values = random.integers(0, 100, (5, 6, 7)).astype(dtype)
    grid = Grid((5, 6, 7), OBLIQUE)
    write_label(tmp_path / f"case{ending}", values, grid)
    volume = read_volume(tmp_path / f"case{ending}")
    assert volume.array.dtype == dtype
    assert not volume.is_picture
    np.testing.assert_array_equal(volume.array[0], values)
    np.testing.assert_allclose(volume.grid.affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_the_affine_comes_back_in_all_48_orientations(tmp_path: Path, ending: str) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for index, affine in enumerate(orientations()):
        path = tmp_path / f"{index}{ending}"
        write_label(path, values, Grid((2, 3, 4), affine))
        volume = read_label(path)
        np.testing.assert_array_equal(volume.array, values)
        np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-9)


def test_an_affine_read_from_a_nifti_is_written_exactly(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), OBLIQUE), tmp_path / "scan.nii.gz")
    grid = read_volume(tmp_path / "scan.nii.gz").grid
    write_label(tmp_path / "prediction.nii.gz", np.zeros(grid.shape, np.uint8), grid)
    np.testing.assert_array_equal(nib.load(tmp_path / "prediction.nii.gz").affine, grid.affine)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_itk_files_lie_where_the_nifti_of_the_same_grid_lies(tmp_path: Path, ending: str) -> None:
    nib.save(nib.Nifti1Image(random.integers(0, 9, (4, 5, 6)).astype(np.int16), OBLIQUE), tmp_path / "scan.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.nii.gz")), str(tmp_path / f"scan{ending}"))
    nifti, other = read_volume(tmp_path / "scan.nii.gz"), read_volume(tmp_path / f"scan{ending}")
    np.testing.assert_array_equal(nifti.array, other.array)
    np.testing.assert_allclose(nifti.grid.affine, other.grid.affine, atol=1e-5)


def test_itk_reads_our_files_where_nibabel_reads_them(tmp_path: Path) -> None:
    for ending in (".nii.gz", ".nrrd"):
        write_label(tmp_path / f"case{ending}", np.ones((4, 5, 6), np.uint8), Grid((4, 5, 6), OBLIQUE))
        image = sitk.ReadImage(str(tmp_path / f"case{ending}"))
        expected = OBLIQUE @ [1, 2, 3, 1]
        assert image.TransformIndexToPhysicalPoint((1, 2, 3)) == pytest.approx(
            (-expected[0], -expected[1], expected[2]), abs=1e-4
        )


def test_the_sform_goes_before_the_qform_and_the_qform_before_nothing(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
    sform, qform = np.diag([1.0, 2.0, 3.0, 1.0]), np.diag([4.0, 5.0, 6.0, 1.0])
    for sform_code, qform_code, expected in ((1, 1, sform), (0, 1, qform), (2, 0, sform)):
        image.set_sform(sform, code=sform_code)
        image.set_qform(qform, code=qform_code)
        nib.save(image, tmp_path / "scan.nii")
        np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").grid.affine, expected, atol=1e-6)


def test_scaling_is_applied_without_overflow(tmp_path: Path) -> None:
    save_nifti(tmp_path / "scan.nii.gz", np.array([-32768, 0, 32767], np.int16).reshape(3, 1, 1))
    set_scaling(tmp_path / "scan.nii.gz", 1000.0, -5.0)
    array = read_volume(tmp_path / "scan.nii.gz").array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array.ravel(), [-32768005.0, -5.0, 32766995.0], rtol=1e-6)


def test_scaling_beyond_float32_is_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "scan.nii.gz", np.array([-32768, 0, 32767], np.int16).reshape(3, 1, 1))
    set_scaling(tmp_path / "scan.nii.gz", 3e38, 0.0)
    with pytest.raises(FaultError, match="overflows float32"):
        read_volume(tmp_path / "scan.nii.gz")


def test_nifti_2_and_big_endian_files_are_read(tmp_path: Path) -> None:
    values = random.integers(-5, 300, (3, 4, 5)).astype(np.int16)
    nib.save(nib.Nifti2Image(values, OBLIQUE), tmp_path / "two.nii.gz")
    big = nib.Nifti1Image(values, OBLIQUE, header=nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii.gz")
    for name in ("two", "big"):
        volume = read_volume(tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(volume.array[0], values)
        assert volume.array.dtype.isnative


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 1, 1)])
def test_a_flat_nifti_has_one_slice_and_keeps_its_millimetres(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), OBLIQUE), tmp_path / "slice.nii.gz")
    volume = read_volume(tmp_path / "slice.nii.gz")
    assert volume.array.shape == (1, 6, 5, 1)
    assert volume.grid.spacing_mm == pytest.approx((0.7, 0.9, 3.0))
    assert not volume.is_picture


def test_a_header_we_write_says_nothing_of_a_patient(tmp_path: Path) -> None:
    write_label(tmp_path / "p.nii.gz", np.zeros((2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4)))
    header = nib.load(tmp_path / "p.nii.gz").header
    assert bytes(header["descrip"]).strip(b"\0") == b""
    assert bytes(header["db_name"]).strip(b"\0") == b""
    assert list(header.extensions) == []


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_picture_has_columns_along_x_and_rows_along_y(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.uint8).reshape(2, 3)  # two rows of three columns
    Image.fromarray(rows).save(tmp_path / "p.png")
    volume = read_volume(tmp_path / "p.png")
    assert volume.is_picture
    assert volume.array.shape == (1, 3, 2, 1)
    assert volume.array[0, 2, 0, 0] == 2
    assert volume.array[0, 0, 1, 0] == 3
    np.testing.assert_array_equal(volume.grid.affine, np.eye(4))


@pytest.mark.parametrize(("ending", "tolerance"), [(".png", 0), (".tif", 0), (".bmp", 0), (".jpg", 20)])
def test_colour_is_three_channels_in_the_order_red_green_blue(tmp_path: Path, ending: str, tolerance: int) -> None:
    rows = np.zeros((16, 8, 3), np.uint8) + np.array([200, 100, 30], np.uint8)
    Image.fromarray(rows).save(tmp_path / f"p{ending}")
    array = read_volume(tmp_path / f"p{ending}").array.astype(int)
    assert array.shape == (3, 8, 16, 1)
    assert np.abs(array[:, 0, 0, 0] - [200, 100, 30]).max() <= tolerance


def test_transparency_is_dropped(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3), (1, 2, 3, 128)).save(tmp_path / "colour.png")
    Image.new("LA", (4, 3), (9, 128)).save(tmp_path / "grey.png")
    assert read_volume(tmp_path / "colour.png").array[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert read_volume(tmp_path / "grey.png").array[:, 0, 0, 0].tolist() == [9]


def test_a_palette_is_colour_in_an_image_and_class_values_in_a_label(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "p.png")
    assert read_volume(tmp_path / "p.png").array[:, 1, 0, 0].tolist() == [255, 0, 0]
    assert read_label(tmp_path / "p.png").array[..., 0].tolist() == [[0, 2], [1, 1]]


def test_a_black_and_white_label_has_the_values_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "p.png")
    assert read_label(tmp_path / "p.png").array.ravel().tolist() == [1, 0]


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_are_kept_in_grey_and_in_colour(tmp_path: Path, ending: str) -> None:
    grey = np.array([[0, 1], [300, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / f"grey{ending}")
    assert read_volume(tmp_path / f"grey{ending}").array[0, :, :, 0].T.tolist() == grey.tolist()
    colour = random.integers(0, 65536, (3, 4, 3)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(tmp_path / f"colour{ending}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"colour{ending}").array[..., 0].transpose(2, 1, 0), colour)


def test_a_grey_label_saved_as_colour_is_read_and_a_coloured_one_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), (2, 2, 2)).save(tmp_path / "grey.png")
    assert read_label(tmp_path / "grey.png").array.tolist() == np.full((4, 3, 1), 2).tolist()
    Image.new("RGB", (4, 3), (2, 2, 7)).save(tmp_path / "colour.png")
    with pytest.raises(FaultError, match="colour picture where class values are due"):
        read_label(tmp_path / "colour.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_label_picture_comes_back_as_it_was_written(tmp_path: Path, dtype: type) -> None:
    values = random.integers(0, np.iinfo(dtype).max, (7, 5, 1)).astype(dtype)
    write_label(tmp_path / "p.png", values, Grid((7, 5, 1), np.eye(4)))
    np.testing.assert_array_equal(read_label(tmp_path / "p.png").array, values)


def test_what_a_picture_cannot_hold_is_refused(tmp_path: Path) -> None:
    flat = Grid((2, 2, 1), np.eye(4))
    with pytest.raises(FaultError, match="JPEG changes"):
        write_label(tmp_path / "p.jpg", np.zeros((2, 2, 1), np.uint8), flat)
    with pytest.raises(FaultError, match="do not fit a picture"):
        write_label(tmp_path / "p.png", np.full((2, 2, 1), -3, np.int32), flat)
    with pytest.raises(FaultError, match="3 slices"):
        write_label(tmp_path / "p.png", np.zeros((2, 2, 3), np.uint8), Grid((2, 2, 3), np.eye(4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".png"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ResourceError, match="cannot be written") as error:
        write_label(tmp_path / "file" / f"p{ending}", np.zeros((2, 2, 1), np.uint8), Grid((2, 2, 1), np.eye(4)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".png"])
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch, ending: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise (
            OSError(28, "No space left on device") if ending != ".nrrd" else RuntimeError("sitk::ERROR:\nWrite failed")
        )

    monkeypatch.setattr(nib, "save", full)
    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(sitk, "WriteImage", full)
    with pytest.raises(ResourceError, match=r"No space left on device|Write failed") as error:
        write_label(tmp_path / f"p{ending}", np.zeros((2, 2, 1), np.uint8), Grid((2, 2, 1), np.eye(4)))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "shape"), [("m.nii.gz", (3, 4, 5)), ("m.mha", (3, 4, 5)), ("m.tif", (3, 4, 1))])
def test_a_map_of_real_numbers_comes_back_as_it_was_written(tmp_path: Path, name: str, shape: tuple) -> None:
    values = random.random(shape)
    write_map(tmp_path / name, values, Grid(shape, np.eye(4)))
    np.testing.assert_array_equal(read_volume(tmp_path / name).array[0], values.astype(np.float32))


# --- files that are not what they should be -------------------------------------------------------------------------


def good_bytes(path: Path) -> bytes:
    write_label(path, random.integers(0, 255, (16, 16, 16)).astype(np.uint8), Grid((16, 16, 16), np.eye(4)))
    return path.read_bytes()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_scan_is_one_line_that_names_the_file(tmp_path: Path, ending: str, part: float) -> None:
    path = tmp_path / f"scan{ending}"
    whole = good_bytes(path)
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(FaultError) as error:
        read_volume(path)
    assert str(path) in str(error.value)
    assert "copy it again" in str(error.value) or "convert it" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_nifti_that_lost_only_its_checksum_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(good_bytes(path)[:-6])
    with pytest.raises(FaultError, match="truncated"):
        read_volume(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5])
def test_a_truncated_picture_is_one_line_that_names_the_file(tmp_path: Path, ending: str, part: float) -> None:
    path = tmp_path / f"p{ending}"
    Image.fromarray(random.integers(0, 255, (64, 64)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(FaultError, match="copy it again") as error:
        read_volume(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# Named, for the bytes of a gzip file hold the second in which it was made: two workers would collect different tests.
@pytest.mark.parametrize(
    "content",
    [b"hello", b"\x1f\x8b nonsense", b"\0" * 2000, gzip.compress(b"hello" * 500)],
    ids=["text", "broken gzip", "zeros", "gzip of text"],
)
def test_what_is_no_nifti_is_told(tmp_path: Path, content: bytes) -> None:
    for name in ("scan.nii.gz", "scan.nii"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FaultError, match=name):
            read_volume(tmp_path / name)


def test_an_uncompressed_nifti_named_gz_is_told_to_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(good_bytes(tmp_path / "scan.nii"))
    with pytest.raises(FaultError, match=r"rename it to end in \.nii"):
        read_volume(tmp_path / "scan.nii.gz")


def test_four_axes_are_refused_in_every_format(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.uint8), np.eye(4)), tmp_path / "scan.nii.gz")
    four = sitk.JoinSeries([sitk.Image(3, 4, 5, sitk.sitkUInt8)] * 2)
    sitk.WriteImage(four, str(tmp_path / "scan.nrrd"))
    sitk.WriteImage(sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 2), str(tmp_path / "scan.mha"))
    Image.new("L", (3, 4)).save(tmp_path / "scan.tif", save_all=True, append_images=[Image.new("L", (3, 4))])
    for ending, words in (
        (".nii.gz", "4 axes"),
        (".nrrd", "4 axes"),
        (".mha", "2 values per voxel"),
        (".tif", "2 pages"),
    ):
        with pytest.raises(FaultError, match=words):
            read_volume(tmp_path / f"scan{ending}")


def test_an_affine_without_volume_is_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "scan.nii", np.zeros((3, 4, 5), np.uint8))
    raw = bytearray((tmp_path / "scan.nii").read_bytes())
    raw[312:328] = bytes(16)  # srow_z
    (tmp_path / "scan.nii").write_bytes(raw)
    with pytest.raises(FaultError, match="axis has no length"):
        read_volume(tmp_path / "scan.nii")


def test_labels_between_classes_are_refused_and_rounding_is_not(tmp_path: Path) -> None:
    write_map(tmp_path / "good.nii.gz", np.full((2, 2, 2), 0.9999999), Grid((2, 2, 2), np.eye(4)))
    assert read_label(tmp_path / "good.nii.gz").array.max() == 1
    assert read_label(tmp_path / "good.nii.gz").array.dtype.kind == "i"
    for value in (0.5, np.nan, np.inf):
        write_map(tmp_path / "bad.nii.gz", np.full((2, 2, 2), value), Grid((2, 2, 2), np.eye(4)))
        with pytest.raises(FaultError, match="not whole numbers"):
            read_label(tmp_path / "bad.nii.gz")


def test_an_unknown_ending_lists_those_that_are_read() -> None:
    with pytest.raises(FaultError, match=r"\.nii\.gz"):
        ending_of(Path("scan.xyz"))


def test_endings_of_predictions_follow_the_image(tmp_path: Path) -> None:
    names = {
        "a.b.nii.gz": ".nii.gz",
        "a.nii": ".nii",
        "a.JPG": ".png",
        "a.tif": ".png",
        "a.nrrd": ".nrrd",
        "a.mhd": ".mha",
    }
    assert {name: label_ending(Path(name)) for name in names} == names
    assert label_ending(tmp_path) == ".nii.gz"
    assert map_ending(Path("a.jpg")) == ".tif"
    assert map_ending(Path("a.nii")) == ".nii"


# --- cases ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_channels(tmp_path: Path) -> Dataset:
    grid = Grid((3, 4, 5), OBLIQUE)
    images = (tmp_path / "c_0000.nii.gz", tmp_path / "c_0001.nii.gz")
    for value, path in enumerate(images):
        write_label(path, np.full(grid.shape, value, np.uint8), grid)
    write_label(tmp_path / "c.nii.gz", np.full(grid.shape, 7, np.uint8), grid)
    case = Case("c", images, tmp_path / "c.nii.gz")
    return Dataset("set", tmp_path, ("T1", "T2"), LabelMap(("background", "organ"), (0, 7)), (case,))


def test_channels_come_in_order(two_channels: Dataset) -> None:
    array = read_image(two_channels["c"], two_channels).array
    assert array.shape == (2, 3, 4, 5)
    assert array[:, 0, 0, 0].tolist() == [0, 1]


def test_channels_on_other_grids_are_refused_with_case_and_file(two_channels: Dataset) -> None:
    path = two_channels["c"].images[1]
    write_label(path, np.zeros((3, 4, 6), np.uint8), Grid((3, 4, 6), OBLIQUE))
    with pytest.raises(FaultError, match=r"case c: .*c_0001.*shape 3 × 4 × 6 instead of 3 × 4 × 5"):
        read_image(two_channels["c"], two_channels)


def test_a_case_of_too_few_channels_is_refused(two_channels: Dataset) -> None:
    case = replace(two_channels["c"], images=two_channels["c"].images[:1])
    with pytest.raises(FaultError, match="1 channels where 2 are declared"):
        read_image(case, two_channels)


def test_classes_are_read_on_the_grid_of_the_image_only(two_channels: Dataset) -> None:
    case = two_channels["c"]
    grid = read_image(case, two_channels).grid
    classes = read_classes(case, two_channels, grid).array
    assert classes.dtype == np.uint8
    assert np.unique(classes).tolist() == [1]
    moved = Grid(grid.shape, nib.affines.from_matvec(np.eye(3), [2.0, 0.0, 0.0]) @ grid.affine)
    with pytest.raises(FaultError, match=r"case c: .*c\.nii\.gz: label has affine"):
        read_classes(case, two_channels, moved)


def test_a_fault_in_a_file_of_a_case_names_the_case(two_channels: Dataset) -> None:
    two_channels["c"].images[0].write_bytes(b"")
    with pytest.raises(FaultError, match=r"case c: .*c_0000\.nii\.gz: is empty \(0 bytes\)"):
        read_image(two_channels["c"], two_channels)
