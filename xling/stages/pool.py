"""pool[t], baseline[t] and aligned[s,t]: what a policy says to prompts.

The pool does not depend on the source: every reward model picks from the same n samples. The baseline is fresh
samples with the same settings and streams of their own: the opponent of every cell of the target. `aligned` is what a
policy that was trained against a reward says, sampled the same way, with its distance from the SFT policy. With
recorded systems pool and baseline are what the systems answered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from xling.grid.stage import Context
from xling.jsonfiles import write_json
from xling.models.text import Ids, decode_response, ends, joined, policy_ids
from xling.results.samples import Samples, write_samples
from xling.results.specs import PoolSpec, RecordedSpec
from xling.stages.blocks import kept_lines
from xling.tasks.options import Task, task_module
from xling.tasks.records import Prompt, Split

BLOCK = 1024  # prompts tokenised at once to learn their lengths


@dataclass(frozen=True)
class Engine:
    """A policy ready to be sampled."""

    draw: Callable[[Sequence[str], Sequence[Ids]], list[list[Ids]]]  # prompts' names and ids to n samples each
    tokenizer: Any
    encoder: bool  # whether an encoder reads the prompt
    model: Any = None  # of our own decoding


def run(context: Context) -> None:
    """Writes samples.jsonl, a line a prompt, and samples.json, what was cut; with a parent `reference` the KL from it.

    Each chunk of prompts is kept in the scratch folder once it is sampled (xling/stages/blocks.py).
    """
    spec = msgspec.convert(context.spec, PoolSpec)
    prompts = prompts_of(spec)
    engine = load_engine(context.parents["sft"], spec)

    def ids_of(items: Sequence[int]) -> tuple[list[Ids], int]:
        chosen = [prompts[i] for i in items]
        return policy_ids(engine.tokenizer, chosen, spec.max_prompt_tokens, spec.truncation_side, engine.encoder)

    distance = _distance(context, spec, engine)

    def sampled(items: Sequence[int]) -> list[bytes]:
        asked = ids_of(items)[0]
        drawn = engine.draw([name_of(prompts[i]) for i in items], asked)
        return [
            line(prompts[i], said, engine.tokenizer, distance(ids, said))
            for i, ids, said in zip(items, asked, drawn, strict=True)
        ]

    lengths, cut = lengths_of(ids_of, len(prompts))
    lines = kept_lines(context, "samples", chunks(lengths, spec.chunk, spec.by_length), sampled)
    with (context.out / "samples.jsonl").open("wb") as file:
        file.writelines(lines)
    write_json(
        context.out / "samples.json",
        {"prompts": len(prompts), "prompts_cut": cut} | joined(engine.tokenizer, prompts),
    )


def prompts_of(spec: PoolSpec) -> list[Prompt]:
    """The test prompts; or those of the training demonstrations, whose references are not read."""
    if spec.split == "test":
        return task_module(spec.task).prompts(spec.task, spec.lang, "test")
    return demonstrated(spec.task, spec.lang, spec.split)[: spec.prompts or None]


def demonstrated(task: Task, lang: str, split: Split) -> list[Prompt]:
    """The prompts of a split's demonstrations, each once."""
    prompts = (d.prompt for d in task_module(task).demonstrations(task, lang, split))
    return list({prompt.id: prompt for prompt in prompts}.values())


def name_of(prompt: Prompt) -> str:
    """Name of a prompt's random streams."""
    return f"{prompt.lang}/{prompt.id}"


def _distance(context: Context, spec: PoolSpec, engine: Engine) -> Callable[[Ids, list[Ids]], list[float]]:
    """KL divergence in nats from the parent `reference` along each of a prompt's samples; without it nothing."""
    if "reference" not in context.parents:
        return lambda ids, said: []
    from xling.models.load import load_policy
    from xling.models.states import kl_along

    policy = load_policy(context.parents["sft"])[0] if engine.model is None else engine.model
    reference, pad = load_policy(context.parents["reference"])[0], engine.tokenizer.pad_token_id

    def distance(ids: Ids, said: list[Ids]) -> list[float]:
        return kl_along(policy, reference, [ids] * len(said), said, pad, spec.temperature)

    return distance


def load_engine(folder: Path, spec: PoolSpec) -> Engine:
    """The policy of a stage's folder, sampled by our own decoding or by vLLM."""
    from xling.models.load import load_policy
    from xling.models.sampling import Sampling, sample_chunk

    memory = spec.where.get("sampling_memory")
    how = Sampling(spec.n, spec.seed, spec.purpose, spec.temperature, spec.top_p, spec.max_new_tokens, memory)
    if spec.engine == "vllm":
        from xling.models.vllm import load_vllm

        return Engine(*load_vllm(folder, how, spec.max_prompt_tokens + spec.max_new_tokens), encoder=False)
    model, tokenizer = load_policy(folder)

    def draw(names: Sequence[str], rows: Sequence[Ids]) -> list[list[Ids]]:
        return sample_chunk(model, tokenizer, names, rows, how)

    return Engine(draw, tokenizer, bool(model.config.is_encoder_decoder), model)


def lengths_of(ids_of: Callable[[Sequence[int]], tuple[list[Ids], int]], count: int) -> tuple[list[int], int]:
    """Tokens of each prompt, and how many prompts are cut; the ids themselves are not kept, there may be many."""
    lengths: list[int] = []
    cut = 0
    for start in range(0, count, BLOCK):
        rows, too_long = ids_of(range(start, min(start + BLOCK, count)))
        lengths += map(len, rows)
        cut += too_long
    return lengths, cut


def chunks(lengths: Sequence[int], size: int, by_length: bool) -> list[list[int]]:
    """Prompts by number, in the chunks in which they are decoded: in their own order, or from short to long."""
    order = list(range(len(lengths)))
    if by_length:
        order.sort(key=lambda i: lengths[i])  # stable: equally long ones keep their order
    return [order[start : start + size] for start in range(0, len(order), size)]


def line(prompt: Prompt, drawn: Sequence[Ids], tokenizer: Any, kl: list[float]) -> bytes:
    """One prompt's samples as a line of samples.jsonl."""
    texts = [decode_response(tokenizer, ids) for ids in drawn]
    eos = [ids[-1] in ends(tokenizer) for ids in drawn]
    lengths = list(map(len, drawn))
    row = Samples(prompt.id, prompt.group, prompt.dataset, texts, lengths, eos, kl)
    return msgspec.json.encode(row, order="sorted")


def run_recorded(context: Context) -> None:
    """Writes samples.jsonl from the recorded responses, in system order; lengths are in characters.

    And subsets.json, where prompts belong to subsets that weigh differently (xling/analysis/matrix/categories.py).
    """
    spec = msgspec.convert(context.spec, RecordedSpec)
    module = task_module(spec.task)
    recorded = module.recorded(spec.task, spec.lang)
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
                list(map(len, texts)),
                [True] * len(texts),
            )
            for p, texts in zip(recorded.prompts, map(list, recorded.responses), strict=True)
        ),
    )
