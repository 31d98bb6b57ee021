import os
import socket

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.losses.consistency import softmax_mse
from semivox.losses.cross_entropy import cross_entropy
from semivox.losses.dice import dice_linear
from semivox.losses.reduction import batch_gather, batch_mean, batch_sum
from semivox.losses.supervised import supervised_loss

KNOWN = torch.tensor([[True] * 3, [True] * 3, [False, True, False], [False, True, False]])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 3, 1)).double()


def samples() -> tuple[Tensor, Tensor, Tensor]:
    """Four samples; the two halves differ in classes present, voxels ignored, voxels masked and classes annotated."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 1, 8, 9, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 3, (4, 6, 7), generator=generator)
    label[:2][label[:2] == 2] = IGNORE
    label[3] = 0
    mask = torch.rand(4, 6, 7, generator=generator) > torch.tensor([0.1, 0.2, 0.7, 0.9]).view(4, 1, 1)
    return image, label, mask


def losses(logits: Tensor, label: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    target = logits.detach().flip(1)
    return torch.stack(
        [
            cross_entropy(logits, label, mask, torch.tensor([0.3, 1.0, 2.0])),
            dice_linear(logits.softmax(1), label, mask).mean(),
            supervised_loss(logits, label),
            supervised_loss(logits, label, known),
            softmax_mse(logits, target, mask),
        ]
    )


def train_on_share(rank: int, ranks: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=ranks)
    image, label, mask = (part.chunk(ranks)[rank] for part in samples())
    known = KNOWN.chunk(ranks)[rank]
    model = nn.parallel.DistributedDataParallel(network())
    results = []
    for index in range(5):
        model.zero_grad()
        loss = losses(model(image), label, mask, known)[index]
        loss.backward()
        results.append((loss.item(), [parameter.grad.clone() for parameter in model.parameters()]))
    gathered = batch_gather(torch.tensor([rank, 10.0 + rank], requires_grad=True))
    torch.save((results, gathered), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("ranks"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(train_on_share, (2, port, folder), nprocs=2)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("index", range(5), ids=["cross entropy", "dice", "supervised", "partial", "consistency"])
def test_two_processes_give_the_loss_and_gradient_of_one(two_processes, index):
    image, label, mask = samples()
    model = network()
    loss = losses(model(image), label, mask, KNOWN)[index]
    loss.backward()
    for results, _ in two_processes:
        rank_loss, gradients = results[index]
        assert rank_loss == pytest.approx(loss.item(), rel=1e-12)
        for gradient, parameter in zip(gradients, model.parameters(), strict=True):
            assert torch.allclose(gradient, parameter.grad, rtol=1e-9, atol=1e-14)


def test_every_process_gathers_what_each_has(two_processes):
    for _, gathered in two_processes:
        assert gathered.tolist() == [[0, 10], [1, 11]]
        assert not gathered.requires_grad


def test_one_process_gathers_its_own():
    assert batch_gather(torch.ones(3, requires_grad=True)).tolist() == [[1, 1, 1]]


def test_one_process_sums_nothing():
    x = torch.randn(3, requires_grad=True)
    assert batch_sum(x) is x


def test_mean_of_nothing_is_zero():
    values = torch.randn(3, requires_grad=True)
    mean = batch_mean(values, torch.zeros(3))
    mean.backward()
    assert mean.item() == 0
    assert (values.grad == 0).all()


def test_mean_is_weighted():
    assert batch_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 0.5, 0.0])).item() == pytest.approx(2 / 1.5)
    assert batch_mean(torch.tensor([1.0, 2.0, 6.0])).item() == pytest.approx(3)
