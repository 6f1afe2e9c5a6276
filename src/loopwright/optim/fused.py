"""torch's fused Adam, AdamW and SGD without the Python around the kernel; bits, states and keys are torch's own.

For an MLP of eight parameters on one CPU thread, torch's fused Adam takes 59 us a step, this one 15:
torch collects lists, groups them by device and adds 1 to each step count apart. Here the lists are kept between steps
and the step counts are views of one tensor. Whatever is unusual (a missing or sparse gradient, hooks, a closure, mixed
devices or dtypes, amsgrad, a tensor as lr) takes torch's own `step`.

Further, torch imports `torch._dynamo` (1 s) at the first construction, `state_dict`, `load_state_dict`, `zero_grad` or
`step` of an optimizer, only to keep the compiler out of these methods. `inspect.unwrap` reaches them directly.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
_add_param_group = inspect.unwrap(Optimizer.add_param_group)
_state_dict = inspect.unwrap(Optimizer.state_dict)
_load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
_zero_grad = inspect.unwrap(Optimizer.zero_grad)


def kernel_flags(params: Iterable[Tensor]) -> dict[str, bool]:
    """The keyword for torch's optimizers: `fused` where every parameter has a fused kernel, else `foreach`."""
    fused = all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in params)
    return {"fused": True} if fused else {"foreach": True}


class QuietOptimizer(Optimizer):
    """Construction and state handling without importing `torch._dynamo`; the behaviour is torch's.

    One difference: `load_state_dict` keeps this optimizer's own `fused` and `foreach` (torch takes over the loaded
    ones), so that a state written by another variant, or on another device, goes on with the kernel of this one.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _add_param_group(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        return _state_dict(self)  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = [
            {**saved, **{key: own[key] for key in ("fused", "foreach") if key in own}}
            for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=False)
        ]
        # A different number of groups is left to torch, which reports it.
        if len(groups) == len(state_dict["param_groups"]):
            state_dict = {**state_dict, "param_groups": groups}
        _load_state_dict(self, state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not set_to_none:
            _zero_grad(self, set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


@dataclass(slots=True)
class _Pack:
    """What a kernel call needs of one parameter group, besides the gradients and the hyperparameters."""

    group: dict[str, Any]
    params: list[Tensor]
    # Adam: exp_avg, exp_avg_sq, and step counts that are views of `counter`. SGD: momentum_buffer, if it has momentum.
    moments: list[list[Tensor]]
    steps: list[Tensor]
    counter: Tensor
    fresh: bool = False


class _Fused(QuietOptimizer):
    """A step that calls the kernel on kept lists. Subclasses say how to pack a group and how to call the kernel."""

    torch_class: ClassVar[type[Optimizer]]
    _packs: list[_Pack] | None = None
    # Set by torch.amp.GradScaler around a step, and by whoever wants a step masked on the device.
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def _pack(self, group: dict[str, Any], params: list[Tensor]) -> _Pack | None:
        raise AssertionError("a subclass packs")

    def _launch(self, pack: _Pack, grads: list[Tensor]) -> None:
        raise AssertionError("a subclass launches")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._packs = None
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._packs = None
        super().__setstate__(state)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update. As in torch, parameters move in place and gradients stay."""
        work = None if closure is not None else self._work()
        if work is None:
            return self._plain_step(closure)
        grad_enabled = torch.is_grad_enabled()
        # torch.no_grad() costs 1.5 us here, a tenth of the step.
        torch._C._set_grad_enabled(False)
        try:
            for pack, grads in work:
                self._launch(pack, grads)
        finally:
            torch._C._set_grad_enabled(grad_enabled)
        return None

    # Read by Optimizer.__init__, which otherwise wraps `step` for hooks; `_plain_step` does that when there are any.
    step.hooked = True  # type: ignore[attr-defined]

    def _work(self) -> list[tuple[_Pack, list[Tensor]]] | None:
        """Each group's pack with its gradients, or None where torch's own step is needed."""
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.compiler.is_compiling()
        ):
            return None
        packs = self._packs if self._packs is not None else self._prepare()
        if not packs:
            return None
        work = []
        for pack in packs:
            grads = []
            for p in pack.params:
                grad = p.grad
                if grad is None or grad.is_sparse:
                    return None
                grads.append(grad)
            if isinstance(pack.group["lr"], Tensor) or bool(pack.group.get("momentum", True)) is not bool(pack.moments):
                return None
            work.append((pack, grads))
        if packs[0].counter.is_cuda and torch.cuda.is_current_stream_capturing():
            return None
        return work

    def _prepare(self) -> list[_Pack] | None:
        """Pack every group and keep the result; None where one does not fit (torch's step decides, we try again)."""
        packs = []
        for group in self.param_groups:
            params = group["params"]
            usual = (
                params
                and group["fused"]
                and not any(group.get(key) for key in ("amsgrad", "differentiable", "capturable"))
                and len({(p.device, p.dtype) for p in params}) == 1
                and all(type(p) in (Tensor, torch.nn.Parameter) for p in params)
                and not any(p.grad is None or p.grad.is_sparse for p in params)
                and not kernel_flags(params).get("foreach")
            )
            pack = self._pack(group, params) if usual else None
            if pack is None:
                return None
            packs.append(pack)
        self._packs = packs
        return packs

    def _plain_step(self, closure: Callable[[], float] | None) -> float | None:
        step: Any = self.torch_class.step
        if not getattr(step, "hooked", False):
            step = Optimizer.profile_hook_step(step)
        return step(self, closure)  # type: ignore[no-any-return]


class Adam(_Fused, torch.optim.Adam):
    """torch.optim.Adam; construct it with `fused=True`."""

    torch_class: ClassVar[type[Optimizer]] = torch.optim.Adam

    def _pack(self, group: dict[str, Any], params: list[Tensor]) -> _Pack:
        counter = torch.zeros(len(params), device=params[0].device)
        steps = list(counter.unbind())
        for p, step in zip(params, steps, strict=True):
            state = self.state[p]
            if not state:
                state["step"] = step
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            else:
                state["step"] = step.copy_(state["step"].reshape(()))
        moments = [[self.state[p][key] for p in params] for key in ("exp_avg", "exp_avg_sq")]
        return _Pack(group, params, moments, steps, counter)

    def _launch(self, pack: _Pack, grads: list[Tensor]) -> None:
        group, counter = pack.group, pack.counter
        found_inf = None if self.found_inf is None else self.found_inf.to(counter.device)
        counter.add_(1)
        kernel: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        beta1, beta2 = group["betas"]
        kernel(
            pack.params,
            grads,
            *pack.moments,
            [],
            pack.steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
            grad_scale=None if self.grad_scale is None else self.grad_scale.to(counter.device),
            found_inf=found_inf,
        )
        if found_inf is not None:
            counter.sub_(found_inf)


class AdamW(Adam, torch.optim.AdamW):
    """torch.optim.AdamW; construct it with `fused=True`."""

    torch_class = torch.optim.AdamW


class SGD(_Fused, torch.optim.SGD):
    """torch.optim.SGD; construct it with `fused=True`."""

    torch_class = torch.optim.SGD

    def _pack(self, group: dict[str, Any], params: list[Tensor]) -> _Pack | None:
        counter = torch.zeros((), device=params[0].device)  # torch's SGD counts no steps: this only marks the device
        if group["momentum"] == 0:
            return _Pack(group, params, [], [], counter)
        buffers = [self.state.get(p, {}).get("momentum_buffer") for p in params]
        missing = sum(b is None for b in buffers)
        if missing not in (0, len(params)):
            return None
        # Zeros where torch leaves memory as it comes: a first step masked by found_inf would keep it.
        kept = [torch.zeros_like(p) if b is None else b for p, b in zip(params, buffers, strict=True)]
        return _Pack(group, params, [kept], [], counter, fresh=missing > 0)

    def _plain_step(self, closure: Callable[[], float] | None) -> float | None:
        for group in self.param_groups:
            sparse = [p for p in group["params"] if p.grad is not None and p.grad.is_sparse]
            if sparse and group["fused"]:
                # torch's fused SGD takes no sparse gradients; its other variants do, and can leave no update out.
                group["fused"], self._step_supports_amp_scaling, self.found_inf = False, False, None
            if sparse and group["momentum"] != 0 and group["dampening"] == 0 and not group["nesterov"]:
                # A dense buffer: torch's own is sparse, grows with each step, and no checkpoint can hold it.
                for p in sparse:
                    self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        # torch's fused SGD fails where some parameters have a momentum buffer and others do not yet (torch 2.13).
        # Without dampening a buffer of zeros gives what the other variants compute: the first gradient.
        for group in self.param_groups:
            if group["fused"] and group["momentum"] != 0 and group["dampening"] == 0:
                live = [p for p in group["params"] if p.grad is not None]
                without = [p for p in live if self.state.get(p, {}).get("momentum_buffer") is None]
                if len(without) < len(live):
                    for p in without:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return super()._plain_step(closure)

    def _launch(self, pack: _Pack, grads: list[Tensor]) -> None:
        group, momentum = pack.group, pack.group["momentum"]
        torch._fused_sgd_(
            pack.params,
            grads,
            pack.moments[0] if pack.moments else [],
            weight_decay=group["weight_decay"],
            momentum=momentum,
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=pack.fresh,
            grad_scale=None if self.grad_scale is None else self.grad_scale.to(pack.counter.device),
            found_inf=None if self.found_inf is None else self.found_inf.to(pack.counter.device),
        )
        if pack.fresh:
            pack.fresh = False
            for p, buffer in zip(pack.params, pack.moments[0], strict=True):
                self.state[p]["momentum_buffer"] = buffer
