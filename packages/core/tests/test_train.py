"""Training: the same curve everywhere, resumed to the bit, interrupted in good order, files as published."""

import dataclasses
import gzip
import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import isostep
from isostep import cli
from isostep.train import METHODS, Data, Settings, TrainError, load_data, train
from isostep.train.data import DataError, mnist
from isostep.train.log import HEADER, read
from isostep.train.methods import method_rule
from isostep.train.network import MODELS, Network, network

REFERENCE = "numpy:reference"


def small(shape=(4, 4, 1), classes=3, rows=70):
    """Blobs that can be learned, made here."""
    random = np.random.default_rng(3)
    y = random.integers(0, classes, rows)
    centres = random.uniform(0, 1, (classes, *shape))
    x = np.clip(centres[y] + 0.1 * random.standard_normal((rows, *shape)), 0, 1)
    return Data("blobs", x[20:], y[20:], x[:20], y[:20], classes)


def settings(tmp_path, method="sgdn_hd", **more):
    rule = more.pop("rule", None) or method_rule(method, 0.01, 1e-3, 0.9, 1e-4)
    given = {"model": "mlp", "hidden": (8, 6), "batch_size": 16, "epochs": 6, "backend": REFERENCE}
    return Settings(tmp_path / "run.csv", rule, **given | more)


def numbers(rows):
    """All columns but Time, NaN made comparable."""
    found = [[getattr(r, n) for n in r.__dataclass_fields__ if n != "time"] for r in rows]
    return [["nan" if v != v else v for v in row] for row in found]


@pytest.mark.parametrize(
    "net",
    [
        Network((3, 2, 1), (5, 4, 3)),
        Network((3, 2, 1), (5, 4, 3), activation="tanh"),
        Network((5, 7, 2), (4, 3), (3, "pool", 2, "pool"), "tanh"),  # odd sides
        Network((4, 4, 1), (3,), (2, "pool", 2)),
    ],
    ids=["dense", "tanh", "odd", "convolution last"],
)
def test_gradients_by_hand_are_the_slopes_of_the_loss(net):
    params = [p + 0.1 for p in net.weights(2, "float64")]
    random = np.random.default_rng(5)
    x, onehot = random.standard_normal((7, *net.shape)), np.eye(3)[random.integers(0, 3, 7)]
    loss, grads = net.by_hand(params, x, onehot)
    assert loss == net.loss(params, x, onehot)
    for p, g in zip(params, grads, strict=True):
        near = np.empty_like(p)
        for i in np.ndindex(p.shape):
            old, ends = p[i], []
            for h in (1e-6, -1e-6):
                p[i] = old + h
                ends.append(net.loss(params, x, onehot))
            p[i] = old
            near[i] = (ends[0] - ends[1]) / 2e-6
        assert np.max(np.abs(near - g)) < 1e-9


def test_a_convolution_is_one():
    from isostep.train.network import _patches, _pooled

    random = np.random.default_rng(1)
    x, w = random.standard_normal((2, 5, 4, 3)), random.standard_normal((3, 3, 3, 2))
    found = _patches(x) @ w.reshape(27, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(5):
        for j in range(4):
            window = padded[:, i : i + 3, j : j + 3]
            assert np.allclose(found[:, i, j], np.einsum("nijc,ijck->nk", window, w))
    assert np.allclose(_pooled(x)[1, 1, 0, 2], x[1, 2:4, 0:2, 2].mean())
    assert _pooled(x).shape == (2, 2, 2, 3)


@pytest.mark.whole
@pytest.mark.parametrize("model", ["logreg", "mlp"])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
def test_every_backend_has_the_same_curve(model, dtype, bound, tmp_path):
    """The first 100 steps on the digits, from the same seed."""
    data = load_data("digits")
    curves = {}
    for backend in (REFERENCE, "numpy", "torch", "jax"):
        hidden = (24, 16) if model == "mlp" else None
        how = settings(
            tmp_path, "adam_hd", model=model, hidden=hidden, backend=backend, dtype=dtype
        )
        how = Settings(**{**how.__dict__, "iterations": 100, "epochs": None})
        curves[backend] = np.array([[r.loss, r.alpha] for r in train(how, data).rows])
    for backend, curve in curves.items():
        assert curve.shape == (101, 2)
        apart = np.max(np.abs(curve / curves[REFERENCE] - 1))
        assert apart < bound, backend
        assert curve[-1, 0] < 0.7 * curve[0, 0]  # it learns
    # What the bound must not let pass: a learning rate that is 1 % off.
    rule = method_rule("adam_hd", 0.0101, 1e-3, 0.9, 1e-4)
    other = Settings(**{**how.__dict__, "rule": rule, "backend": REFERENCE})
    wrong = np.array([r.loss for r in train(other, data).rows])
    assert np.max(np.abs(wrong / curves[REFERENCE][:, 0] - 1)) > bound


@pytest.mark.whole
@pytest.mark.parametrize(
    ("model", "backends"),
    [("cnn", (REFERENCE, "torch:loop", "jax:jit")), ("vgg", (REFERENCE, "torch:foreach"))],
)
def test_networks_with_convolutions(model, backends, tmp_path):
    """The vgg not on JAX: the same code, and a minute of compilation."""
    data = small((8, 8, 1), rows=52)
    how = settings(tmp_path, "sgd", model=model, hidden=(), dtype="float64", epochs=2)
    losses = {}
    for backend in backends:
        found = train(Settings(**{**how.__dict__, "backend": backend}), data)
        losses[backend] = np.array([r.loss for r in found.rows])
    one, *others = losses.values()
    for other in others:
        assert np.max(np.abs(one / other - 1)) < 1e-9
    assert np.all(np.diff(one) != 0)


def test_what_a_model_is():
    for model in MODELS:
        for shape in ((8, 8, 1), (32, 32, 3)):
            net = network(model, shape, 10)
            assert net.layers()[-1][1] == 10
    assert network("logreg", (28, 28, 1), 10).layers() == [(784, 10)]
    assert network("mlp", (28, 28, 1), 10).layers() == [(784, 1000), (1000, 1000), (1000, 10)]


@pytest.mark.parametrize("method", METHODS)
def test_methods(method):
    rule = method_rule(method, 0.25, 0.125, 0.75, 0.5)
    assert rule.values["lr"] == 0.25
    assert rule.values["weight_decay"] == 0.5
    assert rule.values.get("hypergrad_lr", 0.125) == 0.125
    assert ("hypergrad_lr" in rule.values) == method.endswith("_hd")
    if method.startswith("sgd"):
        assert rule.values["momentum"] == (0.75 if "sgdn" in method else 0.0)
        assert rule.values["nesterov"] == ("sgdn" in method)


def test_the_file_is_as_published(tmp_path):
    data = small()
    found = train(settings(tmp_path, "sgd_hd", epochs=2), data)
    lines = (tmp_path / "run.csv").read_text().splitlines()
    assert lines[0] == "Epoch,Iteration,Time,Loss,LossEpoch,ValidLossEpoch,Alpha,AlphaEpoch,Beta"
    assert tuple(lines[0].split(",")) == HEADER
    rows = read(tmp_path / "run.csv")
    assert numbers(rows) == numbers(found.rows)
    assert [r.iteration for r in rows] == list(range(9))  # 50 rows in batches of 16: four an epoch
    assert [r.epoch for r in rows] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    ends = [r for r in rows if r.iteration and r.valid_loss_epoch == r.valid_loss_epoch]
    assert [r.iteration for r in ends] == [4, 8]
    assert ends[0].loss_epoch == pytest.approx(np.mean([r.loss for r in rows[1:5]]), rel=1e-15)
    assert ends[0].alpha_epoch == pytest.approx(np.mean([r.alpha for r in rows[1:5]]), rel=1e-15)
    assert {r.beta for r in rows} == {1e-3}
    assert rows[1].alpha == np.float32(0.01)  # the first step has no hypergradient
    assert rows[2].alpha != rows[1].alpha
    assert all(b.time > a.time for a, b in pairwise(rows))
    notes = json.loads((tmp_path / "run.json").read_text())
    assert (notes["model"], notes["batch_size"], notes["seed"]) == ("mlp", 16, 1)


def test_the_run_is_the_one_written_out_here(tmp_path):
    """Three steps by hand: batches from the seed, plain gradient descent."""
    data = small()
    more = {"model": "logreg", "hidden": None, "dtype": "float64"}
    found = train(settings(tmp_path, rule=isostep.rule("sgd", lr=0.5), **more), data)
    net = network("logreg", data.shape, 3)
    w, b = net.weights(1, "float64")
    order = np.random.default_rng([1, 1, 0]).permutation(50)
    for k in range(3):
        rows = order[16 * k : 16 * k + 16]
        x, y = data.x_train[rows].reshape(16, -1), data.y_train[rows]
        z = x @ w + b
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        loss = -np.mean(np.log(p[np.arange(16), y]))
        assert found.rows[k + 1].loss == pytest.approx(loss, rel=1e-13)
        p[np.arange(16), y] -= 1
        w, b = w - 0.5 * x.T @ p / 16, b - 0.5 * p.mean(axis=0)


@pytest.mark.parametrize("at", [3, 8, 13])
def test_a_resumed_run_ends_in_the_same_bits(at, tmp_path):
    pytest.importorskip("safetensors", reason="isostep[files] is not installed")
    data = small()
    whole = train(settings(tmp_path / "a", save=True), data)
    stop = threading.Event()
    part = train(
        settings(tmp_path / "b", save=True),
        data,
        stop=stop,
        tick=lambda row: stop.set() if row.iteration == at else None,
    )
    assert (part.reason, part.last.iteration) == ("interrupted", at)
    with (tmp_path / "b" / "run.csv").open("a") as file:  # as if power had failed in mid-line
        file.write("9,99,0.1,0.")
    rest = train(settings(tmp_path / "b", save=True), data, resume=True)
    assert numbers(rest.rows) == numbers(whole.rows)
    assert numbers(read(tmp_path / "b" / "run.csv")) == numbers(whole.rows)
    assert [p.tobytes() for p in rest.params] == [p.tobytes() for p in whole.params]
    assert all(b.time > a.time for a, b in pairwise(rest.rows))


@pytest.mark.whole
@pytest.mark.parametrize("backend", ["torch:loop", "torch", "jax", "numpy"])
def test_resuming_elsewhere(backend, tmp_path):
    data = small()
    how = {"backend": backend, "save": True, "epochs": 3, "rule": isostep.rule("adam", lr=0.02)}
    whole = train(settings(tmp_path / "a", **how), data)
    train(settings(tmp_path / "b", **how, iterations=5), data)
    rest = train(settings(tmp_path / "b", **how), data, resume=True)
    assert numbers(rest.rows) == numbers(whole.rows)
    assert [p.tobytes() for p in rest.params] == [p.tobytes() for p in whole.params]


def test_resuming_with_other_settings_is_refused(tmp_path):
    pytest.importorskip("safetensors", reason="isostep[files] is not installed")
    data = small()
    with pytest.raises(TrainError, match=r"run.csv is not there, so nothing can be resumed"):
        train(settings(tmp_path), data, resume=True)
    train(settings(tmp_path, save=True, epochs=1), data)
    with pytest.raises(TrainError, match="was made with batch_size 16, got 8; resume as it began"):
        train(settings(tmp_path, batch_size=8), data, resume=True)
    with pytest.raises(TrainError, match="was made with rule 'sgd_hd"):
        train(settings(tmp_path, "adam"), data, resume=True)


def test_a_run_begun_before_notes_told_of_files_is_resumed(tmp_path):
    pytest.importorskip("safetensors", reason="isostep[files] is not installed")
    data = small()
    train(settings(tmp_path, save=True, epochs=1), data)
    notes = tmp_path / "run.json"
    old = json.loads(notes.read_text())
    del old["files"]
    notes.write_text(json.dumps(old))
    assert train(settings(tmp_path, save=True, epochs=2), data, resume=True).last.epoch == 2


def test_a_new_run_forgets_the_checkpoint_of_the_one_it_replaces(tmp_path):
    pytest.importorskip("safetensors", reason="isostep[files] is not installed")
    train(settings(tmp_path, seed=1, iterations=3, save=True), small())
    train(settings(tmp_path, seed=2, iterations=3), small())  # as with --force
    with pytest.raises(TrainError, match=r"run\.safetensors is not there, so nothing can be"):
        train(settings(tmp_path, seed=2, iterations=5, save=True), small(), resume=True)


def test_resuming_with_another_file_of_the_rules_name_is_refused(tmp_path):
    pytest.importorskip("safetensors", reason="isostep[files] is not installed")
    text = (Path(isostep.__file__).parent / "rules" / "addsign.py").read_text()
    rules = [isostep.rule("addsign", lr=0.01)]
    for i, own in enumerate([text, text, text.replace("factor = alpha", "factor = 2 * alpha")]):
        path = tmp_path / str(i) / "addsign.py"
        path.parent.mkdir()
        path.write_text(own)
        rules.append(isostep.rule(str(path), lr=0.01))
    data = small()
    begun = settings(tmp_path, rule=rules[1], save=True, epochs=1)
    train(begun, data)
    for other in (rules[0], rules[3]):
        with pytest.raises(
            TrainError, match=r"was made with files \{'addsign': '\w+'\}, got \{.*\}; resume as"
        ):
            train(dataclasses.replace(begun, rule=other, epochs=2), data, resume=True)
    assert (
        train(dataclasses.replace(begun, rule=rules[2], epochs=2), data, resume=True).last.epoch
        == 2
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def other_shapes(path):
    rule, params, state = isostep.load(path, REFERENCE)
    state.arrays[:], params[:] = state.arrays[:2], params[:2]
    isostep.save(path, rule, params, dataclasses.replace(state, t=state.t[:2]))


@pytest.mark.parametrize(
    ("suffix", "damage", "text"),
    [
        (".safetensors", cut, "run.safetensors is not a safetensors file, or is damaged: "),
        (
            ".safetensors",
            other_shapes,
            "run.safetensors holds [(16, 8), (8,)], the model has [(16, ",
        ),
        (".json", lambda p: p.write_text("{"), "run.json is not what isostep train writes beside"),
        (
            ".json",
            lambda p: p.write_text("[1]"),
            "run.json is not what isostep train writes beside",
        ),
        (
            ".csv",
            cut,
            "run.csv has not every row up to its checkpoint (iteration 3); start anew with",
        ),
        (
            ".csv",
            lambda p: p.write_bytes(b"\xff\n"),
            "run.csv has not the columns of isostep train: ",
        ),
        (
            ".csv",
            lambda p: p.write_text(p.read_text().replace("\n1,1,", "\n1,one,")),
            "run.csv, line 3: must be 9 numbers, got '1,one,",
        ),
    ],
    ids=["cut", "other shapes", "no JSON", "other JSON", "rows missing", "bytes", "no number"],
)
def test_what_is_damaged_is_not_resumed(suffix, damage, text, tmp_path):
    pytest.importorskip("safetensors", reason="isostep[files] is not installed")
    data = small()
    train(settings(tmp_path, save=True, iterations=3), data)
    damage(tmp_path / f"run{suffix}")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TrainError, match=re.escape(text)):
        train(settings(tmp_path, save=True), data, resume=True)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_how_runs_end(tmp_path):
    data = small()
    assert train(settings(tmp_path, iterations=3), data).reason == "iteration limit 3 reached"
    found = train(settings(tmp_path, "sgd", loss_threshold=1.0, epochs=2000), data)
    assert found.reason.startswith("early stopping: loss 0.9")
    assert found.reason.endswith(" is below 1")
    assert found.last.loss < 1.0 <= min(r.loss for r in found.rows[1:-1])
    wild = isostep.rule("sgd", lr=1e30)
    found = train(settings(tmp_path, rule=wild), data)
    assert found.reason == "stopped: the loss is not finite"


def start_training(tmp_path, *more):
    words = ["train", "--model", "logreg", "--backend", REFERENCE, "--epochs", "100000", "--save"]
    command = [sys.executable, "-m", "isostep.cli", *words, "--dir", str(tmp_path), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C reaches a child otherwise there")
def test_ctrl_c_leaves_whole_files(tmp_path):
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    pytest.importorskip("safetensors", reason="isostep[files] is not installed")
    run = start_training(tmp_path)
    for _ in range(2):  # an epoch has passed
        assert run.stderr.readline().startswith("epoch ")
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert out.startswith("interrupted after ")
    (file,) = tmp_path.rglob("*.csv")
    assert file.read_text().endswith("\n")
    rows = read(file)
    assert [r.iteration for r in rows] == list(range(len(rows)))
    checkpoint = isostep.load(file.with_suffix(".safetensors"), REFERENCE)[2]
    assert checkpoint.t[0] == rows[-1].iteration
    assert not list(tmp_path.rglob("*.tmp"))


# Files of others.


def write_idx(path, array, opened=open):
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    with opened(path, "wb") as file:
        file.write(head + array.astype(np.uint8).tobytes())


def trained(folder, *words):
    """Iterations of two by the command, and the data that it wrote down."""
    how = ["--data-dir", str(folder), "--dir", str(folder), "--iterations", "2", "--quiet"]
    assert cli.main(["train", "--backend", REFERENCE, *how, *words]) == 0
    (file,) = folder.rglob("*.csv")
    return read(file)[-1].iteration, json.loads(file.with_suffix(".json").read_text())["data"]


@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
def test_mnist_files(folder, tmp_path):
    random = np.random.default_rng(0)
    place = tmp_path / folder
    place.mkdir(parents=True, exist_ok=True)
    kept = {}
    for part, rows in (("train", 6), ("t10k", 4)):
        kept[part] = random.integers(0, 256, (rows, 28, 28)), random.integers(0, 10, rows)
        write_idx(place / f"{part}-images-idx3-ubyte.gz", kept[part][0], gzip.open)
        write_idx(place / f"{part}-labels-idx1-ubyte", kept[part][1])
    data = load_data("mnist", tmp_path)
    assert np.array_equal(data.x_train[..., 0] * 255, kept["train"][0])
    assert np.array_equal(data.y_valid, kept["t10k"][1])
    assert data.shape == (28, 28, 1)
    assert trained(tmp_path, "--data", "mnist", "--model", "mlp", "--hidden", "4") == (2, "mnist")
    (place / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09abc")
    with pytest.raises(DataError, match="is cut short: 3 bytes of 9"):
        mnist(tmp_path)
    (place / "t10k-labels-idx1-ubyte").write_bytes(b"hello")
    with pytest.raises(DataError, match="is not an IDX file of bytes"):
        mnist(tmp_path)


def test_cifar_files(tmp_path):
    random = np.random.default_rng(0)
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    images = random.integers(0, 256, (2, 3072), dtype=np.uint8)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        batch = {b"data": images, b"labels": [3, 7]}
        (place / name).write_bytes(pickle.dumps(batch, protocol=2))
    data = load_data("cifar10", tmp_path)
    assert data.x_train.shape == (10, 32, 32, 3)
    assert data.x_valid[1, 4, 5, 2] * 255 == images[1, 2 * 1024 + 4 * 32 + 5]
    assert data.y_valid.tolist() == [3, 7]
    assert trained(tmp_path, "--data", "cifar10", "--model", "logreg") == (2, "cifar10")
    evil = pickle.dumps({b"data": print, b"labels": []})
    (place / "test_batch").write_bytes(evil)
    with pytest.raises(DataError, match=r"holds builtins.print, which a batch of images does not"):
        load_data("cifar10", tmp_path)


def test_nothing_is_downloaded(tmp_path):
    text = "MNIST's IDX files are not in .*; nothing is downloaded: pass their folder, --data-dir"
    with pytest.raises(DataError, match=text):
        load_data("mnist", tmp_path)


# The command.


def command(capsys, *words):
    code = cli.main(["train", "--backend", REFERENCE, *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_and_its_pictures(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    base = ("--dir", tmp_path, "--epochs", 2, "--json")
    code, out, err = command(capsys, *base, "--method", "sgd_hd", "--alpha-0", "1e-5", "--beta", "1e-3")  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["file"] == str(tmp_path / "logreg" / "sgd_hd" / "1e-05_0.001.csv")
    assert (found["iteration"], found["reason"]) == (24, "epoch limit 2 reached")
    assert found["alpha"] > 1e-4
    word = "sign_internal_decay=LinearInternalDecay(STEPS)"
    code, out, err = command(capsys, *base, "--rule", "addsign", "--set", "lr=0.1", "--set", word)
    label = json.loads(out)["label"]
    assert label == "addsign(lr=0.1, sign_internal_decay=LinearInternalDecay(T_max=24))"
    for kind in ("hypergradient", "signs"):
        picture = tmp_path / f"{kind}.png"
        assert cli.main(["plot", kind, str(tmp_path), "-o", str(picture), "--json"]) == 0
        runs = json.loads(capsys.readouterr().out)["runs"]
        assert [r["label"] for r in runs] == [label, "sgd_hd, alpha_0=1e-05"]
        assert runs[1]["alpha_highest"] == runs[1]["alpha_last"] == found["alpha"]
        assert picture.read_bytes()[:4] == b"\x89PNG"
    code, out, err = command(capsys, *base[:-1], "--name", "mine", "--rule", "sgd")
    assert code == 0
    assert [line.split(":")[0] for line in err.splitlines()] == ["epoch 1", "epoch 2"]
    assert out.startswith("epoch limit 2 reached after 24 iterations: loss ")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--method nope", "--method must be one of sgd, sgd_hd, sgdn, sgdn_hd, "),
        ("--rule nope", "unknown rule 'nope'; known: "),
        ("--rule sgd --method sgd", "--rule and --method exclude each other, got --rule sgd "),
        ("--set lr=1", "--set belongs to --rule; a method has --alpha-0, --beta, --mu and "),
        ("--alpha-0 -1", "sgd_hd: lr must be >= 0, got -1.0"),
        ("--batch-size 0", "--batch-size must be an integer >= 1, got 0"),
        ("--epochs 0", "--epochs must be an integer >= 1, got 0"),
        ("--hidden ,", "--hidden must be whole numbers >= 1 with commas between, got ','"),
        ("--hidden 3,x", "--hidden must be whole numbers >= 1 with commas between, got '3,x'"),
        ("--backend nope", "unknown backend 'nope'; installed: "),
        ("--rule adahessian", "adahessian needs hessian_diag beside gradients and loss, which "),
        ("--data mnist", "MNIST's IDX files are not in data "),
        ("--seed x", "--seed must be an integer, got 'x'; see 'isostep train --help'"),
        ("--alpha-0 x", "--alpha-0 must be a finite number, got 'x'; see 'isostep train --help'"),
        ("--mu", "--mu must have a value, got none; see 'isostep train --help'"),
        ("--beta inf", "--beta must be a finite number, got 'inf'; see 'isostep train --help'"),
        ("--rule sgd --mu 0.5", "--mu belongs to --method, got it with --rule sgd; use --set"),
        ("--nope", "train takes --json, --model, --data, "),
    ],
)
def test_errors_of_the_command_are_one_line(words, text, capsys, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    monkeypatch.chdir(tmp_path)
    try:
        code, out, err = command(capsys, *words.split())
    except SystemExit as left:
        code, (out, err) = left.code, capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(f"isostep: {text}")
    assert err.count("\n") == 1
    assert list(tmp_path.rglob("*")) == []


def test_what_is_no_file_s_name_gets_one(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    monkeypatch.chdir(tmp_path)
    parts = (
        "OneCycle(0.1, STEPS), WarmupStableDecay(0.1, warmup=3, decay=4), REX(total_steps=STEPS)"
    )
    long = f"lr=sequential([{parts}], milestones=[1, 2])"
    files = set()
    for words in (
        ["--rule", "sgd", "--set", long],
        ["--rule", "sgd", "--set", long.replace("2]", "3]")],
        ["--rule", "formula(g / (sqrt(v) + eps))", "--set", "lr=0.1"],
        ["--rule", f"formula({' + '.join(['sign(g)'] * 30)})", "--set", "lr=0.1"],
    ):
        code, out, err = command(capsys, "--iterations", "2", "--quiet", "--json", *words)
        assert (code, err) == (0, "")
        file = Path(json.loads(out)["file"])
        assert file.exists()
        assert len(file.parts) == 4
        files.add(file)
    assert len(files) == 4


def test_results_are_not_replaced_unasked(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    words = ("--dir", tmp_path, "--iterations", 2, "--quiet")
    assert command(capsys, *words)[0] == 0
    (file,) = tmp_path.rglob("*.csv")
    before = file.read_bytes()
    code, _, err = command(capsys, *words)
    assert code == 2
    assert (
        err == f"isostep: {file} is there already; go on with --resume or start anew with --force\n"
    )
    assert file.read_bytes() == before
    time.sleep(0.01)
    assert command(capsys, *words, "--force")[0] == 0
    assert file.read_bytes() != before  # the times differ


def test_without_the_extra_the_error_names_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    code, _, err = command(capsys, "--dir", tmp_path)
    assert code == 2
    assert (
        err == "isostep: isostep train needs the package 'sklearn'; pip install 'isostep[train]'\n"
    )


def test_without_a_place_for_checkpoints_nothing_is_begun(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    code, _, err = command(capsys, "--dir", tmp_path, "--save")
    assert code == 2
    assert (
        err
        == "isostep: a checkpoint needs the package 'safetensors'; pip install 'isostep[files]'\n"
    )
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals there")
def test_a_terminal_has_a_bar_with_loss_and_lr(tmp_path):
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    pytest.importorskip("rich", reason="isostep[cli] is not installed")
    import pty

    ours, theirs = pty.openpty()
    words = [
        "train",
        "--backend",
        REFERENCE,
        "--method",
        "sgd",
        "--epochs",
        "2",
        "--dir",
        str(tmp_path),
    ]
    command = [sys.executable, "-m", "isostep.cli", *words]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        shown += part
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    assert out.startswith(b"epoch limit 2 reached after 24 iterations: loss ")
    text = shown.decode()
    assert "epoch 2, loss 2." in text
    assert "lr 0.001" in text
    assert "24/24" in text


def test_no_results_is_one_line(tmp_path, capsys):
    assert cli.main(["plot", "hypergradient", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"isostep: no results in {tmp_path}; make some with")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    assert cli.main(["plot", "signs", str(tmp_path)]) == 2
    assert "has not the columns of isostep train" in capsys.readouterr().err
    (tmp_path / "x.csv").write_text(",".join(HEADER) + "\n0,0\n")
    assert cli.main(["plot", "signs", str(tmp_path)]) == 2
    assert "x.csv, line 2: must be 9 numbers, got '0,0'" in capsys.readouterr().err


RECORD = Path(__file__).parents[3] / "benchmarks" / "results" / "hypergradient.json"


def recorded(setup, method):
    """Of the search's record: last loss by learning rate of a plain rule; its variant from 1e-5 and from 0."""
    rows = json.loads(RECORD.read_text())[setup]
    plain = {r["alpha_0"]: r["valid_loss"] for r in rows if r["method"] == method}
    learned = [r for r in rows if r["method"] == f"{method}_hd" and r.get("chosen")]
    return plain, sorted(learned, key=lambda r: -r["alpha_0"])


@pytest.mark.parametrize(
    ("setup", "method"),
    [
        *(("logreg", m) for m in ("sgd", "sgdn", "adam")),
        *(
            ("mlp", m) for m in ("sgdn", "adam")
        ),  # sgd_hd is stopped by the noise: docs/experiments.md
        ("mlp-full", "sgd"),
        ("vgg", "adam"),
    ],
)
def test_the_published_result_is_on_record(setup, method):
    """From 1e-5 and from 0 to a loss that the plain rule has with one learning rate of the grid at most."""
    plain, learned = recorded(setup, method)
    assert [r["alpha_0"] for r in learned] == [1e-5, 0.0]
    for row in learned:
        assert row["alpha_highest"] > 1000 * 1e-5
        assert 3 < row["highest_at"] < 200
        assert row["alpha_last"] < 0.95 * row["alpha_highest"]
        reach = [lr for lr, last in plain.items() if last is not None and last <= row["valid_loss"]]
        assert len(reach) <= 1
        assert 1e-3 not in reach or method == "adam"
        assert row["valid_loss"] < 0.1 * plain[1e-5]


@pytest.mark.parametrize("method", ["sgd", "sgdn", "adam"])
def test_the_record_is_what_comes_out(method, tmp_path):
    """On the logistic regression, from 1e-5."""
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    _, (row, _) = recorded("logreg", method)
    rule = method_rule(f"{method}_hd", row["alpha_0"], row["beta"], 0.9, 1e-4)
    how = Settings(tmp_path / "run.csv", rule, batch_size=128, epochs=60, backend=REFERENCE)
    found = train(how, load_data("digits")).rows
    alphas = np.array([r.alpha for r in found])
    assert found[-1].valid_loss_epoch == pytest.approx(row["valid_loss"], rel=1e-2)
    assert alphas.max() == pytest.approx(row["alpha_highest"], rel=1e-2)
    assert abs(int(alphas.argmax()) - row["highest_at"]) < 20
