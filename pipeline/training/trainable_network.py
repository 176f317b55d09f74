"""A network in training: one batch in, its weights changed; the same with one worker and with many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import GigasegError, InputError, Problem
from pipeline.losses import Term
from pipeline.training.batch_loading import Batch
from pipeline.training.plan import TrainPlan
from pipeline.training.schema import Optimizer, TrainConfig
from pipeline.training.weight_averaging import load_initial_network, measure_batch_norms, moving_average
from pipeline.training.worker_group import WorkerGroup

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["StepLoss", "TrainableNetwork", "autocast", "make_optimizer", "memory_errors", "resolve_precision"]

NO_MEMORY = ("out of memory", "can't allocate memory")  # the words of torch for a GPU and for the processor


@contextmanager
def memory_errors(plan: TrainPlan) -> Iterator[None]:
    """Turn a lack of memory during a step into the user's mistake.

    Raises:
        InputError: the step needs more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, RuntimeError) and not any(words in reason for words in NO_MEMORY):
            raise
        where, found = plan.config.where("crop"), f"{plan.crop} with a batch of {plan.config.batch} ({reason or 'out of memory'})"
        raise InputError(Problem(where, found, "a step that fits into memory", "Make crop or batch smaller.")) from error


def resolve_precision(config: TrainConfig, device: str) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` is bf16 where the processor or the GPU has it."""
    if config.precision != "auto":
        return config.precision
    from pipeline.backends import bf16_supported

    return "bf16" if device != "cpu" or bf16_supported() else "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """Return the context in which a network computes with this precision."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16 if precision == "bf16" else torch.float16)


def make_optimizer(network: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """Make the optimizer of a network's trainable parameters.

    Weight decay is for weights with more than one axis, not for norms and biases.
    """
    import torch

    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=spec.rate, momentum=spec.momentum, nesterov=spec.momentum > 0)
    return torch.optim.AdamW(groups, lr=spec.rate)


@dataclass(frozen=True)
class StepLoss:
    """The loss of one batch over all workers: what is minimised, and its terms by name before they are weighted."""

    total: float
    parts: dict[str, float]


class TrainableNetwork:
    """The network of one worker with its optimizer and its averaged weights; all workers hold the same weights at any time."""

    def __init__(self, plan: TrainPlan, workers: WorkerGroup) -> None:
        import torch

        self._plan, self._workers = plan, workers
        torch.backends.cudnn.benchmark = True  # all crops have one size, so that the time to compare algorithms pays off
        network, self.has_fitting_norms = load_initial_network(plan.network, plan.config.mean_of)
        self.network = network.to(workers.device).to(memory_format=torch.channels_last).train()
        self._freeze_norms()
        self._distributed = workers.distribute(self.network)
        self._optimizer = make_optimizer(self.network, plan.config.optimizer)
        self._precision = resolve_precision(plan.config, workers.device)
        # Only float16 needs scaling, which keeps small gradients above 0: the other precisions have the range of float32.
        self._scaler = torch.amp.GradScaler(torch.device(workers.device).type, enabled=self._precision == "fp16")
        self._average = None if plan.config.ema is None else moving_average(self.network, plan.config.ema)

    def measure_norms(self, batches: Iterable[Batch]) -> None:
        """Measure the batch norm statistics of weights that are a mean; call this before the first step."""
        measure_batch_norms(self.network, (batch.pixels_BCYX for batch in batches), self._workers.device)
        self._freeze_norms()
        if self._average is not None:
            self._average.module.load_state_dict(self.network.state_dict())

    def learn(self, batch: Batch, rate: float, step: int) -> StepLoss:
        """Take one optimizer step with this worker's share of a batch; the number of the step, from 0, seeds dropout.

        Raises:
            GigasegError: the loss is NaN or infinite; the message names the crops of the batch, and no weight is changed.
        """
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed((self._plan.config.seed << 32) + step * self._workers.size + self._workers.rank)
        step_loss, loss = self._combine(self._loss_terms(batch))
        if not torch.isfinite(loss.detach()) or not all(map(math.isfinite, step_loss.parts.values())):
            crops = [where for share in self._workers.gather(list(batch.where)) for where in share]
            raise GigasegError(f"the loss is {step_loss.total} at step {step}; the batch: {'; '.join(crops)}")
        self._update_weights(loss)
        return step_loss

    def network_to_keep(self) -> nn.Module:
        """Return the network that a bundle keeps: that of the averaged weights if there are any."""
        kept: nn.Module = self.network if self._average is None else self._average.module
        return kept

    def state_dict(self) -> dict[str, Any]:
        """Return all that :meth:`load_state_dict` needs to continue as if training had not been interrupted."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self._optimizer, "scaler": self._scaler, "average": self._average}
        return {name: part for name, part in parts.items() if part is not None}

    def _freeze_norms(self) -> None:
        """Let batch norms use the statistics that they have, if the YAML says so; scale and shift still learn."""
        from torch.nn.modules.batchnorm import _BatchNorm

        for module in self.network.modules() if self._plan.config.freeze_norms else ():
            if isinstance(module, _BatchNorm):
                module.eval()

    def _loss_terms(self, batch: Batch) -> list[Term]:
        import torch

        device = self._workers.device
        target_BYX = batch.target_BYX.to(device).long()
        weights_BYX = None if batch.weights_BYX is None else batch.weights_BYX.to(device)
        x_BCYX = batch.pixels_BCYX.to(device, memory_format=torch.channels_last)
        with autocast(self._precision, device):
            logits_BKYX = self._distributed(x_BCYX)
        return self._plan.loss.terms(logits_BKYX.float(), _crop_to(target_BYX, logits_BKYX), _crop_to(weights_BYX, logits_BKYX))

    def _combine(self, terms: list[Term]) -> tuple[StepLoss, torch.Tensor]:
        """Divide this worker's sums by the counts of all workers, so that averaged gradients are those of one large batch."""
        import torch

        sums = torch.stack([number.detach().double() for term in terms for number in (term.total, term.count)])
        totals, counts = self._workers.sum(sums).reshape(-1, 2).unbind(1)
        shares = [
            term.factor * term.total * self._workers.size / count.to(term.total.dtype)
            for term, count in zip(terms, counts, strict=True)
            if count > 0
        ]
        zero = sum((term.total for term in terms), start=torch.zeros(())) * 0
        loss = torch.stack(shares).sum() if shares else zero
        values = [float(total / count) if count > 0 else 0.0 for total, count in zip(totals, counts, strict=True)]
        total = sum(term.factor * value for term, value in zip(terms, values, strict=True))
        return StepLoss(total, {f"part {index}": value for index, value in enumerate(values)}), loss

    def _update_weights(self, loss: torch.Tensor) -> None:
        """Follow the gradient, then let the averaged weights follow."""
        import torch

        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss))
        if self._plan.config.optimizer.clip is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._plan.config.optimizer.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.network)


def _crop_to(plane_BYX: Any, logits_BKYX: torch.Tensor) -> Any:
    """Cut pixels without logits off a plane: valid padding takes the same off opposite sides."""
    if plane_BYX is None:
        return None
    height, width = logits_BKYX.shape[-2:]
    top, left = (plane_BYX.shape[-2] - height) // 2, (plane_BYX.shape[-1] - width) // 2
    return plane_BYX[:, top : top + height, left : left + width]
