"""Objects: modules, loaders, samplers, and whatever has attributes or can be pickled."""

from __future__ import annotations

import copyreg
import re
import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from loopwright.content.functions import Functions
from loopwright.content.ownership import is_own_class, name_of, names_of
from loopwright.content.tree import Tree, digest

# What every module has; hooks among it are looked at by themselves.
_OF_MODULES = frozenset(vars(nn.Module())) | {"_forward_hooks_with_kwargs"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# What every loader has; what decides its batches is looked at by itself.
_OF_LOADERS = frozenset(vars(DataLoader(TensorDataset(torch.zeros(1)))))
# Numbers that TorchScript adds to names, which count all that was compiled in a process; and the attributes of a dump.
_MANGLED = re.compile(r"___torch_mangle_\d+\.")
_SCRIPT_ATTRIBUTE = re.compile(r"^    (\w+) = ", re.MULTILINE)


class Objects(Functions):
    """Describes what has a state."""

    def _object(self, value: Any) -> Tree:
        cls = type(value)
        name = cls.__qualname__.rpartition("<locals>.")[2]
        if id(value) in self._seen:
            return {"again": self._seen[id(value)]}
        own = is_own_class(cls)
        self._see(value, "object" if own else name)
        tree: dict[str, Any] = {"object": "own" if own else name_of(cls)}
        if own:
            tree["class"] = self._class(cls)
            tree["shown"] = {"name": name}
        if type(value) is TensorDataset:
            return [self._describe(tensor) for tensor in value.tensors]  # the same data as a tuple of tensors
        if isinstance(value, nn.Module):
            start = len(self._pending)
            tree |= self._module(value)
            self._settle(start)
            return tree
        if isinstance(value, DataLoader):
            return {**tree, "attributes": self._loader(value)}
        state = self._state(value, own)
        return {**tree, **state}

    def _module(self, module: nn.Module) -> dict[str, Tree]:
        if isinstance(module, torch.jit.ScriptModule):
            return self._script(module)
        compiled = vars(module)["_modules"].get("_orig_mod")
        if compiled is not None and not is_own_class(type(module)):
            return {"compiled": self._describe(compiled)}
        held = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
        for kind in ("_parameters", "_buffers", "_modules"):
            held |= vars(module)[kind]
        tree: dict[str, Tree] = {"attributes": self._places(module, held)}
        hooks = [function for kind in _HOOKS for function in vars(module).get(kind, {}).values()]
        if hooks:
            tree["hooks"] = [self._describe(function) for function in hooks]
        children = list(vars(module)["_modules"])
        order = self.place(module, ".order", children)
        if order != sorted(order):  # in which a Sequential calls them
            tree["order"] = order
        training = self.place(module, ".training", module.training)
        if not training and self._modes:
            tree["training"] = False
        return tree

    def _script(self, module: torch.jit.ScriptModule) -> dict[str, Tree]:
        texts: list[str] = []
        held: dict[str, Any] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for path, part in module.named_modules():
            if not isinstance(part, torch.jit.ScriptModule):
                continue
            texts.append(_MANGLED.sub("", part.code if hasattr(part, "forward") else ""))
            for name in _SCRIPT_ATTRIBUTE.findall(part._c.dump_to_str(False, True, False)):
                value = part._c.getattr(name)
                if name != "training" and isinstance(value, bool | int | float | str | list | tuple | dict):
                    held[f"{path}.{name}" if path else name] = value
        return {"code": digest("\n".join(texts).encode()), "attributes": self._places(module, held)}

    def _loader(self, loader: DataLoader[Any]) -> dict[str, Tree]:
        """What decides the batches; workers and memory do not, and the order of torch's own samplers is ours."""
        parts: dict[str, Any] = {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        if loader.worker_init_fn is not None:
            parts["worker_init_fn"] = loader.worker_init_fn
        parts |= {name: item for name, item in vars(loader).items() if name not in _OF_LOADERS}
        if isinstance(loader.dataset, IterableDataset):  # each worker reads a stream of its own
            parts |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
            parts |= {"num_workers": loader.num_workers} if loader.num_workers else {}
        elif loader.batch_size is None and loader.batch_sampler is not None:
            parts["batch_sampler"] = loader.batch_sampler
        else:
            parts |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
            parts["sampler"] = loader.sampler
        trees = {}
        for name, value in parts.items():
            with self._at(name):
                trees[name] = self._describe(value)
        sampler: Any = loader.sampler
        plain = type(sampler) in (RandomSampler, SequentialSampler) and len(sampler) == _length(loader.dataset)
        if "sampler" in parts and plain and not getattr(sampler, "replacement", False):
            del trees["sampler"]
            trees["shuffle"] = type(sampler) is RandomSampler
        return trees

    def _state(self, value: Any, own: bool) -> dict[str, Tree]:
        """The attributes of an object, or what pickling would say of it."""
        start = len(self._pending)
        if own or _has_plain_state(value):
            # An own class may stand on one of C, whose content is no attribute.
            tree = (self._reduced(value) if own and _is_reduced_by_a_base(type(value)) else None) or self._attributes(
                value
            )
            self._settle(start)
            return tree
        reduced = self._reduced(value)
        if reduced is None or len(self._pending) > start:
            # All is known of an object of an installed class, or nothing: half of what a tracker holds says little.
            del self._pending[start:]
            return self._unknown(value)
        return reduced

    def _attributes(self, value: Any) -> dict[str, Tree]:
        cls = type(value)
        state: Any = None
        if getattr(cls, "__getstate__", None) is not getattr(object, "__getstate__", None):
            try:
                state = value.__getstate__()  # what the class itself says its state is
            except Exception:
                state = None
        if not isinstance(state, dict) or not all(type(key) is str for key in state):
            state = dict(getattr(value, "__dict__", {}))
            for base in cls.__mro__:
                slots = base.__dict__.get("__slots__", ())
                for slot in (slots,) if isinstance(slots, str) else slots:
                    if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                        state[slot] = getattr(value, slot)
        if isinstance(value, Sampler):
            if isinstance(state.get("generator"), torch.Generator):  # the engine seeds it for each epoch
                del state["generator"]
            if type(value) in (RandomSampler, SequentialSampler):  # they ask for its length alone
                state["data_source"] = len(state["data_source"])
        tree: dict[str, Tree] = {"attributes": self._places(value, state)}
        if isinstance(value, dict):
            tree["items"] = self._mapping(dict(value))
        elif isinstance(value, list | tuple):
            tree["items"] = self._list(list(value))
        elif isinstance(value, set | frozenset):
            tree["items"] = self._set(value)
        elif isinstance(value, int | float | complex | str | bytes):
            tree["value"] = repr(value.__reduce_ex__(2)[1][1:]) if isinstance(value, bytes) else str(value)
        return tree

    def _reduced(self, value: Any) -> dict[str, Tree] | None:
        """An object of an installed class by its reduced form; None where it has none (a file, a connection)."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                registered = copyreg.dispatch_table.get(type(value))
                reduced = value.__reduce_ex__(4) if registered is None else registered(value)
        except Exception:
            return None
        if isinstance(reduced, str):
            return {"named": reduced}
        made, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        tree: dict[str, Tree] = {}
        given = [argument for argument in arguments if argument is not type(value)]
        if not getattr(made, "__name__", "").startswith("__newobj"):
            tree["made_by"] = self._describe(made)
        if given:
            tree["arguments"] = [self._describe(argument) for argument in given]
        if isinstance(state, dict) and all(type(key) is str for key in state):
            tree["attributes"] = self._places(value, state)
        elif state is not None:
            tree["state"] = self._describe(state)
        if items is not None:
            tree["items"] = self._list(list(items))
        if pairs is not None:
            ordered = isinstance(value, OrderedDict)
            tree["items"] = self._list([[*pair] for pair in pairs]) if ordered else self._mapping(dict(pairs))
        return tree


def _has_plain_state(value: Any) -> bool:
    """Whether the attributes of an installed class's object are all there is to it, as pickling would have it."""
    cls = type(value)
    return isinstance(value, Dataset | Sampler) and "__reduce_ex__" not in names_of(cls)


def _is_reduced_by_a_base(cls: type) -> bool:
    """Whether a base that is installed says by itself how its objects are pickled."""
    if issubclass(cls, Dataset | Sampler):
        return False
    installed = [base for base in cls.__mro__ if base is not object and not is_own_class(base)]
    return any(not {"__reduce__", "__reduce_ex__"}.isdisjoint(vars(base)) for base in installed)


def _length(dataset: Any) -> int:
    return len(dataset) if hasattr(dataset, "__len__") else -1
