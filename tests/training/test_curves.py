from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from polarice.errors import OutputError
from polarice.training.curves import training_curves


def test_picture_is_written_whole(tmp_path: Path) -> None:
    seen = np.linspace(0, 90_000, 200)
    errors = {
        "training loss": [(x, 0.07 + np.exp(-x / 1e4)) for x in seen],
        "relative MSE, unseen structures": [(x, 0.07 + np.exp(-x / 2e4)) for x in seen[::20]],
    }
    path = tmp_path / "curves.png"
    path.write_text("older")
    assert training_curves(path, errors, [(x, 1e-3 * (1 - x / 1e5)) for x in seen]) == path
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 500
    assert picture.std() > 0.01
    assert list(tmp_path.iterdir()) == [path]


def test_values_without_logarithm_and_empty_series_do_no_harm(tmp_path: Path) -> None:
    errors = {"loss": [(0.0, 0.0), (1.0, float("nan")), (2.0, 1.0)], "validation": []}
    assert training_curves(tmp_path / "a.png", errors, []).is_file()
    assert training_curves(tmp_path / "b.png", {}, []).is_file()


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"):
        training_curves(tmp_path / "absent" / "curves.png", {}, [])
