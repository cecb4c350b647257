"""STAR files: ordered blocks of columns, read with gemmi and written as RELION writes them.

Values stay text, so that a file that is read and written again keeps every digit, every unknown
column and every unknown block. Column names are given without the leading underscore.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gemmi import cif

from ..errors import OutputError, ParticleFileError
from ..files import whole

__all__ = ["StarTable", "format_values", "read_star", "write_star"]

# What must not stand bare in a STAR file: empty text, white space, a first character or a first word
# that has a meaning of its own.
_NEEDS_QUOTES = re.compile(
    r"^$|[ \t]|^[_#$'\";\]]|^\[.*\s|^(?:data_|save_|loop_$|global_$|stop_$)", re.MULTILINE | re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ESCAPED = re.compile(r"~u([0-9a-f]+)~")
_VERSION = re.compile(r"^#\s*version\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class StarTable:
    """One block of a STAR file; never changed in place.

    Attributes
    ----------
    name : str
        Name of the block without ``data_``; may be empty.
    columns : mapping of str to list of str
        Column name without the underscore -> one value a row, in the file's order.
    is_loop : bool
        False for a block of name-value pairs, whose columns have one value each.
    """

    name: str
    columns: Mapping[str, list[str]]
    is_loop: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def with_columns(self, columns: Mapping[str, list[str]]) -> StarTable:
        """Copy with columns replaced in their place or added at the end."""
        return StarTable(self.name, {**self.columns, **columns}, self.is_loop)

    def take(self, rows: Iterable[int]) -> StarTable:
        """Copy with these rows, counted from 0, in this order."""
        wanted = list(rows)
        columns = {name: [values[row] for row in wanted] for name, values in self.columns.items()}
        return StarTable(self.name, columns, self.is_loop)


def read_star(path: str | Path) -> tuple[list[StarTable], int | None]:
    """Read every block of a STAR file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    tables : list of StarTable
        In the file's order. A block that has both pairs and loops gives several tables of its name.
    version : int or None
        RELION's file version from its ``# version`` comment (30001 is 3.1).

    Raises
    ------
    ParticleFileError
        If the file is missing or is not STAR.
    """
    path = Path(path)
    try:
        # A byte order mark is what Windows' editors leave; RELION reads over it.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ParticleFileError("the file does not exist", path=path) from None
    except UnicodeDecodeError:
        raise ParticleFileError("is no STAR file: it is not UTF-8 text", path=path) from None
    except OSError as error:
        raise ParticleFileError(f"cannot be read ({error.strerror})", path=path) from None
    escaped = not text.isascii()
    if escaped:
        # CIF is ASCII, and gemmi holds bare values to that; file names are not.
        text = _NOT_ASCII.sub(lambda match: f"~u{ord(match.group()):x}~", text)
    try:
        document = cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise ParticleFileError(f"is no valid STAR file ({_explain(error)})", path=path) from None
    if text.rstrip(" \t")[-1:] not in ("", "\n"):
        # A number that has lost its last digits is still a number.
        raise ParticleFileError(
            "ends within a line, as if it had been cut short", path=path,
            hint="Copy or write it again; if it is whole, end it with a line break",
        )  # fmt: skip
    quoted = '"' in text or "'" in text or "\n;" in text
    tables = [table for block in document for table in _tables_of(block, quoted)]
    if escaped:
        tables = [_unescape(table) for table in tables]
    if not tables:
        raise ParticleFileError("has no data block", path=path)
    version = _VERSION.search(text)
    return tables, int(version.group(1)) if version else None


def _explain(error: Exception) -> str:
    """Put the place in gemmi's message, which is ``string:line:column(byte):``, into words."""
    return re.sub(r"^string:(\d+)(?::\d+\(\d+\))?:?\s*", r"line \1: ", str(error))


def _tables_of(block: cif.Block, quoted: bool) -> list[StarTable]:
    tables: list[StarTable] = []
    pairs: dict[str, list[str]] = {}
    for item in block:
        if item.loop is not None:
            tags, values = item.loop.tags, item.loop.values
            columns = {_label(tag): values[k :: len(tags)] for k, tag in enumerate(tags)}
            tables.append(StarTable(block.name.strip(), columns))
        elif item.pair is not None:
            pairs[_label(item.pair[0])] = [item.pair[1]]
    if pairs:
        tables.insert(0, StarTable(block.name.strip(), pairs, is_loop=False))
    if quoted:
        for table in tables:
            for values in table.columns.values():
                values[:] = [cif.as_string(v) if v[:1] in "\"';" else v for v in values]
    return tables


def _unescape(table: StarTable) -> StarTable:
    def plain(text: str) -> str:
        return _ESCAPED.sub(lambda match: chr(int(match.group(1), 16)), text)

    columns = {plain(name): [plain(value) for value in values] for name, values in table.columns.items()}
    return StarTable(plain(table.name), columns, table.is_loop)


def _label(tag: str) -> str:
    return tag.removeprefix("_")


def write_star(path: str | Path, tables: Sequence[StarTable], *, version: int | None = None) -> None:
    """Write blocks to a STAR file that appears under its name only when whole.

    Parameters
    ----------
    path : path-like
    tables : sequence of StarTable
    version : int, optional
        RELION's file version, written before each block.

    Raises
    ------
    OutputError
        If the file cannot be written, or the columns of a table differ in length.
    """
    path = Path(path)
    text = "".join(_block_text(table, version, path) for table in tables)
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def _block_text(table: StarTable, version: int | None, path: Path) -> str:
    lengths = {len(values) for values in table.columns.values()}
    if len(lengths) > 1:
        raise OutputError(
            f"the columns of block '{table.name}' differ in length: {sorted(lengths)}", path=path
        )
    head = f"\n# version {version}\n" if version else ""
    head += f"\ndata_{table.name}\n\n"
    columns = [_quote_all(values) for values in table.columns.values()]
    if not table.is_loop:
        pairs = zip(table.columns, columns, strict=True)
        return head + "".join(f"_{name} {values[0]}\n" for name, values in pairs) + "\n"
    head += "loop_\n" + "".join(f"_{name} #{k}\n" for k, name in enumerate(table.columns, 1))
    return head + "".join(" ".join(row) + "\n" for row in zip(*columns, strict=True)) + "\n"


def _quote_all(values: list[str]) -> list[str]:
    text = "\n".join(values)
    if text.count("\n") >= max(len(values), 1) or _CONTROL.search(text):
        raise OutputError("a value with a line break or a control character cannot be written to a STAR file")
    if not _NEEDS_QUOTES.search(text):
        return values
    return [_quote(value) if _NEEDS_QUOTES.search(value) else value for value in values]


def _quote(value: str) -> str:
    # A quote within ends the value only where white space follows.
    for mark in sorted("\"'", key=value.count):
        if f"{mark} " not in value and f"{mark}\t" not in value:
            return mark + value + mark
    raise OutputError(f"the value {value} cannot be quoted for a STAR file")


def format_values(values: Any, count: int) -> list[str]:
    """Text for a column: floats with six decimals or digits as RELION, flags as 0 or 1.

    Parameters
    ----------
    values : scalar or sequence
        One value for all rows, or one a row.
    count : int
        Number of rows.

    Returns
    -------
    list of str, ``count`` long
    """
    if isinstance(values, str) or np.ndim(values) == 0:
        return [_format(values)] * count
    return [_format(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def _format(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        return str(int(value))
    number = float(value)
    return f"{number:.6f}" if number == 0 or 1e-3 <= abs(number) < 1e5 else f"{number:.6e}"
