"""What networks are trained on: scikit-learn's digits, or the MNIST and CIFAR-10 files that the user has.

Nothing is ever downloaded. Images are float64 in [0, 1], NHWC; labels are integers.
"""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isostep.extras import need

#: Of the digits, the rows kept for validation.
DIGITS_VALID = 360


class DataError(ValueError):
    """Data that is not there or not what it should be, in one line."""


@dataclass(frozen=True)
class Data:
    """Images float64[n, height, width, channels] with labels int64[n], for training and for validation."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    classes: int = 10

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return self.x_train.shape[1:]


def digits(folder: Path) -> Data:
    """The 1797 digits of 8 x 8 pixels that come with scikit-learn, in an order drawn once and for all."""
    found = need("sklearn.datasets", "train", "isostep train").load_digits()
    order = np.random.default_rng(20170917).permutation(len(found.target))
    x = (found.data[order] / 16.0).reshape(-1, 8, 8, 1)
    y = found.target[order].astype(np.int64)
    split = len(y) - DIGITS_VALID
    return Data("digits", x[:split], y[:split], x[split:], y[split:])


def mnist(folder: Path) -> Data:
    """MNIST's IDX files, gzipped or not, in ``folder``, ``folder/MNIST/raw`` (torchvision's) or ``folder/raw``."""
    places = [folder, folder / "MNIST" / "raw", folder / "raw"]
    parts: list[np.ndarray] = []
    for part in ("train", "t10k"):
        images = idx(_find(places, f"{part}-images-idx3-ubyte", "MNIST's IDX files"))
        labels = idx(_find(places, f"{part}-labels-idx1-ubyte", "MNIST's IDX files"))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            message = f"{part}: images of shape {images.shape} do not go with labels of shape {labels.shape}"
            raise DataError(message)
        parts += [images[..., None] / 255.0, labels.astype(np.int64)]
    x_train, y_train, x_valid, y_valid = parts
    return Data("mnist", x_train, y_train, x_valid, y_valid)


def idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes: two zeros, type 8, the number of axes, sizes (big endian), data."""
    opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
    with opened as file:
        head = file.read(4)
        if len(head) != 4 or head[:3] != b"\0\0\x08":
            message = f"{path} is not an IDX file of bytes; give the folder with MNIST's four files"
            raise DataError(message)
        shape = np.frombuffer(file.read(4 * head[3]), ">u4").astype(int)
        data = np.frombuffer(file.read(), np.uint8)
    if data.size != np.prod(shape):
        message = (
            f"{path} is cut short: {data.size} bytes of {int(np.prod(shape))}; download it again"
        )
        raise DataError(message)
    return data.reshape(shape)


def cifar10(folder: Path) -> Data:
    """CIFAR-10's python batches in ``folder`` or ``folder/cifar-10-batches-py`` (torchvision's)."""
    places = [folder, folder / "cifar-10-batches-py"]
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    batches = [_batch(_find(places, n, "CIFAR-10's python batches")) for n in names]
    x = [b[0].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) / 255.0 for b in batches]
    y = [b[1] for b in batches]
    return Data("cifar10", np.concatenate(x[:5]), np.concatenate(y[:5]), x[5], y[5])


class _Arrays(pickle.Unpickler):
    """Unpickles NumPy arrays and plain values, and nothing that could run code."""

    ALLOWED = frozenset(
        (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        )
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            message = f"holds {module}.{name}, which a batch of images does not"
            raise pickle.UnpicklingError(message)
        return super().find_class(module, name)


def _batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        found = _Arrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        images, labels = np.asarray(found[b"data"]), np.asarray(found[b"labels"], np.int64)
        images = images.reshape(len(labels), 3072)
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError) as error:
        message = f"{path} is not a CIFAR-10 python batch: {error}"
        raise DataError(message) from None
    return images, labels


def _find(places: list[Path], name: str, what: str) -> Path:
    for place in places:
        for file in (place / name, place / f"{name}.gz"):
            if file.exists():
                return file
    message = f"{what} are not in {places[0]} ({name} is missing); nothing is downloaded: pass their folder, --data-dir"
    raise DataError(message)


#: name -> folder -> Data
SOURCES: dict[str, Callable[[Path], Data]] = {"digits": digits, "mnist": mnist, "cifar10": cifar10}


def load_data(name: str, folder: str | Path = ".") -> Data:
    """The data of a name, read from a folder where it is not embedded.

    Raises:
        DataError: the files are not there or damaged.
        MissingExtra: scikit-learn, which brings the digits, is not installed.
    """
    return SOURCES[name](Path(folder))
