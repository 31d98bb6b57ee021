"""Perturbations of features."""

import numpy as np
import pytest
import torch

from semivox.sampling.draws import generator
from semivox.sampling.features import channel_dropout, complementary_dropout, dropout, feature_drop, feature_noise

SEEDS = (3, 4)
PERTURBATIONS = (channel_dropout, dropout, feature_noise, feature_drop)
SHAPES = ((2, 64, 6, 5), (2, 64, 4, 3, 5))


@pytest.fixture(params=SHAPES, ids=["2-D", "3-D"])
def features(request):
    source = torch.Generator().manual_seed(0)
    places = torch.rand(1, 1, *request.param[2:], generator=source)
    return (torch.rand(request.param, generator=source) + 0.5) * (places + 0.1)


@pytest.mark.parametrize("perturb", PERTURBATIONS)
def test_each_sample_depends_on_its_own_seed_alone(perturb, features):
    whole = perturb(features, SEEDS)
    assert torch.equal(whole[1:], perturb(features[1:], SEEDS[1:]))
    assert not torch.equal(whole, perturb(features, (8, 9)))
    assert not torch.equal(whole, perturb(features, SEEDS, draw=1))


def test_channel_dropout_drops_whole_channels_and_keeps_the_mean(features):
    kept = channel_dropout(features, SEEDS, 0.25) / features
    flat = kept.flatten(2)
    assert torch.allclose(flat, flat[..., :1].expand_as(flat), atol=1e-5)
    assert torch.all((flat == 0) | ((flat - 4 / 3).abs() < 1e-5))
    assert 0.6 < float((flat[..., 0] > 0).float().mean()) < 0.9


def test_dropout_drops_single_values_at_the_given_rate(features):
    kept = dropout(features, SEEDS, 0.3) > 0
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.03)


def test_complementary_halves_have_no_channel_in_common_and_together_all(features):
    seeds = tuple(range(40))
    many = features[:1].expand(40, *features.shape[1:])
    first, second = complementary_dropout(many, many, seeds)
    torch.testing.assert_close(first + second, 2 * many)
    halved = (first == 0).flatten(1).any(1)
    assert torch.all((first * second)[halved] == 0)
    assert 0.25 < float(halved.float().mean()) < 0.75
    again, _ = complementary_dropout(many, many, seeds, draw=1)
    assert torch.equal((again == 0).flatten(1).any(1), halved), "who takes part is the same at every level"


def test_noise_is_even_within_its_limit(features):
    factor = feature_noise(features, SEEDS, 0.3) / features - 1
    assert float(factor.abs().max()) <= 0.3 + 1e-5
    assert float(factor.std()) == pytest.approx(0.3 / 3**0.5, rel=0.03)


def test_feature_drop_equals_a_slow_version(features):
    dropped = feature_drop(features, SEEDS)
    for row, seed in enumerate(SEEDS):
        share = generator(seed, "drop", 0).uniform(0.7, 0.9)
        activity = features[row].numpy().mean(0)
        for place in np.ndindex(activity.shape):
            expected = features[(row, slice(None), *place)].numpy() * (activity[place] < share * activity.max())
            np.testing.assert_allclose(dropped[(row, slice(None), *place)].numpy(), expected)
    assert float((dropped == 0).float().mean()) > 0


def test_a_gradient_passes_where_features_stay():
    features = torch.rand(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    for perturb in PERTURBATIONS:
        assert torch.autograd.gradcheck(lambda x, perturb=perturb: perturb(x, (5,)), (features,))
