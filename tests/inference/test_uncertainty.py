import math

import numpy as np
import pytest
import torch

from semivox.inference.uncertainty import entropy_map


@pytest.mark.parametrize("classes", [2, 5])
def test_equal_probabilities_give_one_and_certain_ones_zero(classes):
    equal = torch.full((classes, 2, 3, 4), 1 / classes)
    torch.testing.assert_close(entropy_map(equal), torch.ones(2, 3, 4))
    certain = torch.zeros((classes, 2, 3, 1))
    certain[1] = 1
    assert torch.equal(entropy_map(certain), torch.zeros(2, 3, 1))


def test_a_value_worked_by_hand():
    shares = torch.tensor([0.5, 0.25, 0.25]).view(3, 1, 1, 1)
    # -(½ ln ½ + 2 · ¼ ln ¼) = 1.5 ln 2
    assert entropy_map(shares).item() == pytest.approx(1.5 * math.log(2) / math.log(3))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3)])
def test_agrees_with_numpy_in_both_result_types(dtype, tolerance):
    probabilities = torch.randn((4, 3, 5, 6), generator=torch.Generator().manual_seed(0)).mul(3).softmax(0)
    p = probabilities.double().numpy()
    expected = -(p * np.log(p)).sum(0) / np.log(4)
    result = entropy_map(probabilities.to(dtype))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, atol=tolerance)
