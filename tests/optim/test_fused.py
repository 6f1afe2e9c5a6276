import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn

from loopwright.optim import fused

KINDS = {
    "adam": (fused.Adam, torch.optim.Adam, {}),
    "adam_l2": (fused.Adam, torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.95)}),
    "adamw": (fused.AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
    "adam_amsgrad": (fused.Adam, torch.optim.Adam, {"amsgrad": True}),
    "sgd": (fused.SGD, torch.optim.SGD, {}),
    "sgd_momentum": (fused.SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "sgd_nesterov": (fused.SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "sgd_dampening": (fused.SGD, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (7,), (2, 7), ())]


def pair(kind: str, **more):
    ours, theirs, args = KINDS[kind]
    p, q = parameters(), parameters()
    return ours(p, lr=1e-2, fused=True, **args, **more), p, theirs(q, lr=1e-2, fused=True, **args, **more), q


def give_gradients(step: int, *lists: list[nn.Parameter]) -> None:
    for params in lists:
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def run(first: int, last: int, *pairs) -> None:
    """Steps first..last-1 with the same gradients and a rate that changes every step."""
    for step in range(first, last):
        for optimizer, params in pairs:
            give_gradients(step, params)
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + step)
            optimizer.step()


def forbid_fallback(optimizer) -> None:
    def fail(closure):
        raise AssertionError("the fast path was expected")

    optimizer._plain_step = fail


def assert_same(a, b) -> None:
    """Equal to the bit: tensors, nested containers and plain values."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b and type(a) is type(b)


@every_kind
def test_fifty_steps_equal_torch_to_the_bit(kind):
    ours, p, theirs, q = pair(kind)
    if kind != "adam_amsgrad":
        forbid_fallback(ours)
    run(0, 50, (ours, p), (theirs, q))
    assert not torch.equal(p[0], parameters()[0])
    assert_same(p, q)
    assert_same(ours.state_dict(), theirs.state_dict())


@every_kind
def test_state_goes_both_ways_and_through_a_file(kind):
    ours, p, theirs, q = pair(kind)
    run(0, 5, (ours, p), (theirs, q))
    swapped_ours, r, swapped_theirs, s = pair(kind)
    for target, params, source, values in ((swapped_ours, r, theirs, q), (swapped_theirs, s, ours, p)):
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.load_state_dict(torch.load(file, weights_only=True))
        with torch.no_grad():
            for a, b in zip(params, values, strict=True):
                a.copy_(b)
    run(5, 10, (ours, p), (theirs, q), (swapped_ours, r), (swapped_theirs, s))
    assert_same(p, q)
    assert_same(r, q)
    assert_same(s, q)
    assert_same(swapped_ours.state_dict(), theirs.state_dict())


def test_loading_into_a_running_optimizer_replaces_what_it_kept():
    ours, p, _, _ = pair("adam")
    run(0, 3, (ours, p))
    saved, weights = copy.deepcopy(ours.state_dict()), copy.deepcopy(p)
    run(3, 6, (ours, p))
    expected = copy.deepcopy(p)
    run(6, 9, (ours, p))
    ours.load_state_dict(saved)
    with torch.no_grad():
        for a, b in zip(p, weights, strict=True):
            a.copy_(b)
    run(3, 6, (ours, p))
    assert_same(p, expected)
    assert ours.state_dict()["state"][0]["step"].item() == 6


def test_loading_keeps_the_own_kernel():
    plain = torch.optim.Adam(q := parameters(), lr=1e-2, foreach=True)
    run(0, 3, (plain, q))
    ours, p, _, _ = pair("adam")
    ours.load_state_dict(plain.state_dict())
    forbid_fallback(ours)
    assert ours.param_groups[0]["fused"] is True and ours.param_groups[0]["foreach"] is None
    run(3, 4, (ours, p))
    assert ours.state_dict()["state"][0]["step"].item() == 4


def test_loading_a_state_of_another_shape_is_torch_s_error():
    ours, _, _, _ = pair("adam")
    with pytest.raises(ValueError, match="different number of parameter groups"):
        ours.load_state_dict({"state": {}, "param_groups": []})


@pytest.mark.parametrize("kind", ["sgd_momentum", "sgd_nesterov"])
def test_momentum_begins_late_where_a_gradient_was_missing_at_first(kind):
    ours, p, _, q = pair(kind)
    theirs = torch.optim.SGD(q, lr=1e-2, foreach=True, **KINDS[kind][2])  # torch's fused one fails on this
    for step in range(9):
        give_gradients(step, p, q)
        if step in (0, 4):
            p[1].grad = q[1].grad = None
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind][2].get("momentum")])
def test_a_missing_gradient_is_skipped_as_torch_does(kind):
    ours, p, theirs, q = pair(kind)
    for step in range(9):
        give_gradients(step, p, q)
        if step in (0, 4):
            p[1].grad = q[1].grad = None
        ours.step()
        theirs.step()
    assert_same(p, q)
    # torch creates a parameter's state when it first has a gradient: the order of the keys is not the parameters'.
    mine, torchs = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert mine.keys() == torchs.keys()
    for key in mine:
        assert_same(mine[key], torchs[key])


@every_kind
def test_several_groups_one_added_later(kind):
    ours, p, theirs, q = pair(kind)
    run(0, 3, (ours, p), (theirs, q))
    extra, extra_too = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    ours.add_param_group({"params": [extra], "weight_decay": 0.5})
    theirs.add_param_group({"params": [extra_too], "weight_decay": 0.5})
    run(3, 8, (ours, [*p, extra]), (theirs, [*q, extra_too]))
    assert_same([*p, extra], [*q, extra_too])
    assert extra[0] != 1
    assert_same(ours.state_dict(), theirs.state_dict())


def test_mixed_dtypes_take_torch_s_step():
    p = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    q = copy.deepcopy(p)
    ours, theirs = fused.Adam(p, fused=True), torch.optim.Adam(q, fused=True)
    run(0, 3, (ours, p), (theirs, q))
    assert_same(p, q)
    assert ours._packs is None


def test_hooks_are_called_whenever_they_are_registered():
    ours, p, _, _ = pair("adam")
    calls = []
    run(0, 1, (ours, p))
    ours.register_step_pre_hook(lambda *_: calls.append("pre"))
    ours.register_step_post_hook(lambda *_: calls.append("post"))
    run(1, 3, (ours, p))
    assert calls == ["pre", "post"] * 2
    assert ours.state_dict()["state"][0]["step"].item() == 3


def test_hooks_are_called_once_where_torch_has_wrapped_its_class_already():
    torch.optim.SGD([nn.Parameter(torch.ones(1))])
    ours, p, _, _ = pair("sgd")
    calls = []
    ours.register_step_post_hook(lambda *_: calls.append("post"))
    run(0, 1, (ours, p))
    assert calls == ["post"]


def test_a_closure_is_run():
    ours, p, _, _ = pair("sgd")
    give_gradients(0, p)
    assert ours.step(lambda: 2.5) == 2.5


def test_sparse_gradients_and_a_tensor_rate_are_torch_s_business():
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = fused.Adam(table.parameters(), fused=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    ours, p, theirs, q = pair("adam")
    ours.param_groups[0]["lr"], theirs.param_groups[0]["lr"] = torch.tensor(0.1), torch.tensor(0.1)
    give_gradients(0, p, q)
    ours.step()
    theirs.step()
    assert_same(p, q)


def test_momentum_switched_on_between_steps():
    ours, p, theirs, q = pair("sgd")
    run(0, 2, (ours, p), (theirs, q))
    ours.param_groups[0]["momentum"] = theirs.param_groups[0]["momentum"] = 0.9
    run(2, 5, (ours, p), (theirs, q))
    assert_same(p, q)
    assert_same(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("kind", ["adam", "sgd_momentum"])
def test_a_set_found_inf_masks_the_step(kind):
    ours, p, _, _ = pair(kind)
    forbid_fallback(ours)
    reference, q = pair(kind)[:2]
    ours.found_inf = torch.ones(1)
    give_gradients(99, p)
    ours.step()
    assert_same(p, parameters())
    ours.found_inf = torch.zeros(1)
    run(0, 3, (ours, p), (reference, q))
    assert_same(p, q)
    if kind == "adam":
        assert ours.state[p[0]]["step"].item() == 3


def test_grad_scale_divides_the_gradients():
    ours, p, theirs, q = pair("adam")
    forbid_fallback(ours)
    ours.grad_scale, ours.found_inf = torch.full((1,), 4.0), torch.zeros(1)
    give_gradients(0, p, q)
    for x in p:
        x.grad *= 4
    ours.step()
    theirs.step()
    assert_same(p, q)


def test_step_leaves_grad_mode_as_it_was():
    ours, p, _, _ = pair("adam")
    give_gradients(0, p)
    ours.step()
    assert torch.is_grad_enabled()
    with torch.no_grad():
        ours.step()
        assert not torch.is_grad_enabled()
    assert all(x.requires_grad and x.grad_fn is None for x in p)


def test_replaced_storage_is_still_the_one_updated():
    ours, p, _, _ = pair("sgd")
    run(0, 1, (ours, p))
    p[0].data = torch.zeros_like(p[0])
    run(1, 2, (ours, p))
    assert p[0].abs().sum() > 0


@pytest.mark.parametrize("kind", ["adam", "sgd_momentum"])
def test_a_deep_copy_goes_its_own_way(kind):
    ours, p, _, _ = pair(kind)
    run(0, 2, (ours, p))
    twin, q = copy.deepcopy((ours, p))
    run(2, 4, (twin, q))
    before = copy.deepcopy(ours.state_dict()["state"])
    run(4, 6, (twin, q))
    assert_same(ours.state_dict()["state"], before)
    run(2, 6, (ours, p))
    assert_same(p, q)


def test_torch_schedulers_and_zero_grad_work_on_it():
    ours, p, _, _ = pair("adam")
    scheduler = torch.optim.lr_scheduler.StepLR(ours, 1, 0.5)
    give_gradients(0, p)
    ours.step()
    scheduler.step()
    assert ours.param_groups[0]["lr"] == 5e-3
    ours.zero_grad(set_to_none=False)
    assert all(x.grad is not None and not x.grad.any() for x in p)
    ours.zero_grad()
    assert all(x.grad is None for x in p)


def test_kernel_flags():
    assert fused.kernel_flags(parameters()) == {"fused": True}
    assert fused.kernel_flags([torch.zeros(2, dtype=torch.complex64)]) == {"foreach": True}
    assert fused.kernel_flags([torch.zeros(2, device="meta")]) == {"foreach": True}


def test_complex_parameters_train_without_the_fused_kernel():
    p = [nn.Parameter(torch.ones(3, dtype=torch.complex64))]
    optimizer = fused.Adam(p, **fused.kernel_flags(p))
    p[0].grad = torch.ones_like(p[0])
    optimizer.step()
    assert (p[0] != 1).all()


def test_a_fresh_process_trains_without_torch_dynamo():
    script = """
import sys, torch
from torch import nn
from loopwright.optim.optimizers import AdamConfig, AdamWConfig, SGDConfig
from loopwright.optim.schedules import WarmupCosine
from loopwright.optim.torch_schedules import TorchSchedule
for config in (AdamConfig(), AdamWConfig(), SGDConfig(), SGDConfig(momentum=0.9)):
    model = nn.Linear(3, 2)
    optimizer = config.build(list(model.parameters()))
    for _ in range(2):
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        optimizer.zero_grad(set_to_none=False)
    optimizer.load_state_dict(optimizer.state_dict())
WarmupCosine().build(10, 5, 0.1)(3)
TorchSchedule(name="StepLR", args={"step_size": 1}).build(10, 5, 0.1)(2)
assert "torch._dynamo" not in sys.modules, "torch._dynamo was imported"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
