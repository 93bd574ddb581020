"""A judge behind a real HTTP server: every verdict once, nothing asked twice, whatever goes wrong on the way."""

import base64
import json
import math
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, completion, longer, texts_of

from xling.errors import ConfigError, StageError
from xling.grid.stage import Interrupted
from xling.judges.asking import EndpointSettings, Request, judge_prompt
from xling.judges.cache import Cache
from xling.judges.endpoint import (
    CUT,
    FILTERED,
    NEITHER,
    REFUSED,
    SILENT,
    TOO_LONG,
    Endpoint,
    choice_in,
    read_answer,
    retry_after,
)
from xling.judges.transport import proxy_of

PROMPTS = [judge_prompt("summarization", "German", "Ein Text.", "a" * (i + 1), "b" * 7) for i in range(24)]
EXPECTED = [longer({"messages": [{"content": prompt}]}) for prompt in PROMPTS]
GARBAGE: Reply = (200, {}, b'{"choices": [{"mess')


def endpoint(url: str, folder: Path, model: str = "judge-1", key: str | None = None, **changed: Any) -> Endpoint:
    """`changed`: of EndpointSettings, or of the endpoint: what is asked for, and whether to stop."""
    more = {name: changed.pop(name) for name in ("how", "stopping") if name in changed}
    settings = EndpointSettings(url, **{"timeout": 0.5, "backoff": 0.01, "retries": 3, **changed})
    return Endpoint(settings, model, key, Cache(folder), **more)


def ask(url: str, folder: Path, prompts: list[str] = PROMPTS, **changed: Any) -> list[float | None]:
    with endpoint(url, folder, **changed) as client:
        return [answer.first for answer in client.ask(prompts)]


def stored(folder: Path) -> int:
    return len(list(folder.glob("*/*.json")))


def test_probabilities_are_renormalised_over_the_two_digits(tmp_path: Path) -> None:
    server = ChatServer()
    with server.running() as url:
        assert ask(url, tmp_path) == pytest.approx(EXPECTED)
    assert len({round(p, 6) for p in EXPECTED}) == 24 and min(EXPECTED) < 0.5 < max(EXPECTED)
    assert all(body["temperature"] == 0 and body["model"] == "judge-1" for body in server.seen)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_faults_are_overcome_and_every_verdict_is_counted_once(tmp_path: Path, concurrency: int) -> None:
    faults: dict[int, Reply | str] = {
        0: (429, {"Retry-After": "0.05"}, b"slow down"),
        2: "hang",
        3: (500, {}, b"oops"),
        5: GARBAGE,
        6: "drop",
        9: (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""),
        11: (200, {}, b'{"error": "overloaded"}'),
        12: (200, {}, b"[]"),
        15: (429, {}, b""),
    }
    server = ChatServer(fault=lambda number, body: faults.get(number))
    with server.running() as url:
        assert ask(url, tmp_path, concurrency=concurrency) == pytest.approx(EXPECTED)
        assert len(server.seen) == len(PROMPTS) + len(faults)
        assert len(server.answered) == len(PROMPTS) and set(server.answered.values()) == {1}
        assert ask(url, tmp_path) == pytest.approx(EXPECTED)
    assert len(server.seen) == len(PROMPTS) + len(faults) and stored(tmp_path) == len(PROMPTS)


def test_equal_requests_are_one(tmp_path: Path) -> None:
    server = ChatServer()
    with server.running() as url:
        assert ask(url, tmp_path, [PROMPTS[0], PROMPTS[1], PROMPTS[0]]) == pytest.approx(
            [EXPECTED[0], EXPECTED[1], EXPECTED[0]]
        )
    assert len(server.seen) == 2


def test_another_model_is_asked_anew_and_another_url_is_not(tmp_path: Path) -> None:
    first, second = ChatServer(), ChatServer()
    with first.running() as url, second.running() as elsewhere:
        ask(url, tmp_path, PROMPTS[:3])
        ask(elsewhere, tmp_path, PROMPTS[:3])
        assert len(first.seen) == 3 and not second.seen
        with endpoint(elsewhere, tmp_path, "judge-2") as client:
            client.ask(PROMPTS[:3])
    assert len(second.seen) == 3


def test_retry_after_is_kept(tmp_path: Path) -> None:
    server = ChatServer(fault=lambda number, body: (429, {"Retry-After": "0.4"}, b"") if number == 1 else None)
    with server.running() as url:
        ask(url, tmp_path, PROMPTS[:4], concurrency=1)
    assert server.times[2] - server.times[1] >= 0.4


def test_a_server_that_asks_for_an_hour_is_an_error_at_once(tmp_path: Path) -> None:
    server = ChatServer(fault=lambda number, body: (429, {"Retry-After": "3600"}, b"quota"))
    with server.running() as url, pytest.raises(StageError, match=r"come back in 3600 s \(429: quota\)"):
        ask(url, tmp_path, PROMPTS[:1])
    assert len(server.seen) == 1


# --- what cannot be mended ----------------------------------------------------------------------------------


def test_a_request_that_stays_garbled_is_an_error_after_all_others(tmp_path: Path) -> None:
    poisoned = texts_of({"messages": [{"content": PROMPTS[4]}]})
    server = ChatServer(fault=lambda number, body: GARBAGE if texts_of(body) == poisoned else None)
    with server.running() as url:
        with pytest.raises(
            StageError, match=r"1 of 24 requests to the judge failed. .* sent no chat completion.*4 tries"
        ):
            ask(url, tmp_path)
        assert stored(tmp_path) == len(server.answered) == len(PROMPTS) - 1
        server.fault = lambda number, body: None
        assert ask(url, tmp_path) == pytest.approx(EXPECTED)
    assert set(server.answered.values()) == {1} and len(server.seen) == len(PROMPTS) - 1 + 4 + 1


def test_a_refusal_is_an_error_without_a_second_try(tmp_path: Path) -> None:
    server = ChatServer(fault=lambda number, body: (401, {}, b"invalid key"))
    with server.running() as url:
        for number in range(1, 11):  # the second request may be taken up at any moment
            with pytest.raises(StageError, match=r"\(401\): invalid key Is the key in judge.api_key"):
                ask(url, tmp_path, concurrency=1)
            assert len(server.seen) == number and stored(tmp_path) == 0


def test_a_refusal_halts_those_that_are_under_way(tmp_path: Path) -> None:
    """What the others are is interrupted; what the caller hears is the refusal."""
    server = ChatServer(fault=lambda number, body: (503, {}, b"") if number < 3 else (401, {}, b"invalid key"))
    with server.running() as url, pytest.raises(StageError, match=r"\(401\): invalid key"):
        ask(url, tmp_path, concurrency=4, backoff=60.0)
    assert len(server.seen) == 4


HTML: Reply = (200, {"Content-Type": "text/html"}, b"<!doctype html><title>Welcome</title>")


def test_a_server_that_is_none_is_asked_no_further(tmp_path: Path) -> None:
    server = ChatServer(fault=lambda number, body: HTML)
    with server.running() as url:
        with pytest.raises(StageError, match=r"<!doctype html>.*\(2 tries.*is judge.base_url right\?"):
            ask(url, tmp_path, concurrency=1, retries=1)
        assert len(server.seen) == 4  # two requests, each twice
        with pytest.raises(StageError, match=r"is judge\.base_url right"):
            ask(url, tmp_path, concurrency=3, retries=0)
    assert 4 + 4 <= len(server.seen) <= 4 + 3 + 4


def test_a_server_that_has_answered_before_is_not_given_up(tmp_path: Path) -> None:
    server = ChatServer(fault=lambda number, body: HTML if 0 < number < 20 else None)
    with server.running() as url, pytest.raises(StageError, match=r"^19 of 24 requests to the judge failed"):
        ask(url, tmp_path, concurrency=1, retries=0)
    assert len(server.seen) == len(PROMPTS) and stored(tmp_path) == 5


def test_nobody_there(tmp_path: Path) -> None:
    with ChatServer().running() as url:
        pass
    with pytest.raises(StageError, match=r"cannot be reached: ConnectError .*\(2 tries; judge.retries\)"):
        ask(url, tmp_path, retries=1)


def test_the_key_is_sent_and_written_nowhere(tmp_path: Path) -> None:
    server = ChatServer()
    with server.running() as url, endpoint(url, tmp_path, key="s3cret") as client:
        client.ask(PROMPTS[:2])
        assert "s3cret" not in repr(client)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer s3cret"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_a_key_that_cannot_be_sent_is_in_no_error(tmp_path: Path) -> None:
    server = ChatServer()
    with server.running() as url, endpoint(url, tmp_path, key="s3cret\r") as client:
        with pytest.raises(StageError, match=r"cannot be sent: LocalProtocolError\.$") as caught:
            client.ask(PROMPTS[:1])
        assert client.asked == 1 and not server.seen
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_key_that_the_server_repeats_is_in_no_error(tmp_path: Path, status: int) -> None:
    server = ChatServer(fault=lambda number, body: (status, {}, b"who is s3cret?"))
    with (
        server.running() as url,
        endpoint(url, tmp_path, key="s3cret", retries=0) as client,
        pytest.raises(StageError, match=r"who is \[key\]\?") as caught,
    ):
        client.ask(PROMPTS[:1])
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# --- answers ------------------------------------------------------------------------------------------------


def test_a_server_without_logprobs_is_asked_for_the_text(tmp_path: Path) -> None:
    server = ChatServer(logprobs=False)
    with server.running() as url:
        found = ask(url, tmp_path, concurrency=1)
        assert found == [float(p > 0.5) for p in EXPECTED]
        assert len(server.seen) == len(PROMPTS) + 1  # one was refused
        ask(url, tmp_path)
    assert len(server.seen) == len(PROMPTS) + 1
    assert sum("logprobs" in body for body in server.seen) == 1


def test_an_answer_that_is_neither_is_counted_and_not_asked_again(tmp_path: Path) -> None:
    server = ChatServer(text=lambda body: "Both are fine." if len(texts_of(body)[0]) % 2 else " 2.\n")
    with server.running() as url:
        assert ask(url, tmp_path) == [None, 0.0] * 12
        assert ask(url, tmp_path) == [None, 0.0] * 12
    assert len(server.seen) == len(PROMPTS)


def test_the_text_is_asked_for_at_its_turn(tmp_path: Path) -> None:
    """Without logprobs the first request is two, and the pace is that of both."""
    server = ChatServer(logprobs=False)
    with server.running() as url:
        ask(url, tmp_path, PROMPTS[:1], requests_per_minute=200)
    assert len(server.times) == 2 and server.times[1] - server.times[0] >= 0.3 - 0.02


def test_a_slash_at_the_end_is_the_same_server(tmp_path: Path) -> None:
    with ChatServer().running() as url:
        ask(url, tmp_path, PROMPTS[:1])
        ask(f"{url}/", tmp_path, PROMPTS[1:2])
    assert len(list(tmp_path.glob("pace-*"))) == 1


@pytest.mark.parametrize("text", ["1", " 1", "1.", "**1**", "(1)", "1\n", '"1"', "„1“", "1!", "`1`", "[1]", "\n\n1.\n"])
def test_a_clear_answer(text: str) -> None:
    assert choice_in(text) == 1.0


@pytest.mark.parametrize(
    "text",
    ["", "3", "12", "1.5", "1 or 2", "1/2", "Summary 1", "1st", "one", "I prefer 2", "1, 2", "１", "-1 of 2",
     "1 is worse", "1, no", "-1", "1%", "1 because it is", "1 – klar", "1?", "1:", "#1", "1,"],
)  # fmt: skip
def test_an_unclear_answer_is_none(text: str) -> None:
    assert choice_in(text) is None


def test_without_a_digit_among_the_alternatives_the_text_decides() -> None:
    body = json.loads(completion("2", 0.9))
    assert read_answer(body).first == pytest.approx(0.9)
    body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = [{"token": "Hm", "logprob": 0.0}]
    assert (read_answer(body).first, read_answer(body).by) == (0.0, "text")
    body["choices"][0]["message"]["content"] = None  # a refusal
    assert read_answer(body).first is None


def spoken(text: str, *tokens: tuple[str, dict[str, float]]) -> Any:
    """A completion with the alternatives to each of its tokens."""
    content = [
        {"token": token, "logprob": 0.0, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
        for token, top in tokens
    ]
    return {"choices": [{"message": {"content": text}, "logprobs": {"content": content}}]}


def test_only_the_digits_count_among_the_alternatives() -> None:
    top = {"1": -1.0, " 1": -2.0, "\n": -0.1}
    found = read_answer(spoken("1", ("1", top)))
    assert (found.first, found.by, found.mass) == (1.0, "probabilities", pytest.approx(math.exp(-1) + math.exp(-2)))
    assert read_answer(spoken("1", ("1", {"1": -1.0, "2": -1.0, "\n": -0.1}))).first == 0.5
    none = [read_answer(spoken("1", ("1", alternatives))) for alternatives in ({"\n": -0.1}, {})]
    assert [(answer.first, answer.by) for answer in none] == [(1.0, "text")] * 2


def test_the_first_token_that_is_not_blank_is_read() -> None:
    found = read_answer(spoken("\n2", ("\n", {"\n": -0.1, "1": -6.0}), ("2", {"2": -0.1, "1": -3.0})))
    assert found.first == pytest.approx(math.exp(-3) / (math.exp(-3) + math.exp(-0.1)))
    assert found.by == "probabilities"


def test_probabilities_of_what_was_not_said_do_not_decide() -> None:
    prose = read_answer(spoken("I cannot decide", ("I", {"I": -0.1, "1": -6.0}), (" cannot", {" cannot": 0.0})))
    assert (prose.first, prose.by) == (None, "text")
    elsewhere = read_answer(spoken("2", ("2", {"1": -0.1})))  # alternatives that lack what was said
    assert (elsewhere.first, elsewhere.by) == (0.0, "text")
    assert read_answer(spoken("\n", ("\n", {"\n": -0.1, "1": -6.0}))).first is None


def test_retry_after_headers() -> None:
    assert [retry_after(value) for value in ("nan", "inf", "-inf", "1e999")] == [None] * 4
    assert (
        retry_after("2.5") == 2.5 and retry_after("-1") == 0 and retry_after("soon") is None and retry_after("") is None
    )
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


# --- each way of saying it: read rightly, or unanswered -----------------------------------------------------


def chat(content: Any, finish: str = "stop", **more: Any) -> Any:
    return {"choices": [{"index": 0, "message": {"content": content, **more}, "finish_reason": finish}]}


READ: list[tuple[Any, float | None, str]] = [
    (chat("\\boxed{1}"), 1.0, ""),
    (chat("So $\\boxed{\\text{2}}$."), 0.0, ""),
    (chat("\\boxed{1} or \\boxed{2}"), None, NEITHER),
    (chat("\\boxed{12}"), None, NEITHER),
    (chat("Answer: 1"), 1.0, ""),
    (chat("**Answer:** 2"), 0.0, ""),
    (chat("The final answer is Summary 2."), 0.0, ""),
    (chat("Summary 1"), 1.0, ""),
    (chat("Coverage is better in the second.\n\nBetter summary (1 or 2): 2"), 0.0, ""),
    (chat("Answer: 1 or 2"), None, NEITHER),
    (chat("Answer: 12"), None, NEITHER),
    (chat("Worse summary: 1"), None, NEITHER),
    (chat("Answer: not 1"), None, NEITHER),
    (chat("Answer: 1", "length"), None, NEITHER),  # and what would have come?
    (chat("1", "length"), 1.0, ""),  # max_tokens=1 is how some ask
    (chat("\uff11"), 1.0, ""),
    (chat("\u0662"), 0.0, ""),  # Arabic
    (chat("\u0967."), 1.0, ""),  # Devanagari
    (chat("\u00b9"), None, NEITHER),  # a footnote
    (chat([{"type": "text", "text": "1"}]), 1.0, ""),
    (
        chat([{"type": "thinking", "thinking": [{"type": "text", "text": "2?"}]}, {"type": "text", "text": "1"}]),
        1.0,
        "",
    ),
    (chat([]), None, SILENT),
    (chat("<think>\n1 looks fine, but</think>\n\n2"), 0.0, ""),
    (chat("1 looks fine, but</think>\n2"), 0.0, ""),  # it began in the request
    (chat("<think>\nOkay, let"), None, CUT),
    (chat(None, "length", reasoning_content="Okay, let us see"), None, CUT),
    (chat("2", reasoning_content="1 is fine, but"), 0.0, ""),
    (chat(None, reasoning="1"), None, SILENT),
    (chat(""), None, SILENT),
    (chat("1", "content_filter"), None, FILTERED),
    (chat(None, "content_filter", refusal="no"), None, FILTERED),
    (chat(None, refusal="I'm sorry"), None, REFUSED),
    (chat(None, "tool_calls", tool_calls=[{"id": "x"}]), None, SILENT),
]


@pytest.mark.parametrize(("body", "first", "why"), READ)
def test_what_was_said_is_read_rightly_or_is_no_answer(body: Any, first: float | None, why: str) -> None:
    answer = read_answer(body)
    assert (answer.first, answer.why) == (first, why)


def with_tokens(body: Any, *tokens: tuple[str, dict[str, Any]]) -> Any:
    body["choices"][0]["logprobs"] = spoken("", *tokens)["choices"][0]["logprobs"]
    return body


def test_probabilities_of_a_thoughts_first_token_do_not_decide() -> None:
    one = ("1", {"1": -0.01, "2": -5.0})
    for body in (chat("2", reasoning_content="1. Coherence"), chat("<think>1. </think>2"), chat("2", reasoning="1.")):
        assert (read_answer(with_tokens(body, one)).first, read_answer(body).by) == (0.0, "text")
    assert read_answer(with_tokens(chat("2"), one)).first == 0.0  # tokens of something else


@pytest.mark.parametrize(
    "text", ["12", "1.5", "1st", "1%", "1/2", "1 or 2", "1 and 2 are equal", "1-2", "2, 1", "1 & 2"]
)
def test_a_digit_that_is_part_of_something_else_is_no_answer(text: str) -> None:
    found = read_answer(with_tokens(chat(text), (text[0], {"1": -0.1, "2": -3.0}), (text[1:], {})))
    assert (found.first, found.why) == (None, NEITHER)


def test_the_mass_of_the_digits_is_kept() -> None:
    found = read_answer(with_tokens(chat("1"), ("1", {"1": math.log(0.3), " 2": math.log(0.1), "The": -0.6})))
    assert (found.first, found.mass) == (pytest.approx(0.75), pytest.approx(0.4))
    arabic = read_answer(with_tokens(chat("\u0661"), ("\u0661", {"\u0661": math.log(0.6), "2": math.log(0.2)})))
    assert (arabic.first, arabic.mass) == (pytest.approx(0.75), pytest.approx(0.8))
    assert read_answer(with_tokens(chat("1"), ("1", {"1": -0.1, "2": -9999.0}))).first == 1.0
    assert read_answer(with_tokens(chat("1"), ("1", {"1": None}))).by == "text"  # not offered
    assert read_answer(with_tokens(chat("1"), ("token_id:16", {"token_id:16": -0.1}))).by == "text"


@pytest.mark.parametrize("value", [710, 0.5, "high", True, [1]])
def test_what_is_no_log_probability_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        read_answer(with_tokens(chat("1"), ("1", {"1": value, "2": -3.0})))
    with pytest.raises(ValueError, match="sum to"):
        read_answer(with_tokens(chat("1"), ("1", {"1": 0.0, "2": 0.0})))


# --- one request that the server will not take --------------------------------------------------------------


def error(status: int, message: str, **more: Any) -> Reply:
    return status, {}, json.dumps({"error": {"message": message, **more}}).encode()


ALONE = [
    (error(400, "The response was filtered due to the content management policy.", code="content_filter"), FILTERED),
    (error(403, "Your input was flagged by moderation"), FILTERED),
    (error(400, "", innererror={"code": "ResponsibleAIPolicyViolation"}, code="content_filter"), FILTERED),
    (error(200, "filtered", code="content_filter"), FILTERED),
    (error(400, "This model's maximum context length is 4096 tokens.", code="context_length_exceeded"), TOO_LONG),
    (error(400, "The prompt is too long: 9000 tokens"), TOO_LONG),
    ((413, {}, b"request is too large"), TOO_LONG),
    (
        (400, {}, b'{"object":"error","message":"maximum context length is 4096 tokens, max_tokens","code":400}'),
        TOO_LONG,
    ),
]


@pytest.mark.parametrize(("reply", "why"), ALONE)
def test_one_such_prompt_is_one_request_without_an_answer(tmp_path: Path, reply: Reply, why: str) -> None:
    poisoned = texts_of({"messages": [{"content": PROMPTS[4]}]})
    server = ChatServer(fault=lambda number, body: reply if texts_of(body) == poisoned else None)
    with server.running() as url, endpoint(url, tmp_path) as client:
        found = client.ask(PROMPTS)
    assert (found[4].first, found[4].why) == (None, why)
    assert [a.first for a in found[:4] + found[5:]] == pytest.approx(EXPECTED[:4] + EXPECTED[5:])
    assert len(server.seen) == len(PROMPTS)


BROKE = [
    error(429, "You exceeded your current quota", code="insufficient_quota"),
    error(402, "Insufficient credits"),
    error(200, "x", type="insufficient_quota"),
]


@pytest.mark.parametrize("reply", BROKE)
def test_without_credit_nothing_is_asked_again(tmp_path: Path, reply: Reply) -> None:
    server = ChatServer(fault=lambda number, body: reply)
    with (
        server.running() as url,
        pytest.raises(StageError, match=r"account has no credit left .* type the same command"),
    ):
        ask(url, tmp_path, concurrency=1)
    assert len(server.seen) == 1


def test_an_error_in_a_completions_place_is_asked_again(tmp_path: Path) -> None:
    faults = {
        0: error(200, "Provider returned error", code=502),
        1: (200, {}, b'{"choices": null}'),
        2: (200, {}, b"[1"),
    }
    server = ChatServer(fault=lambda number, body: faults.get(number))
    with server.running() as url:
        assert ask(url, tmp_path, PROMPTS[:1], concurrency=1) == pytest.approx(EXPECTED[:1])
    assert len(server.seen) == 4


# --- parameters that a server does not take -----------------------------------------------------------------


def test_the_limits_other_name_is_found_out_and_the_answers_are_the_same_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    says = error(400, message, param="max_tokens", code="unsupported_parameter")
    server = ChatServer(fault=lambda number, body: says if "max_tokens" in body else None)
    with server.running() as url:
        assert ask(url, tmp_path, concurrency=1) == pytest.approx(EXPECTED)
        assert len(server.seen) == len(PROMPTS) + 1 and server.seen[-1]["max_completion_tokens"] == 4
        assert ask(url, tmp_path, max_tokens_name="max_completion_tokens") == pytest.approx(EXPECTED)
    assert len(server.seen) == len(PROMPTS) + 1
    assert "takes no max_tokens: judge.max_tokens is sent as max_completion_tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("Unsupported value: 'temperature' does not support 0 with this model.", r"Type judge\.temperature=null"),
        ("max_tokens is too small: at least 16", r"Type judge\.max_tokens=NUMBER"),
        ("reasoning_effort: unknown value", r"of judge\.extra_body: leave out reasoning_effort"),
    ],
)
def test_a_refused_parameter_says_what_to_type(tmp_path: Path, message: str, hint: str) -> None:
    how = Request(extra_body={"reasoning_effort": "none"})
    server = ChatServer(fault=lambda number, body: error(400, message))
    with server.running() as url, pytest.raises(StageError, match=hint):
        ask(url, tmp_path, PROMPTS[:1], how=how)
    assert len(server.seen) == 1


def test_what_is_null_is_not_sent_and_what_is_added_is(tmp_path: Path) -> None:
    server = ChatServer()
    with server.running() as url:
        ask(url, tmp_path, PROMPTS[:1], how=Request(None, None, {"seed": 3, "provider": {"order": ["a"]}}))
        (body,) = server.seen
        assert not {"max_tokens", "temperature"} & set(body) and (body["seed"], body["provider"]) == (
            3,
            {"order": ["a"]},
        )
        ask(url, tmp_path, PROMPTS[:1])  # is another request
    assert len(server.seen) == 2


@pytest.mark.parametrize("refused", ["logprobs", "max_tokens"])
def test_what_is_found_out_while_others_are_under_way_goes_for_them_too(tmp_path: Path, refused: str) -> None:
    """Eight at once in the first form; each of them is refused, and asked again in the other one."""
    says = error(400, f"Unsupported parameter: '{refused}' is not supported")
    gathered = threading.Barrier(8)

    def fault(number: int, body: Any) -> Reply | None:
        if number < 8:
            gathered.wait(5)
        return says if refused in body else None

    server = ChatServer(fault=fault)
    with server.running() as url:
        assert None not in ask(url, tmp_path, PROMPTS[:8], concurrency=8, timeout=5.0)
    assert len(server.seen) == 16 and sum(refused in body for body in server.seen) == 8


# --- servers that mean no good ------------------------------------------------------------------------------


def packed(size: int) -> bytes:
    maker = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(maker.compress(b" " * (1 << 20)) for _ in range(size)) + maker.flush()


def test_an_answer_that_unpacks_to_a_hundred_megabytes_takes_no_memory(tmp_path: Path) -> None:
    bomb: Reply = (200, {"Content-Encoding": "gzip"}, packed(100))
    with ChatServer(fault=lambda number, body: bomb).running() as url:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(StageError, match="sent an answer of more than 8 MB"):
            ask(url, tmp_path, PROMPTS[:1], retries=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


def test_a_packed_answer_is_read(tmp_path: Path) -> None:
    packers = {"gzip": 31, "deflate": 15, "DEFLATE": -15}
    for number, (name, window) in enumerate(packers.items()):
        maker = zlib.compressobj(9, zlib.DEFLATED, window)
        reply = (200, {"Content-Encoding": name}, maker.compress(completion("1", 0.75)) + maker.flush())
        with ChatServer(fault=lambda number, body, reply=reply: reply).running() as url:  # type: ignore[misc]
            assert ask(url, tmp_path / str(number), PROMPTS[:1]) == [pytest.approx(0.75)]


@pytest.mark.parametrize("how", ["dripping", "dripping_head", "endless"])
def test_every_answer_ends(tmp_path: Path, how: str) -> None:
    """Byte after byte, each in good time, or without an end."""
    over = threading.Event()

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection = listening.accept()[0]
                with suppress(OSError), connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n" + (b"" if how == "dripping_head" else b"\r\n"))
                    while not over.wait(0 if how == "endless" else 0.02):
                        connection.sendall(b" " * (1 << 16) if how == "endless" else b"X")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        url, begun = f"http://127.0.0.1:{listening.getsockname()[1]}/v1", time.monotonic()
        sentence = "of more than 8 MB" if how == "endless" else r"no whole answer in 0\.4 s, twice judge\.timeout"
        with pytest.raises(StageError, match=sentence):
            ask(url, tmp_path, PROMPTS[:1], retries=0, timeout=0.2)
        assert time.monotonic() - begun < 2
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 100_000, b'{"choices": NaN}', "\u00e9".encode("latin1")])
def test_what_is_no_json_is_no_crash(tmp_path: Path, body: bytes) -> None:
    server = ChatServer(fault=lambda number, _: (200, {}, body))
    with server.running() as url, pytest.raises(StageError, match="sent no chat completion") as caught:
        ask(url, tmp_path, PROMPTS[:1], retries=0)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nobody_else_gets_the_key(tmp_path: Path, status: int) -> None:
    thief = ChatServer()
    with thief.running() as elsewhere:
        server = ChatServer(fault=lambda number, body: (status, {"Location": f"{elsewhere}/chat/completions"}, b""))
        with (
            server.running() as url,
            endpoint(url, tmp_path, key="s3cret", retries=0) as client,
            pytest.raises(StageError, match=r"sends elsewhere .*/chat/completions.* name it as judge\.base_url"),
        ):
            client.ask(PROMPTS[:1])
    assert len(server.seen) == 1 and not thief.seen


REPEATED = [
    "s3cret-key+/",
    "Bearer s3cret-key+/ \x1b[31m\x1b]0;x\x07",
    "s3cret-key%2B%2F",
    base64.b64encode(b"s3cret-key+/").decode(),
    base64.b64encode(b"Bearer s3cret-key+/").decode(),
    base64.urlsafe_b64encode(b"x s3cret-key+/ y").decode(),
    json.dumps({"error": {"message": "\u202e your key s3cret-key+/ \u2066"}}),
]


@pytest.mark.parametrize("said", REPEATED)
def test_an_error_shows_neither_the_key_nor_control_codes(tmp_path: Path, said: str) -> None:
    server = ChatServer(fault=lambda number, body: (401, {}, said.encode() + b" " + b"x" * 200_000))
    with (
        server.running() as url,
        endpoint(url, tmp_path, key="s3cret-key+/", retries=0) as client,
        pytest.raises(StageError, match=r"\(401\)") as caught,
    ):
        client.ask(PROMPTS[:1])
    shown = str(caught.value)
    assert len(shown) < 450 and shown.isprintable()
    assert "s3cret" not in shown and base64.b64encode(b"s3cret")[:6].decode() not in shown and "key%2B" not in shown


# --- proxies ------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    for name in ("http", "https", "all", "no"):
        for one in (f"{name}_proxy", f"{name}_proxy".upper()):
            monkeypatch.delenv(one, raising=False)

    def named(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return named


def test_this_machine_is_never_asked_for_through_a_proxy(tmp_path: Path, proxied: Callable[..., None]) -> None:
    proxied(HTTP_PROXY="http://127.0.0.1:9", ALL_PROXY="socks5://127.0.0.1:9")
    with ChatServer().running() as url:
        assert ask(url, tmp_path, PROMPTS[:1], retries=0) == pytest.approx(EXPECTED[:1])
    hosts = ("localhost:1", "[::1]:1", "127.9.9.9", "0.0.0.0:8000", "judge.localhost")
    assert [proxy_of(f"http://{host}/v1") for host in hosts] == [None] * 5


def test_the_environments_proxy_is_used_and_named(tmp_path: Path, proxied: Callable[..., None]) -> None:
    server = ChatServer()
    with server.running() as url:
        proxied(HTTP_PROXY=url.replace("http://", "http://me:pass@").removesuffix("/v1"))
        port = url.split(":")[2].removesuffix("/v1")
        sentence = rf"judge\.invalid/v1 \(through the proxy http://127\.0\.0\.1:{port}\)"
        with (
            endpoint("http://judge.invalid/v1", tmp_path, retries=0) as client,
            pytest.raises(StageError, match=sentence) as caught,
        ):
            client.ask(PROMPTS[:1])  # it is asked for a whole URL, and this one knows paths alone
        assert "pass" not in str(caught.value)
        proxied(NO_PROXY="judge.invalid")
        assert proxy_of("http://judge.invalid/v1") is None and proxy_of("http://other.invalid/v1") is not None


@pytest.mark.parametrize(
    ("name", "value"), [("HTTPS_PROXY", "ftp://proxy:21"), ("ALL_PROXY", "http://[::1"), ("https_proxy", "gopher")]
)
def test_what_is_no_proxy_is_said(proxied: Callable[..., None], name: str, value: str) -> None:
    proxied(**{name: value})
    if value == "gopher":
        assert proxy_of("https://judge.invalid/v1") == "http://gopher"
        return
    with pytest.raises(
        ConfigError, match=r"proxy for judge\.invalid .* is no URL of a proxy.* NO_PROXY=judge\.invalid"
    ):
        proxy_of("https://judge.invalid/v1")


# --- kills and restarts -------------------------------------------------------------------------------------

ASKING = """
import json, sys
from pathlib import Path
from xling.judges.asking import EndpointSettings
from xling.judges.cache import Cache
from xling.judges.endpoint import Endpoint
url, folder, prompts = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
with Endpoint(EndpointSettings(url, concurrency=2), "judge-1", None, Cache(folder)) as client:
    print(json.dumps([answer.first for answer in client.ask(prompts)]))
"""


def process(url: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASKING, url, str(folder), json.dumps(PROMPTS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_server_that_dies_and_comes_back_elsewhere(tmp_path: Path) -> None:
    first, second = ChatServer(), ChatServer()
    first.fault = lambda number, body: "drop" if number >= 10 else None  # dead from here on
    with first.running() as url, pytest.raises(StageError, match="cannot be reached"):
        ask(url, tmp_path, retries=1)
    kept = stored(tmp_path)
    assert kept == len(first.answered) == 10
    with second.running() as url:
        assert ask(url, tmp_path) == pytest.approx(EXPECTED)
    both = first.answered + second.answered
    assert len(both) == len(PROMPTS) and set(both.values()) == {1}


def test_a_killed_client_goes_on_where_it_was(tmp_path: Path) -> None:
    server = ChatServer(delay=0.05)
    with server.running() as url:
        victim = process(url, tmp_path)
        while stored(tmp_path) < 6:
            assert victim.poll() is None
            time.sleep(0.005)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        kept = stored(tmp_path)
        assert 6 <= kept < len(PROMPTS)
        with endpoint(url, tmp_path) as client:
            assert [answer.first for answer in client.ask(PROMPTS)] == pytest.approx(EXPECTED)
            assert client.asked == len(PROMPTS) - kept
    assert len(server.answered) == len(PROMPTS)
    # what was under way at the kill, at most two requests, was answered to nobody
    assert sum(server.answered.values()) <= len(PROMPTS) + 2


def test_two_processes_at_once_ask_everything_once(tmp_path: Path) -> None:
    server = ChatServer(delay=0.02)
    with server.running() as url:
        outputs = [json.loads(each.communicate()[0]) for each in [process(url, tmp_path), process(url, tmp_path)]]
    assert outputs[0] == outputs[1] == pytest.approx(EXPECTED)
    assert len(server.answered) == len(server.seen) == len(PROMPTS)


def test_a_runner_that_has_to_stop_interrupts_between_two_requests(tmp_path: Path) -> None:
    server = ChatServer()
    with server.running() as url:
        with pytest.raises(Interrupted, match="the answers are kept"):
            ask(url, tmp_path, concurrency=1, stopping=lambda: len(server.seen) >= 5)
        assert len(server.seen) == stored(tmp_path) == 5
        assert ask(url, tmp_path) == pytest.approx(EXPECTED)
    assert len(server.seen) == len(PROMPTS)
