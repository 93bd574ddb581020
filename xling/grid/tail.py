"""A log that is still being written, printed as it grows; control codes in it are shown, not obeyed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from xling.console import harmless, is_gone

LOOK_SECONDS = 0.3
ASK_SECONDS = 3.0


def follow(path: Path, out: TextIO, is_over: Callable[[], bool], ask_seconds: float = ASK_SECONDS) -> None:
    """Copy what is there and what is added until `is_over`, which is asked every so many seconds.

    The file need not be there yet. A character cut in two by a write is printed when it is whole.
    """
    position, rest = 0, b""
    asked = -ask_seconds
    over = False
    while True:
        if time.monotonic() - asked >= ask_seconds:
            over = is_over()  # before reading: what was written until then is printed
            asked = time.monotonic()
        new = _read(path, position)
        position += len(new)
        rest = _write(out, rest + new, over)
        if over or is_gone(out):
            return
        time.sleep(LOOK_SECONDS)


def _read(path: Path, position: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(position)
            return file.read()
    except FileNotFoundError:
        return b""


def _write(out: TextIO, content: bytes, whole: bool) -> bytes:
    """Print all up to the last line break, or everything if `whole`; returns what was kept back."""
    end = len(content) if whole else content.rfind(b"\n") + 1
    if end:
        out.write(harmless(content[:end].decode("utf-8", errors="replace").replace("\r", "\n")))
        out.flush()
    return content[end:]
