"""Series are written on the fly with pydicom, so that the truth of every voxel's place is known."""

import itertools
import random
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from semivox.data import dicom
from semivox.data.volume import Volume
from semivox.errors import DataError, SemivoxError, SettingError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
AXIAL = (1, 0, 0, 0, 1, 0)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)


def signed_frames():
    """Every pair of perpendicular signed axes: the 24 ways in which a slice can lie along the patient's axes."""
    axes = [sign * np.eye(3)[axis] for axis in range(3) for sign in (1, -1)]
    return [(*a, *b) for a, b in itertools.product(axes, axes) if a @ b == 0]


def number(value: float) -> str:
    return f"{value:.9g}"[:16]


def header(position, orientation=AXIAL, uid="1.2.3", spacing=(0.7, 0.5), **changes) -> Dataset:
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = CTImageStorage
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
    item.SeriesInstanceUID, item.Modality, item.PatientID, item.PatientName = uid, "CT", "ID-77", "Doe^Jane"
    item.InstanceNumber = "1"
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
    item.ImagePositionPatient = [number(value) for value in position]
    item.ImageOrientationPatient = [number(value) for value in orientation]
    item.PixelSpacing = [number(value) for value in spacing]
    item.SliceThickness = "2.5"
    item.RescaleSlope, item.RescaleIntercept = "1", "-1024"
    for keyword, value in changes.items():
        if value is None:
            delattr(item, keyword)
        else:
            setattr(item, keyword, value)
    return item


def save(item: Dataset, pixels: np.ndarray, path: Path, implicit: bool = False) -> Path:
    """`pixels` are (row, column), or (frame, row, column)."""
    item.Rows, item.Columns = pixels.shape[-2:]
    item.PixelData = pixels.astype("<i2").tobytes()
    item["PixelData"].VR = "OW"
    if implicit:
        item.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    item.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, *, orientation=AXIAL, step=None, shape=(4, 5, 3), positions=None, seed=0, **changes):
    """Writes a series under shuffled names and numbers; returns its values (column, row, slice) and positions."""
    along_columns, along_rows = np.reshape(orientation, (2, 3)).astype(float)
    step = 2.5 * np.cross(along_columns, along_rows) if step is None else np.array(step)
    columns, rows, count = shape
    if positions is None:
        positions = [np.array([-12.5, 7.25, 30.0]) + index * step for index in range(count)]
    stored = np.random.default_rng(seed).integers(0, 3000, (columns, rows, len(positions)))
    names = random.Random(seed).sample(range(1000), len(positions))
    for index, position in enumerate(positions):
        item = header(position, orientation, InstanceNumber=str(names[index]), **changes)
        save(item, stored[:, :, index].T, folder / f"{names[index]:04d}.dcm")
    return stored, np.array(positions)


def expected_affine(orientation, positions, spacing=(0.7, 0.5)):
    """Independent of the reader: each column is where one more column, row or slice leads."""
    along_columns, along_rows = np.reshape(orientation, (2, 3)).astype(float)
    affine = np.eye(4)
    affine[:3, 0] = LPS_TO_RAS @ along_columns * spacing[1]
    affine[:3, 1] = LPS_TO_RAS @ along_rows * spacing[0]
    affine[:3, 2] = LPS_TO_RAS @ (positions[1] - positions[0])
    affine[:3, 3] = LPS_TO_RAS @ positions[0]
    return affine


@pytest.mark.parametrize("orientation", [*signed_frames(), OBLIQUE])
def test_every_orientation_gives_values_and_affine(tmp_path, orientation):
    stored, positions = write_series(tmp_path, orientation=orientation)
    volume = dicom.read_series(tmp_path)
    assert volume.array.shape == (1, 4, 5, 3)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array[0], stored - 1024)
    np.testing.assert_allclose(volume.grid.affine, expected_affine(orientation, positions), atol=1e-6)
    assert volume.grid.shape == (4, 5, 3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    gap=st.floats(0.4, 9),
    spacing=st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)),
)
def test_oblique_series_in_any_file_order(tmp_path_factory, seed, angles, gap, spacing):
    a, b, c = angles
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    turn = turn_z @ turn_x @ turn_y
    folder = tmp_path_factory.mktemp("series")
    orientation = (*turn[:, 0], *turn[:, 1])
    stored, positions = write_series(
        folder, orientation=orientation, step=gap * turn[:, 2], shape=(3, 2, 6), seed=seed, spacing=spacing
    )
    volume = dicom.read_series(folder)
    np.testing.assert_array_equal(volume.array[0], stored - 1024)
    np.testing.assert_allclose(volume.grid.affine, expected_affine(orientation, positions, spacing), atol=1e-5)


@pytest.mark.parametrize("orientation", [AXIAL, (0, 1, 0, 0, 0, -1), OBLIQUE])
def test_agrees_with_gdcm(tmp_path, orientation):
    """ITK's reader, GDCM, as an independent oracle; it needs identifiers that the others do without."""
    write_series(tmp_path, orientation=orientation, FrameOfReferenceUID="1.2.9", StudyInstanceUID="1.2.8")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    volume = dicom.read_series(tmp_path)
    array = sitk.GetArrayFromImage(image).T
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.grid.affine[:3], LPS_TO_RAS @ affine[:3], atol=1e-4)


def test_slices_are_sorted_by_position_not_by_number_or_name(tmp_path):
    for index in range(4):
        position = (0, 0, 10 - 2 * index)
        save(header(position, InstanceNumber=str(index)), np.full((2, 2), index), tmp_path / f"{index}.dcm")
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array[0, 0, 0], np.array([3, 2, 1, 0]) - 1024)


def test_files_given_one_by_one_are_one_series(tmp_path):
    stored, _ = write_series(tmp_path)
    volume = dicom.read_series(sorted(tmp_path.iterdir(), reverse=True))
    np.testing.assert_array_equal(volume.array[0], stored - 1024)


def test_implicit_vr_is_read_alike(tmp_path):
    pixels = np.arange(20).reshape(4, 5)
    for index in range(2):
        save(header((0, 0, index)), pixels + index, tmp_path / "explicit" / f"{index}.dcm")
        save(header((0, 0, index)), pixels + index, tmp_path / "implicit" / f"{index}.dcm", implicit=True)
    one, other = dicom.read_series(tmp_path / "explicit"), dicom.read_series(tmp_path / "implicit")
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_array_equal(one.grid.affine, other.grid.affine)


def test_single_slice_has_its_thickness(tmp_path):
    save(header((0, 0, 0)), np.zeros((2, 2)), tmp_path / "a.dcm")
    assert dicom.read_series(tmp_path).grid.spacing_mm == pytest.approx((0.5, 0.7, 2.5))


def test_each_slice_has_its_own_rescaling(tmp_path):
    for index, slope in enumerate(("0.5", "2.25")):
        item = header((0, 0, index), RescaleSlope=slope, RescaleIntercept="3")
        save(item, np.full((2, 3), 10), tmp_path / f"{index}.dcm")
    array = dicom.read_series(tmp_path).array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0, 0, 0], [8.0, 25.5])


@pytest.mark.parametrize(
    ("stored", "intercept", "kind"), [(32767, "1", np.int32), (32767, "0", np.int16), (5, "0.5", np.float32)]
)
def test_rescaled_values_never_overflow(tmp_path, stored, intercept, kind):
    save(header((0, 0, 0), RescaleIntercept=intercept), np.full((2, 2), stored), tmp_path / "a.dcm")
    array = dicom.read_series(tmp_path).array
    assert array.dtype == kind
    assert array[0, 0, 0, 0] == stored + float(intercept)


def test_unused_high_bits_are_ignored(tmp_path):
    item = header((0, 0, 0), BitsStored=12, HighBit=11, PixelRepresentation=0, RescaleIntercept="0")
    save(item, np.full((2, 2), 0x7005), tmp_path / "a.dcm")
    assert (dicom.read_series(tmp_path).array == 5).all()


def write_enhanced(path: Path, order=(2, 0, 1), **changes) -> np.ndarray:
    frames = np.random.default_rng(1).integers(0, 100, (len(order), 3, 4))
    item = header((0, 0, 0), **changes)
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(item, keyword)
    shared, measures, plane, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = ["0.7", "0.5"], "2"
    plane.ImageOrientationPatient = list(AXIAL)
    values.RescaleSlope, values.RescaleIntercept = "1", "-10"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    shared.PixelValueTransformationSequence = [values]
    item.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for height in order:
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = ["1", "2", number(3.0 * height)]
        group.PlanePositionSequence = [place]
        groups.append(group)
    item.PerFrameFunctionalGroupsSequence = groups
    item.NumberOfFrames = str(len(order))
    save(item, frames, path)
    return frames


def test_enhanced_multi_frame_object(tmp_path):
    frames = write_enhanced(tmp_path / "a.dcm")
    volume = dicom.read_series(tmp_path / "a.dcm")
    np.testing.assert_array_equal(volume.array[0], frames[[1, 2, 0]].transpose(2, 1, 0) - 10)
    np.testing.assert_allclose(volume.grid.affine[:3, 3], (-1, -2, 0))
    assert volume.grid.spacing_mm == pytest.approx((0.5, 0.7, 3.0))


def test_enhanced_object_of_several_time_points_is_refused(tmp_path):
    write_enhanced(tmp_path / "a.dcm", order=(0, 1, 0, 1))
    with pytest.raises(DataError, match="several time points"):
        dicom.read_series(tmp_path)


def test_frames_without_positions_are_refused(tmp_path):
    save(header((0, 0, 0), NumberOfFrames="3"), np.zeros((3, 2, 2)), tmp_path / "cine.dcm")
    with pytest.raises(DataError, match=r"cine\.dcm: has 3 frames but the positions of 0"):
        dicom.read_series(tmp_path)


def test_gantry_tilt_is_refused_by_name(tmp_path):
    write_series(tmp_path, step=(0, 2.5 * np.tan(np.radians(15)), 2.5))
    with pytest.raises(DataError, match=r"series 1\.2\.3: gantry tilt of 15\.0 degrees.*; have the scanner"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize("lean", [0.0, 0.0015])
def test_rounded_directions_are_no_tilt(tmp_path, lean):
    write_series(tmp_path, step=(0, 2.5 * lean, 2.5))
    assert dicom.read_series(tmp_path).array.shape == (1, 4, 5, 3)


def test_missing_slice_is_refused_between_its_neighbours(tmp_path):
    write_series(tmp_path, positions=[(0, 0, 2.5 * k) for k in (0, 1, 2, 4, 5, 6)])
    with pytest.raises(
        DataError, match=r"1 slice is missing \(5\.000 mm between .*\.dcm and .*\.dcm, elsewhere 2\.500 mm\)"
    ):
        dicom.read_series(tmp_path)


def test_uneven_gaps_are_refused(tmp_path):
    write_series(tmp_path, positions=[(0, 0, z) for z in (0, 1, 2, 3.4, 4.4)])
    with pytest.raises(DataError, match=r"uneven gaps \(1\.400 mm between"):
        dicom.read_series(tmp_path)


def test_gaps_that_drift_are_refused(tmp_path):
    positions = np.cumsum([0.0] + [1.0] * 20 + [1.09] * 20)
    write_series(tmp_path, positions=[(0, 0, z) for z in positions], shape=(2, 2, 0))
    with pytest.raises(DataError, match="off the regular stack"):
        dicom.read_series(tmp_path)


def test_positions_rounded_to_a_tenth_are_even(tmp_path):
    write_series(tmp_path, positions=[(0, 0, round(0.625 * k, 1)) for k in range(20)], shape=(2, 2, 0))
    assert dicom.read_series(tmp_path).grid.spacing_mm[2] == pytest.approx(0.625, abs=5e-3)


def test_slices_at_one_place_are_refused(tmp_path):
    write_series(tmp_path, positions=[(0, 0, z) for z in (0, 1, 1, 2)])
    with pytest.raises(DataError, match="lie at the same place"):
        dicom.read_series(tmp_path)


def test_mixed_orientations_are_refused_with_the_odd_file(tmp_path):
    write_series(tmp_path)
    save(header((0, 0, 0), (1, 0, 0, 0, 0, -1)), np.zeros((5, 4)), tmp_path / "scout.dcm")
    with pytest.raises(DataError, match=r"mixed orientations: scout\.dcm lies along \[1, 0, 0, 0, 0, -1\]"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"spacing": (0.9, 0.5)}, r"odd\.dcm has spacing_mm \(0\.9, 0\.5\)"),
        ({"BitsStored": 12}, r"odd\.dcm has bits_stored 12, the others 16"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, r"odd\.dcm has has_rescale False"),
    ],
)
def test_slice_of_another_format_is_refused(tmp_path, changes, what):
    write_series(tmp_path)
    save(header((-12.5, 7.25, 37.5), **changes), np.zeros((5, 4)), tmp_path / "odd.dcm")
    with pytest.raises(DataError, match=what):
        dicom.read_series(tmp_path)


def test_several_series_are_listed(tmp_path):
    write_series(tmp_path / "a", SeriesDescription="Thorax 1.0")
    write_series(tmp_path / "b", uid="1.2.4")
    with pytest.raises(DataError, match=r"holds 2 DICOM series: 1\.2\.3 \(CT, Thorax 1\.0, 3 files\); 1\.2\.4"):
        dicom.read_series(tmp_path)
    assert dicom.read_series(tmp_path, uid="1.2.4").array.shape == (1, 4, 5, 3)
    with pytest.raises(DataError, match=r"no DICOM series 1\.2\.5; choose of 1\.2\.3"):
        dicom.read_series(tmp_path, uid="1.2.5")


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("PixelSpacing", r"nan\1"),
        ("PixelSpacing", r"0.5"),
        ("PixelSpacing", r"0\1"),
        ("PixelSpacing", r"-1\1"),
        ("PixelSpacing", r"0x1\1"),
        ("PixelSpacing", r"1_0\1"),
        ("PixelSpacing", r"1,0\1"),
        ("PixelSpacing", r"1e999\1"),
        ("RescaleSlope", "inf"),
        ("RescaleSlope", "1 2"),
        ("RescaleIntercept", "-"),
        ("RescaleIntercept", "1e308"),
        ("ImagePositionPatient", r"0\0"),
        ("ImagePositionPatient", r"0\0\0\0"),
        ("ImageOrientationPatient", r"1\0\0\1\0\0"),
        ("ImageOrientationPatient", r"0\0\0\0\0\0"),
    ],
)
def test_crafted_numbers_are_refused_with_file_and_attribute(tmp_path, keyword, text):
    item = header((0, 0, 0))
    item[keyword].VR = "LO"  # free text, so that pydicom writes what the standard forbids
    item[keyword].value = text
    path = save(item, np.zeros((2, 2)), tmp_path / "crafted.dcm", implicit=True)
    with pytest.raises(DataError, match=rf"crafted\.dcm: .*{keyword}") as caught:
        dicom.read_series(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"PixelSpacing": None}, "PixelSpacing is missing"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"SliceThickness": None}, "single slice without SliceThickness"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "holds MONOCHROME1 pixels"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "holds RGB pixels"),
    ],
)
def test_what_is_no_scan_is_refused(tmp_path, changes, what):
    save(header((0, 0, 0), **changes), np.zeros((2, 2)), tmp_path / "a.dcm")
    with pytest.raises(DataError, match=what):
        dicom.read_series(tmp_path)


def test_unknown_compression_is_one_line(tmp_path):
    path = save(header((0, 0, 0)), np.zeros((2, 2)), tmp_path / "a.dcm")
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.dcm: no decoder is installed for its compression \(1\.2\.840"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 140, 400, -2])
def test_truncated_file_is_refused(tmp_path, keep):
    write_series(tmp_path)
    victim = sorted(tmp_path.iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:keep])
    with pytest.raises(DataError, match=victim.name):
        dicom.read_series(tmp_path)


def test_huge_claims_do_not_fill_the_memory(tmp_path):
    item = header((0, 0, 0))
    save(item, np.zeros((2, 2)), tmp_path / "a.dcm")
    item.Rows = item.Columns = 65535
    item.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(DataError, match=r"claims 8\.0 GiB"):
        dicom.read_series(tmp_path)


@settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 10**6)),
)
def test_changed_bytes_give_an_error_or_a_sound_volume(fuzz_series, tmp_path_factory, changes, cut):
    """Three slices, bytes changed in the middle one: an error of one line, or a volume on the grid of the outer two."""
    files, truth = fuzz_series
    folder = tmp_path_factory.mktemp("fuzz")
    content = bytearray(files[1])
    for place, value in changes:
        content[place % len(content)] = value
    if cut is not None:
        del content[cut % len(content) :]
    for index, data in enumerate((files[0], bytes(content), files[2])):
        (folder / f"{index}.dcm").write_bytes(data)
    try:
        volume = dicom.read_series(folder)
    except SemivoxError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a volume is right as well
        return
    assert volume.array.shape == truth.array.shape
    np.testing.assert_allclose(volume.grid.affine, truth.grid.affine, atol=1e-6)
    np.testing.assert_array_equal(volume.array[..., ::2], truth.array[..., ::2])
    assert np.isfinite(volume.array).all()


@pytest.fixture(scope="module")
def fuzz_series(tmp_path_factory) -> tuple[list[bytes], Volume]:
    folder = tmp_path_factory.mktemp("original")
    for index in range(3):
        save(header((0, 0, 3 * index)), np.full((2, 2), index), folder / f"{index}.dcm")
    return [file.read_bytes() for file in sorted(folder.iterdir())], dicom.read_series(folder)


def test_objects_without_image_and_other_files_are_passed_over(tmp_path):
    write_series(tmp_path)
    report = header((0, 0, 0), uid="9.9", Modality="SR")
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"../../etc")
    assert [series.uid for series in dicom.find_series(tmp_path)] == ["1.2.3"]


def test_a_slice_with_a_damaged_class_is_not_passed_over(tmp_path):
    write_series(tmp_path)
    victim = sorted(tmp_path.iterdir())[1]
    classes = victim.read_bytes().rpartition(b"1.2.840.10008.5.1.4.1.1.2\0")
    victim.write_bytes(b"".join((classes[0], b"1.2.840.10008.5.1.4.1.1.3\0", classes[2])))
    with pytest.raises(DataError, match=rf"{victim.name}: gives two SOP classes"):
        dicom.read_series(tmp_path)


def test_nothing_outside_the_source_is_read(tmp_path):
    write_series(tmp_path / "outside")
    source = tmp_path / "source"
    source.mkdir()
    (source / "folder").symlink_to(tmp_path / "outside")
    assert dicom.find_series(source) == []
    (source / "file.dcm").symlink_to(next((tmp_path / "outside").iterdir()))
    with pytest.raises(DataError, match=r"file\.dcm: is a link that leads out"):
        dicom.find_series(source)


@pytest.mark.parametrize("name", ["DICOMDIR", "study.zip", "missing"])
def test_indices_and_archives_are_refused(tmp_path, name):
    import zipfile

    if name == "DICOMDIR":
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    elif name == "study.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("../../evil.dcm", b"x")
    with pytest.raises(DataError, match=name):
        dicom.convert(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path.parent / "evil.dcm").exists()


def test_convert_writes_pseudonymous_unlabelled_cases(tmp_path):
    stored, positions = write_series(tmp_path / "in" / "Doe Jane" / "ct1", PatientID="ID-77")
    write_series(tmp_path / "in" / "Doe Jane" / "ct2", uid="1.2.4", PatientID="ID-77")
    write_series(tmp_path / "in" / "Roe Max" / "ct", uid="1.2.5", PatientID="ID-78")
    scout = header((0, 0, 0), uid="1.2.6", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save(scout, np.zeros((2, 2)), tmp_path / "in" / "Roe Max" / "scout.dcm")
    dataset = dicom.convert(tmp_path / "in", tmp_path / "out")
    assert [case.id for case in dataset] == ["case_001", "case_002", "case_003"]
    assert [case.group for case in dataset] == ["patient_001", "patient_001", "patient_002"]
    assert dataset.unlabelled() == dataset.cases
    assert dataset.channels == ("CT",)
    image = nib.load(dataset.cases[0].images[0])
    np.testing.assert_array_equal(np.asarray(image.dataobj), stored - 1024)
    np.testing.assert_allclose(image.affine, expected_affine(AXIAL, positions), atol=1e-5)


def test_no_identifier_reaches_the_data_set(tmp_path):
    import gzip

    changes = {"PatientID": "ID-77", "SeriesDescription": "Doe Thorax", "uid": "1.2.840.99.77"}
    write_series(tmp_path / "in" / "Doe", **changes)
    dicom.convert(tmp_path / "in", tmp_path / "out")
    for file in (tmp_path / "out").rglob("*"):
        assert "Doe" not in str(file.relative_to(tmp_path))
        if file.is_file():
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            for secret in (b"Doe", b"Jane", b"ID-77", b"1.2.840.99.77"):
                assert secret not in content


def test_modalities_become_domains(tmp_path):
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", uid="1.2.4", Modality="MR")
    assert dicom.convert(tmp_path / "in", tmp_path / "out").domains == ("CT", "MR")


def test_failed_conversion_names_every_series_and_leaves_nothing(tmp_path):
    write_series(tmp_path / "in" / "good")
    write_series(tmp_path / "in" / "tilted", uid="1.2.4", step=(0, 1, 2))
    write_series(tmp_path / "in" / "uneven", uid="1.2.5", positions=[(0, 0, z) for z in (0, 1, 2, 4.5)])
    with pytest.raises(DataError, match=r"2 of 3 series cannot be converted: .*gantry tilt.*uneven gaps"):
        dicom.convert(tmp_path / "in", tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_existing_data_set_is_not_overwritten(tmp_path):
    write_series(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(SettingError, match="already exists"):
        dicom.convert(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_real_files_of_pydicom_are_read_as_pydicom_reads_them():
    path = Path(pydicom.data.get_testdata_file("CT_small.dcm"))
    volume = dicom.read_series(path)
    dataset = pydicom.dcmread(path)
    expected = dataset.pixel_array.T * int(dataset.RescaleSlope) + int(dataset.RescaleIntercept)
    np.testing.assert_array_equal(volume.array[0, :, :, 0], expected)
