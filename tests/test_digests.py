"""A file's digest is that of all its bytes, and large files are read once."""

import hashlib
import os
from pathlib import Path

import pytest

from xling import digests
from xling.errors import ConfigError
from xling.models.hub import folder_digest
from xling.tasks.paths import paths_of


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 1000)
    return tmp_path / "cache" / "xling" / "digests.jsonl"


def big(path: Path, middle: bytes) -> Path:
    path.write_bytes(b"a" * 2000 + middle + b"b" * 2000)
    return path


def test_a_byte_in_the_middle_of_a_large_file_counts(tmp_path: Path) -> None:
    one, other = big(tmp_path / "one", b"Yes"), big(tmp_path / "other", b"No ")
    assert digests.file_digest(one) == hashlib.sha256(one.read_bytes()).hexdigest() != digests.file_digest(other)
    for name, middle in (("x", b"Yes"), ("y", b"No ")):
        (tmp_path / name).mkdir()
        big(tmp_path / name / "model.safetensors", middle)
    assert folder_digest(tmp_path / "x") != folder_digest(tmp_path / "y")


def test_a_large_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, memory: Path) -> None:
    path = big(tmp_path / "file", b"Yes")
    first = digests.file_digest(path)
    digests._digest.cache_clear()  # as another process
    there = memory.read_bytes()
    rotten = there.replace(first.encode(), b"f" * 64)
    memory.write_bytes(b"[damaged\n\xff\n" + rotten)
    assert digests.file_digest(path) == first  # a line that does not fit its checksum is not believed

    digests._digest.cache_clear()
    status = path.stat()
    digests._remember(digests._Known(str(path), status.st_size, status.st_mtime_ns, status.st_ino, "f" * 64))
    assert digests.file_digest(path) == "f" * 64  # remembered, not read
    big(path, b"No ")
    os.utime(path, ns=(1, 1))
    assert digests.file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_a_place_to_remember_it_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(big(tmp_path / "a file", b"")))
    path = big(tmp_path / "file", b"Yes")
    assert digests.file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_nobody_has_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers a number may be all that is known of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "~")  # what it is taken for then
    path = big(tmp_path / "file", b"Yes")
    assert digests.file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [item.name for item in tmp_path.iterdir()] == ["file"]  # no folder of the name ~
    with pytest.raises(ConfigError, match=r"~nosuch/x\.csv begins with the home folder of somebody who has none"):
        paths_of("~nosuch/x.csv")
    typed = [path for path in Path(digests.__file__).parent.rglob("*.py") if ".expanduser()" in path.read_text()]
    assert [path.name for path in typed] == ["errors.py"]  # where that is a sentence
