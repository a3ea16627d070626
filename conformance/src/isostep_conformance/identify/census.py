"""A census: which rule every optimizer of the collections follows, as ``identify`` finds it.

``python -m isostep_conformance.identify.census --json FILE`` in an environment that has them (``nox -s census``).
An optimizer is given telling numbers for all settings that have a name here, the others are left at their defaults.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import isostep
from isostep.replacing import replacing
from isostep_conformance.identify.answer import Answer
from isostep_conformance.identify.command import as_json
from isostep_conformance.identify.search import identify
from isostep_conformance.identify.targets import TargetError, target
from isostep_conformance.oracles.torch_packages import optimizer_class

#: optax names what makes a transformation like any other function: these are its optimizers.
OPTAX = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam nadamw"
    " noisy_sgd novograd optimistic_adam optimistic_adam_v2 optimistic_gradient_descent"
    " radam rmsprop rprop sgd sign_sgd signum sm3 yogi"
)
OPTAX_CONTRIB = (
    "acprop ademamix simplified_ademamix adopt cocob dadapt_adamw dog dowg madgrad momo muon prodigy"
    " schedule_free_adamw schedule_free_sgd sophia"
)


@dataclass(frozen=True)
class Collection:
    """A package's optimizers: every class of ``module`` that is torch's, or the functions that are named.

    ``alone`` are modules that hold one optimizer each, for a package that cannot be imported whole; ``settings``
    are given to all that have them.
    """

    distribution: str
    module: str
    names: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = (("foreach", False),)


COLLECTIONS = (
    Collection("torch", "torch.optim"),
    Collection("optax", "optax", tuple(OPTAX.split())),
    Collection("optax", "optax.contrib", tuple(OPTAX_CONTRIB.split())),
    Collection("pytorch-optimizer", "pytorch_optimizer"),
    Collection("torch-optimizer", "torch_optimizer"),
    Collection("timm", "timm.optim", settings=(("foreach", False),)),
    Collection("torch-optimi", "optimi", settings=(("foreach", False), ("triton", False))),
    Collection("lion-pytorch", "lion_pytorch", ("Lion",)),
    Collection("madgrad", "madgrad", ("MADGRAD", "MirrorMADGRAD")),
    Collection("prodigyopt", "prodigyopt", ("Prodigy",)),
    Collection("schedulefree", "schedulefree"),
    Collection("qhoptim", "qhoptim.pyt", ("QHM", "QHAdam")),
    Collection("adabound", "adabound", ("AdaBound",)),
    Collection("dadaptation", "dadaptation"),
    Collection("came-pytorch", "came_pytorch", ("CAME",)),
    Collection("adamp", "adamp", ("AdamP", "SGDP")),
    Collection("torch-sm3", "SM3", ("SM3",)),
)


def optimizers(collection: Collection) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The dotted names of a collection's optimizers, and what makes them."""
    import torch

    if collection.module == "timm.optim":
        yield from _timm()
        return
    module = importlib.import_module(collection.module)
    for name in collection.names or sorted(vars(module)):
        made = getattr(module, name, None)
        ours = collection.names or (
            inspect.isclass(made)
            and issubclass(made, torch.optim.Optimizer)
            and made is not torch.optim.Optimizer
            and not name.startswith("_")
        )
        if made is not None and ours:
            yield f"{collection.module}.{name}", made


def _timm() -> Iterator[tuple[str, Callable[..., Any]]]:
    """timm's, file by file: its package needs torchvision."""
    import torch

    spec = importlib.util.find_spec("timm")
    folder = Path((spec.submodule_search_locations or [""])[0]) / "optim" if spec else Path()
    for file in sorted(folder.glob("*.py")):
        if file.stem.startswith("_"):
            continue
        try:
            optimizer_class(f"timm.optim.{file.stem}", "__name__")
        except (ImportError, AttributeError):
            continue
        module = sys.modules[f"timm.optim.{file.stem}"]
        for name, made in sorted(vars(module).items()):
            own = getattr(made, "__module__", "") == module.__name__
            if own and inspect.isclass(made) and issubclass(made, torch.optim.Optimizer):
                yield f"timm.optim.{name}", made


def entry(label: str, made: Callable[..., Any], collection: Collection) -> dict[str, Any]:
    """What is found of one optimizer.

    Where no rule has its steps, the rule of its own name is asked about alone: with each of the optimizer's flags
    turned round, then with slips.
    """
    try:
        unknown = target(made)
        values = {n: v for n, v in collection.settings if n in unknown.defaults}
        answer = identify(made, values, slips_at_most=0)
        rule = _own(label, answer)
        if answer.verdict == "none" and rule is not None:
            answer = _turned(made, values, rule) or answer
        if answer.verdict == "none" and rule is not None:
            answer.slipped = identify(made, values, rule=rule).slipped
    except TargetError as error:
        return {"optimizer": label, "verdict": "refused", "why": str(error)}
    return {**as_json(answer), "optimizer": label, "own": rule}


def _own(label: str, answer: Answer) -> str | None:
    """The rule of the optimizer's own name, where there is one here that is tried."""
    own = label.rpartition(".")[2].lower().replace("_", "")
    rule = next((n for n in isostep.rules() if n.replace("_", "") == own), None)
    return None if rule in answer.not_tried else rule


def _turned(made: Callable[..., Any], values: dict[str, Any], rule: str) -> Answer | None:
    """The optimizer with one of its flags turned round, if it takes the steps of the rule then."""
    flags = [n for n, v in target(made).defaults.items() if isinstance(v, bool) and n not in values]
    for flag in flags:
        turned = {**values, flag: not target(made).defaults[flag]}
        try:
            answer = identify(made, turned, rule=rule, slips_at_most=0)
        except TargetError:
            continue
        if answer.verdict != "none":
            return answer
    return None


def write(report: str, page: str | None, census: dict[str, Any]) -> None:
    """The report, as far as the census has come, and its page."""
    from isostep_conformance.identify import table

    with replacing(Path(report)) as file:
        file.write_text(json.dumps(census, indent=1) + "\n", encoding="utf-8")
    if page:
        with replacing(Path(page)) as file:
            file.write_text("\n".join(table.page(census)) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Take the census, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="where to write it")
    parser.add_argument("--page", metavar="FILE", help="where to write the page")
    parser.add_argument("--only", default="", metavar="TEXT", help="names that contain this")
    options = parser.parse_args(argv)
    found: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for collection in COLLECTIONS:
        try:
            versions[collection.distribution] = version(collection.distribution)
            members = list(optimizers(collection))
        except (PackageNotFoundError, ImportError) as error:
            print(f"{collection.module}: not run: {error}", flush=True)
            continue
        for label, made in members:
            if options.only in label:
                started = time.monotonic()
                found.append(entry(label, made, collection))
                seconds = time.monotonic() - started
                print(f"{label}: {found[-1]['verdict']} ({seconds:.0f} s)", flush=True)
        write(options.json, options.page, {"versions": versions, "optimizers": found})
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
