"""The stages of a cell's target that its optimizer may ask for: samples of its policy, and a policy trained from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from msgspec.structs import replace

from xling.config.policies import LanguageModel
from xling.grid.stage import Stage
from xling.optimizers import PolicyTraining
from xling.options import name_of
from xling.planning.specs import (
    data_of,
    label_of,
    make,
    mark,
    reading,
    samples,
    sampling_of,
    shared_out,
    side_of,
    texts_read,
)
from xling.results.specs import AlignSpec
from xling.rewards import RewardSettings, reader_of
from xling.tasks.options import Task, offers, size


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

    def training_prompts(self) -> int | None:
        """How many the task has, of its demonstrations."""
        return size(self.task, self.lang, "demonstrations", "train")

    def training_pool(self, n: int, prompts: int | None) -> Stage:
        """n samples of the start to each of the first training prompts; it depends on no source."""
        return _training_pool(self.task, self.lang, self.policy, self.start, n, prompts, self.seed, self.regime)

    def aligned(self, settings: PolicyTraining, **parents: Stage) -> Stage:
        """aligned[s,t]: test prompts answered by the policy of align[s,t], sampled like the baseline."""
        n = settings.samples or self.policy.baseline_samples
        trained = self._align(replace(settings, samples=None), parents)
        spec = sampling_of(self.task, self.lang, self.policy, "aligned", n, self.seed)
        label = trained.label.replace("align[", "aligned[")
        return make("aligned", label, spec, {"sft": trained, "reference": self.start})

    def _align(self, settings: PolicyTraining, parents: Mapping[str, Stage]) -> Stage:
        """align[s,t]: the start, trained against the reward model."""
        task, policy, langs, rm = self.task, self.policy, (self.lang,), self.rm
        side = side_of(task, rm, langs)
        spec = AlignSpec(
            **shared_out(data_of(task, langs, "demonstrations"), policy),
            **reading(task, policy, langs),
            lang=self.lang,
            optimizer=settings.in_key(),
            rm=rm,
            reading=texts_read(reader_of(rm, policy, side)),
            rm_truncation_side=side,
            max_new_tokens=policy.max_new_tokens,
            tuning=policy.tuning,
            lora=None if policy.tuning == "full" else policy.lora,
            quality="quality" in offers(task),
            seed=self.seed,
            precision="bfloat16" if policy.dtype == "bfloat16" else "",
            gradient_checkpointing=policy.gradient_checkpointing,
        )
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
    spec = sampling_of(task, lang, policy, "training pool", n, seed, use="demonstrations")
    spec = replace(spec, split="train", prompts=prompts)
    label = label_of("pool", (lang,), *((word,) for word in regime)) + " train"
    return make("pool", label, spec, {"sft": start})
