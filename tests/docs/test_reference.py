"""The generated reference: it is what the program is now, and staleness is noticed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from loopwright.cli.main import Lazy
from loopwright.config.compose import CHOICES
from loopwright.config.keys import choice_of, walk
from loopwright.config.overrides import parse_override
from loopwright.config.registry import lookup, names
from loopwright.config.schema import Recipe
from support.pages import ROOT


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_program_is(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_page_is_shown_and_written_again(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in generate.PAGES:
        text = (generate.REFERENCE / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("`train.epochs`", "`train.epoch`"), encoding="utf-8")
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    assert generate.main(["--check"]) == 1
    shown = capsys.readouterr()
    assert re.search(r"^-\| `train\.epoch` \|", shown.out, re.MULTILINE)
    assert re.search(r"^\+\| `train\.epochs` \|", shown.out, re.MULTILINE)
    assert "make docs" in shown.err and "cli.md" not in shown.out
    assert generate.main([]) == 0 and generate.main(["--check"]) == 0


def test_every_key_of_every_choice_is_listed(generate: ModuleType) -> None:
    """Counted from the schema, not from what the page was made of."""
    page = generate.config_page()
    sections = dict(re.findall(r"^#+ (.+)\n((?:(?!^#).*\n)*)", page, re.MULTILINE))
    for group in CHOICES:
        for name in names(group):
            key = group.replace("/", ".")
            section = sections[key] + sections[f"`{key}={name}`"]  # keys that all choices share stand above them
            found = list(walk(lookup(group, name), prefix=f"{key}."))
            choices = tuple(f"{dotted}." for dotted, field, _ in found if choice_of(field) is not None)
            for dotted, field, _ in found:
                # A part with keys of its own has a line for each of them; a choice inside has a section of its own.
                part = any(other.startswith(f"{dotted}.") for other, _, _ in found) and f"{dotted}." not in choices
                if not part and dotted != f"{key}.name" and not dotted.startswith(choices):
                    assert f"| `{dotted}` | " in section, f"{dotted} of {name}"
                    assert str(field.description).replace("|", "\\|") in section
    tree = {"task": "regression"}
    top = [
        dotted
        for dotted, _, _ in walk(Recipe, tree)
        if dotted.split(".")[0] not in ("task", "model", "optim", "schedule")
        and dotted not in ("plots.name", "launcher.name", "env.name")
    ]
    for dotted in top:
        part = any(other.startswith(f"{dotted}.") for other in top)
        assert f"`{dotted}`" in page or f"\n## {dotted}\n" in page or part, dotted
    assert page.count("| required |") >= 4 and "PydanticUndefined" not in page


def test_the_grammar_shown_is_the_grammar(generate: ModuleType) -> None:
    page = generate.config_page()
    for text, _ in generate._GRAMMAR:
        parse_override(text)
        assert f"| `{text}` | " in page


def test_every_command_and_option_is_listed(generate: ModuleType) -> None:
    page = generate.cli_page()
    for name in Lazy.lazy:
        assert f"\n## loopwright {name}\n" in page
    for option in (
        "--config-dir",
        "--allow-import",
        "--require-gate",
        "--print-config",
        "--dry-run",
        "--asof",
        "--yes",
    ):
        assert f"| `{option}`" in page
