"""JSON files: one way to write and one to read them, for models, stages, records and state alike.

`decode` raises msgspec.DecodeError for whatever is wrong with the bytes. A file that no result's hashes cover is
`sealed`: its last field is a checksum over all before it, so that a digit that has rotted is not read as a number.
"""

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")
_SEAL = re.compile(rb',\s*"checksum":\s*"([0-9a-f]{64})"\s*\}\s*\Z')


@functools.cache
def _decoder(of: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(of)


@overload
def decode(content: bytes | str) -> Any: ...
@overload
def decode(content: bytes | str, type: type[T]) -> T: ...
@overload
def decode(content: bytes | str, type: Any) -> Any: ...
def decode(content: bytes | str, type: Any = Any) -> Any:
    """The value of a type in JSON; msgspec.DecodeError too for bytes that are no UTF-8, and for endless nesting."""
    try:
        return _decoder(type).decode(content)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def sealed(content: bytes) -> bytes:
    """The JSON of an object with its checksum as the last field."""
    body = content.rstrip()
    if not body.endswith(b"}") or body.startswith(b"{}"):
        raise ValueError("Only an object that has fields can be sealed.")
    head = body[:-1].rstrip()
    space = b"\n" if b"\n" in head else b""
    return b"".join((head, b",", space, b'"checksum":"', hashlib.sha256(head).hexdigest().encode(), b'"}\n'))


@overload
def unsealed(content: bytes, type: type[T]) -> T: ...
@overload
def unsealed(content: bytes, type: Any) -> Any: ...
def unsealed(content: bytes, type: Any) -> Any:
    """The value in a sealed file; msgspec.DecodeError if it was changed. Files of older versions have no seal."""
    written = content[-81:-67] == b',\n"checksum":"' and content[-3:] == b'"}\n'  # by `sealed`: most files of a grid
    if written and hashlib.sha256(content[:-81]).hexdigest().encode() == content[-67:-3]:
        return decode(content, type)
    seal = _SEAL.search(content, max(0, len(content) - 128))
    if seal is not None and hashlib.sha256(content[: seal.start()]).hexdigest().encode() != seal[1]:
        raise msgspec.DecodeError("its checksum does not fit: it was changed after it was written")
    return decode(content, type)


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, UTF-8, a newline at the end."""
    path.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return decode(path.read_bytes())
