"""Sums over the whole batch, on however many processes it lies."""

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.autograd.function import FunctionCtx


def batch_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, with gradient; `x` itself on one process. Every process must call it.

    A loss made of such sums is the loss of the whole batch on every process. The backward pass sums the processes'
    gradients too, because the `x` of each enters the loss of all; DistributedDataParallel then *averages* them, which
    leaves exactly the gradient that one process with the whole batch would have.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        return _SumOverProcesses.apply(x)
    return x


def batch_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ weight · values / Σ weight over the whole batch, both of one shape; 0 where the weights sum to 0."""
    if weight is None:
        parts = torch.stack([values.sum(), values.new_tensor(values.numel())])
    else:
        parts = torch.stack([(values * weight).sum(), weight.sum().to(values.dtype)])
    total, count = batch_sum(parts)
    return total / torch.where(count > 0, count, torch.ones_like(count))


def batch_gather(x: Tensor) -> Tensor:
    """`x` of all processes, in their order, along a new first axis; alike in shape on each, and without gradient."""
    x = x.detach().contiguous()
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x)
        return torch.stack(parts)
    return x.unsqueeze(0)


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32, or float64 where it is that already: losses never compute in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        total = x.detach().clone().contiguous()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone().contiguous()
        distributed.all_reduce(total)
        return total
