"""A real headless Chromium, driven by its DevTools protocol over pipes: no package, no port, no network.

with Browser(tmp_path) as page:
    page.open(path)
    page.key("1")
    page.run("document.title")
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "Enter": 13, "Tab": 9}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


class Browser:
    def __init__(self, folder: Path, program: str | None = CHROMIUM) -> None:
        assert program is not None
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        theirs, self._out = os.pipe()
        self._in, ours = os.pipe()
        flags = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
        command = f'exec "$0" "$@" 3<&{theirs} 4>&{ours}'  # where the protocol wants the pipes
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *flags.split(), "--remote-debugging-pipe",
             f"--user-data-dir={folder / 'profile'}"],
            pass_fds=(theirs, ours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self._numbers = itertools.count(1)
        self._read = b""
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None

    def __enter__(self) -> "Browser":
        self.tab()
        place = str(self.downloads)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=place, eventsEnabled=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(20)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            os.close(self._in)
            os.close(self._out)

    def tab(self, session: str | None = None) -> str | None:
        """Go to a tab, by default a new one; what follows happens there. Returns the tab that was left."""
        left, self._session = self._session, None
        if session is None:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._session = session
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        self._session = session
        return left

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            assert select.select([self._in], [], [], 60)[0], "Chromium says nothing"
            part = os.read(self._in, 1 << 16)
            assert part, "Chromium has ended"
            self._read += part
        whole, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(whole)
        return message

    def open(self, path: Path) -> None:
        """A file from the disk, as an annotator opens it."""
        seen = len(self.events)
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events[seen:]):
            self.events.append(self._message())

    def run(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def key(self, key: str) -> None:
        """A key of the keyboard, pressed and let go."""
        text = {"text": key} if len(key) == 1 else {}
        code = CODES.get(key) or ord(key.upper())
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, selector: str, text: str) -> None:
        """Text into a field."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """The mouse, in the middle of an element."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({ block: 'center', behavior: 'instant' }); "
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def media(self, kind: str = "", **features: str) -> None:
        """As if on paper (kind="print"), or with what the system prefers: prefers_color_scheme="dark"."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", media=kind, features=wanted)

    def size(self, width: int, height: int) -> None:
        """Of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def pdf(self) -> bytes:
        """The page as it is printed."""
        answer = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])

    def complaints(self) -> list[dict[str, Any]]:
        """What was written to the console, and errors."""
        told = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event for event in self.events if event["method"] in told]

    def requests(self) -> list[str]:
        """What was asked of the network."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def downloaded(self, ending: str = ".csv") -> Path:
        """The file that is being downloaded, once it is whole."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = [path for path in self.downloads.iterdir() if path.suffix == ending]
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"nothing in {self.downloads}")
