"""The stages of judge=llm, what is refused of its settings while planning, and how many requests a plan may send."""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from xling.config.judges import LlmJudge
from xling.config.optimizers import BestOfN, Trained
from xling.config.policies import LanguageModel
from xling.config.tasks import Task
from xling.errors import ConfigError
from xling.experiment import Experiment
from xling.grid.plan import Plan
from xling.grid.stage import WHERE, Stage, canonical_json
from xling.judges.asking import NOT_SENDABLE, EndpointSettings, capped, sendable
from xling.models.checkpoints import check_date, check_policy
from xling.planning.specs import base, data_of, label_of, make
from xling.results.prompts import located
from xling.results.verdicts import AskSpec, LlmSpec, held_out_pairs, pair_ids
from xling.tasks import offers, task_module, truncation_side
from xling.tasks.absent import absent
from xling.tasks.sizes import size

ENDPOINT = (  # in no key
    "api_key_env", "requests_per_minute", "concurrency", "timeout", "retries", "backoff", "max_tokens_name"
)  # fmt: skip
REQUEST = ("max_tokens", "temperature", "extra_body")  # of an endpoint alone
RESERVED = (  # of a request's body: settings of their own, or what answers are read by
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "logprobs", "top_logprobs", "stream", "n"
)  # fmt: skip
ASKING = ("llm", "judge_accuracy")  # kinds of stages that send requests
LOCAL = ("revision", "dtype", "pad_token")  # of the model of judge.checkpoint alone


# --- stages -------------------------------------------------------------------------------------------------


def llm(
    experiment: Experiment, judge: LlmJudge, pools: Mapping[str, Stage], score: Stage, sources: tuple[str, ...]
) -> Stage:
    """llm[s, t]: verdicts on what the cell answers."""
    lang, optimizer, policy = experiment.target_lang.code, experiment.optimizer, experiment.policy
    assert isinstance(policy, LanguageModel)  # recorded responses are refused
    drawn = judge.max_instances is not None or judge.orders == "random"
    spec = {
        **_asking(experiment, judge, data_of(experiment.task, (lang,), "prompts"), drawn),
        "n": optimizer.n or policy.n if isinstance(optimizer, BestOfN) else None,
        "opponents": judge.opponents,
        "orders": judge.orders,
    }
    if isinstance(optimizer, Trained):
        spec["trained"] = True
    return make("llm", label_of("llm", sources, (lang,)), spec, {"score": score, **pools, **_model(judge)})


def judge_accuracy(experiment: Experiment, judge: LlmJudge) -> Stage | None:
    """judge_accuracy[t]: the judge on the target's held-out preferences, once a target; None where it has none."""
    lang = experiment.target_lang.code
    data = _held_out(experiment.task, lang)
    if data is None or not _held_out_count(experiment.task, lang, None, 0):
        return None
    spec = _asking(experiment, judge, data, judge.max_instances is not None)
    return make("judge_accuracy", label_of("judge_accuracy", (lang,)), spec, _model(judge))


def _held_out(task: Task, lang: str) -> dict[str, Any] | None:
    there = offers(task)
    try:
        if "pairs" in there:
            return data_of(task, (lang,), "held_out_pairwise")
        return data_of(task, (lang,), "held_out_pointwise") if "ratings" in there else None
    except ConfigError:  # your own data may have none of this language
        return None


def _asking(experiment: Experiment, judge: LlmJudge, data: Mapping[str, Any], drawn: bool) -> dict[str, Any]:
    """What both stages have in their keys; `drawn`: the seed decides something. What does not is as by default."""
    side = truncation_side(experiment.task, (experiment.target_lang.code,))
    kind = judge.prompt if judge.prompt != "auto" else "dialog" if side == "left" else "summarization"
    spec = {
        **data,
        "lang": experiment.target_lang.code,
        "language": experiment.target_lang.name,
        "identity": {"endpoint": judge.model} if judge.base_url else {"local": _model(judge)["lm"].key},
        "prompt": kind,
        "max_instances": judge.max_instances,
        "max_characters": judge.max_characters,
        "truncation_side": side if judge.max_characters is not None else "right",
        "seed": judge.seed if drawn else 0,
        "min_mass": judge.min_mass,
    }
    if not judge.base_url:
        spec["template_date"] = judge.template_date
    else:
        spec["request"] = {name: getattr(judge, name) for name in REQUEST} | {"extra_body": judge.extra_body or {}}
        endpoint = EndpointSettings(judge.base_url, **{name: getattr(judge, name) for name in ENDPOINT})
        spec[WHERE] = {**data.get(WHERE, {}), "endpoint": msgspec.to_builtins(endpoint)}
    return spec


def _model(judge: LlmJudge) -> dict[str, Stage]:
    return {} if judge.base_url else {"lm": base(_language_model(judge), "judge.checkpoint")}


def _language_model(judge: LlmJudge) -> LanguageModel:
    assert judge.checkpoint is not None  # check_llm
    return LanguageModel(judge.checkpoint, **{name: getattr(judge, name) for name in LOCAL})


# --- what is refused ----------------------------------------------------------------------------------------


def check_llm(judge: LlmJudge, baseline_samples: int) -> None:
    """ConfigError for a judge that cannot be asked."""
    if (judge.checkpoint is None) == (judge.base_url is None):
        found = "neither" if judge.checkpoint is None else "both"
        raise ConfigError(
            f"judge=llm needs a model or a server, and {found} is named. Type judge.checkpoint=FOLDER (or a hub id) "
            "for a local model, or judge.base_url=URL judge.model=NAME for an OpenAI-compatible endpoint."
        )
    if judge.opponents > baseline_samples:
        raise ConfigError(
            f"judge.opponents={judge.opponents} is more than the baseline has: policy.baseline_samples="
            f"{baseline_samples}. Lower judge.opponents or raise policy.baseline_samples."
        )
    if judge.base_url is not None:
        return _check_endpoint(judge, judge.base_url)
    for setting in ("model", "api_key_env", *REQUEST, "max_tokens_name"):
        if (value := getattr(judge, setting)) != getattr(LlmJudge(), setting):
            raise ConfigError(f"judge.{setting}={value} is of an endpoint, and judge.checkpoint names a local model.")
    check_date("judge", judge.template_date)
    try:
        check_policy(_language_model(judge))
    except ConfigError as error:
        raise ConfigError(str(error).replace("policy.", "judge.")) from error
    return None


def _check_endpoint(judge: LlmJudge, url: str) -> None:
    parts = _parts(url)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"judge.base_url with a name, a password or a query for {parts.hostname} would be stored with the results. "
            "Give a key by the name of an environment variable: judge.api_key_env=NAME."
        )
    if judge.model is None:
        raise ConfigError(f"judge.base_url={url} needs the name of a model there. Type judge.model=NAME.")
    if reserved := [name for name in judge.extra_body or () if name in RESERVED]:
        raise ConfigError(
            f"judge.extra_body may not set {reserved[0]}, which the judge sets by itself (judge.model, "
            "judge.max_tokens, judge.temperature and the like). Leave it out."
        )
    _sendable(judge.extra_body or {})
    from xling.judges.transport import proxy_of  # httpx takes a while

    proxy_of(url)
    for setting in (*LOCAL, "template_date"):
        if (value := getattr(judge, setting)) != getattr(LlmJudge(), setting):
            raise ConfigError(
                f"judge.{setting}={value} is of a local model, and judge.base_url names an endpoint. Leave it out."
            )
    if judge.api_key_env is None:
        return
    if not (key := os.environ.get(judge.api_key_env)):
        raise ConfigError(
            f"judge.api_key_env={judge.api_key_env} names an environment variable that is not set. Type "
            f"`export {judge.api_key_env}=KEY`, or judge.api_key_env=null for a server that asks for none."
        )
    if not sendable(key):
        raise ConfigError(
            f"judge.api_key_env={judge.api_key_env} names an environment variable that holds no key: {NOT_SENDABLE}"
        )


def _sendable(body: Mapping[str, Any]) -> None:
    try:
        canonical_json(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"judge.extra_body is no JSON ({error}). Give numbers, texts, lists and mappings.") from None


def _parts(url: str) -> SplitResult:
    """ConfigError for what no request can be sent to."""
    from httpx import URL, InvalidURL

    with suppress(ValueError, InvalidURL):  # of a bracket, a port, a control character
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and URL(url).host:
            return parts
    named = "judge.base_url" if "@" in url else f"judge.base_url={url}"  # a password may stand before the @
    raise ConfigError(f"{named} is no URL of a server. Type one like http://localhost:8000/v1.")


# --- what a plan says of it ---------------------------------------------------------------------------------


def notes(plan: Plan) -> list[str]:
    """Sentences: how many requests the plan sends at most, and which judges are not checked."""
    found: list[str] = []
    waiting = [step.stage for step in plan.steps.values() if step.state == "run" and step.stage.kind in ASKING]
    by_model: dict[str, list[Stage]] = {}
    for stage in waiting:
        name = stage.spec["identity"].get("endpoint") or located(stage.parents["lm"].spec)["checkpoint"]
        by_model.setdefault(name, []).append(stage)
    for name, stages in by_model.items():
        total = sum(map(most_requests, stages))
        found.append(
            f"judge=llm asks {name} at most {total:,} times ({len(stages)} stages); equal requests are sent once, and "
            "those that were answered before not at all."
        )
    unchecked = {
        cell.axes["target_lang"]
        for cell in plan.cells
        if cell.stage.parents.get("verdict", cell.stage).kind == "llm" and "accuracy" not in cell.stage.parents
    }
    if unchecked:
        langs = ", ".join(sorted(map(str, unchecked)))
        found.append(
            f"judge=llm is not checked in {langs}: the task has no two held-out responses there, to one prompt, "
            "that people rated differently."
        )
    return found


def most_requests(stage: Stage) -> int:
    """Requests of an llm or judge_accuracy stage, none of them equal and none of them known."""
    spec = located(stage.spec)
    if stage.kind == "judge_accuracy":
        asked = msgspec.convert(spec, AskSpec)
        return 2 * _held_out_count(asked.task, asked.lang, asked.max_instances, asked.seed)
    judged = msgspec.convert(spec, LlmSpec)
    orders = 2 if judged.orders == "both" else 1
    responses = stage.parents["pool"].spec["n"] if judged.trained else 1
    return (
        orders
        * responses
        * judged.opponents
        * _prompt_count(judged.task, judged.lang, judged.max_instances, judged.seed)
    )


@lru_cache(maxsize=256)
def _prompt_count(task: Task, lang: str, most: int | None, seed: int) -> int:
    if absent(task):
        return size(task, lang, "prompts", "test", most) or 0
    prompts = task_module(task).prompts(task, lang, "test")
    return len(capped([p.id for p in prompts], [p.dataset for p in prompts], most, seed))


@lru_cache(maxsize=256)
def _held_out_count(task: Task, lang: str, most: int | None, seed: int) -> int:
    if absent(task):
        return size(task, lang, "pairs", "test", most) or 0
    pairs = held_out_pairs(task, lang)
    return len(capped(pair_ids(pairs), [pair.prompt.dataset for pair in pairs], most, seed))
