"""Results as pictures."""

import io

import numpy as np
from PIL import Image

from perception.data.pictures import (
    depth_colours,
    depth_millimetres,
    distinct_colour,
    heat_colours,
    overlay_heat,
    png_bytes,
)


def opened(content):
    return Image.open(io.BytesIO(content))


def test_png_keeps_values_and_palette():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = opened(png_bytes(labels, [[1, 2, 3], [4, 5, 6]]))
    assert image.mode == "P" and np.array_equal(np.asarray(image), labels)
    assert image.getpalette()[:6] == [1, 2, 3, 4, 5, 6]
    deep = (labels.astype(np.uint16) * 5000)[:, ::2]  # not contiguous
    assert np.array_equal(np.asarray(opened(png_bytes(deep))), deep)
    colour = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(opened(png_bytes(colour))), colour)


def test_heat_runs_from_blue_to_red():
    low, high = heat_colours(np.array([[-1.0, 2.0]]))[0]  # clipped
    assert low[2] > low[0] and high[0] > high[2]
    assert np.array_equal(heat_colours(np.array([[0.0, 1.0]]))[0], [low, high])


def test_a_map_is_stretched_over_its_image():
    image = np.full((16, 32, 3), 100, np.uint8)
    drawn = overlay_heat(image, np.array([[0.2, 0.4]]), opacity=1.0)
    assert drawn.shape == image.shape
    assert np.array_equal(drawn[0, 0], heat_colours(np.zeros((1, 1)))[0, 0])
    assert np.array_equal(drawn[0, -1], heat_colours(np.ones((1, 1)))[0, 0])
    assert np.array_equal(overlay_heat(image, np.array([[0.2, 0.4]]), opacity=0.0), image)
    assert (np.diff(overlay_heat(image, np.ones((2, 2))), axis=0) == 0).all()  # constant: one colour


def test_near_is_red_and_far_is_blue():
    near, far = depth_colours(np.array([[1.0, 50.0]]))[0]
    assert near[0] > near[2] and far[2] > far[0]
    assert depth_colours(np.full((2, 2), 3.0)).shape == (2, 2, 3)


def test_millimetres_saturate():
    assert depth_millimetres(np.array([[0.0, 1.2344, 65.535, 80.0, -1.0]])).tolist() == [[0, 1234, 65535, 65535, 0]]


def test_colours_come_in_turn():
    assert len({distinct_colour(index) for index in range(6)}) == 6 and distinct_colour(6) == distinct_colour(0)
