import platform
import subprocess
import sys

import pytest
import torch

from semivox.networks import make_network
from semivox.training.cpu import lay_out, memory_format

COUNT_FAULTS = """
import resource, torch
from semivox.training.cpu import keep_heap
{call}
def work():
    for _ in range(10):
        (torch.zeros(16 * 2**20) + 1).sum().item()   # two tensors of 64 MiB
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    finished = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS.format(call=call)], capture_output=True, text=True, check=True
    )
    return int(finished.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_kept_heap_needs_no_new_pages():
    assert page_faults("keep_heap()") < 0.05 * page_faults("")


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("norm", "last"), [("batch", True), ("none", True), ("group", False), ("instance", False)])
def test_channels_go_last_unless_normalised_group_by_group(dimensions, norm, last):
    network = make_network("vnet", dimensions, 1, 2, {"width": 2, "levels": 2, "norm": norm})
    expected = {2: torch.channels_last, 3: torch.channels_last_3d}[dimensions] if last else torch.contiguous_format
    assert memory_format(network) == expected


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["vnet", "unet"])
def test_images_follow_the_layout_of_the_weights_both_ways(name, dimensions, channels):
    """A layout lost anywhere, in a slice or a sum, costs more than the layout gains."""
    torch.manual_seed(0)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dimensions]
    network = make_network(name, dimensions, channels, 2, {"width": 4, "levels": 3, "norm": "batch"})
    lay_out(network)
    kept = []

    def watch(_, __, output):
        kept.append(output.is_contiguous(memory_format=layout))
        output.register_hook(lambda gradient: kept.append(gradient.is_contiguous(memory_format=layout)))

    for part in (network.encoder, network.decoder):
        for layer in part.modules():
            if not list(layer.children()):
                layer.register_forward_hook(watch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(2, channels, *(16, 12, 20)[:dimensions]))
    logits.float().square().sum().backward()
    assert len(kept) > 20
    assert all(kept)


def test_layout_changes_no_logit():
    network = make_network("vnet", 3, 1, 2, {"width": 4, "levels": 3}).eval()
    x = torch.randn(1, 1, 16, 12, 20)
    before = network(x)
    lay_out(torch.nn.ModuleDict({"student": network}))
    assert network.encoder.blocks[1].layers[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(network(x), before, atol=1e-5)
