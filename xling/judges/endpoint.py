"""A judge behind any OpenAI-compatible chat-completions endpoint: probabilities where they are offered, else the text.

    with Endpoint(url, "gpt-4o", key, cache) as endpoint:
        answers = endpoint.ask(prompts)          # one a prompt, equal prompts asked once, what is cached not at all

Temperature 0, one user message. 429, 5xx, broken connections, timeouts and what is no JSON are asked again with
exponential back-off; then it is an error: a verdict is what the model said, or nothing.
"""

import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import httpx

from xling.errors import StageError
from xling.grid.stage import Interrupted
from xling.judges.cache import Answer, Cache, Pace, request_key

TOKENS = 4  # of an answer: some say a line break first
TOP = 5  # alternatives to the first token that are asked for
LONGEST_WAIT = 600.0  # seconds that a server may ask for, or that a back-off grows to
TEMPORARY = frozenset((408, 409, 425, 429))  # and all of 500 and above
# a digit, after and before anything but letters and digits that could make it mean something else
PLAIN = re.compile(r"[\W_]*([12])(?!\w|[.,/]\d)\D*")


class Garbled(StageError):
    """A server that keeps on sending what cannot be read, to this request."""


def said(text: str) -> float | None:
    """1.0 or 0.0 for an answer that is "1" or "2" beyond doubt; None for everything else."""
    found = PLAIN.fullmatch(text)
    return None if found is None else float(found[1] == "1")


def probability(top: Iterable[Mapping[str, Any]]) -> float | None:
    """P("1") / (P("1") + P("2")) among a token's alternatives, white space around a digit left aside."""
    mass = {"1": 0.0, "2": 0.0}
    for one in top:
        token = str(one["token"]).strip()
        if token in mass:
            mass[token] += math.exp(float(one["logprob"]))
    total = sum(mass.values())
    return mass["1"] / total if total > 0 else None


def read_answer(body: Any) -> Answer:
    """The answer in a completion; KeyError, TypeError, ValueError or IndexError where it is none."""
    choice = body["choices"][0]
    text = choice["message"]["content"]
    if text is not None and not isinstance(text, str):
        raise TypeError(f"content is {text!r}")
    tokens = (choice.get("logprobs") or {}).get("content") or []
    found = probability(tokens[0].get("top_logprobs") or []) if tokens else None
    return Answer(found, text=text or "") if found is not None else Answer(said(text or ""), "text", text or "")


@dataclass
class Endpoint:
    """One model of one server. `asked` counts the requests that were sent, retries included."""

    base_url: str
    model: str
    key: str | None = field(repr=False)
    cache: Cache
    per_minute: float | None = None
    concurrency: int = 4
    timeout: float = 60.0
    retries: int = 6
    backoff: float = 1.0
    stopping: Callable[[], bool] = lambda: False
    asked: int = 0
    _with_logprobs: bool = field(default=True, init=False)
    _halted: bool = field(default=False, init=False)  # one request failed for good: the others are not tried again
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __enter__(self) -> "Endpoint":
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        self._client = httpx.Client(headers=headers, timeout=self.timeout, limits=limits)
        where = request_key({"url": self.base_url}, self.model)[:16]
        self._pace = Pace(self.cache.folder / f"pace-{where}", self.per_minute)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # --- many requests ------------------------------------------------------------------------------------

    def ask(self, prompts: Sequence[str]) -> list[Answer]:
        """An answer a prompt, in order.

        Raises StageError where the server refuses, or keeps on failing; all that was answered is in the cache by then.
        A request that alone gets nothing readable does not keep the others from being asked. Interrupted between two
        requests, once the runner has to stop.
        """
        distinct = list(dict.fromkeys(prompts))
        self._halted = False
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = {pool.submit(self._one, prompt): prompt for prompt in distinct}
            try:
                found, garbled = _gathered(futures)
            finally:  # whatever is still under way is of no more use
                self._halted = True
                for future in futures:
                    future.cancel()
        if garbled:
            raise StageError(f"{len(garbled)} of {len(distinct)} requests to the judge failed. The first: {garbled[0]}")
        return [found[prompt] for prompt in prompts]

    def request(self, prompt: str) -> dict[str, Any]:
        """The body that is sent."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "logprobs": True,
            "top_logprobs": TOP,
        }

    def _one(self, prompt: str) -> Answer:
        body = self.request(prompt)
        key = request_key({"endpoint": self.model}, body)
        if (known := self.cache.get(key)) is not None:
            return known
        with self.cache.asking(key):
            answer = self.cache.get(key)  # another process may have asked meanwhile
            if answer is None:
                answer = self._asked(body)
                self.cache.put(key, answer)
        return answer

    # --- one request --------------------------------------------------------------------------------------

    def _asked(self, body: dict[str, Any]) -> Answer:
        """Ask until there is an answer, or no try left."""
        wait, problem = self.backoff, StageError("")
        for attempt in range(self.retries + 1):
            if attempt:
                self._sleep(min(wait, LONGEST_WAIT) * random.uniform(0.75, 1.25))
                wait *= 2
            self._pace.wait(self._over)
            if self._over():
                raise Interrupted("between two requests to the judge; the answers are kept")
            try:
                return self._tried(body)
            except (_Again, Garbled) as error:
                problem = error
        raise type(problem)(f"{problem} ({self.retries + 1} tries; judge.retries)")

    def _tried(self, body: dict[str, Any]) -> Answer:
        """One request; _Again or Garbled for what may be better next time."""
        plain = {name: value for name, value in body.items() if "logprobs" not in name}
        with_them = self._with_logprobs
        response = self._sent(body if with_them else plain)
        if response.status_code in (400, 422) and with_them and "logprobs" in response.text:
            self._with_logprobs = False  # this server has none: ask for the text alone from now on
            response = self._sent(plain)
        self._check(response)
        try:
            return read_answer(response.json())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            start = response.text[:80]
            raise Garbled(f"{self.base_url} sent no chat completion: {start!r} ({type(error).__name__})") from error

    def _sent(self, body: dict[str, Any]) -> httpx.Response:
        with self._lock:
            self.asked += 1
        try:
            return self._client.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body)
        except httpx.RequestError as error:
            raise _Again(f"{self.base_url} cannot be reached: {type(error).__name__} {error}".rstrip()) from error

    def _check(self, response: httpx.Response) -> None:
        status, text = response.status_code, response.text[:200]
        if status == 200:
            return
        if status in TEMPORARY or status >= 500:
            if (seconds := retry_after(response.headers.get("Retry-After", ""))) is not None:
                if seconds > LONGEST_WAIT:
                    raise StageError(f"{self.base_url} says to come back in {seconds:.0f} s ({status}: {text}).")
                self._pace.hold(seconds)
            raise _Again(f"{self.base_url} answered {status}: {text}")
        hint = {401: " Is the key in judge.api_key_env right?", 404: " Are judge.base_url and judge.model right?"}
        raise StageError(f"{self.base_url} refused a request of judge.model={self.model} ({status}): {text}"
                         f"{hint.get(status, '')}")  # fmt: skip

    def _over(self) -> bool:
        return self._halted or self.stopping()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._over():
            time.sleep(min(left, 0.2))


class _Again(StageError):
    """The server is busy, broken or away."""


def retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header, which may be a date; None if it says nothing that can be read."""
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        from email.utils import parsedate_to_datetime

        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _gathered(futures: Mapping[Future[Answer], str]) -> tuple[dict[str, Answer], list[Garbled]]:
    """Answers by prompt, and what could not be read; any other error at once."""
    found: dict[str, Answer] = {}
    garbled: list[Garbled] = []
    for future in as_completed(futures):
        try:
            found[futures[future]] = future.result()
        except Garbled as error:
            garbled.append(error)
    return found, garbled
