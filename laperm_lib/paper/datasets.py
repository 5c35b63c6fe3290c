"""MNIST, CIFAR-10 and the embedded digits as arrays, with a fingerprint and their source.

`digits` is scikit-learn's bundled set of handwritten digits, real data that is always there.
`mnist` and `cifar10` are read from a folder, or downloaded by Keras into its cache. Nothing is
unpickled: CIFAR-10 is downloaded in its binary version, because the Python version is pickled.
"""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from laperm_lib import files
from laperm_lib._arguments import check_name
from laperm_lib.errors import DatasetUnavailableError, WeightFileError
from laperm_lib.paper._extras import extra

ENVIRONMENT_VARIABLE = "LAPERM_DATA_DIR"
"""The environment variable with the folder of `mnist.npz` and `cifar10.npz`."""

NAMES = ("digits", "mnist", "cifar10")
"""The datasets that `load` knows."""

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_NATIVE_SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
_DIGITS = tuple("0123456789")
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

_MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
_MNIST_FILE_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
# SHA-256 of the bytes of each array, that is of the official IDX files without their headers.
_MNIST_SHA256 = {
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_FILE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


@dataclass(frozen=True)
class Copy:
    """A known copy of a dataset: what differs, in words, and in which share of the test images."""

    difference: str
    test: float


COPIES: Mapping[str, Copy] = {
    "21c9cce53bcdbe157ff410ca3997550c04a4a4de2a3d36097859ca3c911292fa": Copy(
        "CIFAR-10 in another order, 167 of 50,000 training images and 34 of 10,000 test images "
        "decoded from JPEG",
        test=34 / 10_000,
    )
}
"""Copies by their fingerprint. A result obtained with one says so."""

# What reading a damaged or foreign archive raises, in tarfile and zlib.
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, tarfile.TarError, zlib.error)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, split into a training and a test set.

    Args:
        name: "digits", "mnist" or "cifar10".
        x_train: training images, uint8 (n, height, width, channels), 0 to 255.
        y_train: their classes, int64 (n,).
        x_test: test images, as `x_train`.
        y_test: their classes, as `y_train`.
        class_names: the name of each class.
        fingerprint: SHA-256, in hexadecimal, of the names, types, shapes and bytes of the arrays.
        source: where the arrays came from, in words.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    source: str


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    shape: Sequence[int] | None = None,
) -> Dataset:
    """Load a dataset.

    `mnist` and `cifar10` are read from `mnist.npz` and `cifar10.npz`, in the layout of
    `keras.datasets`, in `data_dir` or else in the folder that the environment variable
    LAPERM_DATA_DIR names. Only if neither is given are they downloaded into Keras's cache. The
    arrays of MNIST are checked against the hashes of the official ones. Of CIFAR-10 shapes and the
    number of images of each class are checked; what was read, the fingerprint tells.

    `digits` has 1,797 images of 8 x 8 pixels, which are scaled from 0..16 to 0..255 and resized
    bilinearly. Every fifth image (number 0, 5, ...) is a test image: 1,437 and 360.

    Args:
        name: "digits", "mnist" or "cifar10".
        data_dir: the folder with the files; not used for `digits`. Default: as above.
        shape: (height, width, channels) of an image. `digits` takes any size, with 1 or 3 (equal)
            channels, default (28, 28, 1); the others only (28, 28, 1) and (32, 32, 3).

    Returns:
        The `Dataset`.

    Raises:
        ValueError: if the name is unknown or the dataset does not come in that shape.
        DatasetUnavailableError: if the file is missing, damaged or another one, or cannot be
            downloaded.

    Examples:
        >>> digits = load("digits")
        >>> digits.x_train.shape, digits.x_test.shape, digits.x_train.dtype.name
        ((1437, 28, 28, 1), (360, 28, 28, 1), 'uint8')
    """
    check_name("dataset", name, NAMES)
    if name == "digits":
        return _digits((28, 28, 1) if shape is None else tuple(shape))
    if shape is not None and tuple(shape) != _NATIVE_SHAPES[name]:
        raise ValueError(
            f"Images of {name} have shape {_NATIVE_SHAPES[name]}, not {tuple(shape)}; "
            "only digits is resized."
        )
    folder = data_dir or os.environ.get(ENVIRONMENT_VARIABLE)
    if folder:
        path = Path(folder).expanduser() / f"{name}.npz"
        if not path.is_file():
            raise DatasetUnavailableError(
                f"There is no {path}: put the file there, name another folder with data_dir or "
                f"{ENVIRONMENT_VARIABLE}, or unset both to download it."
            )
        arrays, source = _read_npz(path), str(path)
    elif name == "mnist":
        path = _download(name, _MNIST_URL, "sha256", _MNIST_FILE_SHA256)
        arrays, source = _read_npz(path), _MNIST_URL
    else:
        path = _download(name, _CIFAR10_URL, "md5", _CIFAR10_FILE_MD5)
        arrays, source = _read_cifar10_binary(path), _CIFAR10_URL
    if name == "mnist":
        _check_mnist(arrays, path)
        return _dataset(name, arrays, _DIGITS, f"MNIST from {source}")
    _check_cifar10(arrays, path)
    return _dataset(name, arrays, _CIFAR10_CLASSES, f"CIFAR-10 from {source}")


def _dataset(
    name: str, arrays: Mapping[str, np.ndarray], class_names: tuple[str, ...], source: str
) -> Dataset:
    """Bring the arrays into their documented form and hash them."""
    x = {k: np.ascontiguousarray(arrays[k]) for k in ("x_train", "x_test")}
    x = {k: images[..., None] if images.ndim == 3 else images for k, images in x.items()}
    y = {k: arrays[k].reshape(-1).astype("<i8") for k in ("y_train", "y_test")}
    ready = x | y
    sha256 = hashlib.sha256()
    for key in _ARRAYS:
        array = ready[key]
        sha256.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        sha256.update(array.data)
    return Dataset(
        name, **ready, class_names=class_names, fingerprint=sha256.hexdigest(), source=source
    )


def _digits(shape: tuple[int, ...]) -> Dataset:
    """scikit-learn's digits in the asked shape."""
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"A shape is (height, width, channels), got {shape}.")
    with extra("paper"):
        from PIL import Image
        from sklearn.datasets import load_digits
    height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(f"digits comes with 1 or 3 channels, not {channels}.")
    bundled = load_digits()
    small = (bundled.images.astype(np.int64) * 255 + 8) // 16
    large = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
            for image in small.astype(np.uint8)
        ]
    )
    images = np.repeat(large[..., None], channels, axis=-1)
    test = np.arange(len(images)) % 5 == 0
    arrays = {
        "x_train": images[~test],
        "y_train": bundled.target[~test],
        "x_test": images[test],
        "y_test": bundled.target[test],
    }
    source = f"scikit-learn's bundled digits, resized from 8 x 8 to {height} x {width}"
    return _dataset("digits", arrays, _DIGITS, source)


def _download(name: str, url: str, algorithm: str, file_hash: str) -> Path:
    """Path of the file in Keras's cache, downloaded if it is not there."""
    try:
        fetched = keras.utils.get_file(
            url.rsplit("/", 1)[-1], origin=url, file_hash=file_hash, hash_algorithm=algorithm
        )
    except Exception as error:  # Keras raises a bare Exception when it cannot fetch a URL.
        raise DatasetUnavailableError(
            f"{name} cannot be downloaded ({error}); put {name}.npz, in the layout of "
            f"keras.datasets, into a folder and name it with data_dir or {ENVIRONMENT_VARIABLE}."
        ) from None
    return Path(fetched)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The four arrays of a file in the layout of `keras.datasets`."""
    try:
        arrays = files.read_arrays(path)
        return {key: arrays[key] for key in _ARRAYS}
    except (WeightFileError, KeyError) as error:
        raise _unusable(path, f"reading its arrays {', '.join(_ARRAYS)} fails: {error}") from None


def _read_cifar10_binary(path: Path) -> dict[str, np.ndarray]:
    """The arrays of CIFAR-10's binary version: records of a label and 3 x 32 x 32 bytes."""
    batches = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
    arrays = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for split, members in batches.items():
                content = b"".join(_member(archive, f"{m}.bin") for m in members)
                records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                arrays[f"x_{split}"] = images
                arrays[f"y_{split}"] = records[:, 0]
    except _UNREADABLE as error:
        raise _unusable(path, f"reading the archive fails: {error}") from None
    return arrays


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """The bytes of one file of the archive."""
    file = archive.extractfile(f"cifar-10-batches-bin/{name}")
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read()


def _check_mnist(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Compare with the official arrays, bit for bit."""
    for key, expected in _MNIST_SHA256.items():
        shape = (60_000 if key.endswith("train") else 10_000, *(28, 28)[: 2 * (key[0] == "x")])
        array = arrays[key]
        if array.shape != shape or array.dtype != np.uint8:
            raise _unusable(path, f"{key} is {array.dtype} {array.shape}, not uint8 {shape}")
        if hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() != expected:
            raise _unusable(path, f"{key} differs from the official array")


def _check_cifar10(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Check shapes, types and the number of images of each class."""
    for split, count in (("train", 50_000), ("test", 10_000)):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.shape != (count, 32, 32, 3) or x.dtype != np.uint8:
            expected = f"uint8 ({count}, 32, 32, 3)"
            raise _unusable(path, f"x_{split} is {x.dtype} {x.shape}, not {expected}")
        if y.shape not in ((count,), (count, 1)) or y.dtype.kind not in "iu":
            raise _unusable(path, f"y_{split} is {y.dtype} {y.shape}, not integers ({count}, 1)")
        classes, counts = np.unique(y, return_counts=True)
        if classes.tolist() != list(range(10)) or set(counts.tolist()) != {count // 10}:
            raise _unusable(path, f"y_{split} does not hold {count // 10} images of each class")


def _unusable(path: Path, why: str) -> DatasetUnavailableError:
    return DatasetUnavailableError(
        f"{path} is damaged or another file ({why}); delete it or replace it with the right one."
    )
