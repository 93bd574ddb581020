"""Answers by content: whole or not at all, shared by threads and processes, at the pace of all together."""

import threading
import time
from pathlib import Path

from xling.judges.cache import Answer, Cache, Pace, request_key


def test_keys_are_of_the_model_and_all_of_the_request() -> None:
    one = request_key({"endpoint": "m"}, {"a": 1, "b": [2]})
    assert one == request_key({"endpoint": "m"}, {"b": [2], "a": 1})
    assert len({one, request_key({"local": "m"}, {"a": 1, "b": [2]}), request_key({"endpoint": "m"}, {"a": 1})}) == 3


def test_what_is_put_is_got(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path / "new"), request_key({}, "x")
    assert cache.get(key) is None
    for answer in (Answer(0.123456789012345), Answer(None, "text", "weiß nicht")):
        cache.put(key, answer)
        assert cache.get(key) == Cache(tmp_path / "new").get(key) == answer
    assert [path.name for path in (tmp_path / "new").rglob("*.*")] == [f"{key}.json"]


def test_a_damaged_file_is_asked_again(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), request_key({}, "x")
    cache.put(key, Answer(1.0))
    path = tmp_path / key[:2] / f"{key}.json"
    for content in (b"", path.read_bytes()[:-4], b'{"first": "1"}'):
        path.write_bytes(content)
        assert cache.get(key) is None


def test_one_asks_while_the_others_wait(tmp_path: Path) -> None:
    key, asked = request_key({}, "x"), []

    def work() -> None:
        cache = Cache(tmp_path)
        with cache.asking(key):
            if cache.get(key) is None:
                time.sleep(0.02)
                asked.append(1)
                cache.put(key, Answer(1.0))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1


def test_the_pace_is_that_of_all_together(tmp_path: Path) -> None:
    """Two clients of one clock: ten turns are nine intervals, never less."""
    paces = [Pace(tmp_path / "pace", 1200), Pace(tmp_path / "pace", 1200)]
    begin = time.time()
    for turn in range(10):
        paces[turn % 2].wait()
    assert time.time() - begin >= 9 * 0.05 - 0.001


def test_without_a_limit_nobody_waits_but_for_what_the_server_said(tmp_path: Path) -> None:
    pace, other = Pace(tmp_path / "pace", None), Pace(tmp_path / "pace", None)
    begin = time.time()
    other.hold(0.2)
    other.hold(0.05)  # the longer one stays
    pace.wait()
    assert time.time() - begin >= 0.2 - 0.001
    (tmp_path / "pace").write_text("nonsense")
    pace.wait()
