from pathlib import Path

import pytest

from polarice import errors
from polarice.errors import ParticleFileError, PolariceError, PreflightError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PolariceError("it is wrong"), "it is wrong."),
        (PolariceError("it is wrong", path="a/b.star"), f"{Path('a/b.star')}: it is wrong."),
        (PolariceError("it is wrong", path=Path("b.star"), row=3), "b.star, row 3: it is wrong."),
        (PolariceError("it is wrong", row=3), "row 3: it is wrong."),
        (PolariceError("it is wrong", hint="mend it"), "it is wrong. Mend it."),
        (PolariceError("wrong", path="b.star", row=1, hint="See `x`"), "b.star, row 1: wrong. See `x`."),
    ],
)
def test_messages(error: PolariceError, message: str) -> None:
    assert str(error) == message


def test_parts_can_be_asked_for() -> None:
    error = ParticleFileError("wrong", path="b.star", row=7, hint="mend it")
    assert (error.reason, error.path, error.row, error.hint) == ("wrong", Path("b.star"), 7, "mend it")
    plain = PolariceError("wrong")
    assert plain.path is plain.row is plain.hint is None


def test_several_problems_have_a_line_each() -> None:
    problems = [ParticleFileError("one", path="a.star"), PolariceError("two", hint="mend it")]
    error = PreflightError(problems)
    assert error.problems == problems
    assert str(error).splitlines() == [
        "2 problems found before starting:",
        "  - a.star: one.",
        "  - two. Mend it.",
    ]


def test_all_are_of_one_family() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    assert len(kinds) == 9
    for kind in kinds:
        assert issubclass(kind, PolariceError)
        assert kind.__doc__
