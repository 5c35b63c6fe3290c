"""Maps of training images: what they are drawn from, and that they are applied right."""

import hashlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from laperm_lib._random import raw_bits
from laperm_lib.paper.augmentation import Augmentation

EVERYTHING = Augmentation(rotation=15, zoom=0.2, shift=0.1, flip=True)


def parameters(augmentation, count, shape, seed, epoch):
    """Angle (degrees), zoom and shift (x, then y, pixels) and flip of each image, as documented."""
    height, width = shape[:2]
    words = raw_bits(seed, f"augmentation of epoch {epoch}").random_raw(6 * count)
    for angle, zoom_y, zoom_x, shift_y, shift_x, flip in words.reshape(count, 6) / 2.0**64:
        most = augmentation.shift * width, augmentation.shift * height
        yield (
            augmentation.rotation * (2 * angle - 1),
            (1 + augmentation.zoom * (2 * zoom_x - 1), 1 + augmentation.zoom * (2 * zoom_y - 1)),
            (most[0] * (2 * shift_x - 1), most[1] * (2 * shift_y - 1)),
            augmentation.flip and flip < 0.5,
        )


def distort_slowly(image, angle, zoom, shift, flip):
    """One step of the distortion after the other, for reading."""
    height, width, channels = image.shape
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    rotate = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    scale = np.diag([*zoom, 1])
    from_centre = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    to_old = from_centre @ rotate @ move @ scale @ np.linalg.inv(from_centre)  # of (x, y, 1)
    row_first = to_old[[1, 0, 2]][:, [1, 0, 2]]
    new = np.empty_like(image)
    for channel in range(channels):
        old = image[..., channel]
        new[..., channel] = ndimage.affine_transform(old, row_first, order=1, mode="nearest")
    return new[:, ::-1] if flip else new


@settings(max_examples=30)
@given(
    augmentation=st.builds(
        Augmentation, st.floats(0, 180), st.floats(0, 0.9), st.floats(0, 0.9), st.booleans()
    ),
    shape=st.sampled_from([(28, 28, 1), (32, 20, 3), (3, 1, 4)]),  # JAX compiles for each
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 200),
)
def test_images_are_distorted_as_step_by_step(augmentation, shape, seed, epoch):
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    drawn = {"count": 2, "shape": shape, "seed": seed, "epoch": epoch}
    transforms = augmentation.transforms(**drawn)
    values = parameters(augmentation, **drawn)
    expected = [distort_slowly(image, *each) for image, each in zip(images, values, strict=True)]
    np.testing.assert_allclose(EVERYTHING.apply(images, transforms), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs the legacy Keras")
def test_the_composition_is_that_of_the_legacy_generator():
    legacy = pytest.importorskip("tf_keras").preprocessing.image
    images = np.random.default_rng(0).random((20, 28, 28, 1), np.float32)
    drawn = {"count": 20, "shape": (28, 28, 1), "seed": 3, "epoch": 1}
    new = EVERYTHING.apply(images, EVERYTHING.transforms(**drawn))
    for i, (angle, zoom, shift, flip) in enumerate(parameters(EVERYTHING, **drawn)):
        expected = legacy.apply_affine_transform(
            images[i], angle, *shift, 0, *zoom, row_axis=0, col_axis=1, channel_axis=2
        )
        expected = expected[:, ::-1] if flip else expected
        np.testing.assert_allclose(new[i], expected, rtol=0, atol=1e-5)


def test_the_maps_are_the_same_everywhere():
    # Without a rotation, whose sine and cosine may differ in the last bit between platforms.
    augmentation = Augmentation(zoom=0.1, shift=0.1, flip=True)
    transforms = augmentation.transforms(1000, (28, 28, 1), seed=7, epoch=2).astype("<f4")
    digest = hashlib.sha256((transforms + np.float32(0)).tobytes()).hexdigest()
    assert digest[:16] == "9925248a54538794"


def test_bad_settings_and_shapes_are_refused():
    wrong = {"rotation": (-1, 181), "zoom": (1, -0.1), "shift": (None,), "flip": (1,)}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                Augmentation(**{name: value})
    for shape in ((28, 28), (28, 28, 2), (784,)):
        with pytest.raises(ValueError, match="channels"):
            EVERYTHING.transforms(0, shape, seed=0, epoch=0)
        with pytest.raises(ValueError, match="channels"):
            EVERYTHING.apply(np.zeros((2, *shape), np.float32), np.zeros((2, 8), np.float32))


def test_every_image_is_mirrored_in_every_other_epoch():
    augmentation = Augmentation(flip=True, alternate=True)
    mirrored = [
        augmentation.transforms(40, (4, 4, 1), seed=0, epoch=epoch)[:, 0] < 0 for epoch in range(4)
    ]
    np.testing.assert_array_equal(mirrored[0], ~mirrored[1])
    np.testing.assert_array_equal(mirrored[:2], mirrored[2:])
    assert 10 < mirrored[0].sum() < 30
    with pytest.raises(ValueError, match="alternate says how images are mirrored: it needs flip"):
        Augmentation(alternate=True)


def test_cutout_sets_a_square_to_zero_that_may_reach_beyond_the_image():
    augmentation, images = Augmentation(cutout=0.5), np.ones((200, 8, 6, 3), "float32")
    transforms = augmentation.transforms(200, (8, 6, 3), seed=0, epoch=0)
    cut = augmentation.apply(images, transforms)[..., 0] == 0
    for is_cut, (column, row) in zip(cut, transforms[:, 6:], strict=True):
        y, x = np.mgrid[:8, :6]
        expected = (row - 2 <= y) & (y < row + 2) & (column - 1 <= x) & (x < column + 2)
        np.testing.assert_array_equal(is_cut, expected)
    assert set(transforms[:, 6]) == set(range(6))
    assert set(transforms[:, 7]) == set(range(8))
