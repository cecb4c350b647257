from pathlib import Path

import numpy as np
import pytest

from polarice import files
from polarice.files import gather, give_back, whole


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_broken_off_file_leaves_the_old_one(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with whole(path) as partial:
            partial.write_text("half")
            raise stop

    with pytest.raises(stop):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_from_here_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_ROWS_AT_ONCE", 3)
    array = np.memmap(tmp_path / "numbers", np.float32, "w+", shape=(9, 2))
    array[:] = np.arange(18).reshape(9, 2)
    rows = np.array([[8, 0, 8, 3], [1, 1, 2, 7]])
    for source in (array, np.array(array)):
        found = gather(source, rows)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, np.array(array)[rows])
    # What was written is still there after it was let go of.
    array[4] = -1
    give_back(array)
    assert (array[4] == -1).all()
