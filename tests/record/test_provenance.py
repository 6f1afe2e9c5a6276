"""Provenance: complete enough to explain other bits, and silent about secrets."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loopwright.record import provenance
from loopwright.record.provenance import Provenance, drift, environment, pip_freeze, without_credentials


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "a.txt").write_text("one\n")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@x")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=directory, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_environment_is_plain_and_names_what_bits_depend_on() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["torch"] == torch.__version__
    assert set(facts["numerics"]) == {
        "attention",
        "cpu",
        "cpu_capability",
        "cudnn",
        "deterministic",
        "environment_variables",
        "float32_matmul_precision",
        "matrix_library",
        "tf32",
        "threads",
    }
    assert facts["numerics"]["threads"] == torch.get_num_threads()
    assert facts["numerics"]["cpu"]["model_name"]
    assert facts["hardware"]["cores"] >= 1
    assert facts["hardware"]["memory_mib"] > 100
    assert facts["hardware"]["gpus"] == []


def test_environment_follows_the_settings() -> None:
    before = environment()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads + 1)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    try:
        now = environment()
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(False)
    lines = drift(before, now)
    assert f"threads: recorded {threads}, now {threads + 1}; bits are no longer promised" in lines
    assert any(line.startswith("float32_matmul_precision: recorded highest, now medium") for line in lines)
    assert any(line.startswith("deterministic: recorded False, now True") for line in lines)


def test_gpus_are_listed_for_a_run_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="Some GPU", total_memory=24 * 2**30 + 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu.name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    facts = environment("cuda:0")
    assert facts["hardware"]["gpus"] == [{"name": "Some GPU", "memory_mib": 24 * 1024}]
    assert facts["numerics"]["gpu"] == "Some GPU"
    assert any(line.startswith("gpu: recorded Some GPU, now unknown") for line in drift(facts, environment("cpu")))


VARIABLES = {
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "OPENBLAS_CORETYPE",
    "CUBLAS_WORKSPACE_CONFIG",
}


def test_only_variables_that_choose_kernels_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOOPWRIGHT_TEST_SECRET", "hunter2-in-the-environment")
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "")
    facts = environment()
    assert "hunter2" not in json.dumps(facts)
    assert facts["numerics"]["environment_variables"] == {**dict.fromkeys(VARIABLES), "MKL_CBWR": "COMPATIBLE"}


# Builds of torch and NumPy: which matrix libraries they have.
MKL = {"blas": "mkl", "mkl": True, "onednn": True, "numpy": "scipy-openblas"}
OPEN = {"blas": "open", "mkl": False, "onednn": False, "numpy": "scipy-openblas"}
BARE = {"blas": "generic", "mkl": False, "onednn": False, "numpy": "accelerate"}


def facts_with(library: dict[str, Any], variables: dict[str, str], **numerics: Any) -> dict[str, Any]:
    held = {**dict.fromkeys(VARIABLES), **variables}
    return {"numerics": {"matrix_library": library, "environment_variables": held, **numerics}}


@pytest.mark.parametrize(
    ("library", "then", "now", "said"),
    [
        (MKL, {}, {"MKL_CBWR": "COMPATIBLE"}, "MKL_CBWR: recorded unset, now COMPATIBLE"),
        (MKL, {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, {}, "MKL_ENABLE_INSTRUCTIONS: recorded SSE4_2, now unset"),
        (MKL, {}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, "ONEDNN_MAX_CPU_ISA: recorded unset, now SSE41"),
        (MKL, {}, {"DNNL_MAX_CPU_ISA": "SSE41"}, "DNNL_MAX_CPU_ISA: recorded unset, now SSE41"),
        (MKL, {"DNNL_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, None),  # one setting, two names
        (MKL, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "SSE41"}, None),
        (MKL, {}, {"OPENBLAS_CORETYPE": "Haswell"}, "OPENBLAS_CORETYPE: recorded unset, now Haswell"),  # NumPy's
        (MKL, {}, {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, None),  # there is no GPU in this run
        (MKL, {}, {"ATEN_CPU_CAPABILITY": "avx2"}, None),  # the capability is what it was
        (OPEN, {}, {"MKL_CBWR": "COMPATIBLE"}, None),
        (OPEN, {}, {"DNNL_MAX_CPU_ISA": "SSE41"}, None),
        (OPEN, {}, {"OPENBLAS_CORETYPE": "Haswell"}, "OPENBLAS_CORETYPE: recorded unset, now Haswell"),
        (BARE, {}, {"OPENBLAS_CORETYPE": "Haswell", "MKL_CBWR": "AVX2"}, None),
    ],
)
def test_drift_names_a_variable_that_can_act(
    library: dict[str, Any], then: dict[str, str], now: dict[str, str], said: str | None
) -> None:
    wanted = [f"{said}; bits are no longer promised"] if said else []
    assert drift(facts_with(library, then), facts_with(library, now)) == wanted


def test_on_a_gpu_only_the_variable_of_cublas_acts() -> None:
    now = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Haswell"}
    then = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    assert drift(facts_with(MKL, then, gpu="G"), facts_with(MKL, now, gpu="G")) == [
        "CUBLAS_WORKSPACE_CONFIG: recorded :4096:8, now :16:8; bits are no longer promised"
    ]


def test_the_capability_is_named_with_its_variable() -> None:
    before = facts_with(MKL, {}, cpu_capability="AVX2")
    after = facts_with(MKL, {"ATEN_CPU_CAPABILITY": "default"}, cpu_capability="DEFAULT")
    assert drift(before, after) == [
        "cpu_capability: recorded AVX2, now DEFAULT; bits are no longer promised",
        "ATEN_CPU_CAPABILITY: recorded unset, now default; bits are no longer promised",
    ]


def test_what_an_old_record_lacks_is_no_difference() -> None:
    now = facts_with(MKL, {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"})
    old = copy.deepcopy(now)
    del old["numerics"]["environment_variables"], old["numerics"]["matrix_library"]["numpy"]
    assert drift(old, now) == []
    some = facts_with(MKL, {})
    del some["numerics"]["environment_variables"]["MKL_CBWR"]
    assert [line.split(":")[0] for line in drift(some, now)] == ["ONEDNN_MAX_CPU_ISA"]


def test_another_kind_of_device_is_drift() -> None:
    assert drift({"device": "cpu"}, {"device": "cuda:0"}) == [
        "device: recorded cpu, now cuda; bits are no longer promised"
    ]
    assert drift({"device": "cuda:1"}, {"device": "cuda:0"}) == []


def test_git_of_a_clean_and_a_dirty_tree(repository: Path) -> None:
    clean = Provenance(repository, [])
    assert clean.code_diff() == ""
    head = git(repository, "rev-parse", "HEAD")
    assert clean.environment()["git"] == {"commit": head, "branch": "trunk", "dirty": False}
    (repository / "untracked.txt").write_text("x\n")
    assert Provenance(repository, []).environment()["git"]["dirty"] is False
    (repository / "a.txt").write_text("two\n")
    git(repository, "checkout", "-q", "--detach")
    dirty = Provenance(repository, [])
    assert dirty.environment()["git"] == {"commit": head, "branch": None, "dirty": True}
    assert "diff --git a/a.txt b/a.txt" in dirty.code_diff()
    assert dirty.code_diff().endswith("-one\n+two\n")  # asked twice


def test_the_diff_can_be_applied_and_covers_the_whole_tree_from_a_subfolder(repository: Path) -> None:
    (repository / "sub").mkdir()
    (repository / "a.txt").write_text("one\ntwo\n")
    git(repository, "config", "diff.noprefix", "true")
    git(repository, "config", "diff.relative", "true")
    git(repository, "config", "color.ui", "always")
    patch = Provenance(repository / "sub", []).code_diff()
    git(repository, "checkout", "-q", "a.txt")
    subprocess.run(["git", "apply"], cwd=repository, input=patch.encode(), check=True)
    assert (repository / "a.txt").read_text() == "one\ntwo\n"


def test_programs_named_in_a_repository_do_not_run(repository: Path) -> None:
    (repository / "a.txt").write_text("two\n")
    trap = repository / "trap.sh"
    trap.write_text("#!/bin/sh\ntouch sprung\n")
    trap.chmod(0o755)
    for key in ("diff.external", "core.fsmonitor", "diff.evil.textconv", "core.pager"):
        git(repository, "config", key, str(trap))
    (repository / ".gitattributes").write_text("*.txt diff=evil\n")
    origin = Provenance(repository, [])
    assert "+two" in origin.code_diff()
    assert origin.environment()["git"]["dirty"]
    assert not (repository / "sprung").exists()


def test_no_repository_no_commit_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    nowhere = Provenance(tmp_path, [])
    assert nowhere.environment()["git"] is None
    assert nowhere.code_diff() == ""
    git(tmp_path, "init", "-q", "-b", "trunk")
    newborn = Provenance(tmp_path, [])
    assert newborn.environment()["git"] == {"commit": None, "branch": "trunk", "dirty": False}
    assert newborn.code_diff() == ""
    monkeypatch.setattr(provenance, "_GIT", ("a-program-that-is-not-installed",))
    without = Provenance(tmp_path, [])
    assert without.environment()["git"] is None
    assert without.code_diff() == ""


def test_a_long_diff_is_cut_after_a_whole_line_and_says_so(repository: Path) -> None:
    (repository / "a.txt").write_text("".join(f"https://me:pass{n}word@host/{n}\n" for n in range(9000)))
    cut = Provenance(repository, []).code_diff(limit_bytes=100_000)
    *kept, closing = cut.splitlines()
    assert closing == "# the diff is cut here: it is longer than 100000 bytes"
    assert 50_000 < len(cut) <= 100_100
    assert kept[-1].startswith("+https://host/")
    assert "word" not in cut
    assert "# the diff is cut here" not in Provenance(repository, []).code_diff(limit_bytes=10_000_000)


def test_a_git_that_hangs_is_given_up_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_GIT", ("sh", "-c", "echo begun; exec sleep 60"))
    monkeypatch.setattr(provenance, "_GIT_SECONDS", 0.2)
    origin = Provenance(tmp_path, [])
    assert origin.code_diff() == "begun\n# the diff is cut here: git took over 0.2 s\n"
    assert origin.environment()["git"] is None


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:secret@host/x.git", "https://host/x.git"),
        ("+  url = ssh://me@host:22/x", "+  url = ssh://host:22/x"),
        ("https://h/x?a=1&api_key=abc&b=2", "https://h/x?a=1&api_key=***&b=2"),
        ("(https://h/?access_token=abc#part)", "(https://h/?access_token=***#part)"),
        ("https://h/~me@home", "https://h/~me@home"),
        ("mail me@host, x = y @ z", "mail me@host, x = y @ z"),
        ('f"https://{user}:{word}@{host}"', 'f"https://{user}:{word}@{host}"'),
    ],
)
def test_urls_lose_their_credentials(text: str, clean: str) -> None:
    assert without_credentials(text) == clean


def test_argv_is_recorded_without_credentials(tmp_path: Path) -> None:
    facts = Provenance(tmp_path, ["train", "data.path=https://a:b@h/x"], code=False).environment()
    assert facts["argv"] == ["train", "data.path=https://h/x"]


def test_pip_freeze_names_every_installed_distribution_once() -> None:
    lines = pip_freeze().splitlines()
    installed = [(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()]
    assert set(lines) <= {f"{name}=={version}" for name, version in installed}
    assert {line.split("==")[0] for line in lines} == {name for name, _ in installed}
    assert lines == sorted(lines, key=lambda line: line.split("==")[0].lower().replace("_", "-"))
    assert len(lines) == len(set(lines))


def test_drift_is_empty_for_the_same_and_ignores_what_bits_do_not_depend_on() -> None:
    recorded = environment()
    now: dict[str, Any] = copy.deepcopy(recorded)
    assert drift(recorded, now) == []
    now |= {"host": "elsewhere", "argv": ["x"], "git": None, "python": "9"}
    now["hardware"]["memory_mib"] = 1
    assert drift(recorded, now) == []


def test_drift_names_another_cpu_another_torch_and_what_is_unknown() -> None:
    recorded = environment()
    now: dict[str, Any] = copy.deepcopy(recorded)
    now["numerics"]["cpu"]["stepping"] = "77"
    now["torch"] = "9.9"
    now["numerics"]["matrix_library"]["onednn"] = None
    del now["numerics"]["cpu_capability"]
    first, *_, last = sorted(drift(recorded, now), key=lambda line: not line.startswith("another CPU"))
    assert first.startswith(f"another CPU: recorded {recorded['numerics']['cpu']['model_name']}")
    assert first.endswith("stepping 77; bits are no longer promised")
    assert len(drift(recorded, now)) == 4
    assert any(line.startswith("matrix_library.onednn: recorded ") for line in drift(recorded, now))
    assert last.startswith("cpu_capability: recorded ") and "now unknown" in last
    assert drift({}, now) == []
