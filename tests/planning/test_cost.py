import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from semivox.methods import find_method
from semivox.networks import make_network
from semivox.planning import cost
from semivox.planning.cost import estimate
from semivox.planning.demand import Companion, Demand, Views
from semivox.planning.fingerprint import Fingerprint, Scan
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.preparation.settings import Normalisation, Preparation
from semivox.training.config import method_settings
from semivox.training.device import choose_precision

MEAN_TEACHER = Demand(views=Views(unlabelled=("weak", "noisy")), averages=1, unlabelled_forwards=1, teacher_forwards=1)


def plan(patch, name="vnet", labelled=2, unlabelled=2, **settings) -> Plan:
    return Plan(
        preparation=Preparation(normalisation=(Normalisation(),)),
        patch=patch,
        batch=BatchSize(labelled=labelled, unlabelled=unlabelled),
        network=NetworkChoice(name=name, settings=settings),
    )


def test_operations_of_the_literatures_v_net_are_those_counted_by_hand():
    # 40.1 GMAC per 112x112x80 window, two operations each.
    assert cost.forward(plan((112, 112, 80)), 1, 2, torch.float32).flop == pytest.approx(80.2e9, rel=1e-3)


def test_a_frozen_encoder_keeps_little():
    frozen, full = (
        cost.forward(plan((32, 32), "sam2", size="miniature", tuning=tuning), 1, 2, torch.float32)
        for tuning in ("frozen", "full")
    )
    assert frozen.flop == full.flop
    assert frozen.kept < 0.6 * full.kept


@pytest.mark.parametrize(("name", "patch"), [("vnet", (32, 32, 16)), ("unet", (48, 32)), ("unet", (32, 32, 16))])
def test_kept_activations_are_those_of_a_real_forward_pass(name, patch):
    network = make_network(name, len(patch), 1, 3, {}, patch).train()
    weights = {weight.data_ptr() for weight in network.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.rand(4, 1, *patch))
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    played = cost.forward(plan(patch, name), 1, 3, torch.float32)
    assert 4 * played.kept + played.weight_copies == pytest.approx(real, rel=0.01)
    assert played.parameter_bytes == 4 * sum(weight.numel() for weight in network.parameters())


def test_looking_at_a_network_leaves_torchs_generator_as_it_was():
    before = torch.get_rng_state()
    estimate(plan((16, 16, 16), levels=2), Demand(), 1, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_costs_three_passes_per_trained_sample_and_one_per_taught_one():
    one = cost.forward(plan((16, 16, 16)), 1, 2, torch.float32).flop
    step = cost.step_flop(
        plan((16, 16, 16), labelled=3, unlabelled=2),
        MEAN_TEACHER,
        cost.forward(plan((16, 16, 16)), 1, 2, torch.float32),
    )
    assert step == pytest.approx(one * (3 * (3 + 2) + 2))


def test_every_demand_adds_to_the_peak():
    one = plan((48, 48, 32))
    peaks = [
        estimate(one, demand, 1, 2, autocast=torch.float32, flop_per_s=1e11).peak_gib
        for demand in (
            Demand(),
            MEAN_TEACHER,
            Demand(
                views=Views(unlabelled=("weak",)), networks=2, averages=2, labelled_forwards=2, unlabelled_forwards=2
            ),
        )
    ]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[2]


def test_many_passes_without_gradient_at_once_are_the_peak():
    one = plan((48, 48, 32))
    network = cost.forward(one, 1, 2, torch.bfloat16)

    def peak(at_once):
        demand = replace(MEAN_TEACHER, teacher_forwards=100, taught_at_once=at_once)
        return cost.peak_bytes(one, demand, 1, 2, network, "cpu", torch.bfloat16)

    assert peak(2) == peak(1), "the backward pass takes more"
    assert peak(1) < peak(40)
    # Of each sample the pass, and four float32 maps of two classes.
    assert peak(60) - peak(40) == pytest.approx(20 * 2 * (cost.TEACHING * network.largest + 4 * 2 * 48 * 48 * 32 * 4))


def test_a_companion_adds_what_its_own_network_costs():
    unlabelled = Demand(views=Views(unlabelled=("weak",)), unlabelled_forwards=1)
    like_the_plans = Companion("vnet", {"width": 16, "levels": 3}, cost=1.0)
    twice = replace(unlabelled, networks=2, labelled_forwards=2, unlabelled_forwards=2)
    beside = replace(unlabelled, companions=(like_the_plans,))
    options = {"autocast": torch.float32, "flop_per_s": 1e11}
    one = plan((32, 32, 32), levels=3)
    assert estimate(one, beside, 1, 2, **options).step_s == pytest.approx(estimate(one, twice, 1, 2, **options).step_s)
    assert estimate(one, beside, 1, 2, **options).peak_gib == pytest.approx(
        estimate(one, twice, 1, 2, **options).peak_gib
    )
    wide = replace(unlabelled, companions=(replace(like_the_plans, settings={"width": 64, "levels": 3}),))
    assert estimate(one, wide, 1, 2, **options).step_s > 5 * estimate(one, beside, 1, 2, **options).step_s
    assert estimate(one, wide, 1, 2, **options).peak_gib > estimate(one, beside, 1, 2, **options).peak_gib
    assert beside.relative_cost == twice.relative_cost == 4


def test_a_companion_that_sees_less_costs_less_and_its_averages_are_weights():
    unlabelled = Demand(views=Views(unlabelled=("weak",)), unlabelled_forwards=1)
    like_the_plans = Companion("vnet", {"width": 16, "levels": 3}, 1.0, unlabelled_forwards=0, averages=1)
    beside = replace(unlabelled, companions=(like_the_plans,))
    same = replace(unlabelled, networks=2, averages=1, labelled_forwards=2)
    options = {"autocast": torch.float32, "flop_per_s": 1e11}
    one = plan((32, 32, 32), levels=3)
    found, expected = (estimate(one, demand, 1, 2, **options) for demand in (beside, same))
    assert (found.step_s, found.peak_gib) == pytest.approx((expected.step_s, expected.peak_gib))
    assert beside.relative_cost == same.relative_cost == 3
    assert beside.labelled_cost == same.labelled_cost == 2


def test_seconds_follow_the_speed_of_the_device():
    fast, slow = (estimate(plan((32, 32, 32)), Demand(), 1, 2, flop_per_s=speed).step_s for speed in (2e11, 1e11))
    assert slow == pytest.approx(2 * fast)


def test_the_speed_that_is_measured_is_that_of_a_step():
    measured = cost.throughput(plan((16, 16, 16), levels=3), 1, 2, "cpu", torch.float32)
    assert 1e8 < measured < 1e13


def test_the_store_is_counted_at_the_plans_spacing_without_test_scans():
    scan = Scan(
        case="a",
        split="train",
        domain="default",
        channels=("MRI", "CT"),
        shape=(40, 40, 20),
        body=(30, 40, 20),
        spacing_mm=(1.0, 1.0, 2.0),
        is_picture=False,
        dtype="int16",
        intensities=(),
        sha256={},
    )
    prints = Fingerprint(
        dataset="d",
        channels=("MRI", "CT"),
        scans=(scan, scan.model_copy(update={"split": "test"})),
        modalities=(),
    )
    preparation = Preparation(spacing_mm=(2.0, 1.0, None), normalisation=(Normalisation(),))
    # 15 x 40 x 20 voxels of two float32 channels and a label byte.
    assert cost.store_bytes(preparation, prints) == 15 * 40 * 20 * 9


TRAIN = """
import re, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from semivox.training.cpu import keep_heap
from semivox.experiments import train
from semivox.training.config import Config
from semivox.training.fit import fit
from semivox.training.run import RunFolder
keep_heap()
config = Config.load(Path(sys.argv[1]))
run = RunFolder(Path(sys.argv[2]))
run.create()
fit(config, run)
# Not getrusage: its peak is at least that of the process which started this one, a worker that has run many tests.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the factors are glibc's")
@pytest.mark.parametrize(
    ("method", "patch", "name", "batch"),
    [
        ("mean_teacher", (40, 40, 32), "vnet", 4),
        ("cross_pseudo_supervision", (192, 192), "unet", 4),
    ],
)
def test_the_predicted_peak_is_within_a_fifth_of_the_measured_one(make_config, tmp_path, method, patch, name, batch):
    config = make_config(method, iterations=2, precision=choose_precision("auto", "cpu"), checkpoint_every=100)
    big = config.plan.model_copy(
        update={
            "patch": patch,
            "batch": BatchSize(labelled=batch, unlabelled=batch),
            "network": NetworkChoice(name=name),
        }
    )
    config = config.model_copy(update={"plan": big})
    config.save(tmp_path / "config.yaml")
    arguments = [str(tmp_path / "config.yaml"), str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", TRAIN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = float(done.stdout.splitlines()[-1])
    demand = find_method(method).demand(method_settings(config.method))
    predicted = estimate(big, demand, 1, 4, flop_per_s=1e11).peak_gib

    assert predicted == pytest.approx(measured, rel=0.2)
