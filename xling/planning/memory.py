"""Memory that a stage takes: of a GPU by formulas in bytes, with the cheapest setting that fits; of this machine.

A stage is at its worst at one of a few moments, and what is held then is a sum:

    learning   weights + optimizer state + other models + activations + logits (+ gradients that are there already)
    again      the same without logits, and with what the first layer keeps that is computed again
    ending     weights + gradients + optimizer state + other models + what the last layer keeps
    summing    weights + gradients + optimizer state + other models + what embeddings' gradients are added up in
    updating   weights + gradients + optimizer state + other models + what the update computes with
    sampling   weights, all of them gathered + optimizer state + other models + keys and values + probabilities
               (+ what DDP averages gradients in)

Sharded over N GPUs (FSDP2) weights, gradients and optimizer state are an N-th each, and what is gathered comes on top:
embeddings or head, and a block or more, with gradients; while it samples all weights, or what is gathered of a layer.
Trained whole, weights are float32, and 16 bits what is computed in; adapters stand on weights in their own 16 or 4
bits. Texts are as long as the limits let them be: an upper bound. docs/scale.md has the formulas beside measured peaks,
and what was left out.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from xling.config.common import IN_BFLOAT16
from xling.grid.stage import WHERE, Gpus, Memory, Stage, Tokens
from xling.models.encoder import PACKAGE
from xling.models.sizes import (
    ACCELERATOR_ROOM,
    DRAWN,
    PROMPTS_PER_BATCH,
    SHARED_OUT,
    TOKENS_KEPT,
    VOCABULARY_AT_ONCE,
    WATCHED_TOGETHER,
    WEIGHTS_AT_ONCE,
    Sizes,
    rows_on_accelerator,
)
from xling.models.text import row_width
from xling.optimizers import OPTIMIZERS, GroupTraining, PolicyTraining, by_trl, held_by, trains
from xling.optimizers.training import ROWS_TOGETHER
from xling.planning.costs import WORD, base_of, budget, limits, sized
from xling.results.specs import located

QUANTIZED = 0.56  # bytes of a weight in 4 bits, with its share of the scales
STEP = 12  # bytes a weight that Adafactor computes the update of the largest matrix with
STEP_IN_PARTS = 20  # bytes a weight of those that AdamW in bfloat16 updates together
LOGIT = 12  # bytes of a token's logit on the way back: the log-probability, its gradient, the logit's gradient
LAST = 4  # of these the logit's gradient, of which the head's is made
# Bytes of a weight that is trained whole (and of its gradient), and of what the optimizer holds of each that learns: of
# Adafactor a row and a column of each matrix, by its width.
HELD = {"adamw": (4, 8.0), "adafactor": (4, 0.0), "adamw_8bit": (4, 2 + 8 / 256), "adamw_kahan": (2, 6.0),
        "adamw_stochastic": (2, 4.0)}  # fmt: skip
TILE_TOKENS, TILE_WORDS = 4096, 1 << 15  # of trl's kernel (trl/kernels/chunked_logprob.py), of whatever vocabulary
PASSING = 0.6  # of what a layer would keep for the way back, while a text passes it
BOUNDLESS = float(1 << 62)  # bytes
EVALUATED = 32  # rows that are written together when a policy is measured
USUAL = 80.0  # GiB of a GPU, where that is asked of `auto` and not known
MORE = (2, 4, 8, 16, 32, 64)  # GPUs that are looked at
A_NODE = 8  # GPUs

Parts = dict[str, float]


class Net(NamedTuple):
    """A model that is trained."""

    sizes: Sizes
    word: int  # bytes of a weight as it is stored
    tuning: str = "full"  # lora, qlora; frozen: a head alone
    rank: int = 0  # of adapters
    trunk: bool = False  # without an LM head

    @property
    def numbers(self) -> int:
        return self.sizes.trunk if self.trunk else self.sizes.weights

    @property
    def learning(self) -> int:
        """Weights that learn."""
        return self.numbers if self.tuning == "full" else self.rank * self.sizes.linear

    def weights(self, optimizer: str) -> float:
        """Bytes."""
        if self.tuning == "full":
            return float(HELD[optimizer][0] * self.numbers)
        word = QUANTIZED if self.tuning == "qlora" else self.word
        root = self.sizes.table + (0 if self.trunk else self.sizes.head)
        return word * (self.numbers - root) + self.word * root + 4.0 * self.learning

    def gathered(self, learning: bool) -> float:
        """Bytes of what processes that share weights out gather at once; learning: with gradients.

        Of the head the gradient is there beside the weights, then beside what is sent of it; that waits until the last
        block's is sent, which computes with its own and with the next one's weights.
        """
        table, block = max(self.sizes.table, 0 if self.trunk else self.sizes.head), self.sizes.block
        word = 4 if self.tuning == "full" else self.word
        if learning and self.tuning == "full":
            return 4.0 * (table + max(table + block, 3 * block))
        return float(word * max(table + block, 2 * block))

    def state(self, optimizer: str) -> float:
        """Bytes of the optimizer's."""
        return self.learning * (8.0 / self.sizes.width if optimizer == "adafactor" else HELD[optimizer][1])

    def gradients(self, optimizer: str) -> float:
        """Bytes."""
        return float(HELD[optimizer][0] * self.learning)

    def adding(self, optimizer: str, more: bool) -> float:
        """Bytes of the embeddings' gradients besides the one that is kept.

        Of two uses or more (encoder and decoder, a head that is tied to them) autograd keeps the sum so far, the next
        one and their sum; more: and that of earlier micro-batches.
        """
        if self.tuning != "full":
            return 0.0
        uses = 1 + (self.sizes.encoder > 0) + (not self.sizes.head and not self.trunk)
        return float(HELD[optimizer][0] * self.sizes.table * (2 * (uses > 1) + more))

    def computing(self, optimizer: str) -> float:
        """Bytes that an update computes with besides."""
        largest = self.sizes.table if self.tuning == "full" else self.rank * self.sizes.inner
        if optimizer in IN_BFLOAT16:
            return float(STEP_IN_PARTS * min(largest, WEIGHTS_AT_ONCE))
        return STEP * float(largest) if optimizer == "adafactor" else 0.0


class Way(NamedTuple):
    """How a stage trains: settings that decide no result."""

    gpus: int = 1
    sharded: bool = False
    micro: int | None = None  # items read at once
    again: bool = False  # gradient checkpointing
    layers: bool = False  # sampled layer by layer, where weights are shared out


class Task(NamedTuple):
    """What a stage trains, on what."""

    nets: tuple[Net, ...]
    others: float  # bytes of models that do not learn
    batch: int  # items a step, of all processes
    at_once: int  # items read at once without micro-batches, of one process
    rows: int  # texts an item
    prompt: int
    response: int
    logits: bool  # whether the vocabulary is computed with
    half: bool  # computed in 16 bits
    dropout: bool
    optimizer: str
    written: int  # rows that are sampled together at most, if they fit
    room: float  # bytes for those
    how: str = "auto"  # policy.parallel
    anchor: float = 0.0  # bytes of a reference with weights of its own, which are shared out like the policy's
    update: int = 0  # items that an update reads, of all processes; 0: the batch
    shares: bool = False  # whether processes share what is sampled
    tiled: bool = False  # whether trl's kernel computes the logits
    prompts: int = 0  # of a step, each with all of its responses in one process; 0: texts are shared one by one
    gather: str = "auto"  # policy.gather
    scorer: float = 0.0  # bytes of a reward model that is shared out where weights are gathered layer by layer

    @property
    def shared(self) -> int:
        """Items of an update: what several processes share."""
        return self.update or self.batch


def moments(task: Task, way: Way) -> dict[str, Parts]:
    """Bytes by moment, and by what they are for."""
    share = 1 / way.gpus if way.sharded else 1.0
    nets, first = task.nets, task.nets[0].sizes
    held: Parts = {
        "weights": share * sum(net.weights(task.optimizer) for net in nets),
        "optimizer": share * sum(net.state(task.optimizer) for net in nets),
        "other models": task.others + share * task.anchor + task.scorer / (way.gpus if way.layers else 1),
    }
    own = sum(net.gradients(task.optimizer) for net in nets)
    gradients, buckets = share * own, own if way.gpus > 1 and not way.sharded else 0.0
    items = min(way.micro or task.at_once, task.shared // way.gpus)
    parts = items < task.batch // way.gpus
    texts = items * task.rows
    learning: Parts = {
        **held,
        "activations": sum(texts * kept(net, task, way.again) for net in nets),
        "logits": with_head(nets[0], task, texts * task.response, way.sharded) if task.logits else 0.0,
    }
    if task.tiled:
        learning["logits"] = tiles(first, texts * (task.prompt + task.response), 2 if task.half else 4)
    if task.half and task.optimizer not in IN_BFLOAT16:  # autocast's copies of the weights that learn whole
        learning["copies in 16 bits"] = 2.0 * sum(net.numbers for net in nets if net.tuning == "full")
    around = 0.0
    if way.sharded:
        around = max(net.gathered(learning=True) for net in nets)
        learning["gathered"] = around
    learning["gradients"] = max(gradients if parts else 0.0, buckets)
    layer = max(texts * one_layer(net, task) for net in nets)
    adding = max(net.adding(task.optimizer, parts and not way.sharded) for net in nets)
    ending = {**held, "gradients": gradients + buckets, "gathered": around, "activations": layer}
    summing = {**held, "gradients": gradients + buckets + adding, "gathered": around}
    updating = {**held, "gradients": gradients + buckets,
                "update": share * max(net.computing(task.optimizer) for net in nets)}  # fmt: skip
    found = {"learning": learning, "ending": ending, "summing": summing, "updating": updating}
    if rows := -(-task.written // way.gpus) if task.shares else task.written:  # reward models sample nothing
        sampling = found["sampling"] = {**held, "gradients": buckets}  # which stay for the next step
        if way.layers:
            sampling["gathered"] = nets[0].gathered(learning=False)
        elif way.sharded:
            sampling["weights"] += nets[0].weights(task.optimizer)
            sampling["other models"] += (1 - share) * task.anchor  # it reads validation samples whole
        word = 2 if task.half else nets[0].word if nets[0].tuning != "full" else 4
        sampling |= drawn(first, rows, 1, task.prompt, task.response, word, task.room)
    if way.again:  # the logits are gone by the time that the first layer is computed again
        found["again"] = {**learning, "logits": 0.0, "activations": learning["activations"] + layer}
    return found


def kept(net: Net, task: Task, again: bool) -> float:
    """Bytes of one text that a network keeps for the way back; of layers that are computed again their inputs alone."""
    sizes, args = net.sizes, (task.prompt, task.response, task.half, task.dropout, lean(net, task))
    if net.tuning == "frozen":
        return 0.0
    if not again:
        return sizes.layers(*args)
    written = task.response if sizes.encoder else task.prompt + task.response
    between = sizes.encoder * task.prompt + sizes.decoder * written
    return 4.0 * sizes.width * between


def lean(net: Net, task: Task) -> bool:
    """Whether norms keep less: their weights do not learn, or what goes from layer to layer has 16 bits."""
    return net.tuning != "full" or task.optimizer in IN_BFLOAT16


def one_layer(net: Net, task: Task) -> float:
    """All that its largest layer keeps."""
    if net.tuning == "frozen":
        return 0.0
    return max(net.sizes.layer(task.prompt, task.response, task.half, task.dropout, lean(net, task)))


def table(sizes: Sizes, tokens: int) -> float:
    """Bytes of the logits of so many tokens, as far as they are there at once."""
    return float(LOGIT * min(tokens * sizes.vocabulary, VOCABULARY_AT_ONCE))


def with_head(net: Net, task: Task, tokens: int, sharded: bool) -> float:
    """The same, or the logits' gradients and the head's that is made of them; of chunks there is one already.

    sharded: the head's is with what is gathered.
    """
    sizes, found = net.sizes, table(net.sizes, tokens)
    if net.tuning != "full" or net.trunk or sharded:
        return found
    head = float(HELD[task.optimizer][0] * (sizes.head or sizes.table))
    more = tokens * sizes.vocabulary > VOCABULARY_AT_ONCE
    return max(found + more * head, found * LAST / LOGIT + (1 + more) * head)


def tiles(sizes: Sizes, tokens: int, word: int) -> float:
    """Bytes that trl's trainers compute logits with: a tile of tokens and words, and gradients of head and states."""
    return float(word * min(tokens, TILE_TOKENS) * TILE_WORDS + 4 * (sizes.table + tokens * sizes.width))


def passing(sizes: Sizes, rows: int, prompt: int, response: int) -> float:
    """Bytes of the largest layer while so many rows pass it, without a way back."""
    return PASSING * rows * max(sizes.layer(prompt, response, True, True))


def drawn(sizes: Sizes, prompts: int, n: int, prompt: int, response: int, word: int, room: float) -> Parts:
    """Keys and values of as many samples as have `room`, n to each of some prompts, and what a token is drawn with."""
    each = word * sizes.cache(prompt, response) + DRAWN * sizes.vocabulary
    rows = min(prompts * n, max(1, int(room // each)))
    layers = max(1, sizes.decoder)  # one of them is there twice while finished samples are taken out of a batch
    cache = rows * sizes.cache(prompt, response) * (1 + 1 / layers) + math.ceil(rows / n) * sizes.cache(prompt, 0)
    return {
        "keys and values": word * cache,
        "logits": float(DRAWN * rows * sizes.vocabulary),
        "activations": passing(sizes, math.ceil(rows / n), prompt, 1),
    }


def room(spec: Mapping[str, Any], gpus: Gpus) -> float:
    """Bytes for what is decoded together."""
    return float(spec.get(WHERE, {}).get("sampling_memory") or ACCELERATOR_ROOM * (gpus.gib or USUAL)) * 2**30


# --- what fits ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def trained(task: Task, way: Way, names: tuple[str, str], kind: str, gpus: Gpus) -> Memory:
    """What training takes the way it is set, and the cheapest way with which it fits, if that is another.

    names: of the settings of micro-batches and of checkpointing.
    """
    now = Memory(worst(task, _spread(task, way._replace(gpus=gpus.count), gpus)), gpus, checkpoints(task))
    if gpus.gib is None or now.fits:
        return now
    for other in _ways(task, way, gpus):
        tried = Memory(worst(task, other), gpus)
        if tried.fits:
            typed = _typed(other, way, task, names, kind, gpus)
            return Memory(now.parts, gpus, now.scratch, typed, (tried.gib, other.gpus))
    return now


def checkpoints(task: Task) -> float:
    """Bytes on disk at most: the newest, that whose weights are kept so far, and one that is being written."""
    word = HELD[task.optimizer][0]
    return 3.0 * sum(word * net.learning + net.state(task.optimizer) for net in task.nets)


def worst(task: Task, way: Way) -> Parts:
    """What is held at the worst moment."""
    return max(moments(task, way).values(), key=lambda parts: sum(parts.values()))


def _spread(task: Task, way: Way, gpus: Gpus) -> Way:
    """With its weights shared out where it is so already or `how` says so, or where `auto` does; and how it samples."""
    gpu = (gpus.gib or USUAL) * 2**30
    large = _trained(task, way._replace(sharded=False)) > SHARED_OUT * gpu
    sharded = way.gpus > 1 and (task.how == "fsdp" or way.sharded or (task.how == "auto" and large))
    whole = task.nets[0].weights(task.optimizer) + task.anchor + task.others + task.scorer
    tight = _trained(task, way._replace(sharded=True)) + whole > (1 - ACCELERATOR_ROOM) * gpu
    layers = sharded and (task.gather == "layers" or (task.gather == "auto" and tight))
    return way._replace(sharded=sharded, layers=layers)


def _trained(task: Task, way: Way) -> float:
    """Bytes of weights, gradients and optimizer state."""
    held = moments(task, way)["updating"]
    return sum(held[name] for name in ("weights", "gradients", "optimizer"))


def _ways(task: Task, way: Way, gpus: Gpus) -> Iterator[Way]:
    """Other ways to train, cheap ones first: smaller micro-batches, states computed again, more GPUs."""
    most = gpus.most if gpus.more else 0
    counts = [one for one in MORE if gpus.count < one <= most and not task.shared % one and not task.prompts % one]
    for count in (gpus.count, *counts):
        share = task.shared // count
        sizes = [size for size in range(share, 0, -1) if share % size == 0 and size <= (way.micro or share)]
        for again in (False, True) if not way.again else (True,):
            for size in sizes:
                tried = Way(count, micro=size, again=again)
                yield (first := _spread(task, tried, gpus))
                if count > 1 and not first.sharded and task.how != "ddp":
                    yield _spread(task, tried._replace(sharded=True), gpus)


def _typed(other: Way, way: Way, task: Task, names: tuple[str, str], kind: str, gpus: Gpus) -> str:
    words = []
    if other.micro != (way.micro or task.shared // other.gpus):
        words.append(f"{names[0]}={other.micro}")
    if other.again and not way.again:
        words.append(f"{names[1]}=true")
    if other.gpus > gpus.count:
        here, nodes = f"hydra.launcher.stages.{kind}", max(1, other.gpus // A_NODE)
        words += [f"{here}.{one}".replace("{}", str(other.gpus // nodes)) for one in gpus.settings]
        words += [f"{here}.nodes={nodes}"] if nodes > 1 else []
        if other.sharded and not _spread(task, other._replace(sharded=False), gpus).sharded:
            words.append("policy.parallel=fsdp")
    return " ".join(words)


# --- by kind of stage: the hook `needs` of xling/grid/stage.py's Kind ---------------------------------------


def sft(stage: Stage, gpus: Gpus) -> Memory | None:
    """A policy that is fine-tuned, and writes responses to validation prompts in between."""
    spec, model = located(stage.spec), sized(stage)
    if model is None:
        return None
    sizes, word = model
    training, rank = spec["training"], (spec["lora"] or {}).get("r", 0)
    longest = max(spec["max_new_tokens"], 512)  # xling/stages/sft.py's RESPONSE_TOKENS
    task = Task(
        (Net(sizes, word, spec["tuning"], rank),), 0.0, training["batch_size"], training["batch_size"], 1,
        spec["max_prompt_tokens"], longest, True, word == 2, _drops(sizes, training), training["optimizer"], EVALUATED,
        room({}, gpus), _how(stage), gather=_asked(stage, "gather"),
    )  # fmt: skip
    way = Way(micro=training["micro_batch_size"], again=training["gradient_checkpointing"])
    return trained(task, way, ("sft.micro_batch_size", "sft.gradient_checkpointing"), stage.kind, gpus)


def reward(stage: Stage, gpus: Gpus) -> Memory | None:
    """A network; linear heads take next to nothing. A reference is read before, by the model that is then trained."""
    spec, model = located(stage.spec), sized(stage)
    if model is None or (own := budget(stage)) is None:
        return None
    (sizes, word), rm = model, spec["rm"]
    training, tuning, rank = rm["training"], rm["tuning"], (rm.get("lora") or {}).get("r", 0)
    texts = 2 if spec["objective"] == "pairwise" or rm.get("ratings") == "pairs" else 1  # of an example
    task = Task(
        (Net(sizes, word, tuning, rank, trunk=not own.generative),), 0.0, training["batch_size"],
        training["batch_size"], texts + own.parallel_texts,
        *limits(rm, Tokens()), own.generative, word == 2, _drops(sizes, training),
        training["optimizer"], 0, 0.0, _how(stage),
    )  # fmt: skip
    way = Way(micro=training["micro_batch_size"], again=training["gradient_checkpointing"])
    here = "rm_backbone.training"
    return trained(task, way, (f"{here}.micro_batch_size", f"{here}.gradient_checkpointing"), stage.kind, gpus)


def align(stage: Stage, gpus: Gpus) -> Memory | None:
    """A policy, its reference, the reward model and, where it has weights of its own, a value model."""
    spec, model = located(stage.spec), sized(stage)
    if model is None:
        return None
    (sizes, word), settings = model, OPTIMIZERS.read(spec["optimizer"])
    assert trains(settings)  # no other asks for this stage
    policy = Net(sizes, word, spec["tuning"], (spec["lora"] or {}).get("r", 0))
    half = WORD.get(spec.get("precision") or "", word if policy.tuning != "full" else 4) == 2
    others, scorer = _scorer(stage)
    task = aligned(settings, policy, half, spec["max_prompt_tokens"], spec["max_new_tokens"], others, room({}, gpus),
                   _how(stage))._replace(gather=_asked(stage, "gather"), scorer=scorer)  # fmt: skip
    way = Way(micro=spec["optimizer"].get("micro_batch_size"), again=bool(spec.get("gradient_checkpointing")))
    if not hasattr(settings, "micro_batch_size"):  # an optimizer that reads its batch at once
        return Memory(worst(task, way), gpus, checkpoints(task))
    return trained(task, way, ("optimizer.micro_batch_size", "policy.gradient_checkpointing"), stage.kind, gpus)


def aligned(
    settings: PolicyTraining, policy: Net, half: bool, prompt: int, response: int, scorer: float, room: float, how: str
) -> Task:
    """What an optimizer trains; scorer: bytes of the reward model."""
    own, sizes = held_by(settings), policy.sizes
    trl = by_trl(settings, sizes.encoder > 0)  # whose processes share neither weights nor what is sampled
    # A policy with adapters is its own reference, with these switched off.
    reference = (2.0 if half else 4.0) * sizes.weights if policy.tuning == "full" else 0.0
    at_once = own.at_once
    if own.tables:
        at_once = max(1, min(at_once, VOCABULARY_AT_ONCE // (own.rows * response * sizes.vocabulary)))
    nets = policy, *[Net(sizes, 4, trunk=True)] * own.values
    k = settings.k if isinstance(settings, GroupTraining) else 1
    together = own.batch if trl else min(own.batch, ROWS_TOGETHER)  # trl draws a step's responses at once
    written = max(together if own.samples else 0, min(settings.eval_prompts, WATCHED_TOGETHER))
    return Task(nets, scorer, own.batch, at_once, own.rows, prompt, response, True, half, False,
                settings.optimizer, written, BOUNDLESS if trl else room, "ddp" if trl else how, reference,
                own.at_once, not trl, own.tiled and not sizes.encoder, settings.batch_size // k)  # fmt: skip


def samples(stage: Stage, gpus: Gpus) -> Memory | None:
    """A policy that writes n responses to each prompt of a chunk; of an aligned one its reference reads them too."""
    spec, model = located(stage.spec), sized(stage)
    if model is None:
        return None
    sizes, word = model
    prompt, response = spec["max_prompt_tokens"], spec["max_new_tokens"]
    weights: Parts = {"weights": float(word * sizes.weights)}
    if "reference" in stage.parents:
        weights["other models"] = float(word * sizes.weights)

    def written(bytes_: float) -> Memory:
        return Memory(weights | drawn(sizes, spec["chunk"], spec["n"], prompt, response, word, bytes_), gpus)

    now = written(room(spec, gpus))
    if gpus.gib is None or now.fits:
        return now
    for share in (ACCELERATOR_ROOM / parts for parts in (1, 2, 4, 16, 64)):
        if written(share * gpus.gib * 2**30).fits:
            return Memory(now.parts, gpus, setting=f"policy.sampling_memory={share * gpus.gib:.3g}")
    return now


def reading(stage: Stage, gpus: Gpus) -> Memory | None:
    """A model that reads prompts once for their responses, or whole requests."""
    reader = stage.parents.get("lm") or (stage.parents["reward"] if _is_network(stage.parents.get("reward")) else None)
    model = sized(reader) if reader is not None else None
    if model is None:
        return None
    sizes, word = model
    prompt, response = limits(stage.spec.get("rm", stage.spec), Tokens())
    prompts = rows_on_accelerator(row_width(prompt), PROMPTS_PER_BATCH)
    rows, models = rows_on_accelerator(row_width(response)), 2 if _is_generative(stage.parents.get("reward")) else 1
    parts: Parts = {
        "weights": float(models * word * sizes.weights),
        "keys and values": float(word * (sizes.cache(TOKENS_KEPT, 0) + rows * sizes.cache(prompt, response))),
        "activations": max(passing(sizes, prompts, prompt, 1), passing(sizes, rows, 1, response)),
    }
    return Memory(parts, gpus)


# --- on this machine: whether a stage computes with a network, and in how much main memory, roughly ----------

# The factors are made of two figures for a model of 0.27 billion weights in float32 on a CPU that were reported and not
# measured again: 7.2 GB at the peak of fine-tuning, 12.4 GB of PPO (policy, value model, reference, reward model).

IDLE = 0.7e9  # bytes of a process that has read no model yet
# Bytes a weight: gradients and AdamW's moments, the best model so far, activations and logits of a small batch.
TRAINED = {"sft": 24.0, "reward": 24.0, "align": 43.0}
ADAPTED = 10.0  # where the weights themselves stay as they are: in float32, and activations
READ = 6.0


def on_gpu(stage: Stage) -> bool:
    """Whether it reads, samples or trains a network: one is among its parents, or it reads with a local encoder."""
    if any(up.kind in ("base", "sft", "align") or _is_network(up) for up in stage.parents.values()):
        return True
    encoder = stage.spec.get("encoder", "") if stage.kind in ("embed", "features") else ""
    return bool(encoder) and encoder != "packaged" and not encoder.startswith(PACKAGE)  # which computes on the CPU


def main_memory(stage: Stage) -> float:
    """Bytes; 0 for what reads no network, and where nothing tells how large one is."""
    found = sized(stage) if on_gpu(stage) else None
    if found is None:
        return 0.0
    settings = stage.spec["rm"] if stage.kind == "reward" else stage.spec
    trained = TRAINED.get(stage.kind)
    models = 2 if _is_generative(stage.parents.get("reward")) else 1
    each = READ * models if trained is None else trained if settings.get("tuning", "full") == "full" else ADAPTED
    return IDLE + each * found[0].weights


# --- inside -------------------------------------------------------------------------------------------------


def _is_network(stage: Stage | None) -> bool:
    return stage is not None and stage.kind == "reward" and budget(stage) is not None


def _is_generative(stage: Stage | None) -> bool:
    """Whether it trains a reward model that reads log-probabilities, beside those of a reference."""
    own = budget(stage) if stage is not None and stage.kind == "reward" else None
    return own is not None and own.generative


def _scorer(stage: Stage) -> tuple[float, float]:
    """Bytes of the reward model that trains a policy: of one that every process has; of one that they can share."""
    model = sized(stage.parents["reward"]) if _is_network(stage.parents.get("reward")) else None
    generative = _is_generative(stage.parents.get("reward"))
    weights = 0.0 if model is None else float(model[1] * (2 * model[0].weights if generative else model[0].trunk))
    alone = generative or "pool" in stage.parents or (model is not None and model[0].family == "encoder")
    return (weights, 0.0) if alone else (0.0, weights)


def _how(stage: Stage) -> str:
    """How processes share weights: policy.parallel, but none where 4 bits, float16 or the optimizer forbid it."""
    base, own = base_of(stage), stage.spec["rm"] if stage.kind == "reward" else stage.spec
    follows = stage.spec["optimizer"] if stage.kind == "align" else own["training"]
    if follows["optimizer"] not in ("adamw", "adafactor"):
        return "ddp"
    scaled = stage.kind != "align" and base is not None and base.spec["dtype"] == "float16"  # a policy's losses are not
    return "ddp" if scaled or own["tuning"] == "qlora" else _asked(stage, "parallel")


def _asked(stage: Stage, name: str) -> str:
    """A setting of how processes share a policy."""
    return str(stage.spec.get(WHERE, {}).get(name, "auto"))


def _drops(sizes: Sizes, training: Mapping[str, Any]) -> bool:
    """Whether dropout keeps its masks: as the setting says, else as such models do."""
    share = training["dropout"]
    return bool(share) if share is not None else sizes.family != "decoder"
