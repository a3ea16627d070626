"""Surfaces, paths, figures and the page: the page's steps against the reference's, in Node."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import isostep
from isostep import RuleError, nm
from isostep.domains import REQUIRED
from isostep.lower.js_source import NoScript, step_function
from isostep.plot import SURFACES, Surface, path, tuned
from isostep.plot.page import page
from isostep.rule import Rule


def bound(name, **more):
    """A rule with its defaults, nothing neutral that has cases to say so, and a lr that moves."""
    definition = isostep.definition(name)
    given = {n: 0.05 for n, d in definition.hyper.items() if d.default is REQUIRED}
    given |= {n: d.cases[0] for n, d in definition.hyper.items() if getattr(d, "cases", ())}
    if "lr" in definition.hyper:
        given["lr"] = 0.0002
    if "hypergrad_lr" in definition.hyper:  # rosenbrock's gradients are large
        given["hypergrad_lr"] = 1e-12
        # With a lr as large as the cases' bounds a path on rastrigin doubles its last bit with every step.
        given |= {"min_lr": 0.00015, "max_lr": 0.00025}
    return definition.bind(**given | more)


def on_a_vector(name):
    """Whether a rule can be drawn: one array of one axis, and only its gradient."""
    try:
        path(bound(name), "quadratic", steps=1)
        step_function(isostep.program(bound(name)))
    except (RuleError, NoScript):
        return False
    return True


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_gradients_and_minima(surface):
    random = np.random.default_rng(0)
    x, y = random.uniform(*surface.x, 50), random.uniform(*surface.y, 50)
    h = 1e-6
    gx, gy = surface.gradient(x, y)
    near_x = (surface.value(x + h, y) - surface.value(x - h, y)) / (2 * h)
    near_y = (surface.value(x, y + h) - surface.value(x, y - h)) / (2 * h)
    size = np.maximum(1, np.abs(surface.value(x, y)))
    assert np.max(np.abs(gx - near_x) / size) < 1e-7
    assert np.max(np.abs(gy - near_y) / size) < 1e-7
    for point in surface.minima:
        assert abs(surface.value(*point)) < 1e-20
        assert np.max(np.abs(surface.gradient(*point))) < 1e-9
        near = np.array(point)[:, None] + 0.05 * random.standard_normal((2, 100))
        assert np.all(surface.value(*near) > surface.value(*point))


def test_a_path_is_the_rules_own_steps():
    found = path(isostep.rule("sgd", lr=0.02, momentum=0.5), "beale", start=(1.0, 1.5), steps=8)
    p, b = np.array([1.0, 1.5]), np.zeros(2)
    for k in range(8):
        b = 0.5 * b + np.array(SURFACES["beale"].gradient(*p))
        p = p - 0.02 * b
        assert np.allclose(found.points[k + 1], p, rtol=1e-14, atol=0)
    assert found.points.shape == (9, 2)
    assert found.losses[8] == SURFACES["beale"].value(*found.points[8])
    assert found.title == "sgd(lr=0.02, momentum=0.5)"


def test_noise_is_seeded_and_the_same_for_every_rule():
    def moved(rule, **more):
        points = path(rule, "quadratic", steps=3, noise=0.5, **more).points
        return np.diff(points, axis=0)

    sgd = isostep.rule("sgd", lr=1e-9)
    assert np.array_equal(moved(sgd, seed=1), moved(sgd, seed=1))
    assert not np.array_equal(moved(sgd, seed=1), moved(sgd, seed=2))
    twice = moved(isostep.rule("sgd", lr=2e-9), seed=1)
    assert np.allclose(twice, 2 * moved(sgd, seed=1), rtol=1e-4)


def test_a_name_gets_a_learning_rate_that_ends_low():
    found = path("sgd", "quadratic", steps=25)
    assert found.rule.values["lr"] == tuned(
        isostep.rule("sgd"), "quadratic", steps=25
    ).values["lr"]  # fmt: skip
    for lr in (0.01, 0.05, 0.2, 0.5):
        other = path(isostep.rule("sgd", lr=lr), "quadratic", steps=25)
        assert not other.losses[-1] < found.losses[-1]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: path("sgd", "hill"), "unknown surface 'hill'; known: quadratic, rosenbrock, "),
        (lambda: path("adahessian"), "adahessian needs hessian_diag beside the gradient, which a "),
        (lambda: path("muon"), "muon cannot be drawn on a surface: muon: params[0] must have 2 "),
        (lambda: path("sgd", steps=-1), "path: steps must be an integer >= 0, got -1; "),
        (lambda: path("sgd", steps=2.5), "path: steps must be an integer >= 0, got 2.5; "),
        (lambda: path("sgd", noise=-1.0), "path: noise must be a finite number >= 0, got -1.0; "),
        (lambda: path("sgd", seed=-1), "path: seed must be an integer >= 0, got -1; "),
        (lambda: path("sgd", start=(1.0,)), "path: start must be two numbers x, y, got (1.0,)"),
        (lambda: path(3), "expected a rule such as isostep.rule('adamw', lr=1e-3), got 3"),
    ],
)
def test_errors(call, text):
    with pytest.raises((RuleError, TypeError, ValueError), match=re.escape(text)):
        call()


def script_of(text):
    return re.search(r"<script>\n(.*)</script>", text, flags=re.DOTALL)[1]


def node(text, program, given):
    """What a JavaScript expression about the page prints as JSON."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    code = f"{script_of(text)}\nconst given = {json.dumps(given)};\n"
    code += f"console.log(JSON.stringify({program}));"
    done = subprocess.run(["node", "-"], input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def close(found, points):
    """The largest difference, in parts of the size of the path."""
    found = np.array([[np.nan if v is None else v for v in row] for row in found], np.float64)
    return np.max(np.abs(found - points)) / max(1.0, np.max(np.abs(points)))


@pytest.mark.parametrize("surface", SURFACES)
def test_the_page_takes_the_references_steps(surface):
    """Every rule that works on a vector, 30 steps with noise, to 1e-12."""
    names = [n for n in isostep.rules() if on_a_vector(n)]
    assert {"sgd", "adam", "addsign", "powersign", "lamb", "sgd_hd", "adam_hd"} <= set(names)
    rules = [bound(n) for n in names]
    decay = isostep.schedules.CosineInternalDecay(20, num_periods=1.5)
    rules.append(isostep.rule("powersign", lr=0.0002, sign_internal_decay=decay))
    rules.append(
        isostep.compose(
            isostep.pieces.clip_by_global_norm(max_norm=5.0),
            isostep.rule("sgd_hd", lr=0.0002, momentum=0.5, hypergrad_lr=1e-9),
            isostep.pieces.lookahead(k=3, alpha=0.5),  # two kinds of steps
        )
    )
    rests = Rule(name="rests", update=lambda p, g, t, /: -1e-4 * ((t - 10) % 4 + (10 - t) % -3) * g)
    rules.append(rests.bind())
    paths = [path(r, surface, steps=30, noise=0.5, seed=4) for r in rules]
    everywhere = len(paths)
    paths = [p for p in paths if np.all(np.isfinite(p.points))]
    assert len(paths) > 0.9 * everywhere  # a rule may leave a steep surface for infinity
    found = node(page(paths), "isostep.rules.map((r) => isostep.run(r, {}).points)", None)
    for p, points in zip(paths, found, strict=True):
        assert close(points, p.points) < 1e-12, p.title


def test_sliders_move_what_they_say():
    start = {"steps": 12, "noise": 0.0, "seed": 7}
    first = [
        isostep.rule("sgd", lr=0.01),
        isostep.rule("adam", lr=0.1),
        isostep.rule("sgd_hd", lr=0.01, hypergrad_lr=1e-6),
        isostep.rule("sgd", lr=0.01, momentum=0.5, nesterov=True),
        isostep.rule("rprop", lr=0.01),  # whose state starts at lr
    ]
    settings = {"lr": 0.003, "momentum": 0.75, "noise": 0.25}
    text = page([path(r, "himmelblau", **start) for r in first])
    found = node(text, "isostep.rules.map((r) => isostep.run(r, given).points)", settings)
    then = [
        isostep.rule("sgd", lr=0.003, momentum=0.75),
        isostep.rule("adam", lr=0.003, betas=(0.75, 0.999)),
        isostep.rule("sgd_hd", lr=0.003, momentum=0.75, hypergrad_lr=1e-6),
        isostep.rule("sgd", lr=0.003, momentum=0.75, nesterov=True),
        isostep.rule("rprop", lr=0.003),
    ]
    for rule, points in zip(then, found, strict=True):
        expected = path(rule, "himmelblau", **start | {"noise": 0.25}).points
        assert close(points, expected) < 1e-12, rule
    zero = node(text, "isostep.run(isostep.rules[0], given).points", {"momentum": 0, "lr": 0.02})
    plain = path(isostep.rule("sgd", lr=0.02), "himmelblau", **start).points
    assert close(zero, plain) < 1e-12


def own(name, value, gradient, minima=()):
    return Surface(name, value, gradient, (-1.0, 1.0), (-1.0, 1.0), (0.5, 0.5), minima)


@pytest.mark.parametrize(
    "surface",
    [
        own("no minimum named", lambda x, y: x * x + nm.exp(y), lambda x, y: (2.0 * x, nm.exp(y))),
        own("flat", lambda x, y: 0.0 * x + 0.0 * y, lambda x, y: (0.0, 0.0), ((0.0, 0.0),)),
        own("</title>&<b>", lambda x, y: x * x + y * y, lambda x, y: (2.0 * x, 2.0 * y)),
        own("not everywhere", lambda x, y: nm.log(x) + y * y, lambda x, y: (1.0 / x, 2.0 * y)),
    ],
    ids=lambda s: s.name,
)
def test_surfaces_of_one_s_own(surface, tmp_path):
    made = path(isostep.rule("adam", lr=0.1), surface, steps=5)
    text = page([made])
    assert text.count("</title>") == 1
    assert text.count("</script>") == 1
    found = node(text, "isostep.run(isostep.rules[0], {}).points", None)
    assert close(found, made.points) < 1e-12
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    made.figure().savefig(tmp_path / "a.png")
    made.figure(three_d=True).savefig(tmp_path / "b.png")


def test_a_surface_that_cannot_be_traced_is_told():
    surface = own("numpy's", lambda x, y: np.cos(x) + y, lambda x, y: (-np.sin(x), 1.0))
    made = path(isostep.rule("sgd", lr=0.1), surface, steps=2)
    with pytest.raises(RuleError, match=r"^the page cannot draw numpy's: .*; write the surface"):
        page([made])


def test_the_page_is_one_file_that_loads_nothing():
    text = page([path(isostep.rule("sgd", lr=0.01), "quadratic", steps=3)])
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", text)
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "/*" not in re.sub(r"/\*.*?\*/", "", text.split("<script>")[0])
    assert not re.search(r"/\*[A-Z]+\*/", text)  # every place is filled


def test_matrices_have_no_script():
    with pytest.raises(NoScript, match="works on axes or matrices"):
        step_function(isostep.program(isostep.rule("muon")))


def run(*words):
    command = [sys.executable, "-m", "isostep.cli", "plot", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_files_open(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    from isostep import cli

    def made(name, *words):
        out = tmp_path / "new" / name
        code = cli.main(["plot", "surface", "--steps", "4", "-o", str(out), "--json", *words])
        assert code == 0
        found = json.loads(capsys.readouterr().out)
        assert found["file"] == str(out)
        return out, found

    from PIL import Image

    png, found = made("a.png", "--rules", "sgd(lr=0.01),adam(lr=0.1)", "--start", "-0.5,1.4")
    assert [p["rule"] for p in found["paths"]] == ["sgd(lr=0.01)", "adam(lr=0.1)"]
    assert found["paths"][0]["points"][0] == [-0.5, 1.4]
    assert np.shape(found["paths"][0]["points"]) == (5, 2)
    with Image.open(png) as image:
        image.load()
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    three, _ = made("b.png", "--rules", "sgd(lr=0.01)", "--3d")
    assert three.read_bytes() != png.read_bytes()
    pdf, _ = made("a.pdf", "--rules", "sgd(lr=0.01)", "--surface", "rastrigin")
    assert pdf.read_bytes()[:5] == b"%PDF-"
    assert pdf.read_bytes().rstrip().endswith(b"%%EOF")
    gif, _ = made("a.gif", "--rules", "sgd(lr=0.01)", "--noise", "1.0")
    with Image.open(gif) as image:
        assert (image.format, image.n_frames) == ("GIF", 5)
        frames = {image.seek(k) or image.convert("RGB").tobytes() for k in range(5)}
        assert len(frames) == 5


def test_schedules_are_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    from isostep import cli

    out = tmp_path / "d.svg"
    word = "LinearInternalDecay(10)"
    assert cli.main(["plot", "schedule", word, "--steps", "20", "-o", str(out), "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)["curves"][word]
    assert curve == [max(0.0, (10 - k) / 10) for k in range(21)]
    assert "<svg" in out.read_text()
    assert cli.main(["plot", "decay", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"


def test_every_schedule_has_a_curve_by_its_name_alone(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    from isostep import cli
    from isostep.plot.schedules import EXAMPLES, values

    base = {"Schedule", "PlateauState"}  # no schedules by themselves
    assert set(EXAMPLES) == set(isostep.schedules.__all__) - base
    for name, example in EXAMPLES.items():
        for steps in (1, 7, 60):
            curve = values(example(steps), steps)
            assert len(curve) == steps + 1, name
        assert len(set(curve)) > 1, name
    words = ["sequential", "ReduceLROnPlateau(factor=0.5, patience=2)"]
    out = ["--steps", "9", "-o", str(tmp_path / "s.svg"), "--json"]
    assert cli.main(["plot", "schedule", *words, *out]) == 0
    curves = json.loads(capsys.readouterr().out)["curves"]
    cosine = [0.5 + 0.5 * math.cos(math.pi * k / 9) for k in range(10)]
    assert curves[words[0]] == pytest.approx(cosine)
    assert curves[words[1]] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("surface --rules nope", "unknown rule 'nope'; known: "),
        ("surface --rules nope -o new/a.png", "unknown rule 'nope'; known: "),
        ("surface --rules sgd(lr=-1)", "sgd: lr must be >= 0, got -1"),
        ("surface --rules sgd(", "rules must be like sgd,adam(lr=0.1,betas=(0.9,0.99)), got 'sgd('"),
        ("surface --start 1", "--start must be two finite numbers X,Y, got '1'"),
        ("surface --seed -1", "--seed must be an integer >= 0, got -1"),
        ("surface --rules sgd(lr={[]:1})", "rules must be like sgd,adam(lr=0.1,betas=(0.9,0.99)), "),
        ("surface --rules sgd],[sgd", "rules must be like sgd,adam(lr=0.1,betas=(0.9,0.99)), "),
        ("surface --rules sgd(lr=1) --steps 100001", "--steps must be an integer <= 100000, got 100001; "),
        ("schedule OneCycle(0.1,300) --steps 100000000000", "--steps must be an integer <= 100000, got "),
        ("surface --steps 0", "--steps must be an integer >= 1, got 0"),
        ("surface --noise -1", "--noise must be a number >= 0, got -1.0"),
        ("surface -o a.bmp", "--out must end in one of .png, .pdf, .svg, .gif, .html, got 'a.bmp'"),
        ("schedule 3", "'3' is not a schedule; call one of isostep.schedules, such as "),
        ("schedule Nope(3)", "'Nope(3)' is not a schedule; known: "),
        (
            "schedule Exponential(1e308,gamma=10)",
            "'Exponential(1e308,gamma=10)' must stay within 1e+300, which a figure can show, got 1e+308",
        ),
        ("surface --surface hill", "--surface must be one of quadratic, rosenbrock, "),
        ("surface --steps 1.5", "--steps must be an integer, got '1.5'; see 'isostep plot surface "),
        ("", "KIND must be given, got nothing; see 'isostep plot --help'"),
    ],
)  # fmt: skip
def test_errors_of_the_command_are_one_line(words, text, capsys, tmp_path, monkeypatch):
    from isostep import cli

    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(["plot", *words.split()])
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(f"isostep: {text}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_the_file_that_is_there(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    from matplotlib.figure import Figure

    from isostep import cli

    def half(self, place, **more):
        Path(place).write_text("half of it")
        raise KeyboardInterrupt

    for name in ("a.png", "a.svg"):
        out = tmp_path / name
        out.write_text("whole")
        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", half)
            words = ["plot", "surface", "--rules", "sgd(lr=0.01)", "--steps", "2", "-o", str(out)]
            assert cli.main(words) == 130
        assert out.read_text() == "whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_an_animation_of_what_is_infinite(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    from isostep import cli

    out = tmp_path / "a.gif"
    words = ["--rules", "sgd(lr=0.01)", "--start", "1e200,1e200", "--steps", "2", "-o", str(out)]
    assert cli.main(["plot", "surface", *words]) == 0
    assert out.read_bytes()[:3] == b"GIF"


def test_rules_by_path_need_no_quotes(tmp_path, capsys, monkeypatch):
    from isostep import cli

    text = "from isostep.domains import Real\nfrom isostep.rule import Rule\n"
    text += "def update(p, g, t, /, *, lr):\n    return -lr * g\n"
    text += "RULE = Rule(name='down', update=update, hyper={'lr': Real(low=0)})\n"
    (tmp_path / "down.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for words in ("./down.py,sgd(lr=0.01)", "sgd(lr=0.01), down.py(lr=0.02)", "'./down.py'"):
        made = ["plot", "surface", "--rules", words, "--steps", "2", "-o", "a.html", "--json"]
        assert cli.main(made) == 0
        found = [p["rule"] for p in json.loads(capsys.readouterr().out)["paths"]]
        assert any(r.startswith("down(lr=") for r in found)


def test_from_the_shell(tmp_path):
    out = tmp_path / "p.html"
    code, text, err = run("surface", "--rules", "sgd(lr=0.01)", "--steps", "2", "-o", str(out))
    assert (code, text, err) == (0, f"wrote {out}\n", "")
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_without_matplotlib_the_error_names_the_command(capsys, monkeypatch, tmp_path):
    from isostep import cli

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["plot", "surface", "--rules", "sgd(lr=0.01)", "-o", str(tmp_path / "a.png")]
    assert cli.main(words) == 2
    assert capsys.readouterr().err == (
        "isostep: isostep.plot needs the package 'matplotlib'; pip install 'isostep[plot]'\n"
    )
    words[-1] = str(tmp_path / "a.html")  # the page needs none
    assert cli.main(words) == 0
