import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.planning.demand import Views
from semivox.sampling.geometry import WeakSettings
from semivox.sampling.loader import PatchLoader
from semivox.sampling.views import ViewSettings, make_batch

EVERYTHING = Views(labelled=("plain", "weak", "noisy", "strong"), unlabelled=("weak", "strong", "strong", "noisy"))
EXACT = ViewSettings(weak=WeakSettings(affine_probability=0, turn_probability=0.5))
PATCHES = [(8, 8, 6), (9, 7)]


def batch_of(world, plan, patch, views=EVERYTHING, settings=None, step=0, rank=0, ranks=1, **changes):
    settings = settings or ViewSettings()
    dataset, store = world(**changes)
    loader = PatchLoader(
        store, dataset, plan(patch, labelled=4, unlabelled=4), views, 3, rank, ranks, settings=settings
    )
    return make_batch(loader[step], views, "cpu", settings)


@pytest.mark.parametrize("patch", PATCHES)
def test_batches_have_the_declared_views_and_shapes(world, plan, patch):
    batch = batch_of(world, plan, patch)
    assert len(batch.labelled.views) == len(batch.unlabelled.views) == 4
    for stream in (batch.labelled, batch.unlabelled):
        assert len(stream) == 4
        for view in stream.views:
            assert view.shape == (4, 2, *patch)
            assert view.dtype == torch.float32
            assert view.is_contiguous()
            assert view.isfinite().all()
        assert stream.valid.shape == (4, *patch)
        assert stream.known.shape == (4, 3)
        assert stream.known.dtype == torch.bool
    assert batch.labelled.label.dtype == torch.int64
    assert batch.unlabelled.label is None


@pytest.mark.parametrize("patch", PATCHES)
def test_two_ranks_make_exactly_the_samples_of_one(world, plan, patch):
    whole = batch_of(world, plan, patch, step=2)
    halves = [batch_of(world, plan, patch, step=2, rank=rank, ranks=2) for rank in (0, 1)]
    for name in ("labelled", "unlabelled"):
        one, two = getattr(whole, name), [getattr(half, name) for half in halves]
        for place, view in enumerate(one.views):
            assert torch.equal(view, torch.cat([half.views[place] for half in two]))
        assert torch.equal(one.valid, torch.cat([half.valid for half in two]))
        assert one.seeds == two[0].seeds + two[1].seeds
    assert torch.equal(whole.labelled.label, torch.cat([half.labelled.label for half in halves]))


def test_the_same_step_twice_is_the_same_batch_and_another_is_not(world, plan):
    first, again, other = (batch_of(world, plan, (8, 8, 6), step=step) for step in (1, 1, 2))
    for place in range(4):
        assert torch.equal(first.unlabelled.views[place], again.unlabelled.views[place])
        assert not torch.equal(first.unlabelled.views[place], other.unlabelled.views[place])


@pytest.mark.parametrize("patch", [(8, 8, 6), (8, 8)])
def test_all_views_but_plain_share_one_geometry(world, plan, patch):
    stream = batch_of(world, plan, patch, settings=EXACT).labelled
    plain, weak, noisy, strong = stream.views
    assert torch.equal(stream.geometry.apply(plain), weak)
    assert torch.equal(stream.geometry.undo(weak), plain)
    assert not torch.equal(plain, weak)
    assert (noisy - weak).abs().max() <= 0.2 + 1e-3
    assert not torch.equal(noisy, weak)
    assert not torch.equal(strong, weak)


def test_two_strong_views_differ(world, plan):
    views = batch_of(world, plan, (8, 8, 6)).unlabelled.views
    assert not torch.equal(views[1], views[2])


@pytest.mark.parametrize("patch", PATCHES)
def test_label_and_image_move_together(world, plan, patch):
    dataset, store = world()
    # An image that is its own label: 1 and 2 where the organ and the corner are.
    store.image = lambda case: store.label(case)[None].astype("float32")
    views = Views(labelled=("weak",))
    for step in range(5):
        raw = PatchLoader(store, dataset, plan(patch, labelled=4), views, 3, settings=EXACT)[step]
        stream = make_batch(raw, views, "cpu", EXACT).labelled
        assert torch.equal(stream.image[:, 0].long(), stream.label)


@pytest.mark.parametrize("settings", [EXACT, ViewSettings(weak=WeakSettings(affine_probability=1))])
@pytest.mark.parametrize("patch", [(12, 12, 9), (14, 11)])
def test_padding_is_invalid_unknown_and_zero(world, plan, patch, settings):
    dataset, store = world(size=(9, 8, 7))
    store.image = lambda case: torch.ones(1, *store.shapes[case]).numpy()
    views = Views(labelled=("weak",), unlabelled=("weak",))
    raw = PatchLoader(store, dataset, plan(patch, labelled=6), views, 3, settings=settings)[0]
    stream = make_batch(raw, views, "cpu", settings).labelled
    assert torch.equal(stream.valid, stream.label != IGNORE)
    assert 0 < stream.valid.float().mean() < 1
    # Interpolation reaches half a voxel over the border.
    assert (stream.image[:, 0][stream.valid] >= (1 if settings is EXACT else 0.1)).all()
    assert stream.image[:, 0][~stream.valid].mean() < 0.2
    if settings is EXACT:
        assert torch.equal(stream.image[:, 0] == 1, stream.valid)


def test_rotation_inside_the_scan_brings_in_no_padding(world, plan):
    dataset, store = world(size=(60, 60, 60))
    store.image = lambda case: torch.ones(1, *store.shapes[case]).numpy()
    settings = ViewSettings(weak=WeakSettings(affine_probability=1, rotation_deg=45))
    views = Views(labelled=("weak",))
    loader = PatchLoader(
        store, dataset, plan((12, 12, 12), labelled=4), views, 3, settings=settings, foreground_share=0
    )
    whole = 0
    for step in range(10):
        raw = loader[step]
        stream = make_batch(raw, views, "cpu", settings).labelled
        for row, (first, last) in enumerate(raw.labelled.inside):
            if not first.any() and tuple(last) == raw.labelled.shapes[row]:
                whole += 1
                assert stream.valid[row].all()
                assert stream.image[row].min() > 0.999
    # Only crops at the scan's border see what lies beyond it.
    assert whole > 20


def test_a_stream_of_plain_views_is_the_crop_and_has_no_geometry(world, plan):
    views = Views(labelled=("plain",), unlabelled=("plain", "weak"))
    batch = batch_of(world, plan, (8, 8, 6), views=views)
    assert torch.equal(batch.labelled.geometry.apply(batch.labelled.image), batch.labelled.image)
    plain, weak = batch.unlabelled.views
    assert not torch.equal(plain, weak)


def test_plain_is_the_middle_of_a_rotated_crop(world, plan):
    rotated = ViewSettings(weak=WeakSettings(affine_probability=1))
    views = Views(labelled=("plain", "weak"))
    kept = batch_of(world, plan, (6, 6, 5), views=views, settings=EXACT).labelled
    turned = batch_of(world, plan, (6, 6, 5), views=views, settings=rotated).labelled
    assert kept.seeds == turned.seeds
    for kept_crop, crop in zip(kept.views[0], turned.views[0], strict=True):
        assert kept_crop.shape == crop.shape
        # Neighbouring voxels of the fake scans differ by one along the last axis.
        inside = crop[0, ..., 1:] > 0
        assert (crop[0].diff(dim=-1)[inside] == 1).all()


def test_slices_of_a_clip_share_draws_but_not_noise(world, plan):
    dataset, store = world()
    store.image = lambda case: torch.rand(store.shapes[case][:2]).numpy()[None, ..., None].repeat(13, 3)
    store.shapes = dict.fromkeys(store.shapes, (20, 18, 13))
    views = Views(labelled=("weak", "strong", "noisy"), clip=3)
    raw = PatchLoader(store, dataset, plan((8, 7)), views, 3)[0]
    silent = ViewSettings().strong.model_copy(update={"noise_probability": 0.0})
    weak, strong, noisy = make_batch(raw, views, "cpu", ViewSettings(strong=silent)).labelled.views
    assert torch.equal(weak[0], weak[1])
    torch.testing.assert_close(strong[0], strong[2])
    assert not torch.equal(noisy[0], noisy[1])


def test_pseudo_labels_move_with_the_image(world, plan):
    dataset, store = world()
    store.labelled |= {case.id for case in dataset}
    store.image = lambda case: store.label(case)[None].astype("float32")
    views = Views(unlabelled=("weak",))
    loader = PatchLoader(store, dataset, plan((9, 9, 7)), views, 3, settings=EXACT, pseudo=store.label)
    stream = make_batch(loader[0], views, "cpu", EXACT).unlabelled
    assert stream.label is None
    assert stream.pseudo.dtype == torch.int64
    assert torch.equal(stream.pseudo, stream.image[:, 0].long())


def test_autocast_does_not_change_the_views(world, plan):
    expected = batch_of(world, plan, (8, 8, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = batch_of(world, plan, (8, 8, 6))
    assert torch.equal(expected.unlabelled.views[1], found.unlabelled.views[1])


def test_views_carry_no_gradient(world, plan):
    assert not batch_of(world, plan, (8, 8, 6)).unlabelled.views[1].requires_grad


@pytest.mark.parametrize("patch", PATCHES)
def test_a_stream_can_be_cut_into_samples(world, plan, patch):
    whole = batch_of(world, plan, patch, views=Views(labelled=("weak", "noisy"), signed_distance=True)).labelled
    some = whole[1::2]
    assert len(some) == 2
    assert (some.case, some.seeds, some.domain, some.task) == (
        whole.case[1::2],
        whole.seeds[1::2],
        whole.domain[1::2],
        whole.task[1::2],
    )
    for name in ("label", "valid", "known", "signed_distance"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[1::2])
    for view, part in zip(whole.views, some.views, strict=True):
        assert torch.equal(part, view[1::2])
    assert some.pseudo is None
    ramp = torch.rand(4, *patch)
    assert torch.equal(some.geometry.apply(ramp[1::2]), whole.geometry.apply(ramp)[1::2])
