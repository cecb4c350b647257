"""The command line: parse, call the API, print."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from cyclopts import App, CycloptsError

from .. import __version__
from ..errors import PolariceError
from .abinitio import abinitio
from .benchmarks import benchmark
from .denoising import classify, demo, denoise, neighbours
from .guard import guard
from .particles import convert, evaluate, field, info, simulate
from .reconstruction import fsc, reconstruct
from .training import adapt, bank, models, train

__all__ = ["app", "main"]

app = App(
    name="polarice",
    version=__version__,
    help="Joint denoising of cryo-EM particle images.",
    suppress_keyboard_interrupt=False,
)
for command in (
    info,
    convert,
    simulate,
    field,
    denoise,
    neighbours,
    classify,
    abinitio,
    reconstruct,
    fsc,
    guard,
    evaluate,
    demo,
    train,
    adapt,
    models,
):
    app.command(command)
for group in (bank, benchmark):
    app.command(group)


def main(tokens: Sequence[str] | None = None) -> None:
    """Entry point: an error becomes one clear message on standard error and exit status 2.

    Parameters
    ----------
    tokens : sequence of str, optional
        Arguments; those of the process by default.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # A file's name that the terminal cannot show is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        _fail(f"{error} See `polarice --help`.")
    except PolariceError as error:
        _fail(str(error))
    except BrokenPipeError:
        # Whoever read the output has left; Python would complain again on closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # Whatever else is written says its name.
        unnamed = error.errno == errno.ENOSPC and error.filename is None
        _fail(f"standard output cannot be written ({error.strerror})." if unnamed else f"{error}.")
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, status: int = 2) -> NoReturn:
    print(f"polarice: {message}", file=sys.stderr)
    sys.exit(status)
