"""A headless Chromium, driven through the pipe of its debugging protocol: no other package is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = "no browser: apt-get install chromium"
_SECONDS = 60.0

CONTRAST = """
(() => {
  const numbers = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const part = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
  const behind = node => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(numbers(getComputedStyle(one).backgroundColor));
    const page = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 21, 25] : [255, 255, 255];
    return layers.reverse().reduce((under, layer) => layer.length ? over(layer, under) : under, page);
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    if (node.closest("svg, select, .plot, [hidden], .skip, .unseen") || !node.getClientRects().length) continue;
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())) continue;
    const style = getComputedStyle(node);
    const ground = behind(node);
    const a = light(over(numbers(style.color), ground)), b = light(ground);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const large = parseFloat(style.fontSize) >= 24;
    const about = [node.tagName, node.className, ratio.toFixed(2), node.textContent.slice(0, 30)];
    if (ratio < (large ? 3 : 4.5)) found.push(about.join(" "));
  }
  return found;
})()
"""
"""Texts whose contrast with what is behind them is below that of WCAG 2, level AA."""

NAMELESS = """
[...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, svg[role=img], progress")].filter(one => {
  const named = one.getAttribute("aria-label") || one.title || one.textContent.trim() || one.closest("label")?.textContent.trim();
  return !named && !one.querySelector("title, [aria-label]");
}).map(one => one.outerHTML.slice(0, 120))
"""
"""Elements that a screen reader cannot name."""


def find_browser() -> str | None:
    """Return the path of Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One tab of the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []
        """What the console has reported: errors and warnings, also of the Content-Security-Policy, and failed requests."""
        self.requests: list[str] = []
        self._loaded = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: object) -> dict[str, Any]:
        return self._browser.send(method, self._session, **params)

    def heard(self, event: dict[str, Any]) -> None:
        """Record an event of this tab."""
        kind, params = event["method"], event["params"]
        if kind == "Page.loadEventFired":
            self._loaded += 1
        elif kind == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
        elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str(params["args"]))
        elif kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, address: str) -> None:
        """Load a page completely."""
        before = self._loaded
        self.send("Page.navigate", url=address)
        self._browser.wait(lambda: self._loaded > before, f"{address} is not loaded")

    def run(self, script: str) -> Any:
        """Return the value of an expression, or of its promise."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        return self._browser.wait(lambda: self.run(script), f"not true: {script}")

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def size(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def scheme(self, name: str) -> None:
        """Prefer ``dark`` or ``light``."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def key(self, name: str, code: int = 0, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **extra)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def print(self) -> bytes:
        """Return the page as PDF."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"])

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))


class Browser:
    """A browser process."""

    def __init__(self, program: str, profile: str) -> None:
        own_read, their_write = os.pipe()
        their_read, own_write = os.pipe()
        words = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-extensions", "--force-color-profile=srgb",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        # The protocol is read from descriptor 3 and written to 4.
        script = f'exec "$@" 3<&{their_read} 4>&{their_write}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words], pass_fds=(their_read, their_write),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_read)
        os.close(their_write)
        self._read, self._write = own_read, own_write
        self._buffer = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._pages: dict[str, Page] = {}

    def send(self, method: str, session: str = "", **params: object) -> dict[str, Any]:
        """Call a method of the protocol and return its answer."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        self.wait(lambda: number in self._answers, f"no answer to {method}")
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def wait(self, ready: Callable[[], Any], otherwise: str) -> Any:
        """Process messages until a function returns something true, and return that."""
        deadline = time.monotonic() + _SECONDS
        while not (found := ready()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{otherwise}, after {_SECONDS:.0f} s")
            self._pump(0.05)
        return found

    def _pump(self, seconds: float) -> None:
        if not select.select([self._read], [], [], seconds)[0]:
            return
        chunk = os.read(self._read, 1 << 20)
        if not chunk:
            raise AssertionError(f"the browser has ended: {self.process.poll()}")
        *messages, self._buffer = (self._buffer + chunk).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif message.get("sessionId") in self._pages:
                self._pages[message["sessionId"]].heard(message)

    def page(self) -> Page:
        """Open a tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page.__new__(Page)
        self._pages[session] = page
        page.__init__(self, session)  # type: ignore[misc]
        return page

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._read)
        os.close(self._write)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser for a ``with`` block."""
    program = find_browser()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(program, profile)
        try:
            yield opened
        finally:
            opened.close()
