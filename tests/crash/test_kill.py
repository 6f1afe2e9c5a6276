"""SIGKILL at any instant, then `train --resume`: the run ends with the content of one that was never killed."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.compare import assert_same
from support.warm import SAVES, Warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COMMON = ("plots=none", "record.code=false", "record.console_every=0")
SPIKING = (
    "task.data.synthetic.rows=300",
    "task.data.window=7",
    "task.data.shuffle=true",
    "train.batch_size=16",
    "stop.patience=0",
    "train.epochs=12",
)
AE = (
    "task=autoencoder",
    "task.data.split=[0.2,0.4,0.4]",
    "task.width=8",
    "optim=adam",
    "train.batch_size=16",
    "train.clip_norm=1.0",
    "train.epochs=6",
)
TASKS = {
    "regression": (
        "experiment=self_test",
        "task.data.rows=400",
        "model.hidden=[16,16]",
        "model.dropout=0.3",
        "train.batch_size=8",
        "schedule=plateau",
        "train.epochs=10",
    ),
    "gru": (
        "experiment=gru_baseline",
        "task.data.synthetic.rows=300",
        "task.data.window=7",
        "task.data.shuffle=true",
        "model.hidden=12",
        "model.num_layers=2",
        "model.dropout=0.2",
        "train.batch_size=16",
        "stop.patience=0",
        "train.epochs=20",
    ),
    "frequency": (
        "experiment=frequency_baseline",
        "task.data.synthetic.rows=400",
        "train.batch_size=8",
        "stop.patience=0",
        "train.epochs=20",
    ),
    "regex": (
        "experiment=regex_a_plus",
        "task.data.samples=150",
        "model.d_model=16",
        "model.heads=2",
        "train.batch_size=8",
        "train.epochs=8",
        "stop.patience=0",
        "hooks.capture.every=7",
    ),
    "walks": (
        "experiment=walks_small",
        "task.data.num_walks=400",
        "task.evaluation.walks=20",
        "model.d_model=16",
        "train.batch_size=32",
        "train.epochs=6",
        "stop.gate={edge_compliance: 1.5, rule_compliance: 0.8}",
    ),
    "spiking_mlp": (*SPIKING, "experiment=spiking_mlp_baseline", "model.hidden=[12,8]", "model.encoding=rate"),
    "spiking_transformer": (
        *SPIKING,
        "experiment=spiking_transformer_baseline",
        "model.d_model=16",
        "model.heads=2",
        "model.d_ffn=24",
    ),
    "autoencoder": (*AE, "task.encoder=gnn", "task.latent=vq", "task.latent.codes=32"),
    "autoencoder_gan": (*AE, "task.loop=gan", "task.encoder=diffusion", "task.decoder=gan"),
    "diffusion": (*AE, "task.loop=diffusion", "task.latent=vq", "task.latent.codes=32", "task.loop.timesteps=100"),
    "denoising_decoder": (
        *AE,
        "task.loop=diffusion",
        "task.decoder=diffusion",
        "task.loop.timesteps=100",
        "task.loop.sampling_steps=3",
    ),
    "gan": (
        "experiment=null",
        "task.name=support.tasks:GanConfig",
        "name=gan",
        "train.batch_size=4",
        "optim=adam",
        "train.epochs=24",
    ),
}
CADENCES = ("3 steps", "0.2 s")
# At random instants, shared out among tasks and cadences; `make crash` asks for 500.
KILLS = math.ceil(int(os.environ.get("LOOPWRIGHT_KILLS", "32")) / (len(TASKS) * len(CADENCES)))


def only_run(root: Path) -> Path:
    """A kill before the recipe is written leaves a folder that is no run yet; nobody lists it or goes on with it."""
    (run,) = (config.parent for config in root.glob("*/2*/config.yaml"))
    return run


@pytest.mark.timeout(600 + 30 * KILLS)
@pytest.mark.parametrize("cadence", CADENCES)
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_random_instants(tmp_path: Path, warm: Warm, task: str, cadence: str) -> None:
    arguments = ("train", *TASKS[task], *COMMON, f"record.checkpoint_every='{cadence}'", "--resume", "--out")
    began = time.monotonic()
    warm.finish(*arguments, tmp_path / "whole")
    limit = 0.7 * (time.monotonic() - began)
    whole = only_run(tmp_path / "whole")
    instants = random.Random(f"{task} {cadence}")
    kills, attempt = 0, 0
    while kills < KILLS:
        root = tmp_path / f"killed{attempt}"
        while kills < KILLS:
            child = warm.start(*arguments, root)
            time.sleep(instants.uniform(0.0, limit))
            if not child.kill():
                assert child.wait() == 0, child.err()
                limit *= 0.7  # it was finished before: the next one starts anew and is given less time
                break
            kills += 1
        warm.finish(*arguments, root)
        assert_same(whole, only_run(root))
        attempt += 1
    assert json.loads((whole / "result.json").read_text())["steps"] > 100


SMALL = (
    "train",
    "experiment=self_test",
    "task.data.rows=60",
    "model.hidden=[4]",
    "model.dropout=0.2",
    "train.batch_size=8",
    "train.epochs=3",
    *COMMON,
    "record.checkpoint_every='2 steps'",
    "--resume",
    "--out",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """The run of SMALL that was never killed."""
    root = tmp_path_factory.mktemp("small")
    warm.finish(*SMALL, root)
    return only_run(root)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("place", SAVES)
def test_killed_inside_a_save(tmp_path: Path, warm: Warm, small: Path, place: str, nth: int) -> None:
    """Before anything is committed, and in the midst."""
    child = warm.start(*SMALL, tmp_path, hold=place, nth=nth)
    assert warm.standing_at(child) and child.kill()
    run = only_run(tmp_path)
    assert not (run / "result.json").exists()
    assert any(run.glob("checkpoints/step_*.pt"))
    warm.finish(*SMALL, tmp_path)
    assert_same(small, run)


def test_killed_while_it_resumes_again_and_again(tmp_path: Path, warm: Warm, small: Path) -> None:
    """Every process dies in its second save, so each adds a little."""
    kills = 0
    while True:
        child = warm.start(*SMALL, tmp_path, hold="half of a checkpoint is written", nth=2)
        if not warm.standing_at(child):
            assert child.wait() == 0, child.err()
            break
        assert child.kill()
        kills += 1
    assert kills >= 4
    assert_same(small, only_run(tmp_path))
    sessions = (only_run(tmp_path) / "sessions.jsonl").read_text().splitlines()
    assert [json.loads(line)["end"] for line in sessions] == [None] * kills + ["completed"]


def test_a_second_process_is_refused_with_who_holds_the_run(tmp_path: Path, warm: Warm, small: Path) -> None:
    first = warm.start(*SMALL, tmp_path, hold="half of a checkpoint is written")
    assert warm.standing_at(first)
    held = only_run(tmp_path)
    for second in (
        warm.start(*SMALL, tmp_path),
        warm.start("resume", held),
        warm.start("runs", "remove", held, "--yes"),
    ):
        assert second.wait() == 2
        (line,) = second.err().splitlines()
        assert line.startswith("error: run is being worked on by ")
        assert f"pid {first.pid} on host {os.uname().nodename}" in line
    assert first.kill()
    warm.finish(*SMALL, tmp_path)
    assert_same(small, held)


def test_several_that_start_at_one_instant_share_one_run(tmp_path: Path, warm: Warm, small: Path) -> None:
    codes = [child.wait() for child in [warm.start(*SMALL, tmp_path) for _ in range(4)]]
    assert 0 in codes and set(codes) <= {0, 2}
    assert_same(small, only_run(tmp_path))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_real_command_killed(tmp_path: Path, seed: int) -> None:
    """From a fresh interpreter, a second or so after its first epoch: whatever it does then."""
    train = [
        *(sys.executable, "-m", "loopwright", "train", *TASKS["regression"], *COMMON, f"seed={seed}"),
        *("train.epochs=30", "record.checkpoint_every='25 steps'", "--resume", "--out"),
    ]
    whole, killed = str(tmp_path / "whole"), tmp_path / "killed"
    subprocess.run([*train, whole], check=True, capture_output=True)
    instants, limit = random.Random(seed), 0.5
    while True:
        process = subprocess.Popen([*train, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(path.stat().st_size for path in killed.glob("*/2*/metrics.csv")):
            time.sleep(0.01)
        time.sleep(instants.uniform(0.0, limit))
        process.send_signal(signal.SIGKILL)
        if (code := process.wait()) == -signal.SIGKILL:
            break
        assert code == 0
        shutil.rmtree(killed)  # it was finished before: the next one is given less time
        limit *= 0.7
    subprocess.run([*train, str(killed)], check=True, capture_output=True)
    assert_same(only_run(tmp_path / "whole"), only_run(killed))
