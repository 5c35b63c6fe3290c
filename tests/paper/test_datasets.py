import functools
import hashlib
import io
import tarfile

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from laperm_lib.errors import DatasetUnavailableError
from laperm_lib.paper import datasets


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """An empty cache, and no network: nothing listens on port 9 of this machine."""
    cached = functools.partial(keras.utils.get_file, cache_dir=tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(keras.utils, "get_file", cached)
    monkeypatch.setattr(datasets, "_MNIST_URL", "http://127.0.0.1:9/mnist.npz")
    monkeypatch.setattr(datasets, "_CIFAR10_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")


def fingerprint(dataset):
    """The documented fingerprint, written out again."""
    text = b""
    for name in ("x_train", "y_train", "x_test", "y_test"):
        array = getattr(dataset, name)
        kind = {"uint8": "|u1", "int64": "<i8"}[array.dtype.name]
        text += f"{name} {kind} {array.shape}\n".encode() + array.tobytes()
    return hashlib.sha256(text).hexdigest()


def cifar10_arrays():
    """Black images in the shape of CIFAR-10, each with two marks of its own near one corner."""
    x = np.zeros((60_000, 32, 32, 3), np.uint8)
    x[:, 1, 2, 0] = np.arange(60_000) % 10_000 % 251
    x[:, 2, 5, 2] = np.arange(60_000) % 10_000 // 251
    y = (np.arange(60_000) % 10).astype(np.uint8)[:, None]
    n = 50_000
    return {"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:]}


def archive(path, records, members=None):
    """A CIFAR-10 binary archive whose six files hold the same records."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name in members or [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(records)
            tar.addfile(info, io.BytesIO(records))
    return path


def described(array):
    return array.dtype.name, array.shape


def test_digits():
    digits = datasets.load("digits")
    assert described(digits.x_train) == ("uint8", (1437, 28, 28, 1))
    assert described(digits.x_test) == ("uint8", (360, 28, 28, 1))
    assert described(digits.y_train) == ("int64", (1437,))
    assert (digits.x_train.min(), digits.x_train.max()) == (0, 255)
    assert digits.class_names == tuple("0123456789")
    assert "scikit-learn" in digits.source
    assert digits.fingerprint == fingerprint(digits)
    bundled = load_digits()
    digits = datasets.load("digits", shape=(8, 8, 1))  # in their own size
    expected = np.floor(bundled.images[::5] * 255 / 16 + 0.5)
    np.testing.assert_array_equal(digits.x_test[..., 0], expected)
    np.testing.assert_array_equal(digits.y_test, bundled.target[::5])
    assert len(digits.x_train) + len(digits.x_test) == len(bundled.images)


def test_digits_alone_take_any_size_and_one_or_three_channels(tmp_path):
    colour = datasets.load("digits", shape=[32, 24, 3])
    grey = datasets.load("digits", shape=(32, 24, 1))
    np.testing.assert_array_equal(colour.x_train, np.repeat(grey.x_train, 3, axis=-1))
    assert colour.fingerprint != grey.fingerprint
    for shape in ((28, 28), (28, 28, 2), (0, 28, 1), (28.0, 28, 1), ()):
        with pytest.raises(ValueError, match="channels"):
            datasets.load("digits", shape=shape)
    for name, native in (("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        with pytest.raises(ValueError, match="only digits is resized"):
            datasets.load(name, shape=(8, 8, 1))
        with pytest.raises(DatasetUnavailableError):  # the native shape passes on to the files
            datasets.load(name, data_dir=tmp_path, shape=native)
    with pytest.raises(ValueError, match="digits, mnist, cifar10"):
        datasets.load("svhn")


# The SHA-256 of the published files.
IDX_FILES = {
    "x_train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "y_train": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "x_test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "y_test": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def test_mnist(data_dir, monkeypatch):
    folder = data_dir("mnist.npz")
    mnist = datasets.load("mnist", folder, shape=(28, 28, 1))
    assert described(mnist.x_train) == ("uint8", (60_000, 28, 28, 1))
    assert described(mnist.y_test) == ("int64", (10_000,))
    for name, expected in IDX_FILES.items():
        array = getattr(mnist, name)
        array = array[..., 0] if name.startswith("x") else array.astype(np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        assert hashlib.sha256(header + array.tobytes()).hexdigest() == expected
    assert mnist.source == f"MNIST from {folder / 'mnist.npz'}"
    assert mnist.fingerprint == fingerprint(mnist)
    monkeypatch.setenv(datasets.ENVIRONMENT_VARIABLE, str(folder))
    assert datasets.load("mnist").fingerprint == mnist.fingerprint


def test_changed_mnist_is_refused(data_dir, tmp_path):
    with np.load(data_dir("mnist.npz") / "mnist.npz", allow_pickle=False) as file:
        arrays = dict(file)
    arrays["x_test"][17, 3, 3] ^= 1
    np.savez(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(DatasetUnavailableError, match="x_test differs from the official"):
        datasets.load("mnist", tmp_path)


def test_cifar10_in_the_layout_of_keras(tmp_path):
    arrays = cifar10_arrays()
    np.savez(tmp_path / "cifar10.npz", **arrays)
    cifar10 = datasets.load("cifar10", str(tmp_path))
    np.testing.assert_array_equal(cifar10.x_test, arrays["x_test"])
    np.testing.assert_array_equal(cifar10.y_test, arrays["y_test"][:, 0])
    assert cifar10.y_test.dtype == np.int64
    assert (cifar10.class_names[0], cifar10.class_names[9]) == ("airplane", "truck")
    arrays["y_train"][3] = 4
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with pytest.raises(DatasetUnavailableError, match="5000 images of each class"):
        datasets.load("cifar10", tmp_path)


def truncated(path):
    np.savez(path, x_train=np.zeros((60_000, 28, 28), np.uint8))
    path.write_bytes(path.read_bytes()[:100_000])


def holding(array):
    return lambda path: np.savez(path, **dict.fromkeys(datasets._ARRAYS, array))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("<html>not found</html>"), "damaged or another file"),
        (truncated, "damaged or another file"),
        (holding(np.array([{}], object)), "allow_pickle=False"),
        (lambda path: np.savez(path, x_train=np.zeros(3)), "y_train"),
        (holding(np.zeros((3, 4), np.uint8)), r"x_train is uint8 \(3, 4\), not uint8"),
    ],
)
def test_damaged_and_foreign_files(name, write, message, tmp_path):
    write(tmp_path / f"{name}.npz")
    with pytest.raises(DatasetUnavailableError, match=message) as caught:
        datasets.load(name, tmp_path)
    assert f"{name}.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_given_folder_without_the_file_is_an_error_and_no_download(name, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(DatasetUnavailableError, match=f"There is no .*{name}.npz"):
        datasets.load(name, tmp_path / "missing")
    monkeypatch.setenv(datasets.ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(DatasetUnavailableError, match=datasets.ENVIRONMENT_VARIABLE):
        datasets.load(name)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_download_that_fails_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.delenv(datasets.ENVIRONMENT_VARIABLE, raising=False)
    with pytest.raises(DatasetUnavailableError, match=f"put {name}.npz") as caught:
        datasets.load(name)
    assert caught.value.__suppress_context__
    other = tmp_path / "other"
    other.write_bytes(b"something else")
    monkeypatch.setattr(datasets, f"_{name.upper()}_URL", other.as_uri())
    with pytest.raises(DatasetUnavailableError, match=r"cannot be downloaded .*hash"):
        datasets.load(name)


def test_mnist_download(data_dir, monkeypatch):
    source = data_dir("mnist.npz") / "mnist.npz"
    monkeypatch.delenv(datasets.ENVIRONMENT_VARIABLE)
    monkeypatch.setattr(datasets, "_MNIST_URL", source.as_uri())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr(datasets, "_MNIST_FILE_SHA256", digest)
    assert datasets.load("mnist").source == f"MNIST from {source.as_uri()}"


def test_cifar10_download(tmp_path, monkeypatch):
    monkeypatch.delenv(datasets.ENVIRONMENT_VARIABLE, raising=False)
    arrays = cifar10_arrays()  # whose training set is five times the test set
    images = arrays["x_test"].transpose(0, 3, 1, 2).reshape(10_000, -1)
    records = np.concatenate([arrays["y_test"], images], axis=1).tobytes()
    source = archive(tmp_path / "cifar-10-binary.tar.gz", records)
    monkeypatch.setattr(datasets, "_CIFAR10_URL", source.as_uri())
    digest = hashlib.md5(source.read_bytes()).hexdigest()
    monkeypatch.setattr(datasets, "_CIFAR10_FILE_MD5", digest)
    cifar10 = datasets.load("cifar10")
    assert cifar10.source == f"CIFAR-10 from {source.as_uri()}"
    np.testing.assert_array_equal(cifar10.x_train, arrays["x_train"])
    np.testing.assert_array_equal(cifar10.y_test, arrays["y_test"][:, 0])


@pytest.mark.parametrize(
    ("records", "members", "bytes_lost"),
    [
        (b"\0" * 3073, ["data_batch_1"], 0),
        (b"\0" * 3000, None, 0),
        (np.random.default_rng(0).bytes(3073 * 10), None, 50_000),
    ],
)
def test_damaged_cifar10_archives(records, members, bytes_lost, tmp_path):
    path = archive(tmp_path / "c.tar.gz", records, members)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - bytes_lost])
    with pytest.raises(DatasetUnavailableError, match="reading the archive fails"):
        datasets._read_cifar10_binary(path)
