"""The published experiments, runnable anywhere: small networks, any rule, any backend, one seed.

Used by ``isostep train``; the pieces are plain functions and dataclasses:

- ``data``: the embedded digits, MNIST and CIFAR-10 files that you have;
- ``network``: logreg, mlp, cnn and vgg, written once in array-API form;
- ``experiment``: settings and the loop; ``log``: the CSV file; ``results``: reading and drawing it.
"""

from __future__ import annotations

from isostep.train.data import Data, load_data
from isostep.train.experiment import Settings, TrainError, train
from isostep.train.methods import METHODS, method_rule
from isostep.train.network import MODELS, Network

__all__ = [
    "METHODS",
    "MODELS",
    "Data",
    "Network",
    "Settings",
    "TrainError",
    "load_data",
    "method_rule",
    "train",
]
