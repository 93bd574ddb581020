"""Who is asked: an endpoint, or a model that is loaded here once something is not in the cache.

with asker(identity, endpoint, folder, cache, stopping) as ask:
    answers = ask(prompts)
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from xling.config.common import TEMPLATE_DATE
from xling.errors import StageError
from xling.judges.asking import NOT_SENDABLE, PLAIN_REQUEST, Ask, EndpointSettings, Request, sendable
from xling.judges.cache import Answer, Cache, request_key
from xling.judges.endpoint import Endpoint


@contextmanager
def asker(
    identity: Mapping[str, str],
    endpoint: EndpointSettings | None,
    folder: Path | None,
    cache: Cache,
    stopping: Callable[[], bool],
    request: Request = PLAIN_REQUEST,
    template_date: str = TEMPLATE_DATE,
) -> Iterator[Ask]:
    """Requests to answers, one each. `identity`: which model, for the cache; `folder`: of a local one, whose chat
    template is told that `template_date` is today; `request`: of an endpoint."""
    if endpoint is None:
        assert folder is not None
        yield _local({**identity, "template_date": template_date}, folder, cache, template_date)
        return
    key = _key(endpoint.api_key_env)
    with Endpoint(endpoint, identity["endpoint"], key, cache, stopping, request) as client:
        yield client.ask
        print(f"{client.asked} requests sent to {endpoint.base_url}")


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "")
    if not key:
        raise StageError(f"The environment variable {name} (judge.api_key_env) is not set where this stage runs.")
    if not sendable(key):
        raise StageError(f"The environment variable {name} (judge.api_key_env) holds no key: {NOT_SENDABLE}")
    return key


def _local(identity: Mapping[str, str], folder: Path, cache: Cache, template_date: str) -> Ask:
    """A model that is loaded once something is not in the cache."""
    loaded: list[Callable[[Sequence[str]], list[Answer]]] = []

    def ask(prompts: Sequence[str]) -> list[Answer]:
        keys = {prompt: request_key(identity, prompt) for prompt in prompts}
        answers = {prompt: cache.get(key) for prompt, key in keys.items()}
        missing = [prompt for prompt, answer in answers.items() if answer is None]
        if missing and not loaded:
            from xling.judges.local import load_local_judge

            loaded.append(load_local_judge(folder, template_date).answers)
        for prompt, new in zip(missing, loaded[0](missing) if missing else (), strict=True):
            answers[prompt] = new
            cache.put(keys[prompt], new, durable=False)
        return [answer for prompt in prompts if (answer := answers[prompt]) is not None]

    return ask
