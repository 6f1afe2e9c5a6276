"""`TrainState`: everything of a run that survives a restart, and the package's only update of parameters."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from loopwright.engine.history import History
from loopwright.engine.loss import Loss
from loopwright.engine.meter import Meter
from loopwright.engine.period import Period
from loopwright.engine.precision import MOST_SKIPS, Precision, Scaler
from loopwright.engine.weights import not_finite
from loopwright.streams import global_state, restore_global_state

_WRAPPERS = ("_orig_mod.", "module.")
_NARROW = (torch.float16, torch.bfloat16)
_OF_LOSS = "loss:"  # no attribute of a model has such a name
# What Tensor.backward calls after 25 us of checks in Python (of 190 for an MLP of four layers; torch 2.13).
_run_backward = torch.autograd.Variable._execution_engine.run_backward
_ONE = torch.ones((), dtype=torch.float32, device="cpu")  # the gradient of a loss with respect to itself


class NotFinite(Exception):
    """A loss, or the gradient norm of its group, that is not finite: found before the update, which is not made."""

    def __init__(
        self,
        what: Literal["loss", "gradient", "scale"],
        value: float,
        group: str,
        parts: Mapping[str, Any] | None = None,
    ) -> None:
        self.what, self.value, self.group, self.parts = what, value, group, parts or {}
        super().__init__(f"the {what} of group {group} is {value}")


def is_empty(loss: Loss) -> bool:
    """Whether a loss is known to be one of nothing. A count on an accelerator is not waited for: see `mask`."""
    return not isinstance(loss.count, Tensor) and loss.count == 0


class GradientNorm(NamedTuple):
    """The norm of a group's gradients: as torch computes it, and its value, which is finite where the gradients are."""

    torchs: Tensor
    value: Tensor


def gradient_norm(grads: list[Tensor]) -> GradientNorm:
    """Torch's norm, whose squares overflow from 1e19 on in float32; where it does, that of float64.

    A CPU looks whether it does. An accelerator, which nobody waits for, computes both.
    """
    torchs = get_total_norm(grads)
    if torchs.is_cpu:
        return GradientNorm(torchs, torchs if math.isfinite(torchs.item()) else _wide_norm(grads))
    return GradientNorm(torchs, torch.where(torch.isfinite(torchs), torchs.double(), _wide_norm(grads)))


def _wide_norm(grads: list[Tensor]) -> Tensor:
    """The norm in float64, whose own overflow dividing by the largest magnitude avoids."""
    norm: Callable[[Tensor], Tensor] = torch.linalg.vector_norm
    norms: Callable[..., Iterable[Tensor]] = torch._foreach_norm
    if not any(grad.dtype in (torch.float64, torch.complex128) for grad in grads):
        return norm(torch.stack([*norms(grads, 2, torch.float64)]))
    wide = [grad.abs().double() for grad in grads]
    largest = (
        torch.stack([grad.max() for grad in wide if grad.numel()]).max().clamp_min(torch.finfo(torch.float64).tiny)
    )
    return norm(torch.stack([*norms(torch._foreach_div(wide, largest))])) * largest


def clip_gradients(params: list[nn.Parameter], clip_norm: float, norm: GradientNorm) -> None:
    """`torch.nn.utils.clip_grads_with_norm_`, and the same where its norm has overflowed."""
    if norm.value is norm.torchs:
        clip_grads_with_norm_(params, clip_norm, norm.torchs)
        return
    grads = [p.grad for p in params if p.grad is not None]
    factor = (clip_norm / (norm.value + 1e-6)).clamp(max=1.0)
    if norm.value.is_cpu:
        for _ in range(2):  # by the root of it: the factor itself may be too small for float32
            torch._foreach_mul_(grads, math.sqrt(factor.item()))
    else:
        usual = (clip_norm / (norm.torchs + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, torch.where(torch.isfinite(norm.torchs), usual, factor.to(usual.dtype)))


class TrainState:
    """Model, optimizers, position and history; and the loss, where it is a module.

    `step` and `epoch` count finished ones, `batch` the finished batches of the epoch under way. `pass_index` and
    `pass_batch` are the place in the data from which it goes on; without `train.epoch_steps` they are epoch and batch.
    `period` sums the steps since the last history row.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, Iterable[nn.Parameter]],
        build_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        precision: Precision = "fp32",
        loss_module: nn.Module | None = None,
    ) -> None:
        self.model, self.loss_module = model, loss_module
        self.precision = precision
        self.groups = {name: list(params) for name, params in groups.items()}
        self.optimizers = {name: build_optimizer(params) for name, params in self.groups.items() if params}
        scaled = self.optimizers if precision == "fp16" else ()
        self.scalers = {name: Scaler(self.groups[name][0].device) for name in scaled}
        self.lr: float | None = None
        self._bad: Tensor | None = None
        # Buffers that hold inf on purpose (an attention mask) do not count as gone wrong.
        self._infinite = frozenset(not_finite(dict(self._named(nn.Module.named_buffers))))
        self.step = 0
        self.epoch = 0
        self.batch = 0
        self.pass_index = 0
        self.pass_batch = 0
        self.history = History()
        self.period = Period([*self.groups])
        self.meters: Mapping[str, Meter] = {}
        # The recipe's flags, set again after a load: torch's load_state_dict overwrites them with the saved ones.
        self._flags: dict[str, list[dict[str, Any]]] = {
            name: [
                {k: group[k] for k in ("fused", "foreach", "capturable") if k in group} for group in opt.param_groups
            ]
            for name, opt in self.optimizers.items()
        }

    def apply(self, loss: Loss, *, clip_norm: float | None = None, measure_norm: bool = False) -> Tensor | None:
        """Update the group of a loss: backward to that group only, clip, optimizer step. A count of 0 updates nothing.

        Returns the gradient norm before clipping, where it is asked for or clipping needs it. Raises NotFinite, on a CPU,
        before clipping by a norm that is not finite.
        """
        params = self._params(loss.group)
        if not params or is_empty(loss):
            return None
        self._clear(params)
        self._backward(loss.mean, loss.group, params)
        return self._update(loss, params, clip_norm, measure_norm)

    def add(self, loss: Loss, *, first: bool) -> None:
        """Add the gradients of a part of a batch, weighted by its count; `update` ends with the update."""
        params = self._params(loss.group)
        if first:
            self._clear(params)
        if params and not is_empty(loss):
            mean = loss.mean.float() if loss.mean.dtype in _NARROW else loss.mean  # a sum needs more room than a mean
            self._backward(mean * loss.count, loss.group, params)

    def update(self, loss: Loss, *, clip_norm: float | None = None, measure_norm: bool = False) -> Tensor | None:
        """The update that `add` has prepared: `loss` is that of all parts together. Returns and raises as `apply` does."""
        params = self._params(loss.group)
        if not params or is_empty(loss):
            return None
        return self._update(loss, params, clip_norm, measure_norm, divisor=float(loss.count))

    def _update(
        self,
        loss: Loss,
        params: list[nn.Parameter],
        clip_norm: float | None,
        measure_norm: bool,
        divisor: float | None = None,
    ) -> Tensor | None:
        """Scale, clip and step. The only update of parameters in the package."""
        scaler, optimizer = self.scalers.get(loss.group), self.optimizers[loss.group]
        if scaler is not None:
            scaler.torch.unscale_(optimizer)
        if divisor is not None:
            torch._foreach_div_([p.grad for p in params if p.grad is not None], divisor)
        norm = None
        if clip_norm is not None or measure_norm or scaler is not None:
            norm = gradient_norm([p.grad for p in params if p.grad is not None])
        if scaler is not None:
            assert norm is not None
            return self._scaled_step(scaler, optimizer, params, norm, clip_norm)
        # A norm that is only observed must not matter: what is not finite then shows where it would without it.
        needed = norm if clip_norm is not None else None
        if loss.mean.is_cuda and self.masks:
            self.mask(optimizer, loss.mean if needed is None else loss.mean.detach() + needed.value, loss.count)
        elif needed is not None and not math.isfinite(value := needed.value.item()):
            raise NotFinite("gradient", value, loss.group)  # before clipping, which makes every gradient NaN
        if clip_norm is not None and needed is not None:
            clip_gradients(params, clip_norm, needed)
        optimizer.step()
        return None if norm is None else norm.value

    def _clear(self, params: list[nn.Parameter]) -> None:
        for p in params:
            p.grad = None

    def _scaled_step(
        self,
        scaler: Scaler,
        optimizer: torch.optim.Optimizer,
        params: list[nn.Parameter],
        norm: GradientNorm,
        clip_norm: float | None,
    ) -> Tensor:
        """The end of an fp16 update, which is left out where a gradient has overflowed."""
        if clip_norm is not None:
            clip_gradients(params, clip_norm, norm)
        scaler.step(optimizer, norm.value)
        if norm.value.is_cpu:
            self.check_skips()
        return norm.value

    def check_skips(self) -> None:
        """Raises NotFinite after too many skipped fp16 updates in a row. Waits for the device."""
        for group, scaler in self.scalers.items():
            if int(scaler.skips) >= MOST_SKIPS:
                raise NotFinite("scale", scaler.torch.get_scale(), group)

    def _backward(self, mean: Tensor, group: str, params: list[nn.Parameter]) -> None:
        """`mean.backward(inputs=params)`: the group alone, which keeps a critic's gradients out of the generator."""
        scaler = self.scalers.get(group)
        if scaler is not None:
            mean = scaler.torch.scale(mean)
        if type(mean) is Tensor and mean.ndim == 0 and mean.dtype is torch.float32 and mean.is_cpu:
            _run_backward((mean,), (_ONE,), False, False, tuple(params), allow_unreachable=True, accumulate_grad=True)
        else:
            mean.backward(inputs=params)  # type: ignore[no-untyped-call]

    @property
    def masks(self) -> bool:
        """Whether every optimizer can leave out an update on the device (the fused ones can), so that nobody waits."""
        return all(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in self.optimizers.values())

    def mask(self, optimizer: Any, mean: Tensor, count: Tensor | float = 1) -> None:
        """From the first non-finite loss or norm on, let the kernel leave every update out; read back with the losses.

        Where the count is 0 it leaves out this one only.
        """
        bad = (~torch.isfinite(mean.detach())).float()
        lasting = bad * (count != 0) if isinstance(count, Tensor) else bad
        self._bad = lasting if self._bad is None else torch.maximum(self._bad, lasting)
        skipped = torch.maximum(self._bad, (count == 0).float()) if isinstance(count, Tensor) else self._bad
        optimizer.found_inf, optimizer.grad_scale = skipped, None

    def set_lr(self, lr: float) -> None:
        """Give every group's optimizer the learning rate of the step to come."""
        if lr != self.lr:
            lr = float(lr)  # a schedule may compute with NumPy
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = lr
            self.lr = lr

    def model_state(self) -> dict[str, Tensor]:
        """The model's state dict, prefixes of compile and data-parallel wrappers stripped."""
        return {_plain_name(name): value for name, value in self.model.state_dict().items()}

    def loss_state(self) -> dict[str, Tensor]:
        """What of the loss is to be saved, see `loss_state`."""
        return loss_state(self.loss_module)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The part of `state_dict` that measuring needs: the model's, and the loss's where it has any."""
        loss = self.loss_state()
        return {"model_state_dict": self.model_state(), **({"loss_state_dict": loss} if loss else {})}

    def named_weights(self) -> dict[str, Tensor]:
        """All that `weights` holds under one name each."""
        return {**self.model_state(), **{f"{_OF_LOSS}{name}": value for name, value in self.loss_state().items()}}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of model and loss under the names of `named_weights`."""
        return self._named(nn.Module.named_parameters)

    def _named(self, of: Callable[[nn.Module], Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
        yield from ((_plain_name(name), held) for name, held in of(self.model))
        if self.loss_module is not None:
            yield from ((f"{_OF_LOSS}{_plain_name(name)}", held) for name, held in of(self.loss_module))

    def load_weights(self, saved: Mapping[str, Any]) -> None:
        """Load what `weights` gave, from a checkpoint for example. Raises RuntimeError where shapes differ."""
        load_saved(self.model, self.loss_module, saved)

    def not_finite(self) -> list[str]:
        """The names of the weights and buffers that are no longer finite: 0.1 ms per MB, so not after every step."""
        bad = not_finite(self.named_weights())
        return [name for name in bad if name not in self._infinite] if bad else bad

    def optimizer_state(self) -> dict[str, Any]:
        """Torch's own state dict for one group, `{group: ...}` for several, `{}` for none."""
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return next(iter(states.values())) if len(self.groups) == 1 and states else states

    def scaler_state(self) -> dict[str, Any]:
        """The loss scale of one group, `{group: ...}` for several, `{}` unless the precision is fp16."""
        states = {name: scaler.state_dict() for name, scaler in self.scalers.items()}
        return next(iter(states.values())) if len(self.groups) == 1 and states else states

    def state_dict(self) -> dict[str, Any]:
        """Everything above as plain values and (shared, not copied) tensors."""
        return {
            **self.weights(),
            "optimizer_state_dict": self.optimizer_state(),
            "scheduler_state_dict": {},
            "scaler_state_dict": self.scaler_state(),
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            **({"pass": {"index": self.pass_index, "batch": self.pass_batch}} if self._passes_differ() else {}),
            "history": self.history.state_dict(),
            "period": self.period.state_dict(),
            **({"meters": {name: meter.state_dict() for name, meter in self.meters.items()}} if self.meters else {}),
            **global_state(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to a saved state. Learning rate and kernel flags stay the recipe's."""
        self.load_weights(saved)
        states = saved["optimizer_state_dict"]
        for name, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, states if len(self.groups) == 1 else states[name])
            for group, flags in zip(optimizer.param_groups, self._flags[name], strict=True):
                group.update(flags)
        states = saved["scaler_state_dict"]
        for name, scaler in self.scalers.items():
            if not states:
                raise RuntimeError(
                    "it holds no loss scale: it was written with another train.precision; keep that, or start a new run"
                )
            scaler.load_state_dict(states if len(self.groups) == 1 else states[name])
        self.lr = None
        self.step, self.epoch, self.batch = saved["step"], saved["epoch"], saved["batch"]
        place = saved.get("pass", {"index": self.epoch, "batch": self.batch})
        self.pass_index, self.pass_batch = place["index"], place["batch"]
        self.history = History.from_state_dict(saved["history"])
        self.period = Period.from_state_dict(saved["period"], [*self.groups])
        for name, meter in self.meters.items():
            meter.reset()
            if name in saved.get("meters", {}):
                meter.load_state_dict(saved["meters"][name])
        restore_global_state(dict(saved))

    def _passes_differ(self) -> bool:
        """Whether epochs are something else than passes here: only then is there a place in the data to save."""
        return (self.pass_index, self.pass_batch) != (self.epoch, self.batch)

    def _params(self, group: str) -> list[nn.Parameter]:
        try:
            return self.groups[group]
        except KeyError:
            raise ValueError(f"a loss names the group {group!r}; the task's groups are {sorted(self.groups)}") from None


def loss_state(loss: nn.Module | None) -> dict[str, Tensor]:
    """A loss's state dict; `{}` for torch's own losses, whose buffers (weights of classes) nothing changes."""
    if loss is None or type(loss).__module__ == nn.modules.loss.__name__:
        return {}
    return {_plain_name(name): value for name, value in loss.state_dict().items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a state dict into a model, whatever wrapper prefix either bears. Raises RuntimeError where shapes differ."""
    own = {_plain_name(name): name for name in model.state_dict()}
    model.load_state_dict({own.get(_plain_name(name), name): value for name, value in weights.items()})


def load_saved(model: nn.Module, loss: nn.Module | None, saved: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint into a model, and into the loss where it has some of it."""
    load_weights(model, saved["model_state_dict"])
    if loss is not None and "loss_state_dict" in saved:
        load_weights(loss, saved["loss_state_dict"])


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load an optimizer's state dict bit for bit: every tensor on the device where torch puts it, in its saved dtype.

    By itself torch casts whatever is not called `step` to the parameter's dtype (torch 2.13). That rounds what NAdam and
    ASGD keep in float32 beside bfloat16 weights, and lets them go on in another precision beside float64 ones.
    """
    optimizer.load_state_dict(dict(saved))
    indices = (index for group in saved.get("param_groups", ()) for index in group["params"])
    params = (param for group in optimizer.param_groups for param in group["params"])
    for index, param in zip(indices, params, strict=False):  # torch has compared their numbers
        if index in saved["state"]:
            optimizer.state[param] = _as_saved(saved["state"][index], optimizer.state[param])


def _as_saved(saved: Any, loaded: Any) -> Any:
    """What was saved, every tensor on the device of its loaded counterpart."""
    if isinstance(loaded, Tensor):
        return saved.to(loaded.device) if isinstance(saved, Tensor) and saved.dtype != loaded.dtype else loaded
    if isinstance(saved, dict) and isinstance(loaded, dict):
        return loaded | {key: _as_saved(value, loaded[key]) for key, value in saved.items() if key in loaded}
    if isinstance(saved, list | tuple) and isinstance(loaded, list | tuple):
        return type(saved)(_as_saved(*pair) for pair in zip(saved, loaded, strict=True))
    return saved  # torch rebuilds whatever can be iterated, and makes nonsense of a string


@contextmanager
def with_weights(state: TrainState, saved: Mapping[str, Any]) -> Iterator[None]:
    """A block in which model and loss have the weights of a checkpoint; their own are back afterwards."""
    held = snapshot(state.weights())
    try:
        state.load_weights(saved)
        yield
    finally:
        state.load_weights(held)


def snapshot(tree: Any, _seen: dict[Any, Tensor] | None = None) -> Any:
    """A copy of a tree of plain values and tensors on the CPU; tensors that share memory go on sharing it."""
    seen = {} if _seen is None else _seen
    if isinstance(tree, Tensor):
        key = (tree.untyped_storage().data_ptr(), tree.storage_offset(), tree.shape, tree.stride(), tree.dtype)
        if tree.numel() == 0 or key not in seen:
            copy = tree.detach().to("cpu", copy=True)
            if tree.numel() == 0:
                return copy
            seen[key] = copy
        return seen[key]
    if isinstance(tree, Mapping):
        kind: Any = type(tree) if type(tree) in (OrderedDict, Counter) else dict
        return kind({name: snapshot(value, seen) for name, value in tree.items()})
    if type(tree) in (list, tuple):
        return type(tree)(snapshot(value, seen) for value in tree)
    return tree.copy() if isinstance(tree, set | bytearray) else tree


def _plain_name(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name
