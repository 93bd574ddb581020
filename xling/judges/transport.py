"""Requests to a judge's server that always end: bounded in size and time, without redirects, the key kept.

    with Lines("https://api.openai.com/v1", key, timeout=60.0) as lines:
        reply = lines.post({"model": ...})       # status, headers, and at most so many bytes

What comes back was written by somebody else: it may be endless, come drop by drop, be a megabyte that unpacks to a
gigabyte, or repeat the key. An HTTP library's timeouts are between two pieces; here the whole exchange has one too.
"""

import base64
import binascii
import ipaddress
import re
import socket
import threading
import unicodedata
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from xling.errors import ConfigError, StageError
from xling.grid.stage import canonical_json

MOST = 8 << 20  # bytes of an answer, unpacked: those with probabilities and thoughts have some 100 kB
MOST_OF_ERROR = 64 << 10  # of what is not an answer
WHOLE = 2  # times judge.timeout for the whole of an answer
PACKED = ("gzip", "x-gzip", "deflate")
BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}")


class Unreachable(StageError):
    """Nobody there, or the answer broke off: it may be better next time."""


class Unreadable(StageError):
    """An answer came that cannot be read."""


class Reply(NamedTuple):
    """A server's response; of an error the first bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def shown(text: str, most: int, key: str | None = None) -> str:
    """A server's words as one line of at most `most` characters, without control codes, and without the key."""
    if key:
        text = _without(text, key)
    plain = "".join(" " if unicodedata.category(one) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") else one for one in text)
    line = " ".join(plain.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _without(text: str, key: str) -> str:
    """Without the key: as it is, percent-encoded, or inside something in base64."""
    for form in (key, quote(key, safe="")):
        text = text.replace(form, "[key]")
    if key in unquote(text):
        return "[a text with the key in it]"
    return BASE64.sub(lambda found: "[key]" if _hidden(found[0], key.encode()) else found[0], text)


def _hidden(text: str, key: bytes) -> bool:
    plain = text.replace("-", "+").replace("_", "/")
    for skip in range(4):
        part = plain[skip:]
        part = part[:-1] if len(part) % 4 == 1 else part
        with suppress(binascii.Error):
            if key in base64.b64decode(part + "=" * (-len(part) % 4)):
                return True
    return False


# --- proxies ------------------------------------------------------------------------------------------------


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a server (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY), or None.

    This machine itself is never asked for through one. ConfigError for what is no proxy.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if local(host) or proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    named = getproxies()
    proxy = named.get(parts.scheme) or named.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        split = urlsplit(proxy)
        fine = split.scheme in ("http", "https", "socks5", "socks5h") and split.hostname and split.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise ConfigError(
            f"The environment's proxy for {host} ({parts.scheme.upper()}_PROXY or ALL_PROXY) is no URL of a proxy. "
            f"Set one like http://proxy:3128, or NO_PROXY={host} to go without."
        )
    if split.scheme.startswith("socks"):
        try:
            import socksio  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
        except ImportError:
            raise ConfigError(
                f"The environment's proxy for {host} is {without_password(split)}, which needs a package that is not "
                f"here. Type `pip install 'httpx[socks]'`, or set NO_PROXY={host} to go without."
            ) from None
    return proxy


def without_password(proxy: SplitResult) -> str:
    """A proxy's address, for people."""
    return f"{proxy.scheme}://{proxy.hostname}{f':{proxy.port}' if proxy.port else ''}"


def local(host: str) -> bool:
    """Whether a host is this machine by its name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


# --- one request --------------------------------------------------------------------------------------------


class _Line:
    """A connection, which can be cut from outside while somebody waits for it."""

    def __init__(self, client: httpx.Client) -> None:
        self.client, self.late = client, False
        self._socket: socket.socket | None = None

    def noticed(self, event: str, info: Mapping[str, Any]) -> None:
        """httpx's trace of a request: remember what it is sent through."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.late:
                self.cut()

    def cut(self) -> None:
        self.late = True
        if self._socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Lines:
    """Connections to one server; each thread that asks has one of its own for as long as it asks."""

    def __init__(self, base_url: str, key: str | None, timeout: float) -> None:
        self.url, self.key, self.timeout = f"{base_url.rstrip('/')}/chat/completions", key, timeout
        self.proxy = proxy_of(base_url)
        self.named = base_url + (f" (through the proxy {without_password(urlsplit(self.proxy))})" if self.proxy else "")
        self._free: list[_Line] = []
        self._lock = threading.Lock()
        # certificates are read once, from where SSL_CERT_FILE says; all else of the environment is looked at above
        self._certificates = httpx.create_ssl_context(trust_env=True)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._free:
            line.client.close()

    def _line(self) -> _Line:
        with self._lock:
            if self._free:
                return self._free.pop()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return _Line(
            httpx.Client(
                headers=headers,
                timeout=self.timeout,
                limits=httpx.Limits(max_connections=1),
                verify=self._certificates,
                trust_env=False,
                proxy=self.proxy,
                follow_redirects=False,  # another host would get the key and the texts
            )
        )

    def post(self, body: Mapping[str, Any]) -> Reply:
        """Unreachable or Unreadable for what may be better next time; StageError for a request that cannot be sent."""
        line = self._line()
        watch = threading.Timer(WHOLE * self.timeout, line.cut)
        watch.daemon = True
        watch.start()
        try:
            reply = self._posted(line, canonical_json(body))
            if line.late:  # without a length an answer ends where its connection does
                raise httpx.ReadTimeout("")
        except httpx.LocalProtocolError as error:  # its text has the headers, and the key is one
            raise StageError(f"A request to {self.named} cannot be sent: {type(error).__name__}.") from None
        except httpx.HTTPError as error:
            if line.late:
                raise Unreachable(
                    f"{self.named} sent no whole answer in {WHOLE * self.timeout:g} s, twice judge.timeout"
                ) from None
            said = shown(str(error), 200, self.key)
            raise Unreachable(f"{self.named} cannot be reached: {type(error).__name__} {said}".rstrip()) from None
        finally:
            watch.cancel()
            watch.join()  # it cuts nothing that somebody else has by then
            if line.late:
                line.client.close()
            else:
                with self._lock:
                    self._free.append(line)
        return reply

    def _posted(self, line: _Line, content: bytes) -> Reply:
        extensions = {"trace": line.noticed}
        with line.client.stream("POST", self.url, content=content, extensions=extensions) as response:
            fine, read = response.is_success, bytearray()
            most = MOST if fine else MOST_OF_ERROR
            for piece in response.iter_raw():
                read += piece
                if len(read) > most:
                    break
            whole = _unpacked(bytes(read[: most + 1]), response.headers.get("Content-Encoding", ""), most + 1)
            if fine and (whole is None or len(whole) > most):
                why = "that cannot be unpacked" if whole is None else f"of more than {MOST >> 20} MB"
                raise Unreadable(f"{self.named} sent an answer {why}")
            return Reply(response.status_code, response.headers, (whole or b"")[:most])


def _unpacked(content: bytes, packed: str, most: int) -> bytes | None:
    """At most `most` bytes of it; None for what cannot be unpacked."""
    how = packed.strip().lower()
    if how in ("", "identity"):
        return content
    if how not in PACKED:
        return None
    for window in (47, -15):  # gzip or zlib by its header; deflate without one, as some servers mean it
        with suppress(zlib.error):
            return zlib.decompressobj(window).decompress(content, most)
    return None
