from math import prod
from pathlib import Path

import pytest
import torch

from semivox.data.case import Dataset
from semivox.data.labels import LabelMap
from semivox.errors import DataError, ResourceError, SettingError
from semivox.networks import make_network
from semivox.planning.cost import estimate
from semivox.planning.demand import Demand, Views
from semivox.planning.fingerprint import Fingerprint, Intensity, Modality, Scan
from semivox.planning.plan import Plan
from semivox.planning.planner import Body, make_plan, patch_size
from semivox.preparation.settings import Preparation

MEAN_TEACHER = Demand(views=Views(unlabelled=("weak", "noisy")), averages=1, unlabelled_forwards=1, teacher_forwards=1)
TWO_CORES = 200e9
"""Operations per second of two cores in bfloat16."""
INTENSITY = Intensity(mean=40.0, deviation=120.0, low=-900.0, median=35.0, high=800.0)


def scan(shape, spacing_mm=(1.0, 1.0, 1.0), **changes) -> Scan:
    values = {
        "case": "a",
        "split": "train",
        "domain": "default",
        "channels": ("MRI",),
        "shape": shape,
        "body": shape,
        "spacing_mm": spacing_mm,
        "is_picture": False,
        "dtype": "int16",
        "intensities": (),
        "sha256": {},
    }
    return Scan(**{**values, **changes})


def plan(*scans: Scan, channels=("MRI",), demand=MEAN_TEACHER, **options) -> Plan:
    modality = Modality(channels=channels, intensities=(INTENSITY,) * len(channels))
    prints = Fingerprint(dataset="d", channels=channels, scans=scans, modalities=(modality,))
    dataset = Dataset("d", Path("d"), channels, LabelMap(("background", "organ"), (0, 1)), ())
    options = {"memory_gib": 16.0, "autocast": torch.bfloat16, "flop_per_s": TWO_CORES, **options}
    return make_plan(dataset, prints, demand, **options)


LEFT_ATRIUM = scan((193, 143, 88), (0.625, 0.625, 0.625))
CINE = scan((216, 256, 9), (1.5625, 1.5625, 10.0))
PICTURE = scan((739, 741, 1), is_picture=True)


def test_isotropic_scans_get_the_literatures_patch():
    made = plan(LEFT_ATRIUM)
    assert made.patch == (112, 112, 80)
    assert (made.batch.labelled, made.batch.unlabelled) == (2, 2)
    assert made.network.name == "vnet"
    assert made.preparation.spacing_mm == (0.625, 0.625, 0.625)
    assert made.preparation.coarse_axis is None


def test_small_scans_are_seen_whole():
    made = plan(scan((36, 50, 36)))
    assert made.patch == (40, 56, 40)
    assert made.batch.labelled == 4


def test_thick_slices_that_are_few_are_read_one_by_one():
    made = plan(CINE)
    assert made.patch == (224, 256)
    assert made.slice_axis == 2
    assert made.preparation.spacing_mm == (1.5625, 1.5625, None)
    assert made.network.name == "unet"
    assert made.batch.labelled == 12


def test_thick_slices_are_each_scans_own_in_whatever_plane_they_were_taken():
    made = plan(scan((16, 144, 144), (5.0, 1.48, 1.46)))
    assert made.patch == (144, 144)
    assert made.preparation.slices_last
    assert made.slice_axis == 2
    assert made.window == (144, 144, 1)
    assert made.preparation.spacing_mm == (1.48, 1.46, None)
    coronal = scan((144, 16, 144), (1.48, 5.0, 1.46))
    assert plan(coronal, coronal).preparation == made.preparation
    assert plan(coronal, scan((16, 144, 144), (5.0, 1.48, 1.46))).preparation == made.preparation


def test_thick_slices_that_are_many_stay_a_volume():
    made = plan(scan((144, 152, 90), (1.0, 1.0, 4.0)))
    assert made.dimensions == 3
    assert made.preparation.coarse_axis == 2


def test_flat_volumes_are_read_slice_by_slice():
    assert plan(scan((200, 8, 200))).slice_axis == 1


def test_pictures_keep_their_pixels():
    made = plan(PICTURE, channels=("red", "green", "blue"))
    assert made.patch == (256, 256)
    assert made.preparation.resample == "none"
    assert made.metric_unit == "voxel"
    assert [entry.kind for entry in made.preparation.normalisation] == ["zscore"] * 3


def test_pictures_and_volumes_do_not_mix():
    with pytest.raises(DataError, match="is a picture and case b a volume"):
        plan(PICTURE, scan((20, 20, 20), case="b"))


def test_the_median_of_the_training_scans_decides():
    odd = scan((400, 400, 400), (0.2, 0.2, 0.2))
    test = scan((10, 10, 10), split="test")
    made = plan(scan((90, 90, 90)), scan((100, 100, 100)), odd, test, test, test)
    assert made.preparation.spacing_mm == (1.0, 1.0, 1.0)


def test_a_channel_named_ct_has_fixed_limits_and_any_other_none():
    ct, mri = plan(LEFT_ATRIUM, channels=("CT", "CT 8-bit")).preparation.normalisation
    assert (ct.kind, ct.low, ct.high, ct.mean, ct.deviation) == ("ct", -900, 800, 40, 120)
    assert mri.kind == "zscore"


def of_modalities(*channels: tuple[str, ...], trained: int) -> Preparation:
    """The preparation planned for scans with these channels, of which the first `trained` are training scans."""
    scans = [
        LEFT_ATRIUM.model_copy(update={"channels": own, "split": "train" if place < trained else "test"})
        for place, own in enumerate(channels)
    ]
    seen = [Modality(channels=own, intensities=(INTENSITY,) * len(own)) for own in channels[:trained]]
    prints = Fingerprint(dataset="d", channels=channels[0], scans=tuple(scans), modalities=tuple(seen))
    dataset = Dataset("d", Path("d"), channels[0], LabelMap(("background", "organ"), (0, 1)), ())
    return make_plan(dataset, prints, MEAN_TEACHER, memory_gib=16.0, autocast=torch.bfloat16).preparation


def test_modalities_that_differ_get_a_normalisation_each_and_others_share_one():
    made = of_modalities(("LGE-MRI",), ("CT",), ("MRI",), trained=3)
    assert [channel.kind for channel in made.normalisation] == ["zscore"]
    assert {name: [channel.kind for channel in own] for name, own in made.modalities.items()} == {"CT": ["ct"]}
    assert made.of("CT").normalisation == plan(LEFT_ATRIUM, channels=("CT",)).preparation.normalisation
    assert made.of("MRI").normalisation == made.of("never heard of").normalisation == made.normalisation
    assert of_modalities(("LGE-MRI",), ("MRI",), trained=2).modalities == {}


def test_a_modality_that_is_only_tested_is_not_windowed_as_the_trained_one():
    made = of_modalities(("CT",), ("MRI",), trained=1)
    assert made.of("CT").normalisation[0].kind == "ct"
    assert made.of("MRI").normalisation[0].kind == "zscore"


def test_too_little_time_makes_scans_coarser_and_says_so():
    made = plan(LEFT_ATRIUM, minutes=15)
    assert made.preparation.spacing_mm == (1.25, 1.25, 1.25)
    assert made.patch == (56, 56, 40)
    assert any(note.startswith("1.25 mm instead of 0.625 mm") for note in made.notes)
    assert sum("steps fit in 15 minutes" in note for note in made.notes) == 1


def test_enough_time_changes_nothing():
    patient = plan(LEFT_ATRIUM, minutes=24 * 60)
    assert patient.model_copy(update={"notes": ()}) == plan(LEFT_ATRIUM).model_copy(update={"notes": ()})


def test_a_plan_in_time_fits_its_steps_in():
    for minutes in (15, 30, 60):
        made = plan(LEFT_ATRIUM, minutes=minutes)
        step_s = estimate(made, MEAN_TEACHER, 1, 2, autocast=torch.bfloat16, flop_per_s=TWO_CORES).step_s
        assert minutes * 60 / step_s >= 1000


def test_fewer_steps_asked_for_need_less_coarse_scans():
    few = plan(LEFT_ATRIUM, minutes=15, iterations=200)
    assert few.preparation.spacing_mm[0] < 1.25


def test_only_the_fine_axes_become_coarser():
    made = plan(scan((144, 152, 71), (2.0, 2.0, 4.0)), minutes=60)
    x, y, z = made.preparation.spacing_mm
    assert x == y > 2.0
    assert z == 4.0


def test_pictures_get_a_smaller_patch_instead_of_coarser_pixels():
    made = plan(PICTURE, minutes=15)
    assert prod(made.patch) < 256**2
    assert made.preparation == plan(PICTURE).preparation
    assert any("instead of 256x256" in note for note in made.notes)


def test_scans_become_no_coarser_than_twice_but_few_steps_are_said_to_be_few():
    made = plan(LEFT_ATRIUM, minutes=0.5)
    assert made.preparation.spacing_mm == (1.25, 1.25, 1.25)
    assert "few" in made.notes[-1]


@pytest.mark.parametrize("memory_gib", [1.2, 2.0])
@pytest.mark.parametrize("given", [LEFT_ATRIUM, CINE, PICTURE])
def test_a_plan_fits_in_the_memory_there_is(given, memory_gib):
    made = plan(given, memory_gib=memory_gib)
    assert estimate(made, MEAN_TEACHER, 1, 2, autocast=torch.bfloat16, flop_per_s=1.0).peak_gib <= memory_gib
    assert any("GiB of memory" in note for note in made.notes)


def test_two_networks_leave_room_for_less():
    twice = Demand(views=MEAN_TEACHER.views, networks=2, averages=2, labelled_forwards=2, unlabelled_forwards=2)
    assert prod(plan(LEFT_ATRIUM, demand=twice, memory_gib=3.0).patch) < prod(plan(LEFT_ATRIUM, memory_gib=3.0).patch)


@pytest.mark.parametrize("network", ["vnet", "residual_encoder_unet"])
def test_memory_that_suffices_for_nothing_is_refused_in_one_line(network):
    with pytest.raises(ResourceError, match="may be used") as error:
        plan(scan((20, 24, 20)), network=network, memory_gib=0.3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("network", ["vnet", "unet", "residual_encoder_unet"])
@pytest.mark.parametrize(
    "given", [LEFT_ATRIUM, scan((36, 50, 36)), scan((60, 61, 62)), scan((40, 160, 150), (3, 1, 1))]
)
def test_patches_are_multiples_of_what_the_network_divides_them_by(given, network):
    made = plan(given, network=network)
    divisor = make_network(network, 3, 1, 2, made.network.settings, made.patch).divisor
    assert all(size % unit == 0 for size, unit in zip(made.patch, divisor, strict=True))


def test_a_network_that_does_not_exist_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="did you mean 'vnet'"):
        plan(LEFT_ATRIUM, network="v-net")


def test_a_clip_of_slices_counts_as_one_sample():
    clips = Demand(views=Views(unlabelled=("weak",), clip=3), unlabelled_forwards=1)
    assert plan(CINE, demand=clips).batch.labelled == 4


def test_a_plan_survives_its_file(tmp_path):
    made = plan(LEFT_ATRIUM, minutes=15)
    made.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml") == made


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "patch"),
    [
        ((500, 500, 100), (0.8, 0.8, 2.5), (144, 144, 48)),
        ((512, 512, 800), (0.7, 0.7, 0.7), (96, 96, 96)),
        ((512, 512), (1.0, 1.0), (256, 256)),
        ((300, 60), (1.0, 1.0), (304, 64)),
    ],
)
def test_patches_are_near_cubes_in_millimetres(shape, spacing_mm, patch):
    voxels = 256**2 if len(shape) == 2 else 112 * 112 * 80
    assert patch_size(shape, spacing_mm, voxels) == patch


def test_volumes_of_many_slices_stay_anatomical_in_whatever_plane_they_were_taken():
    axial, sagittal = scan((144, 152, 90), (1.0, 1.0, 4.0)), scan((90, 152, 144), (4.0, 1.0, 1.0))
    made = plan(axial, axial, sagittal)
    assert made.dimensions == 3
    assert not made.preparation.slices_last
    assert made.preparation.spacing_mm == (1.0, 1.0, 4.0)


def test_a_network_of_slices_reads_volumes_slice_by_slice_and_a_note_says_so():
    made = plan(scan((64, 64, 64)), network="sam2", settings={"size": "miniature"})
    assert made.dimensions == 2
    assert made.slice_axis == 2
    assert all(size % 32 == 0 for size in made.patch)
    assert any(note.startswith("network 'sam2' reads slices only") for note in made.notes)


@pytest.mark.parametrize(("spacing_mm", "axis"), [((1.0, 1.0, 1.0), 2), ((2.0, 1.0, 1.0), 0), ((1.0, 3.0, 3.0), 2)])
def test_slices_are_those_across_the_coarsest_axis(spacing_mm, axis):
    body = Body((80.0, 80.0, 80.0), spacing_mm, is_picture=False, dimensions=3, slice_axis=2).sliced()
    assert (body.dimensions, body.slice_axis) == (2, axis)


def test_a_network_of_slices_says_nothing_about_pictures():
    small = scan((96, 64, 1), is_picture=True)
    made = plan(small, network="sam2", settings={"size": "miniature"})
    assert not any("slices only" in note for note in made.notes)
