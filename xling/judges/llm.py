"""judge=llm: a language model that is shown both responses, a local one or an OpenAI-compatible endpoint.

Here: its settings, what planning refuses, its stages and what they cost. What these do, and what is made of the
answers: xling/stages/llm_judge.py.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from xling.config.common import TEMPLATE_DATE, Date, Dtype, Fraction, NonNegative, Positive, PositiveFloat, Seed
from xling.config.policies import LanguageModel
from xling.errors import ConfigError
from xling.grid.plan import Plan, in_order
from xling.grid.stage import WHERE, Cell, Kind, Stage, Tokens, Work, canonical_json
from xling.judges import JudgeSettings
from xling.judges.asking import (
    NOT_SENDABLE,
    EndpointSettings,
    Request,
    capped,
    sendable,
)
from xling.models.checkpoints import check_date, check_policy
from xling.planning import costs
from xling.planning.judging import Judged, Verdicts, answering_spec
from xling.planning.memory import main_memory, on_gpu, reading
from xling.planning.specs import base, data_of, label_of, make
from xling.results.reading import held_out_pairs, pair_ids
from xling.results.specs import located
from xling.rewards.settings import RewardModel
from xling.stages import llm_judge
from xling.stages.llm_judge import AskSpec, LlmSpec
from xling.tasks.options import Task, offers, size, task_module
from xling.tasks.records import absent

if TYPE_CHECKING:
    from xling.experiment import Experiment

RESPONSES = "sampled"

REQUEST = Request.__struct_fields__  # settings of an endpoint alone, in the key
RESERVED = (  # of a request's body: settings of their own, or what answers are read by
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "logprobs", "top_logprobs", "stream", "n"
)  # fmt: skip
LOCAL = ("revision", "dtype", "pad_token")  # of the model of judge.checkpoint alone
INSTRUCTION = 300  # tokens of what is asked around the texts, for costs


class Settings(JudgeSettings, frozen=True, tag="llm", kw_only=True):
    """A language model that is shown both responses: a local one (`checkpoint`), or an endpoint (`base_url`)."""

    checkpoint: str | None = None  # packaged, a local folder or a hub id
    revision: str | None = None
    dtype: Dtype = "float32"
    pad_token: str | None = None  # a piece to pad with where the tokenizer names none
    base_url: str | None = None  # of an OpenAI-compatible server, up to /v1
    model: str | None = None  # as that server calls it
    api_key_env: str | None = None  # the environment variable that holds the key; None: none is sent
    prompt: Literal["auto", "summarization", "dialog"] = "auto"
    orders: Literal["both", "random"] = "both"
    opponents: Positive = 1  # of the baseline's samples, the first ones
    win: Literal["soft", "hard"] = "soft"
    max_instances: Positive | None = None  # prompts a dataset; None: all
    max_characters: Positive | None = None  # of the document or chat; None: whole
    seed: Seed = 0  # chooses the prompts of max_instances and the order of orders=random
    min_mass: Fraction = 0.1  # of probability on "1" and "2" together; below it a request is unanswered
    max_unanswered: Fraction = 0.5  # of the pairs that are asked about; above it the cell is a hole
    template_date: Date = TEMPLATE_DATE  # of a local model: what a chat template that asks is told is today
    # What an endpoint's answer may depend on; None: nothing is sent
    max_tokens: Positive | None = 4
    temperature: Annotated[float, Meta(ge=0.0)] | None = 0.0
    extra_body: dict[str, Any] | None = None  # more of each request
    # How an endpoint is asked: nothing below decides a verdict, and nothing of it is in a key.
    requests_per_minute: PositiveFloat | None = None  # of all processes of a root together
    concurrency: Positive = 4  # requests at once, each process
    timeout: PositiveFloat = 60.0  # seconds
    retries: NonNegative = 6
    backoff: Annotated[float, Meta(ge=0.0)] = 1.0  # seconds before the first retry; doubled each time
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def __hash__(self) -> int:  # a mapping has none
        return hash(msgspec.json.encode(self, order="sorted"))


# --- what planning refuses ----------------------------------------------------------------------------------


def check(judge: Settings, experiment: "Experiment", judging: RewardModel) -> None:
    """ConfigError for a judge that cannot be asked."""
    if (judge.checkpoint is None) == (judge.base_url is None):
        named = "neither" if judge.checkpoint is None else "both"
        raise ConfigError(
            f"judge=llm needs a model or a server, and {named} is named. Type judge.checkpoint=FOLDER (or a hub id) "
            "for a local model, or judge.base_url=URL judge.model=NAME for an OpenAI-compatible endpoint."
        )
    assert isinstance(experiment.policy, LanguageModel)  # responses are sampled
    if judge.opponents > experiment.policy.baseline_samples:
        raise ConfigError(
            f"judge.opponents={judge.opponents} is more than the baseline has: policy.baseline_samples="
            f"{experiment.policy.baseline_samples}. Lower judge.opponents or raise policy.baseline_samples."
        )
    if judge.base_url is not None:
        return _check_endpoint(judge, judge.base_url)
    for setting in ("model", "api_key_env", *REQUEST, "max_tokens_name"):
        if (value := getattr(judge, setting)) != getattr(Settings(), setting):
            raise ConfigError(f"judge.{setting}={value} is of an endpoint, and judge.checkpoint names a local model.")
    check_date("judge", judge.template_date)
    try:
        check_policy(_language_model(judge))
    except ConfigError as error:
        raise ConfigError(str(error).replace("policy.", "judge.")) from error
    return None


def _check_endpoint(judge: Settings, url: str) -> None:
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
        if (value := getattr(judge, setting)) != getattr(Settings(), setting):
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


# --- stages -------------------------------------------------------------------------------------------------


def verdicts(judge: Settings, cell: Judged) -> Verdicts:
    """Its verdicts on the cell's answers, and its accuracy where the target has held-out preferences."""
    parents = {"verdict": _llm(judge, cell)}
    if (accuracy := _accuracy(judge, cell.experiment)) is not None:
        parents["accuracy"] = accuracy
    return Verdicts(parents, {"win": judge.win, "max_unanswered": judge.max_unanswered})


def _llm(judge: Settings, cell: Judged) -> Stage:
    """llm[s, t]: verdicts on what the cell answers."""
    experiment, lang = cell.experiment, cell.experiment.target_lang.code
    drawn = judge.max_instances is not None or judge.orders == "random"
    spec = {
        **_asking(experiment, judge, data_of(experiment.task, (lang,), "prompts"), drawn),
        **answering_spec(experiment, recorded=False),
        "opponents": judge.opponents,
        "orders": judge.orders,
    }
    parents = {"score": cell.score, **cell.pools, **_model(judge)}
    return make("llm", label_of("llm", cell.sources, (lang,)), spec, parents, by_text=True)


def _accuracy(judge: Settings, experiment: "Experiment") -> Stage | None:
    """judge_accuracy[t]: the judge on the target's held-out preferences, once a target; None where it has none."""
    lang = experiment.target_lang.code
    data = _held_out(experiment.task, lang)
    if data is None or not _held_out_count(experiment.task, lang, None, 0):
        return None
    spec = _asking(experiment, judge, data, judge.max_instances is not None)
    return make("judge_accuracy", label_of("judge_accuracy", (lang,)), spec, _model(judge), by_text=True)


def _held_out(task: Task, lang: str) -> dict[str, Any] | None:
    offered = offers(task)
    try:
        if "pairs" in offered:
            return data_of(task, (lang,), "held_out_pairwise")
        return data_of(task, (lang,), "held_out_pointwise") if "ratings" in offered else None
    except ConfigError:  # your own data may have none of this language
        return None


def _asking(experiment: "Experiment", judge: Settings, data: Mapping[str, Any], drawn: bool) -> dict[str, Any]:
    """Spec that both stages share; `drawn`: the seed decides something. Others of no effect have their defaults."""
    side = task_module(experiment.task).truncation_side(experiment.task, (experiment.target_lang.code,))
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
        endpoint = EndpointSettings(*(getattr(judge, name) for name in EndpointSettings.__struct_fields__))
        spec[WHERE] = {**data.get(WHERE, {}), "endpoint": msgspec.to_builtins(endpoint)}
    return spec


def _model(judge: Settings) -> dict[str, Stage]:
    return {} if judge.base_url else {"lm": base(_language_model(judge), "judge.checkpoint")}


def _language_model(judge: Settings) -> LanguageModel:
    assert judge.checkpoint is not None  # check_llm
    return LanguageModel(judge.checkpoint, **{name: getattr(judge, name) for name in LOCAL})


# --- what a plan says of it ---------------------------------------------------------------------------------


def notes(plan: Plan) -> list[str]:
    """Sentences: how many requests the plan sends at most, and which judges are not checked."""
    sentences: list[str] = []
    kinds = [kind.name for kind in KINDS]
    waiting = [step.stage for step in plan.steps.values() if step.state == "run" and step.stage.kind in kinds]
    by_model: dict[str, list[Stage]] = {}
    for stage in waiting:
        name = stage.spec["identity"].get("endpoint") or located(stage.parents["lm"].spec)["checkpoint"]
        by_model.setdefault(name, []).append(stage)
    for name, stages in by_model.items():
        total = sum(map(most_requests, stages))
        sentences.append(
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
        sentences.append(
            f"judge=llm is not checked in {langs}: the task has no two held-out responses there, to one prompt, "
            "that people rated differently."
        )
    return sentences + _of_one_model(plan)


def _of_one_model(plan: Plan) -> list[str]:
    """A sentence where the judge is a model that the policy or reward models of its rows start from."""
    found: dict[str, dict[str, None]] = {}
    for cell in plan.cells:
        verdict, score = (cell.stage.parents.get(role) for role in ("verdict", "score"))
        if verdict is None or score is None or verdict.kind != "llm" or "lm" not in verdict.parents:
            continue
        judge = located(verdict.parents["lm"].spec)["checkpoint"]
        below = in_order([Cell(cell.axes, score)]).values()
        if any(stage.kind == "base" and located(stage.spec)["checkpoint"] == judge for stage in below):
            found.setdefault(judge, {})[str(cell.axes.get("rm_backbone"))] = None
    return [
        f"judge.checkpoint={judge} is also what the policy or the reward model of {', '.join(rows)} starts from. It "
        "may favour what it finds likely itself: compare with a judge of another family."
        for judge, rows in found.items()
    ]


def most_requests(stage: Stage) -> int:
    """Requests of an llm or judge_accuracy stage, none of them equal and none of them known."""
    spec = located(stage.spec)
    if stage.kind == "judge_accuracy":
        checked = msgspec.convert(spec, AskSpec)
        return 2 * _held_out_count(checked.task, checked.lang, checked.max_instances, checked.seed)
    judged = msgspec.convert(spec, LlmSpec)
    orders = 2 if judged.orders == "both" else 1
    responses = stage.parents["pool"].spec["n"] if judged.trained else 1
    prompts = _prompt_count(judged.task, judged.lang, judged.max_instances, judged.seed)
    return orders * responses * judged.opponents * prompts


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


@costs.priced
def work(stage: Stage, tokens: Tokens) -> Work:
    """Requests of a stage; operations of a local model. Of a server no operations are counted."""
    calls = most_requests(stage)
    model = costs.model_of(stage) if "lm" in stage.parents else None
    if model is None:
        return Work({}, {"judge calls": calls})
    read = (tokens.prompt or costs.PROMPT) + 2 * (tokens.response or costs.RESPONSE) + INSTRUCTION
    return Work({"reading": calls * model.forward(read, 0)}, {"judge calls": calls})


fold = llm_judge.fold

ASKS: Any = {"work": work, "gpu": on_gpu, "memory": main_memory, "needs": reading}
KINDS = (
    Kind("llm", 2, llm_judge.run, seconds=60, **ASKS),
    Kind("judge_accuracy", 2, llm_judge.run_accuracy, seconds=60, **ASKS),
)
