"""The pages in docs/ say what is so: their examples run, their links lead somewhere, their tables agree.

A fenced block whose info string is ``console test`` or ``python test`` is run, in the page's order and in
one temporary folder for each page. In a console block the lines that begin with ``$ `` are run, the others
are output to look at; Python blocks of a page share their names. ``weights`` after ``test`` marks a block
that needs shipped weights.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from polarice import cli
from polarice.models import shipped_models
from polarice.simulation import SamplerConfig
from polarice.training import OptimiserConfig, RunConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))

BLOCK = re.compile(r"^```(console|python) test( weights)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    language: str
    needs_weights: bool
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[1], match[2] is not None, match[3], text.count("\n", 0, match.start()) + 2)
        for match in BLOCK.finditer(text)
    ]


def commands_of(block: Block) -> Iterator[str]:
    whole = block.code.replace("\\\n", " ")
    return (line[2:] for line in whole.splitlines() if line.startswith("$ "))


def run_command(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] != "polarice":
        subprocess.run(["bash", "-ec", command], check=True)
        return
    # In this process: starting another would import torch each time.
    with pytest.raises(SystemExit) as ended:
        cli.main(words[1:])
    assert not ended.value.code, command


RUNNABLE = [page for page in PAGES if blocks_of(page)]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    left_out = 0
    for block in blocks_of(page):
        if block.needs_weights and not shipped_models():
            left_out += 1
        elif block.language == "console":
            for command in commands_of(block):
                run_command(command)
        else:
            # Line breaks before the code make tracebacks point at the page.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(page), "exec"), namespace)
    if left_out:
        pytest.skip(f"{left_out} blocks need shipped weights, the others have run")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_exist(page: Path) -> None:
    prose = FENCED.sub("", page.read_text(encoding="utf-8"))
    targets = [target.partition("#")[0] for target in LINK.findall(prose) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_fences_are_spelt_so_that_they_run(page: Path) -> None:
    # "python  test", or a block that is indented, would be left out in silence.
    opened = re.findall(r"^ *```(.*test.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(opened) == len(blocks_of(page)), opened


@pytest.mark.parametrize("kind", [SamplerConfig, OptimiserConfig, RunConfig])
def test_recipe_tables_have_every_entry_with_its_default(kind: type) -> None:
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    for entry in fields(kind):
        default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        written = f'"{default}"' if isinstance(default, str) else str(default)
        assert rows.get(entry.name) == written, entry.name
