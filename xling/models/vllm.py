"""policy.engine=vllm (the extra `vllm`): decoder-only policies sampled by vLLM, much faster for large models on a GPU.

Each sample has a seed derived from the name of its prompt's random stream, as torch's have, but vLLM draws and computes
in its own way: its samples differ from torch's for the same seed, and may change with its version and with what is
batched together.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xling.errors import StageError
from xling.models.load import load_config, load_tokenizer, source
from xling.models.sampling import Sampling
from xling.models.text import Ids, ends

Draw = Callable[[Sequence[str], Sequence[Ids]], list[list[Ids]]]


def stream_seed(how: Sampling, name: str, sample: int) -> int:
    """A sample's seed, 63 bits, by the same names as xling.models.sampling.uniforms."""
    stream = f"{how.seed}\0{how.purpose}\0{name}\0{sample}".encode()
    return int.from_bytes(hashlib.sha256(stream).digest()[:8], "little") >> 1


def load_vllm(folder: Path, how: Sampling, longest: int) -> tuple[Draw, Any]:
    """(draw, tokenizer) of a stage's folder; `longest` is that of a prompt with its response, in tokens."""
    from vllm import LLM, SamplingParams, TokensPrompt

    if load_config(folder).is_encoder_decoder:
        raise StageError("policy.engine=vllm samples decoder-only models. Type policy.engine=torch.")
    (where, stored), tokenizer = source(folder), load_tokenizer(folder)
    llm = LLM(
        model=str(where.resolve()),
        dtype=stored.dtype,
        seed=how.seed,
        max_model_len=longest,
        trust_remote_code=bool(stored.remote_code),
        code_revision=stored.commit or None,
    )

    def draw(names: Sequence[str], rows: Sequence[Ids]) -> list[list[Ids]]:
        settings = [
            SamplingParams(
                temperature=how.temperature,
                top_p=how.top_p,
                max_tokens=how.max_new_tokens,
                seed=stream_seed(how, name, j),
                stop_token_ids=list(ends(tokenizer)),
                detokenize=False,
            )
            for name in names
            for j in range(how.n)
        ]
        asked = [TokensPrompt(prompt_token_ids=list(row)) for row in rows for _ in range(how.n)]
        said = [list(done.outputs[0].token_ids) for done in llm.generate(asked, settings, use_tqdm=False)]
        return [said[start : start + how.n] for start in range(0, len(said), how.n)]

    return draw, tokenizer
