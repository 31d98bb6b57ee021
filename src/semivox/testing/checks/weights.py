"""What holds for weights: which learn, which follow."""

import torch
from torch import Tensor

from semivox.methods.average import Average
from semivox.testing.candidate import Candidate
from semivox.testing.workbench import Workbench

TURNS = 40
"""Steps of a stage within which every average must have had its turn."""


def gradient_reaches_every_trained_weight(candidate: Candidate) -> None:
    """Over the stages, every weight that is not frozen belongs to an optimiser and gets a gradient other than 0.

    What no gradient reaches is a head that no loss sees, or a copy that should have been made by `problem.average` or
    `problem.frozen`.
    """
    for dimensions in candidate.dimensions:
        trainable: set[str] = set()
        owned: set[str] = set()
        reached: set[str] = set()
        for stage in range(candidate.stages):
            bench = candidate.bench(dimensions, stage)
            for name, average in bench.averages.items():
                assert not any(p.requires_grad for p in average.parameters()), (
                    f"{bench.place}: the average '{name}' is trained too; leave its weights without requires_grad"
                )
            names = {id(parameter): name for name, parameter in bench.method.named_parameters()}
            trainable |= {name for name, p in bench.method.named_parameters() if p.requires_grad}
            for optimiser in bench.optimisers.values():
                owned |= {names[id(p)] for group in optimiser.param_groups for p in group["params"]}
            reached |= reached_by(bench)
            bench.decide()
            while not owned <= reached and bench.engine.step < bench.engine.spans[stage].end:
                reached |= reached_by(bench)
                bench.engine.step += 1  # networks that take turns may have theirs later in the stage
        assert not trainable - owned, (
            f"{dimensions}-D: no optimiser trains {listed(trainable - owned)}; name their module in optimisers(), or"
            " freeze it with problem.frozen"
        )
        assert not owned - reached, (
            f"{dimensions}-D: no gradient reaches {listed(owned - reached)}; let a term depend on them, or make a"
            " teacher with problem.average and an unchanging network with problem.frozen"
        )


def reached_by(bench: Workbench) -> set[str]:
    """Names of the parameters whose gradient is not 0 in the bench's next step."""
    gradients = bench.gradients(bench.batch())
    return {name for name, gradient in gradients.items() if gradient.abs().max() > 0}


def averages_follow_their_sources(candidate: Candidate) -> None:
    """While a method trains, each of its averages moves, only ever towards its source, and nothing else frozen moves.

    Averages that take turns have all had theirs within 40 steps of a stage.
    """
    waiting: set[str] = set()
    moved: set[str] = set()
    steps = candidate.steps_of_run(2 * TURNS)  # benches stand in the middle of a stage
    for stage in range(candidate.stages):
        bench = candidate.bench(stage=stage, iterations=steps)
        batch = bench.batch()
        waiting |= set(bench.averages)
        for step in range(TURNS):
            if step > 2 and waiting <= moved:
                break
            before = {name: flat(average) for name, average in bench.averages.items()}
            bench.train_step(batch)
            for name, average in bench.averages.items():
                old, new, source = before[name], flat(average), flat(average.source)
                if not torch.equal(old, new):
                    moved.add(name)
                assert (new - source).norm() <= (old - source).norm() * (1 + 1e-5), (
                    f"{bench.place}: the average '{name}' moves away from its source; call Average.update(clock.step)"
                )
    assert waiting <= moved, (
        f"the averages {listed(waiting - moved)} never move; after_step must call Average.update, as Method.after_step"
        " does for all of them"
    )


def flat(module: torch.nn.Module) -> Tensor:
    """All weights of a module, one after another."""
    module = module.module if isinstance(module, Average) else module
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def listed(names: set[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    shown = sorted(names)[:most]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
