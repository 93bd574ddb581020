"""judge=llm: a language model that is shown both responses, a local one or an OpenAI-compatible endpoint.

llm[s, t]: what it says of the cell's responses and their opponents. It is asked in both orders (or one, by a seeded
coin), a pair of texts at a time, in blocks that a killed stage keeps; each answer is in the root's cache besides
(xling/judges/cache.py), so that nothing is asked twice: not by this stage and not by another source whose pick is the
same. judge_accuracy[t]: how good it is as a judge, by the target's held-out human preferences.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
import numpy as np
from msgspec import Meta, Struct

from xling.config.common import TEMPLATE_DATE, Date, Dtype, Fraction, NonNegative, Positive, PositiveFloat, Seed
from xling.config.policies import LanguageModel
from xling.errors import ConfigError, StageError
from xling.grid import joined
from xling.grid.plan import Plan
from xling.grid.stage import WHERE, Context, Kind, Stage, Tokens, Work, canonical_json
from xling.jsonfiles import decode, read_json, write_json
from xling.judges import Array, Folded, JudgeSettings, Places
from xling.judges.asking import (
    NOT_SENDABLE,
    Compared,
    EndpointSettings,
    How,
    PromptKind,
    Request,
    Verdict,
    capped,
    coin,
    compare,
    mean_of_known,
    points,
    sendable,
)
from xling.judges.cache import Cache
from xling.models.checkpoints import check_date, check_policy
from xling.optimizers import answers
from xling.planning import costs
from xling.planning.judging import Judged, Verdicts, answering_spec
from xling.planning.memory import main_memory, on_gpu, reading
from xling.planning.specs import base, data_of, label_of, make
from xling.results.reading import held_out_pairs, pair_ids, read_verdicts, verdicts_of
from xling.results.samples import Samples, read_samples
from xling.results.specs import located
from xling.rewards.settings import RewardModel
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
PAIRS = 128  # a block
HOPELESS = 64  # pairs of which none was answered: no others are asked


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


class FoldSpec(Struct, frozen=True):
    """The part of the judge stage's spec that judge=llm reads."""

    win: str  # soft, hard
    max_unanswered: float  # share of the pairs that it was asked about


class Where(Struct, frozen=True):
    """The part of a spec that is in no key, here the endpoint; None: the model is the `lm` parent."""

    endpoint: EndpointSettings | None = None


class AskSpec(Struct, frozen=True):
    """Spec of both stages that ask. `identity` names the model: {"endpoint": its name} or {"local": its stage}."""

    task: Task
    digest: str
    lang: str
    language: str  # in English
    identity: dict[str, str]
    prompt: PromptKind
    max_instances: int | None
    max_characters: int | None
    truncation_side: str
    seed: int
    min_mass: float = 0.0
    request: Request = Request()  # of an endpoint
    template_date: str = TEMPLATE_DATE  # of a local model
    where: Where = Where()

    def how(self) -> How:
        """The question, as `compare` takes it."""
        return How(self.prompt, self.language, self.max_characters, self.truncation_side, self.min_mass)


class LlmSpec(AskSpec, frozen=True, kw_only=True):
    """And which responses are judged: `n` of the pool are picked from, `opponents` a response."""

    n: int | None
    opponents: int
    orders: str  # both, random
    trained: bool = False  # the pool is what a trained policy said: all of it is judged
    optimizer: dict[str, Any] | None = None  # which picks; None: best_of_n


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
    found, known = dict[str, dict[str, None]](), dict[str, frozenset[str]]()
    for cell in plan.cells:
        verdict, score = (cell.stage.parents.get(role) for role in ("verdict", "score"))
        if verdict is None or score is None or verdict.kind != "llm" or "lm" not in verdict.parents:
            continue
        judge = located(verdict.parents["lm"].spec)["checkpoint"]
        if judge in _checkpoints(score, known):
            found.setdefault(judge, {})[str(cell.axes.get("rm_backbone"))] = None
    return [
        f"judge.checkpoint={judge} is also what the policy or the reward model of {', '.join(rows)} starts from. It "
        "may favour what it finds likely itself: compare with a judge of another family."
        for judge, rows in found.items()
    ]


def _checkpoints(stage: Stage, known: dict[str, frozenset[str]]) -> frozenset[str]:
    """Of all models that a stage was made from; `known`: those of stages that were looked at before, by key."""
    if stage.key not in known:
        own = frozenset([located(stage.spec)["checkpoint"]] if stage.kind == "base" else [])
        known[stage.key] = own.union(*(_checkpoints(parent, known) for parent in stage.parents.values()))
    return known[stage.key]


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


# --- verdicts -----------------------------------------------------------------------------------------------


def run(context: Context) -> None:
    """Writes verdicts.json: the columns of `Asked`."""
    spec = msgspec.convert(context.spec, LlmSpec)
    texts = {p.id: p.reward_text for p in task_module(spec.task).prompts(spec.task, spec.lang, "test")}
    pool, baseline = (read_samples(context.parents[role]) for role in ("pool", "baseline"))
    chosen = capped([s.prompt for s in pool], [s.dataset for s in pool], spec.max_instances, spec.seed)
    judged = responses_judged(context, spec, [s.prompt for s in pool])
    places = [
        (i, sample, opponent)
        for i in chosen
        for sample in judged[i]
        for opponent in range(min(spec.opponents, len(baseline[i].responses)))
    ]
    pairs = [
        Compared(
            texts[pool[i].prompt],
            pool[i].responses[sample],
            baseline[i].responses[opponent],
            *_orders(spec, pool[i], opponent),
        )
        for i, sample, opponent in places
    ]
    verdicts = _asked(context, spec, pairs)
    columns = {
        "prompt": [pool[i].prompt for i, _, _ in places],
        "sample": [sample for _, sample, _ in places],
        "opponent": [opponent for _, _, opponent in places],
    }
    write_json(context.out / "verdicts.json", columns | _columns(verdicts))


def responses_judged(context: Context, spec: LlmSpec, prompts: Sequence[str]) -> list[list[int]]:
    """A prompt's samples that the cell answers with: best-of-n's pick, or all that a trained policy said."""
    reward = np.load(joined.opened(context.parents["score"] / "pool.npy"))[:, : spec.n]
    places: list[list[int]] = answers(reward, prompts, spec.trained, spec.optimizer).tolist()
    return places


def _orders(spec: LlmSpec, samples: Samples, opponent: int) -> tuple[bool, bool]:
    """Whether the response is shown first, and second: the same for all cells of a target."""
    if spec.orders == "both":
        return True, True
    heads = coin(spec.seed, "order", spec.lang, samples.prompt, opponent)
    return heads, not heads


def _asked(context: Context, spec: AskSpec, pairs: Sequence[Compared]) -> list[Verdict]:
    """Verdicts of all pairs, asked block after block."""
    from xling.judges.asker import asker
    from xling.stages.blocks import blocks_of, kept_lines

    cache = Cache((context.cache or context.scratch) / "judges")
    local, endpoint = context.parents.get("lm"), spec.where.endpoint
    with asker(spec.identity, endpoint, local, cache, context.stopping, spec.request, spec.template_date) as ask:

        def block(items: Sequence[int]) -> list[bytes]:
            verdicts = compare(ask, spec.how(), [pairs[i] for i in items])
            if items[0] == 0 and sum(not verdict.identical for verdict in verdicts) >= HOPELESS:
                check_answered(verdicts, None, "first pairs")  # the others would cost as much, and say as little
            return [msgspec.json.encode(verdict) for verdict in verdicts]

        blocks = list(blocks_of(range(len(pairs)), PAIRS))
        return [Verdict(*decode(line)) for line in kept_lines(context, "verdicts", blocks, block)]


def _columns(verdicts: Sequence[Verdict]) -> dict[str, list[Any]]:
    return {name: [getattr(verdict, name) for verdict in verdicts] for name in Verdict._fields}


# --- what the judge stage makes of them ---------------------------------------------------------------------


def fold(context: Context, reward: Array, responses: Places, items: Mapping[str, list[Any]]) -> Folded:
    """All columns of items.json for the prompts that it was asked about; the rest of the pool was not judged."""
    spec = msgspec.convert(context.spec, FoldSpec)
    files = {"verdict": ("verdicts.json", "pairs"), "accuracy": ("accuracy.json", "pairs that people have judged")}
    for role, (name, about) in files.items():
        if role in context.parents:
            given = verdicts_of(read_json(context.parents[role] / name))
            check_answered(given, spec.max_unanswered, about)
            if role == "verdict":  # without a single answer the ties of equal texts would be all that is left
                check_answered(given, None, about)
    judged = by_prompt(context.parents["verdict"], items["prompt"], spec.win)
    rows = judged.pop("row")
    columns = {name: [values[row] for row in rows] for name, values in items.items()}
    return Folded(columns | judged, np.empty((len(rows), 0)))


def by_prompt(verdicts: Path, prompts: Sequence[str], win: str) -> dict[str, list[Any]]:
    """Columns of items.json, an entry a prompt that was judged, in the order of `prompts`, the test's.

    win_soft, win_hard: mean over the pairs whose every order was answered, of the preference and of 1, 0.5, 0; null
    where there is no such pair. win: the one that judge.win names. Of the pairs that were asked about, which those of
    two equal texts are not, unanswered: share with an order that was not answered; inconsistent: share, of those
    answered in both orders, that the two decide differently; null where there is none. mass: the mean probability of
    the two digits together, of the answers that have one. And `row`, the prompt's place in `prompts`.
    """
    stored = read_verdicts(verdicts)
    judged: dict[str, list[Verdict]] = {}
    for prompt, verdict in zip(stored.prompt, stored.verdicts(), strict=True):
        judged.setdefault(prompt, []).append(verdict)
    rows = [row for row, prompt in enumerate(prompts) if prompt in judged]
    each = [judged[prompts[row]] for row in rows]
    wins = {kind: [mean_of_known(_points(v, kind) for v in some) for some in each] for kind in ("soft", "hard")}
    return {
        "row": rows,
        "win": wins[win],
        "win_soft": wins["soft"],
        "win_hard": wins["hard"],
        "unanswered": [mean_of_known(v.unanswered for v in some) for some in each],
        "mass": [mean_of_known(v.mass for v in some) for some in each],
        "inconsistent": [mean_of_known(v.inconsistent for v in some) for some in each],
    }


HINTS = {  # what helps, by what the reason of an unanswered request has in it
    "cut off": "For a model that thinks first type judge.max_tokens=4096, or more.",
    "nothing said": "For a model that thinks first type judge.max_tokens=4096, or more.",
    "of the probability": "Name an instruction-tuned model, or lower judge.min_mass.",
    "too long": "Shorten the documents with judge.max_characters=NUMBER.",
    "longer than": "Shorten the documents with judge.max_characters=NUMBER.",
}


def check_answered(verdicts: Sequence[Verdict], most: float | None, about: str) -> None:
    """StageError where more than the share `most` of the pairs that were asked about have an order without an answer.

    None: where all have.
    """
    asked = [verdict for verdict in verdicts if not verdict.identical]
    silent = [verdict for verdict in asked if verdict.unanswered]
    if not silent or (len(silent) < len(asked) if most is None else len(silent) <= most * len(asked)):
        return
    reasons = Counter(why for verdict in silent for why in {verdict.why_first, verdict.why_second} if why)
    listed = "; ".join(f"{count} {why}" for why, count in reasons.most_common(3)) or "no reason was kept"
    hints = dict.fromkeys(hint for part, hint in HINTS.items() if any(part in why for why in reasons))
    allowed = "" if len(silent) == len(asked) else f"; judge.max_unanswered={most:g}"
    raise StageError(
        f"The judge left {len(silent)} of {len(asked)} {about} unanswered "
        f"({100 * len(silent) / len(asked):.0f} %{allowed}): {listed}. {' '.join(hints)}".rstrip()
    )


def _points(verdict: Verdict, win: str) -> float | None:
    preference = verdict.preference
    return preference if preference is None or win == "soft" else points(preference)


# --- accuracy -----------------------------------------------------------------------------------------------


def run_accuracy(context: Context) -> None:
    """judge_accuracy[t]: the judge on the target's held-out human preferences. Writes accuracy.json.

    Columns, an entry a pair of responses that people told apart (asked in both orders, whatever judge.orders says):
    group, dataset    of the prompt: what bootstrap clusters and macro-averages go by
    correct           1: it prefers what people prefer, by the mean of both orders; 0.5: neither; 0; null: not answered
    inconsistent      whether the two orders prefer different responses; null: not answered
    p_first, p_second           P(what people prefer), shown first and second; null: no answer
    unanswered_first, unanswered_second      the answer was neither 1 nor 2
    """
    spec = msgspec.convert(context.spec, AskSpec)
    held_out = held_out_pairs(spec.task, spec.lang)
    chosen = capped(pair_ids(held_out), [pair.prompt.dataset for pair in held_out], spec.max_instances, spec.seed)
    pairs = [held_out[i] for i in chosen]
    compared = [Compared(pair.prompt.reward_text, pair.chosen, pair.rejected, True, True) for pair in pairs]
    verdicts = _asked(context, spec, compared)
    columns = {
        "group": [pair.prompt.group for pair in pairs],
        "dataset": [pair.prompt.dataset for pair in pairs],
        "correct": [_points(verdict, "hard") for verdict in verdicts],
        "inconsistent": [verdict.inconsistent for verdict in verdicts],
    }
    write_json(context.out / "accuracy.json", columns | _columns(verdicts))


KINDS = (
    Kind("llm", 2, run, seconds=60, work=work, gpu=on_gpu, memory=main_memory, needs=reading),
    Kind("judge_accuracy", 2, run_accuracy, seconds=60, work=work, gpu=on_gpu, memory=main_memory, needs=reading),
)
