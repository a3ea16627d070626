"""The teaching page in headless Chromium: sliders by keyboard, the path follows, nothing is loaded or logged.

Driven through chromedriver's WebDriver protocol with the standard library alone.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest

import isostep
from isostep.plot import path
from isostep.plot.page import page

KEYS = {"right": "\ue014", "left": "\ue012", "home": "\ue011", "end": "\ue010", "tab": "\ue004"}


class Browser:
    """One session of headless Chromium."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]}
        always = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self.base += f"/session/{made['sessionId']}"

    def call(self, method, where, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + where, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": f"return {script}", "args": []})

    def press(self, selector, *keys):
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        (element,) = found.values()
        text = "".join(KEYS[k] for k in keys)
        self.call("POST", f"/element/{element}/value", {"text": text})

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})


@pytest.fixture(scope="module")
def browser():
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (apt-get install chromium chromium-driver)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        made = Browser(port)
        yield made
        made.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(20)


def test_the_page_is_used_with_the_keyboard(browser, tmp_path):
    rules = [
        isostep.rule(n, lr=lr) for n, lr in (("sgd", 0.002), ("adam", 0.1), ("addsign", 0.001))
    ]
    start = {"steps": 20, "seed": 5}
    file = tmp_path / "page.html"
    file.write_text(page([path(r, "rosenbrock", noise=1.0, **start) for r in rules]))
    browser.call("POST", "/url", {"url": file.as_uri()})

    def drawn():
        return browser.run("[...document.querySelectorAll('#map polyline')].map(e => e.outerHTML)")

    def cells():
        return browser.run("[...document.querySelectorAll('#rows td')].map(e => e.textContent)")

    first = drawn()
    assert len(first) == 3
    assert browser.run("document.querySelectorAll('#map circle').length") >= 3 * 15
    assert browser.run("document.querySelectorAll('#map .contour').length") == 24
    expected = path(rules[1], "rosenbrock", noise=1.0, **start)
    assert (cells()[4], cells()[7]) == ("adam", _exponential(expected.losses[-1]))
    assert np.array(cells()[5:7], float) == pytest.approx(expected.points[-1], rel=1e-4)

    browser.press("#noise", "home")  # to the least: no noise
    second = drawn()
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert browser.run("document.getElementById('noise').getAttribute('aria-valuetext')") == "0.00"

    browser.press("#lr-0", "left", "left", "left")  # three hundredths of a decade down
    lr = 0.002 * 10**-0.03
    third = drawn()
    assert third[0] != second[0]
    assert third[1:] == second[1:]  # the others stay
    there = browser.run("isostep.run(isostep.rules[0], {lr: 0.002 * 10 ** -0.03, noise: 0}).points")
    moved = path(isostep.rule("sgd", lr=lr), "rosenbrock", **start).points
    assert np.max(np.abs(np.array(there) - moved)) < 1e-12
    assert float(cells()[1]) == pytest.approx(moved[-1, 0], rel=1e-4)

    browser.press("#momentum-1", "home")
    assert drawn()[1] != third[1]
    without = path(isostep.rule("adam", lr=0.1, betas=(0.0, 0.999)), "rosenbrock", **start).points
    assert float(cells()[5]) == pytest.approx(without[-1, 0], rel=1e-4)

    browser.press("#steps", "home")
    assert browser.run("document.querySelectorAll('#map circle').length") == 3  # the start alone

    unlabelled = "[...document.querySelectorAll('input')].filter(e => e.labels.length !== 1).length"
    assert browser.run(unlabelled) == 0
    assert browser.run("[...document.querySelectorAll('input')].every(e => e.tabIndex === 0)")

    assert browser.log("browser") == []
    events = [json.loads(e["message"])["message"] for e in browser.log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert [u for u in asked if not u.startswith("data:")] == [file.as_uri()]


def _exponential(v):
    """As JavaScript's toExponential(2) writes it."""
    mantissa, _, exponent = f"{v:.2e}".partition("e")
    return f"{mantissa}e{int(exponent):+d}"


def test_the_network_is_closed_to_the_page(browser, tmp_path):
    """The policy in the page is what keeps it offline: a request that is tried fails, and is seen here."""
    file = tmp_path / "page.html"
    file.write_text(page([path(isostep.rule("sgd", lr=0.1), "quadratic", steps=2)]))
    browser.call("POST", "/url", {"url": file.as_uri()})
    browser.run("fetch('http://127.0.0.1:9/').catch(() => 0), 1")
    time.sleep(0.3)
    assert any("Content Security Policy" in e["message"] for e in browser.log("browser"))
