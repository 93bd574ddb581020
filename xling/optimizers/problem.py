"""What an optimizer is given: a policy to train in place, its anchor, prompts, and a reward of texts.

    train(problem, settings)    # ppo.py, rloo.py, group_trainers.py, dpo.py: each has this function

Nothing of tasks, languages or reward models is known here: the reward is a function from texts to numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xling.models.sampling import Sampling
from xling.models.text import Ids
from xling.optimizers.watch import Watch

# numbers of prompts, and responses of each (token ids, eos last where it came) -> standardised rewards
Reward = Callable[[Sequence[int], Sequence[Sequence[Ids]]], list[list[float]]]


@dataclass
class Problem:
    """One policy, one reward. The policy ends as the optimizer's rule of checkpoints says."""

    policy: Any  # float32, eval mode, no dropout anywhere; trained in place
    reference: Any  # SFT_t, frozen
    tokenizer: Any
    names: Sequence[str]  # of the training prompts (lang/id): what their random streams are named by
    prompts: Sequence[Ids]
    reward: Reward  # mean 0 and standard deviation 1 over samples of SFT_t; a missing eos is already paid for
    max_new_tokens: int
    seed: int
    watch: Watch
    scratch: Path  # survives a kill
    stopping: Callable[[], bool]
    rooms: Mapping[str, Path]  # folders of models: `sft`, and `reward` where that is a network of the policy's kind
    standardised: tuple[float, float] = (0.0, 1.0)  # mean and deviation of that network's rewards under SFT_t

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def sampling(self, purpose: str, n: int = 1) -> Sampling:
        """Pure sampling, at temperature 1 from the whole distribution; `purpose` names the random streams."""
        return Sampling(n, self.seed, purpose, 1.0, 1.0, self.max_new_tokens)


def prompts_of_step(count: int, size: int, seed: int, step: int) -> list[int]:
    """Numbers of a step's training prompts: each pass over all of them has an order of its own (`seed`, pass)."""
    import numpy as np

    out: list[int] = []
    place = step * size
    while len(out) < size:
        turn, start = divmod(place + len(out), count)
        order = np.random.default_rng([seed, turn]).permutation(count)
        out += order[start : start + size - len(out)].tolist()
    return out
