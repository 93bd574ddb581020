"""A judge behind any OpenAI-compatible chat-completions endpoint: probabilities where they are offered, else the text.

    with Endpoint(EndpointSettings(url), "gpt-4o", key, cache) as endpoint:
        answers = endpoint.ask(prompts)          # one a prompt, equal prompts asked once, what is cached not at all

One user message. 429, 5xx, broken connections, timeouts and what is no JSON are asked again with exponential back-off;
then it is an error: a verdict is what the model said, or nothing. A prompt that the server filters or finds too long
is a request without an answer, and the others go on.
"""

import math
import random
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from xling.errors import StageError
from xling.grid.stage import Interrupted
from xling.judges.asking import PLAIN_REQUEST, EndpointSettings, Request
from xling.judges.cache import LONGEST_WAIT, Answer, Cache, Pace, request_key
from xling.judges.transport import Lines, Reply, Unreachable, Unreadable, shown

TOP = 5  # alternatives to the first token that are asked for
KEPT = 2000  # characters of what was said
TEMPORARY = frozenset((408, 409, 425, 429))  # and all of 500 and above
OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

# --- what is an answer --------------------------------------------------------------------------------------

AROUND = r"""[\s"'“”„‘’‚«»(\[*_`]*([12])[\s"'“”„‘’‚«»)\]*_`.!。]*"""
# a digit alone: white space, quotes, brackets and emphasis may stand around it, a full stop or ! after it
PLAIN = re.compile(AROUND)
# "Answer: 1", "The better summary is 2", "Final answer: Model 1": of a text that ends there by itself
LABELLED = re.compile(
    r"[\s*_#>]*(?:(?:so|thus|therefore|my|the|final|correct|best|better),?\s+)*"
    r"(?:answer|choice|verdict|winner|summary|model|response|option)(?:\s*\(1 or 2\))?"
    r"\s*(?:[:：]|\bis\b:?)?[\s*_]*(?:(?:summary|model|response|option)\s+)?" + AROUND,
    re.IGNORECASE,
)
BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*([^{}]*?)\s*\}")
THOUGHTS = "(?:think|thinking|thought|reasoning)>"
OPEN, CLOSED = re.compile(rf"\s*<{THOUGHTS}", re.IGNORECASE), re.compile(f"</{THOUGHTS}", re.IGNORECASE)
# what makes another number or no choice of the digit before it: "12", "1.5", "1st", "1%", "1/2", "1 or 2", "1 and 2"
MORE = re.compile(r"\s*[12](?:[\w%/]|[.,:]\d|\s*(?:[/&|]|(?:or|and|vs)\b|[-–~]\s*\d|[,+]\s*[12]\b))", re.IGNORECASE)

FILTERED, REFUSED, TOO_LONG = "filtered by the server", "refused to answer", "too long for the model"
CUT, NEITHER, SILENT = "cut off while it was thinking", "neither 1 nor 2", "nothing said"


class Garbled(StageError):
    """A server that keeps on sending what cannot be read, to this request."""


def ascii_digits(text: str) -> str:
    """Digits of every script as those of ASCII: a judge of Arabic may say \u0661, one of Japanese \uff11."""
    return "".join(str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in text)


def choice_in(text: str, whole: bool = False) -> float | None:
    """1.0 or 0.0 for an answer that is "1" or "2" and nothing else (PLAIN); None for all others.

    `whole`: the text was not cut off. Only then "Summary 1" and "Answer: 1" are answers, which in a text that was cut
    off something may have followed that turns them round, and so is the last line of a longer text.
    """
    if (match := PLAIN.fullmatch(text)) is not None:
        return float(match[1] == "1")
    if boxed := {content.strip() for content in BOXED.findall(text)}:
        return float(boxed == {"1"}) if boxed in ({"1"}, {"2"}) else None
    lines = [line for line in text.splitlines() if line.strip()]
    if whole and lines and (match := LABELLED.fullmatch(lines[-1])) is not None:
        return float(match[1] == "1")
    return None


def _masses(top: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """P("1") and P("1") + P("2"); ValueError for what is no logarithm of a probability."""
    mass = {"1": 0.0, "2": 0.0}
    for alternative in top:
        token, value = _digit(alternative), alternative["logprob"]
        if value is None and token not in mass:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value <= 0.01:
            raise ValueError(f"a log-probability of {value!r:.20}")
        if token in mass:
            mass[token] += math.exp(value)
    total = sum(mass.values())
    if total > 1.05:  # digits and their variants with spaces are different tokens
        raise ValueError(f"probabilities that sum to {total:.3g}")
    return mass["1"], total


def _digit(token: Mapping[str, Any]) -> str:
    return ascii_digits(str(token["token"]).strip())


def read_answer(body: Any) -> Answer:
    """The answer in a completion; KeyError, TypeError, ValueError or IndexError where it is none.

    By the probabilities of the first token that is not white space, if it is a digit and they have it; else by the
    text. What stands before another token (a line break, "I cannot") says nothing of the digits, and neither do the
    tokens of thoughts.
    """
    choice = body["choices"][0]
    message, why = choice["message"], choice.get("finish_reason")
    text = _text(message.get("content"))
    if why == "content_filter":
        return Answer(None, "text", text[:KEPT], why=FILTERED)
    if message.get("refusal"):
        return Answer(None, "text", str(message["refusal"])[:KEPT], why=REFUSED)
    thoughts = message.get("reasoning_content") or message.get("reasoning") or OPEN.match(text)
    if closed := list(CLOSED.finditer(text)):  # its beginning may stand in the request
        thoughts, text = True, text[closed[-1].end() :]
    elif OPEN.match(text):
        return Answer(None, "text", text[:KEPT], why=CUT)
    if not text.strip():
        return Answer(None, "text", "", why=CUT if thoughts and why == "length" else SILENT)
    if not thoughts and (answer := _by_probabilities(choice, text)) is not None:
        return answer
    first = choice_in(ascii_digits(text), whole=why in ("stop", "end_turn", "eos"))
    return Answer(first, "text", text[:KEPT], why="" if first is not None else NEITHER)


def _by_probabilities(choice: Mapping[str, Any], text: str) -> Answer | None:
    """None where there are none of the digit that was said."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    first = next((token for token in tokens if str(token["token"]).strip()), None)
    if first is None or (digit := _digit(first)) not in ("1", "2"):
        return None
    spoken = ascii_digits(text)
    if MORE.match(spoken):
        return Answer(None, "text", text[:KEPT], why=NEITHER)
    top = first.get("top_logprobs") or []
    offered = {_digit(token) for token in top if token["logprob"] is not None}
    if digit not in offered or not spoken.lstrip().startswith(digit):
        return None
    first_mass, mass = _masses(top)
    return Answer(first_mass / mass, text=text[:KEPT], mass=min(mass, 1.0)) if mass > 0 else None


def _text(content: Any) -> str:
    """The message's text, whether it is one text or parts; TypeError if it is neither."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content if part.get("type") in ("text", "output_text", None)]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
    raise TypeError(f"content is {str(content)[:80]!r}")


# --- what is none -------------------------------------------------------------------------------------------

FILTER_CODES = {"content_filter", "content_policy_violation", "moderation_blocked", "data_inspection_failed"}
FILTER_WORDS = re.compile(
    r"content management policy|content[ _]filter|content policy|usage polic|flagged|moderation|inappropriate content"
    r"|safety (?:system|filter|setting)",
    re.IGNORECASE,
)
LONG_CODES = {"context_length_exceeded", "string_above_max_length", "request_too_large"}
LONG_WORDS = re.compile(
    r"context (?:length|window|size)|maximum (?:context|model|sequence|input) length|max_model_len|max(?:imum)? seq"
    r"|(?:prompt|input|request|message)s? (?:is |are |was )?(?:too (?:long|large)|exceed)|too many (?:input )?token"
    r"|exceeds? (?:the )?(?:model|maximum|context|limit)|longer than the",
    re.IGNORECASE,
)
QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"}
QUOTA_WORDS = re.compile(
    r"exceeded your current quota|insufficient[ _](?:quota|balance|credit|funds)|credit balance is too low",
    re.IGNORECASE,
)
UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|unrecognized|unknown|unexpected|not permitted|extra", re.IGNORECASE
)
READING = (msgspec.DecodeError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


class Refused(msgspec.Struct, frozen=True):
    """A server's error: its words, and the names that it gives to the kind of error and the parameter."""

    text: str
    names: frozenset[str] = frozenset()
    status: int | None = None  # the provider's, where another server passes it on

    @property
    def unanswered(self) -> str:
        """Why this request alone has no answer; empty: it is not about this request alone."""
        if self.names & FILTER_CODES or (not self.names & LONG_CODES and FILTER_WORDS.search(self.text)):
            return FILTERED
        return TOO_LONG if self.names & LONG_CODES or LONG_WORDS.search(self.text) else ""

    @property
    def quota(self) -> bool:
        return bool(self.names & QUOTA_CODES or QUOTA_WORDS.search(self.text))


def refused(body: bytes) -> Refused:
    """Of an answer that is an error: OpenAI's form and those near it, or a text."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Refused(body.decode(errors="replace"))
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    if not isinstance(error, dict):
        return Refused(str(error))
    names, status = set[str](), None
    inner = error.get("innererror")
    for level in (error, inner if isinstance(inner, dict) else {}):
        for name in ("code", "type", "param", "status"):
            value = level.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                status = value
            elif isinstance(value, str):
                names.add(value.lower())
    text = error.get("message") or error.get("detail") or decoded.get("message") or decoded.get("detail")
    return Refused(text if isinstance(text, str) else body.decode(errors="replace"), frozenset(names), status)


# --- many requests ------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """The parts of a request that depend on the server."""

    logprobs: bool  # whether they are asked for
    limit: str  # what judge.max_tokens is called


@dataclass
class Endpoint:
    """One model of one server. `asked` counts the requests that were sent, retries included."""

    settings: EndpointSettings
    model: str
    key: str | None = field(repr=False)
    cache: Cache
    stopping: Callable[[], bool] = lambda: False
    how: Request = PLAIN_REQUEST
    asked: int = 0
    _halted: bool = field(default=False, init=False)  # nobody waits for answers any more
    _failure: Exception | None = field(default=None, init=False)  # of one request for good: the others are not tried
    _readable: bool = field(default=False, init=False)  # this server has sent an answer
    _garbled: int = field(default=0, init=False)  # requests that ended without one that could be read
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __enter__(self) -> "Endpoint":
        to = self.settings
        self._form = Form(True, to.max_tokens_name)
        self._lines = Lines(to.base_url, self.key, to.timeout)
        where = request_key({"url": to.base_url.rstrip("/")}, self.model)[:16]
        self._pace = Pace(self.cache.folder / f"pace-{where}", to.requests_per_minute)
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    # --- many requests ------------------------------------------------------------------------------------

    def ask(self, prompts: Sequence[str]) -> list[Answer]:
        """An answer a prompt, in order.

        Raises StageError where the server refuses, or keeps on failing; all that was answered is in the cache by then.
        A request that alone gets nothing readable does not keep the others from being asked; a server that has never
        sent anything readable does. Interrupted between two requests, once the runner has to stop.
        """
        distinct = list(dict.fromkeys(prompts))
        self._halted, self._failure = False, None
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            futures = {pool.submit(self._one, prompt): prompt for prompt in distinct}
            try:
                answers, garbled = _gathered(futures)
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
        return [answers[prompt] for prompt in prompts]

    def request(self, prompt: str) -> dict[str, Any]:
        """The body that is sent, where the server takes all of it."""
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        for name in ("temperature", "max_tokens"):
            if (value := getattr(self.how, name)) is not None:
                body[name] = value
        return body | {"logprobs": True, "top_logprobs": TOP} | self.how.extra_body

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
                    if answer.why != TOO_LONG:  # the same model may get more room
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
            hopeless = not self._readable and self._garbled > self.settings.concurrency
        if hopeless:
            self._failure = StageError(f"{error}. Nothing else has come from there: is judge.base_url right?")
            raise self._failure from error

    # --- one request --------------------------------------------------------------------------------------

    def _asked(self, body: dict[str, Any]) -> Answer:
        """Ask until there is an answer, or no try left."""
        wait, problem, tries = self.settings.backoff, StageError(""), self.settings.retries + 1
        for attempt in range(tries):
            if attempt:
                self._sleep(min(wait, LONGEST_WAIT) * random.uniform(0.75, 1.25))
                wait *= 2
            self._turn()
            try:
                return self._tried(body)
            except (_Again, Garbled) as error:
                problem = error
        kind = Garbled if isinstance(problem, Garbled) else StageError
        raise kind(f"{problem} ({tries} tries; judge.retries)")

    def _tried(self, body: dict[str, Any]) -> Answer:
        """One request; _Again or Garbled for what may be better next time."""
        form = self._form
        reply = self._sent(body, form)
        while reply.status in (400, 422) and (other := self._adapted(form, refused(reply.body))) != form:
            self._turn()
            form, reply = other, self._sent(body, other)
        error = None if reply.status // 100 == 2 else refused(reply.body)
        try:
            completion = None if error else msgspec.json.decode(reply.body)
            if isinstance(completion, dict) and completion.get("error") and not completion.get("choices"):
                error = refused(reply.body)  # some say so with 200
            answer = self._refusal(reply, error) if error else read_answer(completion)
        except READING as why:
            start = self._shown(reply.body.decode(errors="replace"), 80)
            what = shown(f"{type(why).__name__}: {why}", 80, self.key)
            raise Garbled(f"{self._lines.named} sent no chat completion: {start!r} ({what})") from None
        self._readable = True
        return answer

    def _adapted(self, form: Form, error: Refused) -> Form:
        """In which form a refused request may be sent; others may have found that out while it was under way."""
        if error.unanswered or error.quota:
            return form
        with self._lock:
            if form.logprobs and "logprobs" in error.text:
                if self._form.logprobs:
                    print(f"{self._lines.named} has no logprobs: its text decides.")
                self._form = self._form._replace(logprobs=False)
                return form._replace(logprobs=False)
            other = OTHER_NAME[form.limit]
            if form.limit == self.settings.max_tokens_name and self.how.max_tokens and _unsupported(error, form.limit):
                if self._form.limit != other:
                    print(f"{self._lines.named} takes no {form.limit}: judge.max_tokens is sent as {other}.")
                self._form = self._form._replace(limit=other)
                return form._replace(limit=other)
        return form

    def _refusal(self, reply: Reply, error: Refused) -> Answer:
        """The answer None where an error is about this request alone; raises where it is about all requests."""
        status, named = reply.status, self._lines.named
        text = self._shown(error.text, 200)
        if status // 100 == 2:  # of a server that passes on what another says
            status = error.status if error.status and 400 <= error.status < 600 else 0
        if (error.quota and status in (0, 400, 402, 403, 429)) or status == 402:
            raise StageError(
                f"{named} says that the account has no credit left ({status}: {text}). Fill it up, and type the same "
                "command: what was answered is kept."
            )
        if status in (0, 400, 403, 413, 422, 451) and (why := error.unanswered):
            return Answer(None, "text", text, why=why)
        if status in TEMPORARY or status >= 500 or status == 0:
            if (seconds := retry_after(reply.headers.get("Retry-After", ""))) is not None:
                if seconds > LONGEST_WAIT:
                    raise StageError(
                        f"{named} says to come back in {seconds:.0f} s ({status}: {text}); at most "
                        f"{LONGEST_WAIT:.0f} s are waited. Type the same command then: what was answered is kept."
                    )
                self._pace.hold(seconds)
            raise _Again(f"{named} answered {status or reply.status}: {text}")
        if 300 <= status < 400:
            where = self._shown(reply.headers.get("Location", "elsewhere"), 200)
            raise StageError(
                f"{named} sends elsewhere ({status}: {where}). The key and the texts are not sent after it: if that is "
                "the server, name it as judge.base_url."
            )
        raise StageError(f"{named} refused a request of judge.model={self.model} ({status}): {text}"
                         f"{self._hint(status, error)}")  # fmt: skip

    def _hint(self, status: int, error: Refused) -> str:
        """The override to type, as far as the error tells."""
        if status in (400, 422):
            if _names(error, "temperature"):
                return " Type judge.temperature=null to leave the temperature to the server."
            if _names(error, "max_tokens") or _names(error, "max_completion_tokens"):
                return (
                    " Type judge.max_tokens=NUMBER for another limit, judge.max_tokens=null for none, or "
                    "judge.max_tokens_name=max_completion_tokens for its other name."
                )
            if extra := [name for name in self.how.extra_body if _names(error, name)]:
                return f" It is of judge.extra_body: leave out {extra[0]}, or give it another value."
        return {
            401: " Is the key in judge.api_key_env right?",
            404: " Are judge.base_url and judge.model right?",
            407: " Set the proxy's name and password in HTTPS_PROXY, or NO_PROXY for this server.",
        }.get(status, "")

    def _turn(self) -> None:
        """Return when the next request may be sent; Interrupted if none may be any more."""
        self._pace.wait(self._over)
        if self._over():
            raise Interrupted("between two requests to the judge; the answers are kept")

    def _sent(self, body: dict[str, Any], form: Form) -> Reply:
        with self._lock:
            self.asked += 1
        sent = {
            form.limit if name == "max_tokens" else name: value
            for name, value in body.items()
            if form.logprobs or name not in ("logprobs", "top_logprobs")
        }
        try:
            return self._lines.post(sent)
        except Unreachable as error:
            raise _Again(str(error)) from None
        except Unreadable as error:
            raise Garbled(str(error)) from None

    def _shown(self, text: str, most: int) -> str:
        return shown(text, most, self.key)

    def _over(self) -> bool:
        return self._halted or self._failure is not None or self.stopping()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._over():
            time.sleep(min(left, 0.2))


def _names(error: Refused, name: str) -> bool:
    return name in error.names or re.search(rf"\b{re.escape(name)}\b", error.text) is not None


def _unsupported(error: Refused, name: str) -> bool:
    """Whether a server says that it has no such parameter at all; of a value that it does not take, it has."""
    other = OTHER_NAME[name]
    if not _names(error, name):
        return False
    return _names(error, other) or "unsupported_parameter" in error.names or bool(UNSUPPORTED.search(error.text))


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
    answers: dict[str, Answer] = {}
    garbled: list[Garbled] = []
    for future in as_completed(futures):
        try:
            answers[futures[future]] = future.result()
        except Garbled as error:
            garbled.append(error)
    return answers, garbled
