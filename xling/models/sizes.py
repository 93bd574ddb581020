"""How large a model is, by its config.json: weights, and what it keeps of each token. No torch.

`saved` is what autograd keeps of a layer for the way back, in bytes a token, measured by torch's hooks on saved tensors
(transformers 5, sdpa attention, on the CPU) and rounded up: benchmarks/memory_plan.py measures it again.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from xling.models.checkpoints import config_of
from xling.models.text import EXACT
from xling.models.weights import ENCODERS

# --- what is computed at once: models keep to it, and the memory plan counts with it ------------------------

VOCABULARY_AT_ONCE = 1 << 27  # numbers in a table of log-probabilities (512 MiB)
WEIGHTS_AT_ONCE = 1 << 24  # that AdamW in bfloat16 updates together, in float32
PROMPTS_PER_BATCH = 16  # at most
ROWS_PER_BATCH = 32  # of short rows
TOKENS_PER_BATCH = 2048  # of longer ones, on an accelerator
TOKENS_KEPT = 16384  # of prompts read at once: the more, the fewer rows that do nothing but fill a batch
WATCHED_TOGETHER = 64  # prompts that all processes of a policy's training together sample to measure it
ACCELERATOR_ROOM = 0.25  # of its memory, for what is sampled together, whatever is free: parts are the same each time
DRAWN = 24  # bytes for each token of the vocabulary while one is drawn: logits, probabilities, their sums in double
SHARED_OUT = 0.6  # of a GPU: what weights, gradients and optimizer state may take before policy.parallel=auto is fsdp


def rows_on_accelerator(width: int, most: int = ROWS_PER_BATCH) -> int:
    """Rows of `width` tokens that are read together on a GPU: a power of two, 1 of those longer than a batch."""
    return most if width <= EXACT else min(most, 1 << max(1, TOKENS_PER_BATCH // width).bit_length() - 1)


# --- sizes of a model ---------------------------------------------------------------------------------------

Family = Literal["decoder", "t5", "seq2seq", "encoder"]

# Kinds of config.json whose class shares the embeddings with the LM head where it does not say.
SHARING = ("gemma", "gpt2", "t5", "m2m", "bart", "mbart", "marian")


class Sizes(NamedTuple):
    """Numbers of a model; `weights` of all, the head among them."""

    family: Family
    weights: int
    head: int  # of the LM head where it has weights of its own
    table: int  # of the word embeddings
    block: int  # of one layer, the largest
    width: int
    inner: int
    heads: int  # query heads times their width
    groups: int  # key heads times their width
    queries: int  # query heads
    encoder: int  # layers that read the prompt alone
    decoder: int  # layers that read or write the response (decoder-only: and the prompt)
    vocabulary: int
    linear: int  # inputs and outputs of all linear layers but the head: what an adapter of rank 1 has weights for

    @property
    def trunk(self) -> int:
        """Weights without an LM head."""
        return self.weights - self.head

    @property
    def root(self) -> int:
        """Weights that are in no block."""
        return self.table + self.head

    def cache(self, prompt: int, response: int) -> int:
        """Numbers kept of a prompt and a response: keys and values of all layers that write."""
        return 2 * self.groups * self.decoder * (prompt + response)

    def layers(self, prompt: int, response: int, half: bool, dropout: bool, lean: bool = False) -> float:
        """Bytes that all layers keep of one prompt and response for the way back.

        half: computed in 16 bits from weights in 32; lean: norms' weights do not learn, or weights are in 16 bits.
        """
        writing, reading = self.layer(prompt, response, half, dropout, lean)
        return self.decoder * writing + self.encoder * reading

    def layer(self, prompt: int, response: int, half: bool, dropout: bool, lean: bool = False) -> tuple[float, float]:
        """The same of one layer that writes, and of one that reads the prompt alone (0: there is none)."""
        less = 8 * self.width if lean else 0  # inputs of norms
        if self.family == "decoder":
            norms, attention, inner = (26, 13 if self.groups < self.heads else 8, 8) if half else (24, 22, 16)
            token = norms * self.width - less + attention * self.heads + inner * self.inner
            return (prompt + response) * token, 0.0
        if self.family == "encoder":
            norms, inner = (34, 4) if half else (40, 8)
            both = prompt + response
            return both * (norms * self.width - less + inner * self.inner + 12 * self.queries * both * dropout), 0.0
        # T5 adds the bias of positions to the mask: a table of (queries, tokens, tokens) in every attention
        table = 0 if self.family != "t5" else 12 if dropout else 4
        norms, attention = (30 if half else 32, 14 if half else 16) if dropout else (26 if half else 24, 16)
        inner = (16 if half else 32) if dropout else (14 if half else 28)
        token = norms * self.width - less + attention * self.heads + inner * self.inner
        reading = prompt * (token + table * self.queries * prompt)
        cross = norms // 2 * self.width + 8 * self.heads
        writing = response * (token + cross + table * self.queries * (response + prompt)) + 8 * self.heads * prompt
        return writing, reading


@lru_cache(maxsize=64)
def sizes_of(checkpoint: str, revision: str | None) -> Sizes | None:
    """Of a checkpoint as a base stage names it; None where nothing tells."""
    config = config_of(checkpoint, revision)
    config = config.get("text_config") or config
    try:
        return _of(config) if config else None
    except KeyError:  # an architecture with other names for its sizes
        return None


def _of(config: Mapping[str, Any]) -> Sizes:
    vocabulary, kind = config["vocab_size"], str(config.get("model_type", ""))
    family: Family
    if "d_kv" in config:
        family = "t5"
        width, inner, queries = config["d_model"], config["d_ff"], config["num_heads"]
        heads = groups = queries * config["d_kv"]
        encoder, decoder = config["num_layers"], config.get("num_decoder_layers") or config["num_layers"]
        matrices = 3 if str(config.get("feed_forward_proj", "")).startswith("gated") else 2
    elif config.get("is_encoder_decoder"):
        family = "seq2seq"
        width, inner, queries = config["d_model"], config["decoder_ffn_dim"], config.get("decoder_attention_heads", 16)
        heads = groups = width
        encoder, decoder, matrices = config["encoder_layers"], config["decoder_layers"], 2
    else:
        family = "encoder" if kind in ENCODERS else "decoder"
        width, inner, queries = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        size = config.get("head_dim") or width // queries
        heads, groups = queries * size, config.get("num_key_value_heads", queries) * size
        encoder, decoder, matrices = 0, config["num_hidden_layers"], 2 if family == "encoder" else 3
    attention, feeding = 2 * width * (heads + groups), matrices * width * inner
    block = attention * (2 if encoder else 1) + feeding
    table = vocabulary * width
    tied = config.get("tie_word_embeddings", kind.startswith(SHARING)) or family == "encoder"
    linear = (4 * width + 2 * heads + 2 * groups) * (encoder + decoder * (2 if encoder else 1))
    linear += matrices * (width + inner) * (encoder + decoder)
    head = 0 if tied else table
    weights = encoder * (attention + feeding) + decoder * block + table + head
    return Sizes(
        family, weights, head, table, block, width, inner, heads, groups, queries, encoder, decoder, vocabulary, linear
    )
