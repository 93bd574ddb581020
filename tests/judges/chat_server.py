"""An HTTP server on loopback that speaks the chat-completions format, and misbehaves where a test says so."""

import json
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHOWN = re.compile(r"Summary 1: (.*?)\n\nSummary 2: (.*?)\n\nBetter", re.DOTALL)
HANG = 3.0  # seconds; tests let clients wait for a fraction of it
Reply = tuple[int, dict[str, str], bytes]


def texts_of(body: Mapping[str, Any]) -> tuple[str, str]:
    """The two summaries of a request, as shown."""
    found = SHOWN.search(body["messages"][0]["content"])
    assert found is not None
    return found[1], found[2]


def longer(body: Mapping[str, Any]) -> float:
    """P("1") of a judge that likes long summaries."""
    first, second = map(len, texts_of(body))
    return 1 / (1 + math.exp((second - first) / 5))


def completion(text: str, probability: float | None = None) -> bytes:
    """A completion of one choice; with a probability of "1", with the alternatives to its first token."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if probability is not None:
        mass = {"1": probability * 0.8, " 2": (1 - probability) * 0.8, "The": 0.2}
        top = [{"token": token, "logprob": math.log(max(p, 1e-30))} for token, p in mass.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": -0.1, "top_logprobs": top}]}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()


@dataclass
class ChatServer:
    """`fault` (number of the request, body) -> a reply in place of the answer, or `hang` or `drop`, or None."""

    prefers: Callable[[Mapping[str, Any]], float] = longer
    logprobs: bool = True
    text: Callable[[Mapping[str, Any]], str] | None = None  # in place of the preferred digit
    fault: Callable[[int, Mapping[str, Any]], Reply | str | None] = lambda number, body: None
    delay: float = 0.0  # seconds an answer takes
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)  # by body
    times: list[float] = field(default_factory=list)

    def reply(self, body: dict[str, Any], headers: dict[str, str]) -> Reply | str:
        with self._lock:
            number = len(self.seen)
            self.seen.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
        if (fault := self.fault(number, body)) is not None:
            return fault
        if not self.logprobs and "logprobs" in body:
            return 400, {}, b'{"error": {"message": "logprobs are not supported"}}'
        p = self.prefers(body)
        text = self.text(body) if self.text else "1" if p > 0.5 else "2"
        time.sleep(self.delay)
        with self._lock:
            self.answered[json.dumps(body, sort_keys=True)] += 1
        return 200, {}, completion(text, p if self.logprobs and self.text is None else None)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[str]:
        """The base URL, while it runs."""
        http = _Http(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/v1"
        finally:
            http.shutdown()
            http.server_close()
            thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = server.reply(body, dict(self.headers))
            if reply == "hang":
                time.sleep(HANG)
            if isinstance(reply, str):
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, headers, content = reply
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
