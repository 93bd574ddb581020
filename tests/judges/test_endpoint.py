"""A judge behind a real HTTP server: every verdict once, nothing asked twice, whatever goes wrong on the way."""

import json
import math
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, completion, longer, texts_of

from xling.errors import StageError
from xling.grid.stage import Interrupted
from xling.judges.cache import Cache
from xling.judges.endpoint import Endpoint, probability, read_answer, retry_after, said
from xling.judges.prompts import judge_prompt

PROMPTS = [judge_prompt("summarization", "German", "Ein Text.", "a" * (i + 1), "b" * 7) for i in range(24)]
EXPECTED = [longer({"messages": [{"content": prompt}]}) for prompt in PROMPTS]
GARBAGE: Reply = (200, {}, b'{"choices": [{"mess')


def endpoint(url: str, folder: Path, **changed: Any) -> Endpoint:
    settings: dict[str, Any] = {"timeout": 0.5, "backoff": 0.01, "retries": 3, **changed}
    return Endpoint(url, "judge-1", None, Cache(folder), **settings)


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
        with Endpoint(elsewhere, "judge-2", None, Cache(tmp_path)) as client:
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
    with server.running() as url, Endpoint(url, "m", "s3cret", Cache(tmp_path)) as client:
        client.ask(PROMPTS[:2])
        assert "s3cret" not in repr(client)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer s3cret"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_a_key_that_cannot_be_sent_is_in_no_error(tmp_path: Path) -> None:
    server = ChatServer()
    with server.running() as url, Endpoint(url, "m", "s3cret\r", Cache(tmp_path), backoff=0.01) as client:
        with pytest.raises(StageError, match=r"cannot be sent: LocalProtocolError\.$") as caught:
            client.ask(PROMPTS[:1])
        assert client.asked == 1 and not server.seen
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_key_that_the_server_repeats_is_in_no_error(tmp_path: Path, status: int) -> None:
    server = ChatServer(fault=lambda number, body: (status, {}, b"who is s3cret?"))
    with (
        server.running() as url,
        Endpoint(url, "m", "s3cret", Cache(tmp_path), retries=0) as client,
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
        ask(url, tmp_path, PROMPTS[:1], per_minute=200)
    assert len(server.times) == 2 and server.times[1] - server.times[0] >= 0.3 - 0.02


def test_a_slash_at_the_end_is_the_same_server(tmp_path: Path) -> None:
    with ChatServer().running() as url:
        ask(url, tmp_path, PROMPTS[:1])
        ask(f"{url}/", tmp_path, PROMPTS[1:2])
    assert len(list(tmp_path.glob("pace-*"))) == 1


@pytest.mark.parametrize("text", ["1", " 1", "1.", "**1**", "(1)", "1\n", '"1"', "„1“", "1!", "`1`", "[1]", "\n\n1.\n"])
def test_a_clear_answer(text: str) -> None:
    assert said(text) == 1.0


@pytest.mark.parametrize(
    "text",
    ["", "3", "12", "1.5", "1 or 2", "1/2", "Summary 1", "1st", "one", "I prefer 2", "1, 2", "１", "-1 of 2",
     "1 is worse", "1, no", "-1", "1%", "1 because it is", "1 – klar", "1?", "1:", "#1", "1,"],
)  # fmt: skip
def test_an_unclear_answer_is_none(text: str) -> None:
    assert said(text) is None


def test_only_the_digits_count_among_the_alternatives() -> None:
    top = [{"token": "1", "logprob": -1.0}, {"token": " 1", "logprob": -2.0}, {"token": "\n", "logprob": -0.1}]
    assert probability(top) == 1.0
    assert probability([*top[:1], {"token": "2", "logprob": -1.0}]) == 0.5
    assert probability(top[2:]) is None and probability([]) is None


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


# --- kills and restarts -------------------------------------------------------------------------------------

ASKING = """
import json, sys
from pathlib import Path
from xling.judges.cache import Cache
from xling.judges.endpoint import Endpoint
url, folder, prompts = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
with Endpoint(url, "judge-1", None, Cache(folder), concurrency=2) as client:
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
