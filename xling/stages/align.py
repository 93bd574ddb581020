"""align[s,t]: train the target's policy against the source's reward model, by the optimizer's `train`.

The policy starts as SFT_t, which is also what it is held to. It learns on the prompts of the training demonstrations,
whose references are not read, and is watched on those of validation; test prompts are not seen here. Rewards come from
text, so that the reward model may have any tokenizer, and are standardised with samples of SFT_t in the target
language: beta weighs the KL divergence against a reward whose standard deviation is 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch

from xling.errors import StageError
from xling.grid.stage import Context, PartDone
from xling.jsonfiles import write_json
from xling.measures.language import in_language
from xling.measures.words import repetition
from xling.models import parallel
from xling.models.load import DTYPES, load_policy
from xling.models.sampling import Sampling, sample_chunk
from xling.models.sizes import WATCHED_TOGETHER
from xling.models.states import kl_along, of_tokens, predicting_states, responses_of
from xling.models.text import Ids, decode_response, ends, policy_ids, response_ids
from xling.models.training import checkpointed, computing_in, core, store_trained, trainable, write_curve
from xling.optimizers import OPTIMIZERS, PolicyTraining, by_trl, check_processes, held_by, trains
from xling.optimizers.problem import Pool, Problem, Reward, Row, Watch, prompts_of_step
from xling.results.samples import Samples, iterate_samples, ragged
from xling.results.specs import AlignSpec
from xling.rewards import Request, Scores
from xling.stages.blocks import PROMPTS, blocks_of, kept_arrays, read_arrays
from xling.stages.pool import demonstrated, name_of
from xling.stages.score import text_scores
from xling.tasks.options import task_module
from xling.tasks.records import Prompt, Split

T = TypeVar("T")
LEAST_SPREAD = 1e-9  # standard deviation of rewards


@dataclass(frozen=True)
class Models:
    """The policy, what it is held to and the reward model, which several processes may share."""

    policy: Any
    spread: Any  # what the policy is reached through
    reference: Any
    scorers: tuple[Any, ...] = ()  # the network of the reward model, where it is shared out

    def scoring(self, call: Callable[[], T]) -> T:
        """`call`, which asks the reward model, and in which processes need not keep step."""
        return parallel.apart(self.scorers, call)

    def apart(self, call: Callable[[], T]) -> T:
        """`call`, which samples and reads both, and in which processes need not keep step."""
        return parallel.apart([self.spread] if self.reference is self.policy else [self.spread, self.reference], call)


@dataclass(frozen=True)
class Texts:
    """Prompts of one split, and how they and their responses are read."""

    prompts: list[Prompt]
    ids: list[Ids]
    cut: int  # prompts that were too long
    tokenizer: Any

    def said(self, responses: Sequence[Sequence[Ids]]) -> list[list[str]]:
        """Token ids as texts, by the one way of decoding."""
        return [[decode_response(self.tokenizer, ids) for ids in row] for row in responses]

    def names(self) -> list[str]:
        return [name_of(prompt) for prompt in self.prompts]


def run(context: Context) -> None:
    """Writes the policy in Hugging Face format, curve.jsonl and align.json."""
    spec = msgspec.convert(context.spec, AlignSpec)
    settings = _settings(spec)
    torch.manual_seed(spec.seed)
    models, tokenizer, how = _models(context, spec, settings)
    policy, own = models.policy, parallel.inner(models.spread)
    train, validation = (_texts(spec, tokenizer, policy, split) for split in ("train", "validation"))
    sides = spec.rm_truncation_side, spec.truncation_side
    request = Request(spec.task, spec.seed, *sides, spec.max_prompt_tokens, numbered=False)
    scorer = text_scores(context, spec.rm, spec.reading, request)
    # Where weights leave no room it is shared out too, but for pools, which processes score in blocks of their own.
    if how == "layers" and scorer.net is not None and "pool" not in context.parents:
        models = replace(models, scorers=(parallel.spread(scorer.net.requires_grad_(False), how),))
    score = scorer.score
    scale = _scale(spec, models, train, score)
    validate = Validation(spec, models, _first(validation, settings.eval_prompts), score, scale)
    problem = Problem(
        policy,
        models.reference,
        tokenizer,
        train.names(),
        train.ids,
        _reward(train, models, score, scale, settings, ends(tokenizer)),
        spec.max_new_tokens,
        spec.seed,
        Watch(
            validate,
            settings.steps,
            settings.eval_every,
            settings.beta,
            settings.keep,
            settings.kl_budget,
            context.progress,
        ),
        context.scratch,
        context.stopping,
        {role: context.parents[role] for role in ("sft", "reward") if role in context.parents},
        scale,
        _pool(context, train, score),
        spec.precision or "float32",
        spec.gradient_checkpointing,
        how,
        None if models.spread is policy else models.spread,
    )
    with checkpointed(own, spec.gradient_checkpointing):
        report = OPTIMIZERS.of(settings).train(problem, settings)
        whole = parallel.whole(models.spread)
    if parallel.rank() > 0:
        raise PartDone
    # Where it is: what was shared out is on the CPU now, since beside all else a GPU may have no room for it whole.
    store_trained(context.parents["sft"], context.out, whole, tokenizer, spec.lora)
    write_curve(context.out, problem.watch.curve)
    write_json(
        context.out / "align.json",
        {"step": problem.watch.kept, "reward_mean": scale[0], "reward_std": scale[1], "prompts": len(train.ids)}
        | {"prompts_cut": train.cut, **report},
    )


def _models(context: Context, spec: AlignSpec, settings: PolicyTraining) -> tuple[Models, Any, str]:
    """Policy and reference, the policy's tokenizer, and how they are shared out: ddp, fsdp or layers.

    Each is shared out before the next is read: a process has room for one whole model beside its shares.
    """
    start = context.parents["sft"]
    whole, tokenizer = trainable(start, spec.tuning, spec.lora, 0.0, settings.optimizer)
    policy = core(whole).eval()
    asked, encoder_decoder = spec.where.get("parallel", "auto"), bool(policy.config.is_encoder_decoder)
    check_processes(settings, parallel.world_size(), encoder_decoder, asked)
    parallel.join(policy.device)
    trl = by_trl(settings, encoder_decoder)  # accelerate spreads it then
    word = DTYPES[spec.precision or "float32"].itemsize if spec.lora is None else 0  # of the reference's weights
    held, gather = word * sum(weight.numel() for weight in policy.parameters()), spec.where.get("gather", "auto")
    if "reward" in context.parents:  # which each process has whole, unless weights are gathered layer by layer
        held += sum(path.stat().st_size for path in context.parents["reward"].rglob("*.safetensors"))
    values = held_by(settings).values
    how = "ddp" if trl else parallel.chosen(asked, policy, settings.optimizer, values, gather, held)
    spread = whole if trl else parallel.spread(whole, how)
    if spec.lora is not None:
        return Models(policy, spread, policy), tokenizer, how  # its adapters are switched off
    reference = load_policy(start, dtype=spec.precision or "float32")[0].requires_grad_(False)
    return Models(policy, spread, parallel.spread(reference, how)), tokenizer, how


def _settings(spec: AlignSpec) -> PolicyTraining:
    settings = OPTIMIZERS.read(spec.optimizer)
    assert trains(settings)  # no other asks for this stage
    return settings


def _texts(spec: AlignSpec, tokenizer: Any, policy: Any, split: Split) -> Texts:
    prompts = demonstrated(spec.task, spec.lang, split)
    encoder = bool(policy.config.is_encoder_decoder)
    ids, cut = policy_ids(tokenizer, prompts, spec.max_prompt_tokens, spec.truncation_side, encoder)
    return Texts(prompts, ids, cut, tokenizer)


def _first(texts: Texts, count: int) -> Texts:
    return replace(texts, prompts=texts.prompts[:count], ids=texts.ids[:count])


def _pool(context: Context, train: Texts, score: Scores) -> Pool | None:
    """The parent pool of training prompts with the reward of each sample, scored block by block."""
    if "pool" not in context.parents:
        return None
    number = {prompt.id: i for i, prompt in enumerate(train.prompts)}
    pool = list(iterate_samples(context.parents["pool"]))
    numbers = [number[samples.prompt] for samples in pool]

    def make(block: list[tuple[Prompt, Samples]]) -> list[Any]:
        return [ragged(score([prompt for prompt, _ in block], [samples.responses for _, samples in block]))]

    processes, own = parallel.world_size(), parallel.share(pool)
    size, most = max(1, PROMPTS // processes), -(-len(pool) // processes)
    scored = zip((train.prompts[i] for i in parallel.share(numbers)), own, strict=True)
    name, rounds = "ranking", 0
    if processes > 1:  # each has blocks of its own, perhaps one less than others, and they ask together whether to stop
        name, rounds = f"ranking-{parallel.rank()}-of-{processes}", -(-most // size)
    paths = kept_arrays(context, name, blocks_of(scored, size), make, len(own), rounds)
    rows = parallel.joined([row for path in paths for row in read_arrays(path)[0].tolist()])
    rewards = [row[: len(samples.responses)] for row, samples in zip(rows, pool, strict=True)]
    return Pool(numbers, [_ids(train.tokenizer, samples) for samples in pool], rewards)


def _ids(tokenizer: Any, samples: Samples) -> list[Ids]:
    """Token ids of the samples; one that was cut has no eos."""
    whole = response_ids(tokenizer, samples.responses, 1 << 20)
    return [ids if ended else ids[:-1] or ids for ids, ended in zip(whole, samples.eos, strict=True)]


# --- the reward ---------------------------------------------------------------------------------------------


def _scale(spec: AlignSpec, models: Models, train: Texts, score: Scores) -> tuple[float, float]:
    """Mean and standard deviation of the rewards of SFT_t's own samples, one each of some training prompts."""
    count = min(_settings(spec).reward_samples, len(train.ids))
    chosen = parallel.share(prompts_of_step(len(train.ids), count, spec.seed, 0))
    how, together = Sampling(1, spec.seed, "standardise", max_new_tokens=spec.max_new_tokens), watched_together()

    def sampled() -> list[list[Ids]]:
        # the policy, where that is the reference, has not been trained yet, and its adapters change nothing
        drawn: list[list[Ids]] = []
        for start in range(0, len(chosen), together):
            some = chosen[start : start + together]
            names, ids = [name_of(train.prompts[i]) for i in some], [train.ids[i] for i in some]
            with computing_in(spec.precision or "float32", models.reference.device):
                drawn += sample_chunk(models.reference, train.tokenizer, names, ids, how)
        return drawn

    def scored() -> list[float]:
        rewards: list[float] = []
        for start in range(0, len(chosen), together):
            some = slice(start, start + together)
            rewards += [row[0] for row in score([train.prompts[i] for i in chosen[some]], train.said(drawn[some]))]
        return rewards

    drawn = models.apart(sampled)
    rewards = parallel.joined(models.scoring(scored))
    mean, spread = float(np.mean(rewards)), float(np.std(rewards))
    if not spread > LEAST_SPREAD:  # also if it is no number
        raise StageError(
            f"The reward model gives {count} samples of the policy rewards with a standard deviation of {spread:g}: "
            "there is nothing to optimise."
        )
    return mean, spread


def _reward(
    train: Texts,
    models: Models,
    score: Scores,
    scale: tuple[float, float],
    settings: PolicyTraining,
    stops: Sequence[int],
) -> Reward:
    """Standardised rewards of responses to training prompts, less the penalty for one that never ended."""
    penalty, (mean, spread) = settings.eos_penalty(), scale

    def reward(numbers: Sequence[int], responses: Sequence[Sequence[Ids]]) -> list[list[float]]:
        found = models.scoring(lambda: score([train.prompts[i] for i in numbers], train.said(responses)))
        return [
            [(value - mean) / spread - penalty * (ids[-1] not in stops) for value, ids in zip(*both, strict=True)]
            for both in zip(found, responses, strict=True)
        ]

    return reward


# --- validation ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Validation:
    """Measures a policy on validation prompts: one pure sample each, always with the same random numbers."""

    spec: AlignSpec
    models: Models
    texts: Texts
    score: Scores
    scale: tuple[float, float]

    def __call__(self, policy: Any) -> Row:
        """reward (standardised, without the penalty), kl (nats a response), entropy (nats a token), length (tokens).

        eos, in_language (where the detector knows the language) and repetition are shares; quality is the exact one,
        where the task knows it.
        """
        texts, tokenizer = self.texts, self.texts.tokenizer
        how = Sampling(1, self.spec.seed, "validation", max_new_tokens=self.spec.max_new_tokens)
        names, prompts, ids = parallel.share(texts.names()), parallel.share(texts.prompts), parallel.share(texts.ids)
        drawn, kl, entropy, together = list[list[Ids]](), list[float](), list[float](), watched_together()

        def measured() -> None:
            for start in range(0, len(names), together):
                cut = slice(start, start + together)
                with computing_in(self.spec.precision or "float32", policy.device):
                    some = sample_chunk(policy, tokenizer, names[cut], ids[cut], how)
                    said = [row[0] for row in some]
                    kl.extend(kl_along(policy, self.models.reference, ids[cut], said, tokenizer.pad_token_id))
                    entropy.extend(entropies(policy, ids[cut], said, tokenizer.pad_token_id))
                drawn.extend(some)

        self.models.apart(measured)
        scored = self.models.scoring(lambda: self.score(prompts, texts.said(drawn)) if prompts else [])
        drawn, kl, entropy = parallel.joined(drawn), parallel.joined(kl), parallel.joined(entropy)
        rewards, written = np.array([row[0] for row in parallel.joined(scored)]), texts.said(drawn)
        row = {
            "reward": float((rewards.mean() - self.scale[0]) / self.scale[1]),
            "kl": float(np.mean(kl)),
            "entropy": float(np.mean(entropy)),
            "length": float(np.mean([len(ids) for [ids] in drawn])),
            "eos": float(np.mean([ids[-1] in ends(tokenizer) for [ids] in drawn])),
            "repetition": float(np.mean([repetition(text) for [text] in written])),
        }
        shares = in_language([text for [text] in written], self.spec.lang)
        if known := [share for share in shares if share is not None]:
            row["in_language"] = float(np.mean(known))
        if self.spec.quality:
            quality = task_module(self.spec.task).quality(self.spec.task, texts.prompts, written)
            row["quality"] = float(np.mean(quality))
        return parallel.agreed(row)  # by which each decides what to keep, and when to stop


def watched_together() -> int:
    """Prompts that a process samples and reads together."""
    return max(1, WATCHED_TOGETHER // parallel.world_size())


@torch.inference_mode()
def entropies(policy: Any, prompts: Sequence[Ids], responses: Sequence[Ids], pad: int) -> list[float]:
    """Mean entropy in nats of the next-token distribution along each response."""
    batch = responses_of(policy, prompts, responses, pad)
    out: list[float] = []
    for states, mask in zip(predicting_states(policy, batch), batch.mask, strict=True):
        [each] = of_tokens(policy, lambda scores: (-(scores.exp() * scores).sum(-1),), states[mask])
        out.append(float(each.mean()))
    return out
