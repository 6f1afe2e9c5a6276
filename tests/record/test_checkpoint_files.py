"""Checkpoint files: read with nothing but torch, complete, committed by the index, and safe to open."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import loopwright
from loopwright import RunError, load_checkpoint, save_checkpoint
from loopwright.engine.state import TrainState, load_weights, snapshot
from loopwright.errors import ConfigError
from loopwright.record.checkpoint import check_plain, content, decode, encode
from support.cli import Ended, command, train

KEYS = {
    "format_version",
    "model_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
    "scaler_state_dict",
    "epoch",
    "step",
    "batch",
    "metrics",
    "best_val_loss",
    "step_of_best",
    "history",
    "period",
    "seed",
    "config",
    "torch_rng_state",
    "cuda_rng_state",
    "numpy_rng_state",
    "python_rng_state",
    "log_lengths",
    "log_sha256",
}
ENTRY_KEYS = {"file", "step", "epoch", "size", "sha256", "content_sha256", "rolling", "epoch_end"}


def load(path: Path) -> dict[str, Any]:
    saved = torch.load(path, weights_only=True)
    assert isinstance(saved, dict)
    return saved


def index_of(ended: Ended) -> dict[str, Any]:
    index = json.loads((ended.run / "checkpoints/index.json").read_text())
    assert isinstance(index, dict)
    return index


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str | int)
            assert_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            assert_plain(item)
    else:
        assert value is None or type(value) in (torch.Tensor, str, int, float, bool), type(value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A finished run that anybody may read and nobody changes."""
    return train(tmp_path_factory.mktemp("runs"), "record.checkpoint_every='2 steps'")


def test_checkpoint_has_every_key_and_only_plain_values(finished: Ended) -> None:
    saved = load(finished.run / "checkpoints/last.pt")
    assert set(saved) == KEYS
    assert_plain(saved)
    assert (saved["epoch"], saved["step"], saved["batch"], saved["seed"]) == (2, 10, 0, 42)
    assert saved["scheduler_state_dict"] == {} and saved["scaler_state_dict"] == {}
    assert saved["cuda_rng_state"] == [] or torch.cuda.is_available()
    assert set(saved["log_lengths"]) == set(saved["log_sha256"]) == {"metrics", "steps", "events"}
    assert saved["config"]["train"]["epochs"] == 2
    assert saved["history"]["values"].dtype == torch.float64
    assert saved["history"]["time_columns"] == ["epoch_seconds", "samples_per_second", "max_memory_mib"]


def test_checkpoint_within_an_epoch_counts_finished_epochs_steps_and_batches(finished: Ended) -> None:
    saved = load(finished.run / "checkpoints/step_000000008.pt")
    assert (saved["epoch"], saved["step"], saved["batch"]) == (1, 8, 3)
    assert saved["period"]["steps"] == 3 and saved["period"]["samples"] == 48


def test_torch_alone_goes_on_from_a_checkpoint(finished: Ended) -> None:
    """A fresh model and optimizer, the package not involved: the same weights, and an update that can be made."""
    saved = load(finished.run / "checkpoints/best.pt")
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 1))
    model.load_state_dict(saved["model_state_dict"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(saved["optimizer_state_dict"])
    assert optimizer.state_dict()["state"][0]["step"].item() == 10
    assert torch.equal(
        optimizer.state_dict()["state"][0]["exp_avg"], saved["optimizer_state_dict"]["state"][0]["exp_avg"]
    )
    before = snapshot(model.state_dict())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])
    torch.set_rng_state(saved["torch_rng_state"])


def test_random_states_can_be_set_again(finished: Ended) -> None:
    saved = load(finished.run / "checkpoints/last.pt")
    state = saved["numpy_rng_state"]
    before = np.random.get_state()
    np.random.set_state(
        ("MT19937", state["keys"].numpy().astype(np.uint32), state["position"], state["has_gauss"], state["cached"])
    )
    np.random.set_state(before)
    assert len(saved["python_rng_state"]["internal"]) == 625 and saved["python_rng_state"]["version"] == 3
    assert saved["torch_rng_state"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val_mae", None), ("r2", None), ("train_loss", None), ("val_loss", "max")]
)
def test_best_is_a_plain_number_named_after_its_metric(tmp_path: Path, monitor: str, mode: str | None) -> None:
    ended = train(tmp_path, f"stop.monitor={monitor}", "train.epochs=4", *([f"stop.mode={mode}"] if mode else []))
    name = monitor if "_" in monitor else f"val_{monitor}"
    saved = load(ended.run / "checkpoints/last.pt")
    best = [key for key in saved if key.startswith("best_")]
    assert best == [f"best_{name}"] and type(saved[best[0]]) is float
    rows = saved["history"]["values"][:, saved["history"]["columns"].index(name)].tolist()
    better = max if mode == "max" or monitor == "r2" else min
    assert saved[f"best_{name}"] == better(rows)
    assert load(ended.run / "checkpoints/best.pt")["metrics"][name] == better(rows)


def test_index_names_hashes_that_the_files_have(finished: Ended) -> None:
    index = index_of(finished)
    assert set(index) == {"format_version", "last", "tags", "model_sha256", "files", "checksum"}
    folder = finished.run / "checkpoints"
    for entry in index["files"]:
        path = folder / entry["file"]
        assert set(entry) == ENTRY_KEYS
        assert entry["sha256"] == digest(path) and entry["size"] == path.stat().st_size
        saved = load(path)
        assert entry["content_sha256"] == content(saved)
        assert (entry["step"], entry["epoch"]) == (saved["step"], saved["epoch"])
    assert index["last"] == "step_000000010.pt" and index["model_sha256"] == digest(finished.run / "model.pt")


def test_content_hash_ignores_times_and_sees_everything_else(finished: Ended) -> None:
    saved = load(finished.run / "checkpoints/last.pt")
    known = content(saved)
    other_times = load(finished.run / "checkpoints/last.pt")
    other_times["history"]["times"] += 1.0
    other_times["metrics"]["epoch_seconds"] = 99.0
    other_times["period"]["seconds"] = 99.0
    assert content(other_times) == known
    assert content(decode(encode(saved))) == known
    for change in (
        lambda tree: tree["model_state_dict"]["0.bias"].add_(1e-7),
        lambda tree: tree["optimizer_state_dict"]["state"][0]["exp_avg"].mul_(1.0001),
        lambda tree: tree["history"]["values"].add_(1e-9),
        lambda tree: tree.update(step=11),
        lambda tree: tree["metrics"].update(val_loss=0.5),
    ):
        changed = load(finished.run / "checkpoints/last.pt")
        change(changed)
        assert content(changed) != known


def test_a_checkpoint_is_never_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted and gone on with: every committed file keeps its inode and its bytes."""
    from loopwright.record import recorder

    written: list[str] = []
    original = recorder.write_durable

    def spy(path: Path, data: Any) -> Any:
        assert not path.exists()
        written.append(path.name)
        return original(path, data)

    monkeypatch.setattr(recorder, "write_durable", spy)
    every = ("record.checkpoint_every='2 steps'", "record.keep_last=99")
    first = train(tmp_path, *every, "stop.budget='6 steps'", code=0)
    assert first.json["steps"] == 6
    before = {p.name: (p.stat().st_ino, digest(p)) for p in (first.run / "checkpoints").glob("step_*.pt")}
    again = command("resume", first.run, *every, "stop.budget=null", "--json")
    assert again.code == 0, again.err
    assert {p.name: (p.stat().st_ino, digest(p)) for p in (first.run / "checkpoints").glob("step_*.pt")} == before
    assert "step_000000010.pt" in written
    checkpoints = [name for name in written if name.startswith("step_")]
    assert len(set(checkpoints)) == len(checkpoints)


def test_model_pt_is_the_best_weights_alone(tmp_path: Path) -> None:
    ended = train(
        tmp_path, "train.epochs=5", "stop.mode=max"
    )  # the first epoch's loss is the largest: best is not last
    best, last = load(ended.run / "checkpoints/best.pt"), load(ended.run / "checkpoints/last.pt")
    assert best["step"] < last["step"]
    weights = load(ended.run / "model.pt")
    assert weights.keys() == best["model_state_dict"].keys()
    assert all(torch.equal(weights[name], best["model_state_dict"][name]) for name in weights)
    assert not torch.equal(weights["0.weight"], last["model_state_dict"]["0.weight"])


def test_links_are_relative_and_for_people(finished: Ended) -> None:
    folder = finished.run / "checkpoints"
    links = {path.name: os.readlink(path) for path in folder.iterdir() if path.is_symlink()}
    assert links == {
        "last.pt": "step_000000010.pt",
        "best.pt": "step_000000010.pt",
        "epoch_0002.pt": "step_000000010.pt",
    }


def test_own_loop_saves_and_loads_with_the_same_protocol(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    path = tmp_path / "last.pt"
    known = save_checkpoint(
        path,
        model,
        optimizer,
        epoch=3,
        step=120,
        metrics={"val_loss": 0.25},
        seed=7,
        extra={"note": "x", "curve": [1.0]},
    )
    assert known == digest(path) and [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    drawn = (torch.rand(1).item(), float(np.random.rand()))
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.5)
    meta = loopwright.load_checkpoint(path, other, other_optimizer)
    assert (torch.rand(1).item(), float(np.random.rand())) == drawn
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert other_optimizer.param_groups[0]["lr"] == 0.1
    assert {key: meta[key] for key in ("epoch", "step", "metrics", "seed", "extra", "format_version")} == {
        "epoch": 3,
        "step": 120,
        "metrics": {"val_loss": 0.25},
        "seed": 7,
        "extra": {"note": "x", "curve": [1.0]},
        "format_version": 1,
    }
    assert KEYS - set(load(path)) == {"best_val_loss", "step_of_best", "history", "period", "log_lengths", "log_sha256"}


def test_own_loop_is_told_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(RunError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt", model)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(RunError, match="has no model_state_dict"):
        load_checkpoint(tmp_path / "weights.pt", model)
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(RunError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "text.pt", model)
    with pytest.raises(ConfigError, match="cannot be checkpointed"):
        save_checkpoint(tmp_path / "bad.pt", model, extra={"function": print})
    assert not (tmp_path / "bad.pt").exists()


class Trap:
    """What an attacker's pickle does when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_malicious_checkpoint_executes_nothing(tmp_path: Path, how: str) -> None:
    trap, path = tmp_path / "executed", tmp_path / "c.pt"
    tree = {"model_state_dict": {}, "step": Trap(trap)}
    if how == "torch":
        torch.save(tree, path)
    else:
        path.write_bytes(pickle.dumps(tree))
    with pytest.raises(RunError, match="not a readable checkpoint"):
        load_checkpoint(path, nn.Linear(1, 1))
    assert not trap.exists()
    with path.open("rb") as file:
        pickle.load(file) if how == "pickle" else torch.load(path, weights_only=False)
    assert trap.is_dir(), "the trap itself works"


def test_malicious_file_in_a_run_executes_nothing(tmp_path: Path) -> None:
    ended = train(tmp_path / "runs", "record.checkpoint_every='5 steps'")
    trap, folder = tmp_path / "executed", ended.run / "checkpoints"
    torch.save({"model_state_dict": Trap(trap), "step": 10}, folder / "step_000000010.pt")
    index = index_of(ended)
    index["files"][-1]["sha256"] = digest(folder / "step_000000010.pt")
    del index["checksum"]
    (folder / "index.json").write_text(json.dumps(index))
    (ended.run / "result.json").unlink()
    for arguments in (("evaluate", ended.run), ("predict", ended.run)):
        refused = command(*arguments)
        assert refused.code == 2 and "not a readable checkpoint" in refused.errors[0]
    resumed = command("resume", ended.run, "--json")
    assert resumed.code == 0 and "trying the one before it" in resumed.err and resumed.json["steps"] == 10
    assert not trap.exists()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = Tied()
    save_checkpoint(tmp_path / "c.pt", model)
    saved = load(tmp_path / "c.pt")["model_state_dict"]
    assert saved["embed.weight"].data_ptr() == saved["out.weight"].data_ptr()
    other = Tied()
    load_checkpoint(tmp_path / "c.pt", other)
    assert other.out.weight is other.embed.weight and torch.equal(other.embed.weight, model.embed.weight)
    copied = snapshot(model.state_dict())
    assert copied["embed.weight"].data_ptr() == copied["out.weight"].data_ptr() != model.embed.weight.data_ptr()


class Wrapped(nn.Module):
    """The names that torch.compile and data parallelism give a module's tensors."""

    def __init__(self, module: nn.Module, prefix: str) -> None:
        super().__init__()
        self.add_module(prefix, module)


@pytest.mark.parametrize("prefix", ["_orig_mod", "module"])
def test_prefixes_of_wrappers_are_stripped(prefix: str) -> None:
    inner = nn.Linear(2, 1)
    state = TrainState(Wrapped(inner, prefix), {"main": inner.parameters()}, lambda p: torch.optim.SGD(p, lr=0.1))
    assert set(state.model_state()) == {"weight", "bias"}
    plain = nn.Linear(2, 1)
    load_weights(plain, {f"{prefix}.{name}": value for name, value in inner.state_dict().items()})
    assert torch.equal(plain.weight, inner.weight)
    other = nn.Linear(2, 1)
    load_weights(Wrapped(other, prefix), inner.state_dict())
    assert torch.equal(other.weight, inner.weight)


def test_learning_rate_and_kernel_are_the_recipes_after_loading(tmp_path: Path) -> None:
    parent = train(tmp_path, "optim.lr=0.01", "optim=adam")
    child = command("resume", parent.run, "train.epochs=3", "optim.lr=0.001", "--json")
    assert child.code == 0, child.err
    saved = load(child.run / "checkpoints/last.pt")
    assert saved["optimizer_state_dict"]["param_groups"][0]["lr"] == 0.001
    steps = (child.run / "steps.csv").read_text().splitlines()
    assert [line.rsplit(",", 1)[1] for line in steps[1:]] == ["0.01"] * 10 + ["0.001"] * 5


@pytest.mark.parametrize("flags", [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}])
def test_kernel_flags_survive_a_foreign_state(flags: dict[str, bool]) -> None:
    def build(own: dict[str, bool]) -> TrainState:
        model = nn.Linear(2, 1)
        return TrainState(model, {"main": list(model.parameters())}, lambda p: torch.optim.Adam(p, lr=0.5, **own))

    written = build({"foreach": True} if "fused" in flags else {"fused": True})
    saved = decode(encode(written.state_dict()))
    state = build(flags)
    state.load_state_dict(saved)
    group = state.optimizers["main"].param_groups[0]
    assert {key: group[key] for key in flags} == flags
    assert state.lr is None  # the next step sets the recipe's


class Remembers(nn.Module):
    """A module whose extra state is what the test says."""

    def __init__(self, extra: Any) -> None:
        super().__init__()
        self.linear, self.extra = nn.Linear(2, 1), extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x)
        return out

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def test_extra_state_that_is_not_plain_is_refused_before_the_first_step(tmp_path: Path) -> None:
    x = torch.zeros(8, 2)
    data = (x, x.sum(1, keepdim=True))
    with pytest.raises(ConfigError, match=r"`model_state_dict\['_extra_state'\]` is a \S+.Trap, which no file"):
        loopwright.fit(Remembers(Trap(tmp_path / "t")), nn.MSELoss(), train=data, epochs=1, out=tmp_path / "runs")
    assert not (tmp_path / "t").exists() and not (tmp_path / "runs").exists()
    model = Remembers({"calls": 3, "seen": torch.arange(2)})
    outcome = loopwright.fit(
        model, nn.MSELoss(), train=data, epochs=1, out=tmp_path / "runs", plots="none", record={"code": False}
    )
    assert outcome.run is not None
    saved = load(Path(outcome.run) / "checkpoints/last.pt")["model_state_dict"]["_extra_state"]
    assert saved["calls"] == 3 and saved["seen"].tolist() == [0, 1]


def test_numpy_numbers_of_an_own_loop_are_plain_numbers_in_its_file(tmp_path: Path) -> None:
    model, path = nn.Linear(2, 1), tmp_path / "own.pt"
    given = {
        "epoch": np.int64(3),
        "step": np.int32(120),
        "seed": np.uint8(7),
        "metrics": {"loss": np.mean([0.25, 0.5])},
    }
    save_checkpoint(path, model, **given)
    saved = load(path)
    assert [saved[key] for key in ("epoch", "step", "seed", "metrics")] == [3, 120, 7, {"loss": 0.375}]
    for key in ("epoch", "step", "seed", "metrics"):
        assert_plain(saved[key])


# Every kind of scalar NumPy has, with values whose last bits would show a conversion.
SCALARS = [
    np.float16(0.1),
    np.float32(0.1),
    np.float64(0.1),
    np.longdouble(1) / 3,
    np.complex64(0.1 + 1j / 3),
    np.clongdouble(1j) / 3,
    np.float64("-nan"),
    np.float32(-0.0),
    np.int8(-5),
    np.int64(2**62 + 1),
    np.longlong(2**62 + 1),
    np.uint64(2**64 - 1),
    np.bool_(True),
    np.datetime64("2026-03-01T12:00:00.123456789", "ns"),
    np.datetime64("NaT"),
    np.timedelta64(7, "h"),
    np.str_("über"),
    np.str_(""),
    np.bytes_(b"ab"),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: f"{type(s).__name__}")
def test_numpy_scalars_come_back_as_they_were(scalar: Any, tmp_path: Path) -> None:
    extra = {"alone": scalar, "nested": [(scalar, 1), {"x": scalar}]}
    tree = {"extra": extra, "model_state_dict": {}}
    check_plain(tree)
    path = tmp_path / "c.pt"
    path.write_bytes(encode(snapshot(tree)))
    torch.load(path, weights_only=True)  # nothing but torch
    back = decode(path)["extra"]
    for value in (back["alone"], back["nested"][0][0], back["nested"][1]["x"]):
        assert type(value) is type(scalar) and value.dtype == scalar.dtype
        if isinstance(scalar, np.longdouble | np.clongdouble):
            assert value == scalar  # of its bytes some hold nothing
        else:
            assert value.tobytes() == scalar.tobytes()
    assert content(decode(path)) == content(tree) != content({**tree, "extra": {**extra, "alone": None}})


def test_the_padding_of_a_long_double_is_no_content() -> None:
    third = (np.longdouble(1) / 3).tobytes()
    used = 10 if np.finfo(np.longdouble).nmant == 63 else len(third)
    values = [np.frombuffer(third[:used] + bytes([fill]) * (len(third) - used), np.longdouble)[0] for fill in (1, 255)]
    assert values[0] == values[1] and len({encode({"x": value}) for value in values}) == 1


READABLE = [
    None, True, 3, 2**2039 - 1, 0.1, 1j, "x", "\ud800", b"x", bytearray(b"x"), (1, "a"), [1.5], {1, 2}, {"a": {1: 2}},
    OrderedDict(a=1), Counter("aab"), torch.Size([2]), torch.device("cpu"), torch.float16, {(1, "a"): 1, ("b", 2): 2},
    {None: 1, 1.5: 2, b"k": 3, torch.int8: 4},
]  # fmt: skip


@pytest.mark.parametrize("value", READABLE, ids=lambda v: type(v).__name__)
def test_what_is_accepted_comes_back_equal_and_of_its_type(value: Any, tmp_path: Path) -> None:
    tree = {"a": value, "in": [value, {"b": (value,)}]}
    check_plain(tree)
    back = decode(encode(snapshot(tree)))
    for found in (back["a"], back["in"][0], back["in"][1]["b"][0]):
        assert found == value and type(found) is type(value)
    assert content(back) == content(tree)


class Point(NamedTuple):
    x: int


class Colour(IntEnum):
    RED = 1


class Meters(float):
    pass


UNREADABLE = [
    (np.zeros(2), "a numpy.ndarray"),
    (Point(1), f"a {__name__}.Point"),
    (Colour.RED, f"a {__name__}.Colour"),
    (Meters(1), f"a {__name__}.Meters"),
    (defaultdict(int, a=1), "a collections.defaultdict"),
    (frozenset([1]), "a frozenset"),
    (deque([1]), "a collections.deque"),
    (range(3), "a range"),
    (print, "a builtin_function_or_method"),
    (Path("x"), "a pathlib.PosixPath"),
    (np.dtype("f4"), "a numpy.dtypes.Float32DType"),
    (2**2040, "a whole number of more than 2039 bits"),
    (torch.eye(2).to_sparse(), "a tensor of layout torch.sparse_coo on cpu"),
    (torch.zeros(1, device="meta"), "a tensor of layout torch.strided on meta"),
    ({np.int64(3): 1}, "a dict or set with a int64 (np.int64(3)) as a key"),
    ({"numpy_scalar": 1}, "a dict with the key 'numpy_scalar'"),
]


@pytest.mark.parametrize(("value", "named"), UNREADABLE, ids=lambda v: type(v).__name__)
def test_what_could_not_be_read_back_is_named_with_its_key(value: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        save_checkpoint(tmp_path / "c.pt", nn.Linear(1, 1), extra={"a": [0.5, {"b": value}]})
    assert f"`extra['a'][1]['b']` is {named}" in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
    endless: list[Any] = [0.5]
    endless.append(endless)
    with pytest.raises(ConfigError, match="a dict or list holds itself"):
        check_plain({"a": endless})


def test_a_save_is_checked_every_time_and_the_older_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    """Extra state that is plain at the start and becomes an array in step 7: one error, and nothing is lost."""
    x = torch.linspace(-1, 1, 40).reshape(20, 2)
    made: list[Remembers] = []

    class Spoilt(loopwright.Hook):
        def __init__(self, value: Any) -> None:
            self.value = value

        def on_step_end(self, info: Any) -> None:
            made[-1].extra = {"calls": np.float32(info.step), "newest": self.value if info.step >= 7 else None}

    def train(value: Any) -> Any:
        def model() -> Remembers:
            made.append(Remembers({"calls": np.float32(0), "newest": None}))
            return made[-1]

        return loopwright.fit(
            model, nn.MSELoss(), train=(x, x.sum(1, keepdim=True)), epochs=2, batch_size=4, out=tmp_path, resume=True,
            plots="none", record={"code": False, "checkpoint_every": "2 steps", "keep_last": 9}, hooks=[Spoilt(value)],
        )  # fmt: skip

    with pytest.raises(ConfigError) as refused:
        train(np.zeros(2))
    assert "`model_state_dict['_extra_state']['newest']` is a numpy.ndarray" in str(refused.value)
    assert refused.value.exit_code == 2
    (run,) = tmp_path.glob("*/2*")
    steps = [entry["step"] for entry in json.loads((run / "checkpoints/index.json").read_text())["files"]]
    assert steps[-1] == 6 and not list((run / "checkpoints").glob("step_000000008*"))
    outcome = train(np.int16(7))
    assert outcome.status == "completed" and Path(outcome.run) == run
    starts = [json.loads(line)["step_from"] for line in (run / "sessions.jsonl").read_text().splitlines()]
    assert starts == [0, 6]
    wanted = {"calls": np.float32(10), "newest": np.int16(7)}
    for file, key in (("checkpoints/last.pt", "model_state_dict"), ("model.pt", None)):
        saved = decode(run / file)
        extra = (saved if key is None else saved[key])["_extra_state"]
        assert extra == wanted and [type(v) for v in extra.values()] == [np.float32, np.int16]
    entry = json.loads((run / "checkpoints/index.json").read_text())["files"][-1]
    assert entry["content_sha256"] == content(decode(run / "checkpoints/last.pt"))


def test_what_training_goes_on_changing_is_copied() -> None:
    """The writer works beside the training: it must not see what comes later."""
    held: dict[str, Any] = {"s": {1}, "b": bytearray(b"x"), "l": [1], "d": {"a": 1}, "t": torch.zeros(1)}
    copy = snapshot(held)
    held["s"].add(2), held["b"].extend(b"y"), held["l"].append(2), held["d"].update(b=2), held["t"].add_(1)
    assert copy == {"s": {1}, "b": bytearray(b"x"), "l": [1], "d": {"a": 1}, "t": torch.zeros(1)}
