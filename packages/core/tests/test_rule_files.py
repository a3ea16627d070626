"""A rule or piece in a file outside of the registry: known by its path wherever a name is."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import isostep
from isostep.cli import main
from isostep.commands.common import rules_of

RULE = '''"""Damped descent.

    u = -lr * g / (1 + damping * (t % 3))
"""

from isostep import parts
from isostep.domains import Real
from isostep.rule import Rule


def update(p, g, t, /, *, lr, damping):
    return -lr * g / (1 + damping * (t % 3))


RULE = Rule(name="damped", update=update, hyper={"lr": parts.lr(0.1), "damping": Real(0.5, low=0)})
'''
PIECE = '''"""Doubles the gradient."""

from isostep.rule import Piece

PIECE = Piece(name="twice", before=lambda p, g, t, /: 2 * g)
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "damped.py"
    path.write_text(RULE)
    return str(path)


def test_it_takes_steps_and_is_one_thing_in_a_process(file, tmp_path, monkeypatch):
    rule = isostep.rule(file, lr=1.0)
    assert rule.name == "damped"
    assert rule.rule.doc.startswith("Damped descent.")
    monkeypatch.chdir(tmp_path)
    assert isostep.definition("./damped.py") is rule.rule
    backend, params = isostep.backend("numpy:reference"), [np.zeros(1)]
    state = backend.init(rule, params)
    for _ in range(3):
        params, state = backend.step(rule, params, [np.ones(1)], state)
    assert params[0][0] == pytest.approx(-(1 / 1.5 + 1 / 2 + 1))
    assert "damped" not in isostep.rules()


def test_the_path_need_be_no_text(file):
    assert isostep.definition(Path(file)) is isostep.definition(str(file))
    assert repr(isostep.rule(Path(file), lr=0.5)) == repr(isostep.rule(str(file), lr=0.5))


def test_it_is_pickled_by_its_path(file, tmp_path):
    (tmp_path / "rule.pickle").write_bytes(pickle.dumps(isostep.rule(file, lr=0.25)))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')))"
    command = [sys.executable, "-c", code, str(tmp_path / "rule.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "damped(lr=0.25, damping=0.5)"


def test_a_file_of_a_known_name_is_pickled_by_its_path_too(tmp_path):
    path = tmp_path / "adam.py"
    path.write_text(
        RULE.replace("damped", "adam").replace(
            "update=update", "update=lambda *a, **k: update(*a, **k)"
        )
    )
    rule = isostep.definition(str(path))
    assert rule is not isostep.definition("adam")
    assert pickle.loads(pickle.dumps(rule)) is rule


def test_a_link_goes_by_its_own_name(tmp_path):
    target, link = tmp_path / "stored-damped.py", tmp_path / "damped.py"
    target.write_text(RULE)
    link.symlink_to(target)
    rule = isostep.definition(str(link))
    assert pickle.loads(pickle.dumps(rule)) is rule


def test_threads_that_ask_at_once_get_one_module(tmp_path):
    path = tmp_path / "damped.py"
    path.write_text("import time\n\ntime.sleep(0.2)\n" + RULE)
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(isostep.definition, [str(path)] * 3)
    assert others == [first, first]


def test_a_piece_has_a_file_too(tmp_path):
    path = tmp_path / "twice.py"
    path.write_text(PIECE)
    piece = isostep.pieces.registry[str(path)]
    assert isostep.compose(piece.bind(), isostep.rule("sgd")).name == "twice+sgd"
    with pytest.raises(isostep.RuleError, match="must declare RULE = Rule"):
        isostep.rule(str(path))


def test_the_commands_take_it(file, tmp_path, capsys):
    assert main(["show", file]) == 0
    assert "Damped descent." in capsys.readouterr().out
    assert main(["diff", "sgd", file]) == 0
    capsys.readouterr()
    assert [r if isinstance(r, str) else r.name for r in rules_of(f"sgd,'{file}'(lr=0.5)")] == [
        "sgd",
        "damped",
    ]
    folder = tmp_path / "results"
    run = ["train", "--rule", file, "--iterations", "1", "--dir", str(folder), "--quiet"]
    pytest.importorskip("sklearn")
    assert main(run) == 0
    assert (folder / "logreg" / "damped").is_dir()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no file {}; pass a rule's name or the path of its file"),
        ("RULE = 1 +", "{} cannot be imported: SyntaxError: "),
        (
            "import isostep\n\nisostep.rule('none')",
            "{} cannot be imported: RuleError: unknown rule ",
        ),
        ("raise SystemExit(3)", "{} cannot be imported: SystemExit: 3; mend the file"),
        ("import nothing_there", "{} cannot be imported: ModuleNotFoundError: "),
        ("x = 1", "{} must declare RULE = Rule(name='wrong', ...), got nothing of that name"),
        (RULE, "{} must declare RULE with name='wrong', got name='damped'"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "wrong.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(isostep.RuleError) as caught:
        isostep.rule(str(path))
    assert str(caught.value).startswith(said.format(path))
    assert len(str(caught.value).splitlines()) == 1
