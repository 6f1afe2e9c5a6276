"""A non-finite loss on an accelerator leaves the update out without anybody waiting for the device."""

import pytest
import torch
from torch import nn

from loopwright.engine.loss import Loss
from loopwright.engine.state import TrainState
from loopwright.optim import fused


def make_state(device: str = "cpu") -> TrainState:
    torch.manual_seed(0)
    model = nn.Linear(3, 1).to(device)
    return TrainState(model, {"main": model.parameters()}, lambda params: fused.Adam(params, lr=0.1, fused=True))


def update(state: TrainState, scale: float, *, mask: bool) -> None:
    x = torch.ones(4, 3, device=next(state.model.parameters()).device)
    mean = state.model(x).square().mean() * scale
    if mask:
        state.mask(state.optimizers["main"], mean)
    state.apply(Loss(mean, 4))


def test_updates_stop_at_the_first_bad_loss_and_stay_stopped():
    state = make_state()
    assert state.masks
    update(state, 1.0, mask=True)
    before = [p.clone() for p in state.model.parameters()]
    for scale in (float("nan"), 1.0, 1.0):
        update(state, scale, mask=True)
        for held, now in zip(before, state.model.parameters(), strict=True):
            assert torch.equal(held, now)


def test_without_the_mask_the_same_loss_poisons_the_weights():
    state = make_state()
    update(state, float("nan"), mask=False)
    assert all(p.isnan().all() for p in state.model.parameters())


def test_an_optimizer_that_cannot_mask_is_known():
    model = nn.Linear(3, 1)
    state = TrainState(model, {"main": model.parameters()}, lambda params: torch.optim.Rprop(params, lr=0.1))
    assert not state.masks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_apply_masks_by_itself_on_a_gpu():
    state = make_state("cuda")
    before = [p.clone() for p in state.model.parameters()]
    update(state, float("nan"), mask=False)
    for held, now in zip(before, state.model.parameters(), strict=True):
        assert torch.equal(held, now)
