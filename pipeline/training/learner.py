"""A network that learns: one batch in, weights changed; the same with one worker and with many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import GigasegError, InputError, Problem
from pipeline.losses import Term
from pipeline.training.crops import Batch
from pipeline.training.plan import TrainPlan
from pipeline.training.rate_schedule import make_optimizer
from pipeline.training.weight_averaging import begin, measure_norms
from pipeline.training.worker_group import WorkerGroup

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Learner", "Step", "enough_memory", "precision_of"]

NO_MEMORY = ("out of memory", "can't allocate memory")  # what torch says of a GPU and of the processor


def precision_of(plan: TrainPlan, device: str) -> str:
    """``auto``: bf16 where the processor or the GPU has it."""
    if plan.config.precision != "auto":
        return plan.config.precision
    from pipeline.backends.torch import bf16_supported

    return "bf16" if device != "cpu" or bf16_supported() else "fp32"


@contextmanager
def enough_memory(plan: TrainPlan) -> Iterator[None]:
    """Take steps inside.

    Raises:
        InputError: there is too little memory for one.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, RuntimeError) and not any(text in reason for text in NO_MEMORY):
            raise
        where, found = plan.config.place("crop"), f"{plan.crop} with a batch of {plan.config.batch} ({reason or 'out of memory'})"
        raise InputError(Problem(where, found, "a step that fits into memory", "Make crop or batch smaller.")) from error


@dataclass(frozen=True)
class Step:
    """What one batch gave, over all workers: the loss, and its parts before they are weighted."""

    loss: float
    parts: dict[str, float]


class Learner:
    """Network, averaged weights and optimizer of one worker.

    Args:
        plan: scanned.
        team: the workers; all hold the same weights at any time.
    """

    def __init__(self, plan: TrainPlan, team: WorkerGroup) -> None:
        import torch

        self.plan, self.team = plan, team
        torch.backends.cudnn.benchmark = True  # crops have one size, so that trying algorithms pays
        network, self.norms_fit = begin(plan)
        self.network = network.to(team.device).to(memory_format=torch.channels_last).train()
        if plan.config.freeze_norms:
            _freeze_norms(self.network)
        self.shared = team.share(self.network)
        self.optimizer = make_optimizer(self.network, plan.config.optimizer)
        self.precision = precision_of(plan, team.device)
        # float16 underflows where gradients are small; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(team.device.partition(":")[0], enabled=self.precision == "fp16")
        self.average = _average(self.network, plan.config.ema)

    def measure_norms(self, batches: Iterable[Batch]) -> None:
        """Measure the norms' statistics before the first step, where the weights begin as a mean."""
        measure_norms(self.network, (batch.pixels_BCYX for batch in batches), self.team.device)
        if self.plan.config.freeze_norms:
            _freeze_norms(self.network)
        if self.average is not None:
            self.average.module.load_state_dict(self.network.state_dict())

    def learn(self, batch: Batch, rate: float, step: int) -> Step:
        """Take one step.

        Raises:
            GigasegError: the loss is NaN or infinite; the crops of the batch are named, and no weight is changed.
        """
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed((self.plan.config.seed << 32) + step * self.team.size + self.team.rank)  # of dropout
        truth_BYX = batch.truth_BYX.to(self.team.device).long()
        weights_BYX = None if batch.weights_BYX is None else batch.weights_BYX.to(self.team.device)
        x_BCYX = batch.pixels_BCYX.to(self.team.device, memory_format=torch.channels_last)
        with self._autocast():
            logits_BKYX = self.shared(x_BCYX)
        terms = self.plan.loss.terms(logits_BKYX.float(), _centre(truth_BYX, logits_BKYX), _centre(weights_BYX, logits_BKYX))
        found, loss = self._together(terms)
        if not torch.isfinite(loss.detach()) or not all(map(_is_finite, found.parts.values())):
            crops = [where for some in self.team.gather(list(batch.where)) for where in some]
            raise GigasegError(f"the loss is {found.loss} at step {step}; the batch: {'; '.join(crops)}")
        self._follow(loss)
        return found

    def kept(self) -> nn.Module:
        """The network with the weights that are to be kept: the averaged ones where there are any."""
        kept: nn.Module = self.network if self.average is None else self.average.module
        return kept

    def state(self) -> dict[str, Any]:
        """All that must be put back to go on as if nothing had happened."""
        parts = {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler, "average": self.average}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.team.device.partition(":")[0], dtype)

    def _together(self, terms: list[Term]) -> tuple[Step, torch.Tensor]:
        """Divide this worker's sums by what all workers counted, so that averaged gradients are those of one large batch."""
        import torch

        sums = torch.stack([number.detach().double() for term in terms for number in (term.total, term.count)])
        totals, counts = self.team.add(sums).reshape(-1, 2).unbind(1)
        shares = [
            term.factor * term.total * self.team.size / counted.to(term.total.dtype)
            for term, counted in zip(terms, counts, strict=True)
            if counted > 0
        ]
        zero = sum((term.total for term in terms), start=torch.zeros(())) * 0
        loss = torch.stack(shares).sum() if shares else zero
        values = [float(total / counted) if counted > 0 else 0.0 for total, counted in zip(totals, counts, strict=True)]
        whole = sum(term.factor * value for term, value in zip(terms, values, strict=True))
        return Step(whole, {f"part {at}": value for at, value in enumerate(values)}), loss

    def _follow(self, loss: torch.Tensor) -> None:
        """Go down the gradient."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        if self.plan.config.optimizer.clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.config.optimizer.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)


def _average(network: nn.Module, decay: float | None) -> Any:
    """An exponential moving average of weights and norms' statistics; it starts as the network itself."""
    if decay is None:
        return None
    import torch
    from torch.optim.swa_utils import AveragedModel

    def follow(averages: Any, values: Any, seen: Any) -> None:
        # Early on the average must forget faster, or it would hold on to the random weights.
        keep = min(decay, (1 + float(seen)) / (10 + float(seen)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - keep)
        else:  # counters of norms
            torch._foreach_copy_(averages, values)

    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True)


def _freeze_norms(network: nn.Module) -> None:
    """Let batch norms use the statistics that they have, as when predicting; scale and shift still learn."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def _centre(plane_BYX: Any, logits_BKYX: torch.Tensor) -> Any:
    """Cut what is said of pixels to those that the network answers for: valid padding takes the same off every side."""
    if plane_BYX is None:
        return None
    height, width = logits_BKYX.shape[-2:]
    top, left = (plane_BYX.shape[-2] - height) // 2, (plane_BYX.shape[-1] - width) // 2
    return plane_BYX[:, top : top + height, left : left + width]


def _is_finite(value: float) -> bool:
    return value - value == 0
