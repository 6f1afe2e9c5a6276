"""Every fenced block of README and docs runs, and every link between the pages leads somewhere."""

from __future__ import annotations

import copy
import re
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from loopwright.config import registry
from loopwright.config.compose import compose
from loopwright.searches.resolving import resolve
from loopwright.searches.study import read_study
from loopwright.sweeps.expand import expand
from support.pages import ROOT, Session, blocks, pages

PAGES = pages()
_LINK = re.compile(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _make_target(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no target {target}"
    assert re.search(rf"^\.PHONY:.*\b{target}\b", makefile, re.MULTILINE)


def _project_installs(extra: str | None = None) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["build-system"]["build-backend"] == "hatchling.build"
    assert project["project"]["scripts"]["loopwright"] == "loopwright.cli.main:main"
    assert extra is None or extra in project["project"]["optional-dependencies"]


def _submits(script: str, *overrides: str) -> None:
    assert (ROOT / script).is_file()
    compose(overrides)


def _expands(source: str, *overrides: str) -> None:
    assert len(expand(source, list(overrides)).points) > 1


def _is_a_study(file: str) -> None:
    resolve(read_study(ROOT / file))


# Lines that a test must not run, and what is checked instead. Anything else in a bash block has to run.
ELSEWHERE: dict[str, Callable[[], None]] = {
    "make train": partial(_make_target, "train"),
    "make test": partial(_make_target, "test"),
    "make check": partial(_make_target, "check"),
    "make crash": partial(_make_target, "crash"),
    "make slow": partial(_make_target, "slow"),
    "make bench": partial(_make_target, "bench"),
    "make docs": partial(_make_target, "docs"),
    "make golden": partial(_make_target, "golden"),
    "sbatch examples/cluster/train.sbatch experiment=regression_wave train.epochs=500": partial(
        _submits, "examples/cluster/train.sbatch", "experiment=regression_wave", "train.epochs=500"
    ),
    "condor_submit examples/cluster/train.sub recipe='experiment=regression_wave train.epochs=500'": partial(
        _submits, "examples/cluster/train.sub", "experiment=regression_wave", "train.epochs=500"
    ),
    "pip install .": _project_installs,
    "pip install '.[tables]'": partial(_project_installs, "tables"),
    "pip install '.[search]'": partial(_project_installs, "search"),
    # Half a minute of training between them; sweeps.md and search.md run smaller ones to the end.
    "loopwright sweep compare_latents train.epochs=5": partial(_expands, "compare_latents", "train.epochs=5"),
    "loopwright search examples/search/wave.yaml --trials 20": partial(_is_a_study, "examples/search/wave.yaml"),
}


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """An empty directory to work in; what a page imports or registers is forgotten afterwards."""
    assert threading.current_thread() is threading.main_thread()  # Ctrl-C reaches no other
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOPWRIGHT_RUNS", raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    registered, modules = copy.deepcopy(registry._registry), set(sys.modules)
    yield Session(tmp_path, monkeypatch, ELSEWHERE)
    for group, choices in registry._registry.items():
        for name in choices.keys() - registered.get(group, {}).keys():
            if not choices[name].__module__.startswith("loopwright."):  # whose modules stay, and register once
                del choices[name]
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


# The pages that train for long; `make slow` follows them.
LONG = {"docs/tutorial.md", "docs/how-to/walks.md", "docs/how-to/regular-languages.md", "docs/how-to/autoencoders.md"}
FOLLOWED = [pytest.param(page, marks=pytest.mark.slow) if _name(page) in LONG else page for page in PAGES]


@pytest.mark.parametrize("page", FOLLOWED, ids=[_name(page) for page in PAGES])
def test_page_runs(page: Path, session: Session) -> None:
    """A newcomer who follows a page line by line sees what it shows, and no block is left out."""
    found = blocks(page)
    session.follow_all(found)
    # Counted from the text itself, not from what was parsed.
    opened = re.findall(r"^```(\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    closed = re.findall(r"^```$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert session.ran == Counter(opened)
    assert len(opened) == len(closed) == session.ran.total()


def test_every_page_is_followed() -> None:
    """The pages are those on disk, and the ones that carry the documentation are among them."""
    names = {_name(page) for page in PAGES}
    assert names == {"README.md", *(_name(path) for path in (ROOT / "docs").glob("**/*") if path.suffix == ".md")}
    assert names >= {"README.md", "docs/index.md", "docs/tutorial.md", "docs/reference/run-directory.md"}
    assert sum(len(blocks(page)) for page in PAGES) >= 60


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```bash\nloopwright train model=mpl\n```", "exits with 2"),
        ("```bash\ncurl example.org\n```", "not a command that this test knows"),
        ("```bash\n# nothing\n```", "no command"),
        ("```sh\nls\n```", "the language 'sh' is not one of"),
        ("```yaml config\ntrain: {epoch: 3}\n```", "there is no such key"),
        ("```bash\nls missing\n```", "exits with"),
        ("```bash\nloopwright --version\n```\n```text\nloopwright two\n```", "nothing printed before it"),
        ("```python\nassert 1 == 2, 'unequal'\n```", "unequal"),
        ("```text source\nthis is no message of <anything>\n```", "has no message"),
    ],
)
def test_a_wrong_block_is_noticed(text: str, problem: str, session: Session) -> None:
    page = session.here / "page.md"
    page.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.pages.ROOT", session.here)
        found = blocks(page)
        with pytest.raises(AssertionError, match=problem):
            session.follow_all(found)


@pytest.mark.parametrize("text", ["```bash\nls", "  ```bash\n  ls\n  ```", "~~~bash\nls\n~~~", "```bash\n```bash\n```"])
def test_a_block_that_could_be_missed_is_refused(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page\.md"):
        blocks(page)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings that a page points to exist; pictures are small."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for match in _LINK.finditer(text):
        target, _, anchor = unquote(match[1] or match[2]).partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{_name(page)} points to {target}, which does not exist"
        if file.suffix in (".png", ".svg"):
            assert file.stat().st_size < 200_000, f"{target} is too big for a page"
        if anchor:
            assert anchor in _anchors(file), f"{_name(page)} points to #{anchor}, which {_name(file)} does not have"


def test_the_workflow_runs_what_the_makefile_has() -> None:
    """CI runs the targets that people run, on the oldest Python supported."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    targets = set()
    for job in workflow["jobs"].values():
        steps = job["steps"]
        assert {"python-version": "3.11"}.items() <= next(
            s["with"] for s in steps if "setup-python" in s.get("uses", "")
        ).items()
        targets |= {word for s in steps for word in re.findall(r"(?<=make )[a-z ]+", s.get("run", ""))}
    assert {word for words in targets for word in words.split()} == {"check", "test", "slow"}
    for target in ("check", "test", "crash"):
        _make_target(target)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
