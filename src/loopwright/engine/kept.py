"""What a look at a model leaves as it was: the modes, `requires_grad` and buffers of its modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

_PLAIN = (bool, int, float, str, NoneType)


class Watched:
    """Modules whose modes, flags and buffers a hook or an evaluation may change for itself and not for the training.

    They are listed once: listing is what costs most.
    """

    def __init__(self, *roots: nn.Module) -> None:
        self.roots = roots
        self._modules = list({id(module): module for root in roots for module in root.modules()}.values())
        self._params = [p for root in roots for p in root.parameters()]

    @contextmanager
    def kept(self, *, when_called: bool = False) -> Iterator[None]:
        """A block after which modes, `requires_grad` and buffers are as before, those set anew and added among them.

        A forward moves buffers (BatchNorm's statistics, a cache). Those of every module are copied first; `when_called`,
        those of a module when it is called, so that a block that calls none costs no copy.
        """
        modes, flags = [module.training for module in self._modules], [p.requires_grad for p in self._params]
        held: dict[int, _Buffers] = {}
        own = {id(module) for module in self._modules} if when_called else set()

        def hold(module: nn.Module, inputs: Any = None) -> None:
            if id(module) in own and id(module) not in held:
                # What a scripted module calls, no hook sees.
                for part in module.modules() if isinstance(module, torch.jit.ScriptModule) else (module,):
                    held[id(part)] = _Buffers(part)

        handle = None
        if when_called:
            handle = register_module_forward_pre_hook(hold)
        else:
            held = {id(module): _Buffers(module) for module in self._modules}
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()
            if [module.training for module in self._modules] != modes:
                for module, training in zip(self._modules, modes, strict=True):
                    module.training = training
            if [p.requires_grad for p in self._params] != flags:
                for p, flag in zip(self._params, flags, strict=True):
                    p.requires_grad_(flag)
            with torch.no_grad():
                for buffers in held.values():
                    buffers.put_back()


class _Buffers:
    """The buffers of one module as they are now."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.held = {
            name: (buffer, None if buffer is None or is_lazy(buffer) else buffer.detach().clone())
            for name, buffer in module._buffers.items()
        }
        self.loose = set(module._non_persistent_buffers_set)
        self.attributes = dict(vars(module))

    def put_back(self) -> None:
        module, now = self.module, self.module._buffers
        for buffer, before in self.held.values():
            if buffer is not None and before is not None:
                buffer.copy_(before)
        if isinstance(module, torch.jit.ScriptModule):
            return  # none is set anew or added there
        if now.keys() == self.held.keys() and all(now[name] is buffer for name, (buffer, _) in self.held.items()):
            return
        now.clear()
        now.update({name: buffer for name, (buffer, _) in self.held.items()})
        module._non_persistent_buffers_set.clear()
        module._non_persistent_buffers_set.update(self.loose)
        # The numbers beside a cache say how far it reaches: they go back with it.
        for name, value in self.attributes.items():
            if type(value) in _PLAIN and vars(module).get(name) is not value:
                vars(module)[name] = value
        for name in vars(module).keys() - self.attributes.keys():
            if type(vars(module)[name]) in _PLAIN:
                del vars(module)[name]
