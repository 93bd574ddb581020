"""pool[t] and baseline[t]: what the target's SFT policy says to the test prompts.

The pool does not depend on the source: every reward model picks from the same n samples. The baseline is fresh
samples with the same settings and streams of their own: the opponent of every cell of the target. With recorded
systems both are what the systems answered.
"""

import msgspec
from msgspec import Struct

from xling.config import Task
from xling.grid.stage import Context
from xling.languages import in_language
from xling.stages.files import Samples, write_json, write_samples
from xling.tasks import task_module


class PoolSpec(Struct, frozen=True):
    """What determines the samples of a policy; `purpose` (pool or baseline) names the random streams."""

    task: Task
    digest: str
    lang: str
    purpose: str
    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    chunk: int
    seed: int


def run(context: Context) -> None:
    """Writes samples.jsonl, a line a test prompt."""
    spec = msgspec.convert(context.spec, PoolSpec)
    write_samples(context.out, sampled(context, spec))


def sampled(context: Context, spec: PoolSpec) -> list[Samples]:
    """Sample the policy of the parent `sft`."""
    from xling.models.load import load_policy
    from xling.models.sampling import sample
    from xling.models.text import decode_response

    prompts = task_module(spec.task).prompts(spec.task, spec.lang, "test")
    model, tokenizer = load_policy(context.parents["sft"])
    settings = (
        spec.n,
        spec.seed,
        spec.purpose,
        spec.temperature,
        spec.top_p,
        spec.max_new_tokens,
        spec.chunk,
    )
    rows: list[Samples] = []
    for block in sample(model, tokenizer, [(f"{p.lang}/{p.id}", p.text) for p in prompts], *settings):
        for ids in block:
            prompt = prompts[len(rows)]
            texts = [decode_response(tokenizer, one) for one in ids]
            eos = [one[-1] == tokenizer.eos_token_id for one in ids]
            row = Samples(
                prompt.id,
                prompt.group,
                prompt.dataset,
                texts,
                in_language(texts, spec.lang),
                list(map(len, ids)),
                eos,
            )
            rows.append(row)
        context.progress(len(rows), len(prompts))
    return rows


class RecordedSpec(Struct, frozen=True):
    """Recorded responses: the data names everything."""

    task: Task
    digest: str
    lang: str


def run_recorded(context: Context) -> None:
    """Writes samples.jsonl from the recorded responses, in system order; lengths are in characters.

    And subsets.json, where prompts belong to subsets that weigh differently (xling/analysis/categories.py).
    """
    spec = msgspec.convert(context.spec, RecordedSpec)
    module = task_module(spec.task)
    recorded = module.recorded(spec.task, spec.lang, spec.digest)
    if any(prompt.subset for prompt in recorded.prompts):
        weights: dict[str, float] = getattr(module, "WEIGHTS", {})
        columns = {
            "prompt": [p.id for p in recorded.prompts],
            "category": [p.dataset for p in recorded.prompts],
            "subset": [p.subset for p in recorded.prompts],
            "weight": [weights.get(p.subset) for p in recorded.prompts],
        }
        write_json(context.out / "subsets.json", columns)
    write_samples(
        context.out,
        (
            Samples(
                p.id,
                p.group,
                p.dataset,
                texts,
                in_language(texts, spec.lang),
                list(map(len, texts)),
                [True] * len(texts),
            )
            for p, texts in zip(recorded.prompts, map(list, recorded.responses), strict=True)
        ),
    )
