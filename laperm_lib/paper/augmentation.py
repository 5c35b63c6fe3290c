r"""Random rotations, zooms, shifts and flips of training images.

All of an image's distortions are one affine map, so the image is interpolated once. The map takes a
pixel (x, y) of the new image to the place in the old one that it comes from, as
`ImageDataGenerator` of the legacy Keras composes it, around the centre of the image:

.. math:: \begin{pmatrix} x' \\ y' \end{pmatrix} = R \left( Z \begin{pmatrix} x \\ y \end{pmatrix}
          + s \right), \qquad
          R = \begin{pmatrix} \cos\theta & -\sin\theta \\ \sin\theta & \cos\theta \end{pmatrix},
          \quad Z = \operatorname{diag}(z_x, z_y);

a flip then mirrors the new image. The old image is read by bilinear interpolation, and outside of
it the nearest pixel counts. Cutout sets the pixels of a square to 0 in the end.

References:
    Qiu and Suda, NeurIPS 2020, and the notebooks published with it, which use `ImageDataGenerator`.
    DeVries and Taylor, arXiv 1708.04552 (cutout); Jordan, arXiv 2404.00498, section 3.6
    (alternating flip).
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np

from laperm_lib._arguments import check_number
from laperm_lib._random import raw_bits
from laperm_lib.paper._extras import extra
from laperm_lib.paper._fields import check_fields

with extra("paper"):
    import cv2

_Angle = Annotated[float, partial(check_number, at_least=0, at_most=180)]
_Fraction = Annotated[float, partial(check_number, at_least=0, below=1)]

_OPENCV = threading.Lock()
_WORDS_PER_IMAGE = 6
# OpenCV interpolates these at the exact place, and others at multiples of 1/32 pixel.
_EXACT_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Augmentation:
    """How training images are distorted at random, differently in every epoch.

    Args:
        rotation: the largest angle, degrees, 0 to 180; uniform in plus or minus that. Default 0.
        zoom: each axis is scaled by a factor of its own, uniform in 1 - zoom to 1 + zoom; 0 or more
            and below 1. A factor below 1 magnifies. Default 0.
        shift: the largest shift along each axis, as a fraction of the height or width; uniform in
            plus or minus that, independently; 0 or more and below 1. Default 0.
        flip: mirror left and right with probability 1/2. Default False.
        alternate: mirror each image in every other epoch, with `flip`; chance decides in which.
            Default False.
        cutout: the side of a square that is set to 0, as a fraction of the height and the width;
            its centre is any pixel, so it may reach beyond the image. Default 0.

    Raises:
        ValueError: if an argument is outside of that.

    Examples:
        >>> augmentation = Augmentation(rotation=10, zoom=0.1, shift=0.1)
        >>> augmentation.transforms(60, (28, 28, 1), seed=0, epoch=3).shape
        (60, 8)
    """

    rotation: _Angle = 0.0
    zoom: _Fraction = 0.0
    shift: _Fraction = 0.0
    flip: bool = False
    alternate: bool = False
    cutout: _Fraction = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.alternate and not self.flip:
            raise ValueError("alternate says how images are mirrored: it needs flip.")

    def transforms(self, count: int, shape: Sequence[int], *, seed: int, epoch: int) -> np.ndarray:
        """The map of each training image in one epoch, a function of the arguments alone.

        Each image takes six 64-bit words of `raw_bits(seed, "augmentation of epoch ...")`, whose
        top 53 bits are a uniform number each: for the rotation, the zoom along y and x, the shift
        along y and x, and the flip. Cutout and the alternating flip have streams of their own.

        Returns:
            Vectors (a0, a1, a2, b0, b1, b2, c, r), one per image, float32, shape (count, 8). The
            pixel (x, y), column and row from 0, comes from the place
            (a0 x + a1 y + a2, b0 x + b1 y + b2), in pixels; (c, r) is the centre of the cutout.

        >>> Augmentation().transforms(1, (28, 28, 1), seed=0, epoch=0).astype(int).tolist()
        [[1, 0, 0, 0, 1, 0, 0, 0]]
        """
        _check_image(shape)
        height, width, _ = shape
        words = raw_bits(seed, f"augmentation of epoch {epoch}").random_raw(
            _WORDS_PER_IMAGE * count
        )
        uniform = (words.reshape(count, _WORDS_PER_IMAGE) >> np.uint64(11)) * 2.0**-53
        angle, zoom_y, zoom_x, shift_y, shift_x, _ = (2 * uniform - 1).T
        angle = np.radians(self.rotation) * angle
        zoom_y, zoom_x = 1 + self.zoom * zoom_y, 1 + self.zoom * zoom_x
        shift_y, shift_x = self.shift * height * shift_y, self.shift * width * shift_x
        flipped = (uniform[:, 5] < 0.5) & self.flip
        if self.alternate:
            flipped = raw_bits(seed, "alternating flip").random_raw(count) >> 63 == epoch % 2

        # x' = a0 x + a1 y + a2 and y' = b0 x + b1 y + b2, for now from the centre of the image.
        cos, sin = np.cos(angle), np.sin(angle)
        a0, a1, a2 = cos * zoom_x, -sin * zoom_y, cos * shift_x - sin * shift_y
        b0, b1, b2 = sin * zoom_x, cos * zoom_y, sin * shift_x + cos * shift_y
        # From the first pixel: c + A ((x, y) - c).
        x, y = (width - 1) / 2, (height - 1) / 2
        a2 += x - a0 * x - a1 * y
        b2 += y - b0 * x - b1 * y
        # The flip replaces x by width - 1 - x.
        a0, a2 = np.where(flipped, (-a0, a2 + a0 * (width - 1)), (a0, a2))
        b0, b2 = np.where(flipped, (-b0, b2 + b0 * (width - 1)), (b0, b2))
        row = column = np.zeros(count)
        if self.cutout:
            words = raw_bits(seed, f"cutout of epoch {epoch}").random_raw(2 * count)
            row, column = words.reshape(2, count) % np.array([[height], [width]], np.uint64)
        return np.stack([a0, a1, a2, b0, b1, b2, column, row], axis=1).astype(np.float32)

    def apply(self, images: np.ndarray, transforms: np.ndarray) -> np.ndarray:
        """Distort images, shape (n, height, width, channels), by `transforms`, shape (n, 8).

        This is OpenCV's `warpAffine`, from version 5 on, which interpolates at the exact place: a
        quarter to a third of a millisecond for 50 images on one core. SciPy takes four and twelve
        times as long, `keras.ops.image.affine_transform` two to ten times, our own loop in Numba as
        long.

        >>> images = np.arange(6).reshape(1, 2, 3, 1)
        >>> shift = np.array([[1.0, 0, 1, 0, 1, 0, 0, 0]])
        >>> Augmentation().apply(images, shift)[0, :, :, 0].tolist()
        [[1.0, 2.0, 2.0], [4.0, 5.0, 5.0]]
        """
        _check_image(images.shape[1:])
        images = images.astype(np.float32, copy=False)
        new = np.empty_like(images)
        size = images.shape[2], images.shape[1]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        with _one_thread():
            for i, matrix in enumerate(transforms[:, :6].reshape(-1, 2, 3)):
                distorted = cv2.warpAffine(
                    images[i], matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
                )
                new[i] = distorted.reshape(new[i].shape)  # OpenCV drops an axis of one channel
        if self.cutout:
            sides = [round(self.cutout * length) for length in images.shape[1:3]]
            for image, (column, row) in zip(new, transforms[:, 6:].astype(int), strict=True):
                top, left = (c - s // 2 for c, s in zip((row, column), sides, strict=True))
                image[max(top, 0) : top + sides[0], max(left, 0) : left + sides[1]] = 0
        return new


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV without threads: they cost time on small images, and take cores from the training."""
    with _OPENCV:  # their number is the process's
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            cv2.setNumThreads(threads)


def _check_image(shape: Sequence[int]) -> None:
    if len(shape) != 3 or shape[2] not in _EXACT_CHANNELS:
        raise ValueError(
            "Images to distort have the shape (height, width, channels) with 1, 3 or 4 channels, "
            f"got {tuple(shape)}."
        )
