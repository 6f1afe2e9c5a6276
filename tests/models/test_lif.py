"""The neuron against snntorch's, step by step and backwards; its surrogate; what it refuses."""

import math

import pytest
import snntorch
import torch
from snntorch import surrogate

from loopwright.models.lif import LIF, _written_out
from loopwright.models.spiking_attention import attend

T, N = 12, (5, 40)


def snntorchs(current, num_steps, beta, slope):
    """(membranes, spikes) of snn.Leaky, one call per step."""
    neurons = snntorch.Leaky(beta=beta, reset_mechanism="subtract", spike_grad=surrogate.fast_sigmoid(slope))
    membrane, kept = torch.zeros_like(current[0]), []
    for step in range(num_steps):
        spikes, membrane = neurons(current[step if len(current) > 1 else 0], membrane)
        kept.append((membrane, spikes))
    return tuple(torch.stack(held) for held in zip(*kept, strict=True))


@pytest.mark.parametrize("consume", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("beta", "slope"), [(0.95, 25.0), (0.95, 2.0), (0.5, 25.0), (1.0, 10.0), (0.0, 25.0)])
def test_it_is_snntorchs_neuron_forward_and_backward(beta, slope, held, consume):
    drive, weight = 0.8 * torch.randn(1 if held else T, *N), torch.randn(T, *N)
    one, two = (drive.clone().requires_grad_() for _ in range(2))
    ours = LIF(beta, slope)(one * 1.0, T, consume)
    _, theirs = snntorchs(two, T, beta, slope)
    assert torch.equal(ours, theirs)
    assert 0.02 < ours.mean() < 0.6
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    assert two.grad.abs().max() > 0.5
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


def test_without_gradients_it_is_the_same_and_leaves_its_input_alone():
    drive = 0.8 * torch.randn(T, *N)
    before = drive.clone()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(LIF(0.95)(drive, consume=True), snntorchs(drive, T, 0.95, 25.0)[1])
    trained = drive.clone().requires_grad_()
    LIF(0.95)(trained).sum().backward()
    assert torch.equal(drive, before) and torch.equal(trained, before)


def test_a_spike_takes_the_threshold_off_one_step_later():
    drive = torch.tensor([1.0, 0.06, 0.0, 0.0, 0.0])[:, None]
    # 1 is not above 1; 0.95 + 0.06 is; then 1.01 x 0.95 - 1, and the decay of that.
    assert LIF(0.95)(drive).flatten().tolist() == [0, 1, 0, 0, 0]
    membranes, spikes = snntorchs(drive, 5, 0.95, 25.0)
    assert membranes.flatten().tolist() == pytest.approx([1.0, 1.01, -0.0405, -0.038475, -0.03655125], abs=1e-6)
    assert torch.equal(spikes, LIF(0.95)(drive))


@pytest.mark.parametrize("slope", [25.0, 2.0])
def test_the_surrogate_is_a_fast_sigmoids(slope):
    drive = torch.tensor([[0.2, 0.999, 1.0, 1.5, 7.0]], requires_grad=True)
    LIF(0.95, slope)(drive).sum().backward()
    wanted = [1 / (1 + slope * abs(value - 1)) ** 2 for value in drive[0].tolist()]
    assert drive.grad[0].tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_reset_counts_as_a_constant():
    """With U[2] = beta U[1] + I[2] - S[1], only beta leads from the second step back to the first."""
    drive = torch.tensor([[1.2], [0.7]], requires_grad=True)
    spikes = LIF(0.9, 25.0)(drive)
    spikes[1].sum().backward()
    surrogate_2 = 1 / (1 + 25 * abs(0.9 * 1.2 + 0.7 - 1 - 1)) ** 2
    assert drive.grad.flatten().tolist() == pytest.approx([0.9 * surrogate_2, surrogate_2], rel=1e-4)


@pytest.mark.parametrize("steps", [1, T])
def test_written_out_it_computes_the_same(steps):
    drive, weight = 0.8 * torch.randn(steps, *N), torch.randn(T, *N)
    one, two = (drive.clone().requires_grad_() for _ in range(2))
    ours, plain = LIF(0.95)(one, T), _written_out(two, T, 0.95, 25.0)
    assert torch.equal(ours, plain)
    (ours * weight).sum().backward()
    (plain * weight).sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


def test_torchs_own_transforms_take_it():
    drive = 0.8 * torch.randn(3, T, *N)
    lif = LIF(0.95)
    torch.testing.assert_close(torch.func.vmap(lif)(drive), torch.stack([lif(part) for part in drive]), rtol=0, atol=0)
    plain = drive[0].clone().requires_grad_()
    lif(plain).sum().backward()
    mapped = torch.func.grad(lambda current: lif(current).sum())(drive[0])
    torch.testing.assert_close(mapped, plain.grad, rtol=1e-4, atol=1e-5)


def test_half_precision_currents_have_float32_membranes():
    drive = (0.8 * torch.randn(T, *N)).bfloat16()
    assert torch.equal(LIF(0.95)(drive), LIF(0.95)(drive.float())) and LIF(0.95)(drive).dtype == torch.float32


def test_a_consumed_current_allows_one_backward_and_a_kept_one_any_number():
    drive = torch.randn(T, *N, requires_grad=True)
    kept, consumed = LIF(0.95)(drive * 1.0), LIF(0.95)(drive * 1.0, consume=True)
    for _ in range(2):
        kept.sum().backward(retain_graph=True)
    consumed.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        consumed.sum().backward()


def test_what_cannot_be_is_refused():
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"beta is {bad}; use a decay from 0 to 1"):
            LIF(bad)
    with pytest.raises(ValueError, match="slope is 0"):
        LIF(0.9, 0)
    with pytest.raises(ValueError, match="the current has 3 steps; give 5, or 1"):
        LIF(0.9)(torch.zeros(3, 2), 5)


# --- attention between spikes


@pytest.mark.parametrize(("heads", "window"), [(1, 3), (4, 7), (2, 21)])
def test_attention_is_the_products_of_counts_and_their_gradients(heads, window):
    spikes = (torch.rand(3, 2, window, 3 * 8) < 0.3).double()
    one, two = (spikes.clone().requires_grad_() for _ in range(2))
    ours = attend(one, heads)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(2, 3) for part in two.chunk(3, -1))
    counts = (q @ (k.transpose(-2, -1) @ v)).transpose(2, 3).flatten(-2)
    plain = counts / math.sqrt(8 // heads)
    assert torch.equal(ours, plain), "sums of 0 and 1 are exact in any order"
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (plain * weight).sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(lambda x: attend(x, heads), torch.randn_like(spikes[:1, :1]).requires_grad_())
    torch.testing.assert_close(torch.func.vmap(lambda x: attend(x, heads))(spikes[None])[0], plain)
