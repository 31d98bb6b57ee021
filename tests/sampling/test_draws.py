import numpy as np
import pytest
import torch

from semivox.sampling.draws import generator, gumbel, normal, seed_of

CPU = torch.device("cpu")


def test_same_keys_same_numbers_whatever_was_drawn_before():
    generator(1, "crop").random(100)
    np.testing.assert_array_equal(generator(1, "crop").random(5), generator(1, "crop").random(5))


def test_each_key_and_its_place_matter():
    seeds = {seed_of(*keys) for keys in [(1, 2, "a"), (2, 1, "a"), (1, 2, "b"), (1, 2), (1, 2, "a", 1), (12, "a")]}
    assert len(seeds) == 6


def test_seeds_fit_a_signed_64_bit_number():
    assert all(0 <= seed_of(i) < 2**63 for i in range(200))


def test_negative_keys_are_refused():
    with pytest.raises(ValueError):
        seed_of(-1)


@pytest.mark.parametrize("draw", [normal, gumbel])
def test_noise_of_a_sample_does_not_depend_on_its_batch(draw):
    together = draw((2, 5, 4), (3, 4, 5), CPU)
    torch.testing.assert_close(together[1:2], draw((2, 5, 4), (4,), CPU), rtol=0, atol=0)
    assert not torch.equal(together[0], together[1])


def test_noise_is_standard_normal():
    noise = normal((100_000,), (7,), CPU)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_gumbel_noise_makes_the_largest_of_some_logits_a_draw_from_their_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0])
    noise = gumbel((100_000, 3), (7,), CPU)[0]
    assert noise.isfinite().all()
    assert abs(noise.mean() - 0.57722) < 0.02
    shares = torch.bincount((logits + noise).argmax(1), minlength=3) / len(noise)
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.01, rtol=0)
