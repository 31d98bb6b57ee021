"""The engine: runs any method, step by step, and asks it everything. It reads and writes no file.

Lightning gives devices, precision and the loop; optimisation is manual; the step counter is our own, so that a resumed
run goes on where the checkpoint stands. A stage of the method is an epoch of Lightning.
"""

import hashlib
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import lightning
import numpy as np
import torch
import torch.distributed
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from semivox.errors import RunError
from semivox.methods.clock import Clock
from semivox.methods.method import Method, Optimiser, Stage, in_parts
from semivox.planning.demand import Views
from semivox.sampling.batch import Batch, RawBatch
from semivox.sampling.draws import seed_of
from semivox.sampling.loader import PatchLoader, batches
from semivox.sampling.views import make_batch
from semivox.training.checkpoint import DOES_NOT_FIT, load_method
from semivox.training.config import Config, TrainingSettings
from semivox.training.labelling import BlankLabels, Labelling, StoredLabels
from semivox.training.launch import nodes
from semivox.training.optimisation import base_learning_rate, learning_rate_factor, make_optimiser

# What Lightning says of devices, averages in eval mode and epochs is no news to our users.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.pytorch")

MAX_SKIPPED = 20
"""Consecutive steps of one optimiser with a loss that is not finite after which a run gives up."""


@dataclass(frozen=True)
class Span:
    """The steps [start, end) of a stage within the run."""

    stage: Stage
    start: int
    end: int


def spans(stages: tuple[Stage, ...], iterations: int) -> list[Span]:
    """The stages laid out over `iterations` steps by their shares; every stage gets at least one step."""
    total = sum(stage.share for stage in stages)
    ends = [round(iterations * sum(s.share for s in stages[: i + 1]) / total) for i in range(len(stages))]
    if iterations < len(stages):
        raise RunError(f"{iterations} iterations are fewer than the method's {len(stages)} stages; give more")
    laid, start = [], 0
    for index, (stage, end) in enumerate(zip(stages, ends, strict=True)):
        end = min(max(end, start + 1), iterations - (len(stages) - 1 - index))
        laid.append(Span(stage, start, end))
        start = end
    return laid


def describe(span: Span, laid: list[Span]) -> str:
    """What runs, for those who watch: the stage's place and name, where there are several."""
    return f"stage {laid.index(span) + 1} of {len(laid)} ({span.stage.name})" if len(laid) > 1 else "training"


def schedules(laid: list[Span]) -> list[tuple[int, int]]:
    """The steps [start, end) that each learning-rate schedule spans: a stage that resets the optimisers begins one."""
    starts = [span.start for number, span in enumerate(laid) if number == 0 or not span.stage.keep_optimisers]
    return list(zip(starts, [*starts[1:], laid[-1].end], strict=True))


class MakeLoader(Protocol):
    """Views, and the unlabelled stream's pseudo-labels where it has some → the map step → raw batch."""

    def __call__(self, views: Views, labels: StoredLabels | BlankLabels | None = None) -> PatchLoader: ...


class StageBatches:
    """The raw batches of a stage from `step` to its end. Nothing is read before the first one is asked for: Lightning
    makes its iterators earlier, when the stage is not yet prepared."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.span = engine.span
        self.step = engine.step

    def __len__(self) -> int:
        return self.span.end - self.step

    def __iter__(self) -> Iterator[RawBatch]:
        training = self.engine.config.training
        loader = self.engine.loader(self.span.stage)
        yield from batches(loader, self.step, self.span.end, training.workers, pin=training.device == "cuda")


class Engine(lightning.LightningModule):
    """Trains `method` as `config` says."""

    def __init__(self, method: Method, config: Config, make_loader: MakeLoader, labelling: Labelling) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method = method
        self.config = config
        self.make_loader = make_loader
        self.labelling = labelling
        self.step = 0
        self.spans = spans(tuple(method.stages()), config.training.iterations)
        self.terms: dict[str, Tensor] = {}
        self.skipped: Counter[str] = Counter()
        self.learning_rate = 0.0

    # What is asked of the method -----------------------------------------------------------------------------------

    @property
    def span(self) -> Span:
        """The stage to which the next step belongs."""
        return next((span for span in self.spans if self.step < span.end), self.spans[-1])

    def clock(self) -> Clock:
        """Where the next step stands."""
        span = self.span
        return Clock(
            step=self.step,
            iterations=self.config.training.iterations,
            stage=span.stage.name,
            stage_step=self.step - span.start,
            stage_iterations=span.end - span.start,
            seed=seed_of(self.config.seed, "step", self.step),
        )

    def views(self, stage: Stage) -> Views:
        """The method's views in `stage`."""
        views = self.method.demand(self.method.settings).views
        return views if stage.unlabelled else replace(views, unlabelled=())

    def loader(self, stage: Stage) -> PatchLoader:
        """The map step → raw batch of `stage`."""
        return self.make_loader(self.views(stage), self.labelling.labels_of(stage.name) if stage.pseudo else None)

    # What Lightning calls ------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        self.specifications: list[Optimiser] = list(self.method.optimisers())
        return [make_optimiser(specification, self.config.training) for specification in self.specifications]

    def train_dataloader(self) -> StageBatches:
        return StageBatches(self)

    def on_train_epoch_start(self) -> None:
        span = self.span
        if self.step == span.start:
            self.begin(span)

    def begin(self, span: Span) -> None:
        """Starts a stage: weights handed over, optimisers reset where it asks for that, its preparation run.

        All of it follows from what the checkpoint before it holds, so that a run killed in here begins it again alike.
        """
        seed = seed_of(self.config.seed, "stage", span.start)
        torch.manual_seed(seed)
        self.method.take_over(span.stage)
        if not span.stage.keep_optimisers:
            for optimiser in self.trainer.optimizers:
                optimiser.state.clear()
        tools = self.labelling.tools(
            span.stage.name, describe(span, self.spans), seed, self._origin_of_labels(), self.device
        )
        self.method.eval()
        self.method.prepare_stage(span.stage, tools)
        self.method.train()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        return make_batch(batch, self.views(self.span.stage), self.device, self.config.views)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        clock = self.clock()
        seed_torch(self.config.seed, self.step, self.global_rank)
        optimisers = self.optimizers()
        optimisers = optimisers if isinstance(optimisers, list) else [optimisers]
        by_name = {
            spec.name: (spec, optimiser) for spec, optimiser in zip(self.specifications, optimisers, strict=True)
        }
        self.terms = {}
        rates: dict[str, float] = {}
        for name, function in self.method.steps(batch, clock):
            specification, optimiser = by_name[name]
            optimiser.zero_grad(set_to_none=True)
            for terms in in_parts(function()):
                loss = torch.stack([term.float() for term in terms.values()]).sum()
                self.terms.update({key: term.detach() for key, term in terms.items()})
                if not self._all_finite(loss):
                    self._skip(name, terms)
                    break
                self.manual_backward(loss)
            else:
                self.skipped[name] = 0
                rates[name] = self._set_learning_rate(specification, optimiser, clock)
                self._average_gradients(optimiser)
                self._clip(optimiser)
                optimiser.step()
        # Told is that of the first optimiser: adversaries and critics come after the networks.
        self.learning_rate = next((rates[each] for each in by_name if each in rates), self.learning_rate)
        self.method.finish_step(clock)
        self._take_buffers_of_rank_0()
        self.step += 1

    # Details ---------------------------------------------------------------------------------------------------------

    def _set_learning_rate(self, specification: Optimiser, optimiser: Any, clock: Clock) -> float:
        training = self.config.training
        base = base_learning_rate(specification, training)
        start, end = next(steps for steps in schedules(self.spans) if clock.step < steps[1])
        schedule = specification.schedule or training.schedule
        rate = base * learning_rate_factor(clock.step - start, end - start, schedule, training)
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        return rate

    def _take_buffers_of_rank_0(self) -> None:
        """Gives every rank the buffers of rank 0, as one flat message; torch's own data parallelism does the same.

        Ranks see other samples, so that their batch-norm statistics would drift apart, while a checkpoint holds one
        state. Parameters need no message: equal ones and averaged gradients stay equal.
        """
        buffers = list(self.method.buffers())
        if self.trainer.world_size == 1 or not buffers:
            return
        parts = [buffer.flatten().view(torch.uint8) for buffer in buffers]
        flat = torch.cat(parts)
        torch.distributed.broadcast(flat, 0)
        for buffer, part in zip(buffers, flat.split([part.numel() for part in parts]), strict=True):
            buffer.copy_(part.clone().view(buffer.dtype).view(buffer.shape))  # cloned: a view must be aligned

    def _origin_of_labels(self) -> str:
        """A digest of all that pseudo-labels made now follow from: weights and settings."""
        config = self.config.model_dump(mode="json", include={"plan", "method", "inference", "seed"})
        digest = hashlib.sha256(json.dumps([config, self.config.training.precision], sort_keys=True).encode())
        for name, value in sorted(self.method.state_dict().items()):
            digest.update(name.encode())
            if isinstance(value, Tensor):
                digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            else:
                digest.update(repr(value).encode())
        return digest.hexdigest()

    def _all_finite(self, loss: Tensor) -> bool:
        """Whether the loss is finite on every rank, so that all skip a step or none does."""
        finite = torch.isfinite(loss.detach()).float()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        return bool(finite)

    def _skip(self, optimiser: str, terms: dict[str, Tensor]) -> None:
        self.skipped[optimiser] += 1
        if self.skipped[optimiser] > MAX_SKIPPED:
            values = ", ".join(f"{name} {term.item():.3g}" for name, term in terms.items())
            raise RunError(
                f"step {self.step}: the loss has not been finite for {MAX_SKIPPED} steps ({values}); lower"
                " training.learning_rate or use --precision 32"
            )

    def _average_gradients(self, optimiser: Any) -> None:
        """Averages gradients over ranks, as one flat message. Losses that sum over the batch reduce those sums
        themselves (`losses.reduction`), so that the average is the gradient of one process."""
        if self.trainer.world_size == 1:
            return
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.reshape(-1) for p in parameters])
        torch.distributed.all_reduce(flat)
        flat /= self.trainer.world_size
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))

    def _clip(self, optimiser: Any) -> None:
        limit = self.config.training.gradient_clip
        if limit:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            if scaler is not None:
                scaler.unscale_(optimiser.optimizer)
            nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], limit)

    # What survives an interruption ---------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """All state of the run between two steps."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.trainer.optimizers],
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Takes back the step and the method's state; optimisers follow in `restore_optimisers`, once they exist."""
        load_method(self.method, content)
        self.step = content["step"]

    def restore_optimisers(self, content: dict[str, Any]) -> None:
        for optimiser, state in zip(self.trainer.optimizers, content["optimisers"], strict=True):
            if [group.keys() for group in optimiser.param_groups] != [
                {**group, "params": None}.keys() for group in state["param_groups"]
            ]:
                raise RunError(DOES_NOT_FIT)
            optimiser.load_state_dict(state)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and content["scaler"]:
            scaler.load_state_dict(content["scaler"])


def seed_torch(seed: int, step: int, rank: int) -> None:
    """Seeds torch's own generators from (seed, step, rank), so that dropout and noise need no saving."""
    state = np.random.SeedSequence((seed, step, rank)).generate_state(2, np.uint32)
    torch.manual_seed((int(state[0]) << 32 | int(state[1])) & (2**63 - 1))


class GradientMean(DDPStrategy):
    """Lightning's process groups without its wrapper: the engine averages gradients itself, after each backward pass,
    because methods may back-propagate several times a step, each time through other modules."""

    def configure_ddp(self) -> None:
        pass


def make_trainer(training: TrainingSettings, callbacks: list[lightning.Callback], stages: int) -> lightning.Trainer:
    """A Lightning trainer that only runs the loop: no checkpoints, no logger, no validation of its own."""
    accelerator = training.device
    strategy: Any = "auto"
    if training.devices > 1:
        strategy = GradientMean(process_group_backend="gloo" if accelerator == "cpu" else "nccl")
    machines = nodes() if training.devices > 1 else 1
    precision = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[training.precision]
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(accelerator, accelerator),
        devices=training.devices // machines,
        num_nodes=machines,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=stages,
        reload_dataloaders_every_n_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
