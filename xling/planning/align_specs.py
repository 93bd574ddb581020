"""The stages that an optimizer may ask for (`Stages` in xling/optimizers): samples of SFT_t, or a trained policy's.

A spec holds only what its result depends on, because its hash is the cache key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from xling.config.policies import LanguageModel
from xling.grid.stage import Stage
from xling.optimizers import PolicyTraining
from xling.options import name_of
from xling.planning.specs import data_of, label_of, make, mark, reading, samples, sampling_of, side_of, texts_read
from xling.rewards import RewardSettings, reader_of
from xling.tasks.options import Task, offers


@dataclass(frozen=True)
class TargetStages:
    """The stages of one cell's target, as its optimizer may ask for them."""

    task: Task
    lang: str
    policy: LanguageModel
    start: Stage  # SFT_t, or the policy of translated demonstrations
    seed: int
    regime: tuple[str, ...]  # what labels say of the start, if its demonstrations were translated
    sources: Sequence[str]  # what labels say of the reward model
    rm: RewardSettings
    rewarding: Callable[[], Mapping[str, Stage]]  # the reward model's stages, by role

    def pool(self) -> Stage:
        """policy.n samples of the start to each test prompt."""
        return samples("pool", self.task, self.lang, self.policy, self.start, self.seed, self.regime)

    def training_pool(self, n: int, prompts: int | None) -> Stage:
        """n samples of the start to each of the first training prompts; it depends on no source."""
        return _training_pool(self.task, self.lang, self.policy, self.start, n, prompts, self.seed, self.regime)

    def aligned(self, settings: PolicyTraining, **parents: Stage) -> Stage:
        """aligned[s,t]: test prompts answered by the policy of align[s,t], sampled like the baseline."""
        n = settings.samples or self.policy.baseline_samples
        trained = self._align(msgspec.structs.replace(settings, samples=None), parents)
        spec = {
            **data_of(self.task, (self.lang,), "prompts"),
            **sampling_of(self.task, self.lang, self.policy, "aligned", n, self.seed),
        }
        label = trained.label.replace("align[", "aligned[")
        return make("aligned", label, spec, {"sft": trained, "reference": self.start})

    def _align(self, settings: PolicyTraining, parents: Mapping[str, Stage]) -> Stage:
        """align[s,t]: the start, trained against the reward model."""
        task, policy, langs, rm = self.task, self.policy, (self.lang,), self.rm
        side = side_of(task, rm, langs)
        spec: dict[str, Any] = {
            **data_of(task, langs, "demonstrations"),
            **reading(task, policy, langs),
            "lang": self.lang,
            "optimizer": msgspec.to_builtins(settings),
            "rm": msgspec.to_builtins(rm),
            "reading": texts_read(reader_of(rm, policy, side)),
            "rm_truncation_side": side,
            "max_new_tokens": policy.max_new_tokens,
            "tuning": policy.tuning,
            "lora": None if policy.tuning == "full" else msgspec.to_builtins(policy.lora),
            "quality": "quality" in offers(task),  # to be watched beside the reward
            "seed": self.seed,
        }
        label = label_of("align", self.sources, langs, *((word,) for word in self.regime))
        everything = {"sft": self.start, **self.rewarding(), **parents}
        return make("align", f"{label} {name_of(settings)}{mark(rm)}", spec, everything)


@lru_cache(maxsize=4096)
def _training_pool(
    task: Task,
    lang: str,
    policy: LanguageModel,
    start: Stage,
    n: int,
    prompts: int | None,
    seed: int,
    regime: tuple[str, ...],
) -> Stage:
    spec = {
        **data_of(task, (lang,), "demonstrations"),
        **sampling_of(task, lang, policy, "training pool", n, seed),
        "split": "train",
        "prompts": prompts,
    }
    label = label_of("pool", (lang,), *((word,) for word in regime)) + " train"
    return make("pool", label, spec, {"sft": start})
