import io

import matplotlib.image
import numpy as np
import pytest

from polarice.evaluation.chart_data import Histogram
from polarice.evaluation.figures import grey_png, grey_range, histogram_chart
from polarice.evaluation.sections import duration, number


def read(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")


def test_grey_values_are_where_they_belong() -> None:
    image = np.zeros((64, 64))
    image[3, 5], image[10, 20], image[30, 1] = 1, -1, 7
    picture = read(grey_png(image, -1, 1))[1::3, 1::3]
    assert picture.shape == (64, 64)
    assert picture[3, 5] == 1
    assert picture[10, 20] == 0
    assert picture[30, 1] == 1
    assert picture[0, 0] == pytest.approx(0.5, abs=0.01)


def test_pixels_grow_by_whole_multiples_and_large_boxes_are_cropped_in_fourier_space() -> None:
    assert read(grey_png(np.eye(64), 0, 1)).shape[:2] == (192, 192)
    assert read(grey_png(np.eye(65), 0, 1)).shape[:2] == (195, 195)
    large = np.full((320, 320), 0.5)
    picture = read(grey_png(large, 0, 1))
    assert picture.shape[:2] == (256, 256)
    np.testing.assert_allclose(picture[..., 0], 0.5, atol=0.01)


def test_grey_range_passes_outliers_over_and_never_is_empty() -> None:
    images = np.linspace(0, 1, 10_000).reshape(1, 100, 100)
    images[0, 0, 0] = 1e6
    low, high = grey_range(images)
    assert 0 < low < 0.01
    assert 0.99 < high < 1
    assert grey_range(np.zeros((1, 4, 4))) == (-1, 1)


def test_histogram_of_equal_values_can_be_drawn() -> None:
    chart = histogram_chart(Histogram("Confidence", "confidence", np.ones(5)))
    assert read(chart.light)[0, 0, :3].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (42.4, "42 s"),
        (59.99, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_number_has_a_true_minus_sign() -> None:
    assert number(-0.5) == "−0.5"
    assert number(12.3456) == "12.3"
