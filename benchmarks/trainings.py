"""A few steps of every trainer on a random model, for what they take of memory: memory.py and memory_plan.py."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

TRAINERS = ("sft", "reward", "ppo", "rloo", "grpo", "dpo")
STEPS = 2
RANK = 8  # of adapters


class Case(NamedTuple):
    """One training. Texts are of like length: `prompt` and `response` tokens each."""

    trainer: str
    model: str = "llama"  # or mt5
    batch: int = 8
    micro: int | None = None
    again: bool = False  # gradient checkpointing
    precision: str = "float32"
    optimizer: str = "adamw"
    tuning: str = "full"  # or lora
    prompt: int = 32
    response: int = 32


def config_of(model: str, width: int, layers: int, vocabulary: int) -> Any:
    from transformers import LlamaConfig, MT5Config

    special: dict[str, Any] = {"vocab_size": vocabulary, "pad_token_id": 0, "eos_token_id": 1}
    if model == "llama":
        return LlamaConfig(hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
                           num_attention_heads=width // 32, num_key_value_heads=max(1, width // 64), head_dim=32,
                           bos_token_id=2, tie_word_embeddings=False, **special)  # fmt: skip
    return MT5Config(d_model=width, d_kv=32, num_heads=width // 32, d_ff=5 * width // 2, num_layers=layers // 2,
                     decoder_start_token_id=0, dropout_rate=0.0, tie_word_embeddings=False, **special)  # fmt: skip


def saved(folder: Path, model: str, width: int, layers: int, vocabulary: int) -> Path:
    """A model of random weights with a tokenizer of words, in a folder that may be there already."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

    if folder.exists():
        return folder
    config = config_of(model, width, layers, vocabulary)
    torch.manual_seed(0)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(vocabulary)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")),
                                        pad_token="w0", eos_token="w1", bos_token="w2")  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def peak(case: Case, folder: Path) -> int:
    """Bytes of tensors that STEPS steps hold at most, the model's weights among them."""
    import torch
    from tensors import Alive

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch, Alive() as alive, prepared(case, folder, Path(scratch)) as made:
        models, run = made
        for model in models:
            for tensor in (*model.parameters(), *model.buffers()):
                alive.count(tensor)
        alive.most = alive.now
        run()
        return alive.most


@contextmanager
def prepared(case: Case, folder: Path, scratch: Path) -> Iterator[tuple[list[Any], Callable[[], Any]]]:
    """The models of a training, and what makes its steps, without evaluations and checkpoints."""
    from xling.config.policies import Lora
    from xling.models.training import checkpointed, trainable

    lora = Lora(r=RANK, alpha=2 * RANK) if case.tuning == "lora" else None
    if case.trainer == "reward":
        net = _reward_net(case, folder, lora)
        with checkpointed(net, case.again):
            yield [net], _fitting(case, net)
        return
    whole, tokenizer = trainable(folder, case.tuning, lora, 0.0, case.optimizer)
    with checkpointed(whole, case.again):
        if case.trainer == "sft":
            yield [whole], _fitting(case, whole)
        else:
            yield from _aligning(case, whole, tokenizer, folder, scratch)


def _reward_net(case: Case, folder: Path, lora: Any) -> Any:
    from xling.models.load import load_tokenizer, load_trunk
    from xling.models.training import adapted, whole_in
    from xling.rewards.networks import RewardNet

    net = RewardNet(load_trunk(folder, dtype=whole_in(case.optimizer), dropout=0.0), load_tokenizer(folder), "last")
    if lora is not None:
        net.trunk.requires_grad_(False)
        net.trunk = adapted(net.trunk, case.tuning, lora)
    return net


def _fitting(case: Case, model: Any) -> Callable[[], Any]:
    """Steps of fine-tuning, or of a reward model."""
    from xling.config.common import Training
    from xling.models.training import Fitting, core
    from xling.rewards.networks import reward_batch, reward_loss
    from xling.stages.sft import causal_loss, labelled_batch, seq2seq_loss

    texts = [_text(case, i) for i in range(case.batch)]
    rows: list[Any] = list(texts)
    if case.trainer == "reward":
        rows, collate, loss = (
            [(text, None, 1.0) for text in texts],
            partial(reward_batch, padded=model.collate),
            reward_loss,
        )
    else:
        config = core(model).config
        own: Any = seq2seq_loss if config.is_encoder_decoder else causal_loss
        collate = partial(labelled_batch, config, pad=0)
        loss = lambda model, batch: own(core(model), batch)  # noqa: E731
    budget = Training(steps=STEPS, batch_size=case.batch, learning_rate=1e-6, micro_batch_size=case.micro,
                      optimizer=case.optimizer)  # type: ignore[arg-type]  # fmt: skip
    fitting = Fitting(model, collate, loss, budget, case.precision, case.batch, "ddp")
    return lambda: [fitting.step(rows, step) for step in range(STEPS)]


def _aligning(case: Case, whole: Any, tokenizer: Any, folder: Path, scratch: Path) -> Iterator[Any]:
    """Steps of an optimizer that trains a policy, with the value model where it has one."""
    from xling.models.load import load_policy
    from xling.models.training import checkpointed, core
    from xling.optimizers import dpo, grpo, ppo, rloo
    from xling.optimizers.problem import Problem, Watch

    policy = core(whole).eval()
    reference = policy
    if case.tuning == "full":
        reference = load_policy(folder, dtype=case.precision)[0].requires_grad_(False)
    watch = Watch(lambda _: {"reward": 0.0, "kl": 0.0, "entropy": 1.0}, STEPS, 10**9, 0.1, "last", None,
                  lambda done, total: None)  # fmt: skip
    prompts = [_text(case, i)[0] for i in range(case.batch)]
    reward = lambda numbers, said: [[float(ids[0] % 2) for ids in row] for row in said]  # noqa: E731
    problem = Problem(policy, reference, tokenizer, [str(i) for i in range(len(prompts))], prompts, reward,
                      case.response, 0, watch, scratch, lambda: False, {"sft": folder}, precision=case.precision,
                      gradient_checkpointing=case.again)  # fmt: skip
    settings: dict[str, Any] = {"steps": STEPS, "batch_size": case.batch, "micro_batch_size": case.micro,
                                "optimizer": case.optimizer, "learning_rate": 1e-6}  # fmt: skip
    if case.trainer == "grpo":
        yield [policy, reference], partial(grpo.train, problem, grpo.Settings(**settings))
        return
    learner: Any
    if case.trainer == "dpo":
        pairs = [dpo.Pair(i, _text(case, i)[1], _text(case, i + 1)[1]) for i in range(case.batch)]
        learner = dpo.Learner(problem, dpo.Settings(**settings), pairs)
    elif case.trainer == "rloo":
        learner = rloo.Learner(problem, rloo.Settings(trainer="own", **settings))
    else:
        learner = ppo.Learner(problem, ppo.Settings(minibatches=1, value_only_steps=0, **settings))
    value = getattr(learner, "value", None)
    with checkpointed(value, case.again) if value is not None else nullcontext():
        models = [policy, reference, *([value] if value is not None else [])]
        yield models, lambda: [learner.iterate(number) for number in range(STEPS)]


def _text(case: Case, number: int) -> tuple[list[int], list[int]]:
    return [3 + (number * 31 + j * 7) % 900 for j in range(case.prompt)], [3 + (number + j) % 900
                                                                           for j in range(case.response)]  # fmt: skip
