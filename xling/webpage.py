"""Shared parts of pages that stand alone: one file that is opened from the disk, asks for nothing and runs nothing
of the texts in it.

Data go in as JSON in which no `<` is left, so that no text can end the script that it stands in; scripts write texts as
text, never as markup. Besides, the page's content security policy allows its own scripts and styles by their hashes and
nothing else: no other script, no image, no request.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_IN_PLACE = re.compile(r"\{\{(\w+)\}\}")


def json_in_html(value: object) -> str:
    """JSON that can stand in a script element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    escapes: dict[str, str | int | None] = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
    return text.translate(str.maketrans(escapes))


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with each {{NAME}} replaced; what is put in is not looked at again."""
    return _IN_PLACE.sub(lambda found: parts[found[1]], template)


def policy(page: str) -> str:
    """The content security policy of a page: its own script and style elements, by hash."""
    allowed = [
        f"{kind}-src {' '.join(map(_hash, re.findall(f'<{tag}>(.*?)</{tag}>', page, re.DOTALL)))}"
        for kind, tag in (("script", "script"), ("style", "style"))
    ]
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def everywhere(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every text in it changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): everywhere(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [everywhere(item, change) for item in value]
    return value
