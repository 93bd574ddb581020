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
# a digit alone: white space, quotes, brackets and emphasis may stand around it, a full stop or ! after it
PLAIN = re.compile(r"""[\s"'“”„‘’‚«»(\[*_`]*([12])[\s"'“”„‘’‚«»)\]*_`.!。]*""")


class Garbled(StageError):
    """A server that keeps on sending what cannot be read, to this request."""


def said(text: str) -> float | None:
    """1.0 or 0.0 for an answer that is "1" or "2" and nothing else (PLAIN); None for all others, "Summary 1" too: an
    answer is cut off after TOKENS, and what would have followed a word or a comma may turn it round.
    """
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
    """The answer in a completion; KeyError, TypeError, ValueError or IndexError where it is none.

    By the probabilities of the first token that is not white space, if it is a digit and they have it; else by the
    text. What stands before another token (a line break, "I cannot") says nothing of the digits.
    """
    choice = body["choices"][0]
    text = choice["message"]["content"]
    if text is not None and not isinstance(text, str):
        raise TypeError(f"content is {text!r}")
    tokens = (choice.get("logprobs") or {}).get("content") or []
    said_first = next((token for token in tokens if str(token["token"]).strip()), None)
    if said_first is not None and (digit := str(said_first["token"]).strip()) in ("1", "2"):
        top = said_first.get("top_logprobs") or []
        if digit in {str(one["token"]).strip() for one in top} and (found := probability(top)) is not None:
            return Answer(found, text=text or "")
    return Answer(said(text or ""), "text", text or "")


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
    _halted: bool = field(default=False, init=False)  # nobody waits for answers any more
    _failure: Exception | None = field(default=None, init=False)  # of one request for good: the others are not tried
    _readable: bool = field(default=False, init=False)  # this server has sent an answer
    _garbled: int = field(default=0, init=False)  # requests that ended without one that could be read
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __enter__(self) -> "Endpoint":
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        self._client = httpx.Client(headers=headers, timeout=self.timeout, limits=limits)
        where = request_key({"url": self.base_url.rstrip("/")}, self.model)[:16]
        self._pace = Pace(self.cache.folder / f"pace-{where}", self.per_minute)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # --- many requests ------------------------------------------------------------------------------------

    def ask(self, prompts: Sequence[str]) -> list[Answer]:
        """An answer a prompt, in order.

        Raises StageError where the server refuses, or keeps on failing; all that was answered is in the cache by then.
        A request that alone gets nothing readable does not keep the others from being asked; a server that has never
        sent anything readable does. Interrupted between two requests, once the runner has to stop.
        """
        distinct = list(dict.fromkeys(prompts))
        self._halted, self._failure = False, None
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = {pool.submit(self._one, prompt): prompt for prompt in distinct}
            try:
                found, garbled = _gathered(futures)
            except Interrupted:
                if self._failure is not None:  # it is why the others were interrupted
                    raise self._failure from None
                raise
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
        try:
            with self.cache.asking(key, self._over):
                answer = self.cache.get(key)  # another process may have asked meanwhile
                if answer is None:
                    answer = self._asked(body)
                    self.cache.put(key, answer)
            return answer
        except Garbled as error:
            self._count(error)
            raise
        except Exception as error:
            self._failure = error  # before this thread takes the next request
            raise

    def _count(self, error: Garbled) -> None:
        """StageError once more requests than are sent at once have ended garbled and none has not."""
        with self._lock:
            self._garbled += 1
            hopeless = not self._readable and self._garbled > self.concurrency
        if hopeless:
            self._failure = StageError(f"{error}. Nothing else has come from there: is judge.base_url right?")
            raise self._failure from error

    # --- one request --------------------------------------------------------------------------------------

    def _asked(self, body: dict[str, Any]) -> Answer:
        """Ask until there is an answer, or no try left."""
        wait, problem = self.backoff, StageError("")
        for attempt in range(self.retries + 1):
            if attempt:
                self._sleep(min(wait, LONGEST_WAIT) * random.uniform(0.75, 1.25))
                wait *= 2
            self._turn()
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
            self._turn()
            response = self._sent(plain)
        self._check(response)
        try:
            answer = read_answer(response.json())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            start = self._start(response, 80)
            raise Garbled(f"{self.base_url} sent no chat completion: {start!r} ({type(error).__name__})") from error
        self._readable = True
        return answer

    def _turn(self) -> None:
        """Return when the next request may be sent; Interrupted if none may be any more."""
        self._pace.wait(self._over)
        if self._over():
            raise Interrupted("between two requests to the judge; the answers are kept")

    def _sent(self, body: dict[str, Any]) -> httpx.Response:
        with self._lock:
            self.asked += 1
        try:
            return self._client.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body)
        except httpx.LocalProtocolError as error:  # its text has the headers, and the key is one
            raise StageError(f"A request to {self.base_url} cannot be sent: {type(error).__name__}.") from None
        except httpx.RequestError as error:
            raise _Again(f"{self.base_url} cannot be reached: {type(error).__name__} {error}".rstrip()) from error

    def _check(self, response: httpx.Response) -> None:
        status, text = response.status_code, self._start(response, 200)
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

    def _start(self, response: httpx.Response, most: int) -> str:
        """What a server said, without the key, which some repeat."""
        return (response.text.replace(self.key, "[key]") if self.key else response.text)[:most]

    def _over(self) -> bool:
        return self._halted or self._failure is not None or self.stopping()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._over():
            time.sleep(min(left, 0.2))


class _Again(StageError):
    """The server is busy, broken or away."""


def retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header, which may be a date; None if it says nothing that can be read."""
    try:
        seconds = float(value)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
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
