"""Small grids with made-up records in the exact formats of the stages, published through the real store.

grid = SyntheticGrid(tmp_path)
grid.cell("de", "en", wins=[1.0, 0.5, 0.0, 1.0])
matrix = grid.folded()
"""

import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import Matrix, Panel
from xling.analysis.tidy.entries import Draws, Entries, grid_entries
from xling.grid.host import this_process
from xling.grid.plan import make_plan
from xling.grid.records import Failure, Run, Sheet
from xling.grid.stage import Cell, Stage
from xling.grid.store import Store
from xling.results.samples import Samples

AXES = {"task": "toy", "policy": "micro", "rm_backbone": "same_as_policy", "optimizer": "best_of_n", "judge": "gold"}
N_SAMPLES = 4


def samples_file(texts: Sequence[Sequence[str]]) -> bytes:
    """samples.jsonl as stages write it, for prompts p0, p1, ... with these responses each."""
    rows = (
        Samples(f"p{i}", f"g{i}", "", list(said), [3] * len(said), [True] * len(said)) for i, said in enumerate(texts)
    )
    return b"".join(msgspec.json.encode(row, order="sorted") + b"\n" for row in rows)


class SyntheticGrid:
    """Collects cells, publishes their stages, writes plan.json."""

    def __init__(self, root: Path, name: str = "toy") -> None:
        self.root, self.name, self.store = root, name, Store(root)
        self.cells: list[Cell] = []
        self.left_out: list[Mapping[str, Any]] = []
        self._published: set[str] = set()
        self._base = Stage.make("base", 1, "base", {}, {})

    def stages(
        self, source: str, target: str, seed: int, axes: Mapping[str, Any], trained: bool = True, own: bool = False
    ) -> dict[str, Stage]:
        """The stages of a cell by role, as the real DAG shares them; an untrained score has no reward model."""
        data_seed = {"task.seed": axes.get("task.seed", 0)}
        spec = {"seed": seed, **data_seed}

        def sft(lang: str) -> Stage:
            return Stage.make("sft", 1, f"sft[{lang}]", {"lang": lang, **spec}, {"base": self._base})

        optimizer = {key: value for key, value in axes.items() if key.startswith("optimizer")}
        pool = Stage.make("pool", 1, f"pool[{target}]", spec, {"sft": sft(target)})
        data = {"task": {"name": axes["task"], "seed": axes.get("task.seed", 0)}, "digest": "of the data"}
        baseline = Stage.make("baseline", 1, f"baseline[{target}]", {**spec, **data}, {"sft": sft(target)})
        if axes.get("sft_data", "organic") != "organic":  # each source's own policy
            own = Stage.make("sft", 1, f"sft[{target}, translated from {source}]", {"from": source, **spec}, {})
            pool = Stage.make("pool", 1, f"pool[{target}, translated from {source}]", spec, {"sft": own})
        rm = {key: value for key, value in axes.items() if key.startswith("rm_backbone")}
        rm |= {"half": "first"} if axes.get("judge.half") else {}
        reward = Stage.make("reward", 1, f"reward[{source}]", {**rm, **spec, "lang": source}, {"sft": sft(source)})
        if axes["optimizer"] != "best_of_n":
            parents = {"sft": sft(target), "reward": reward}
            policy = Stage.make("align", 1, f"align[{source}, {target}]", optimizer, parents)
            parents = {"sft": policy, "reference": sft(target)}
            pool = Stage.make("pool", 1, f"aligned[{source}, {target}]", spec, parents)
        both = {"pool": pool, "baseline": baseline}
        if trained:
            score = Stage.make("score", 1, f"score[{source}, {target}]", {}, {"reward": reward, **both})
        else:
            score = Stage.make("score", 1, f"score[{axes['rm_backbone']}, {target}]", rm, both)
        judge_of = {key: value for key, value in axes.items() if key.startswith("judge") and value != "gold"}
        verdict = score if own else Stage.make("gold", 1, f"gold[{target}]", judge_of, both)
        if lang := axes.get("judge.lang"):
            judging = Stage.make("reward", 1, f"reward[{lang}]", {**spec, "langs": [lang]}, {"sft": sft(lang)})
            verdict = Stage.make("score", 1, f"score[{lang}, {target}]", {}, {"reward": judging, **both})
        rest = {key: value for key, value in axes.items() if key not in (*AXES, "task.seed")}
        label = f"judge[{source}, {target}]"
        parents = {"score": score, "verdict": verdict, **both}
        if axes["judge"] == "llm":
            checked = {key: value for key, value in axes.items() if key.startswith("judge")}
            parents["accuracy"] = Stage.make(
                "judge_accuracy", 1, f"judge_accuracy[{target}]", checked | {"lang": target}, {}
            )
        judge = Stage.make("judge", 1, label, rest, parents)
        align = pool.parents["sft"]
        return {"sft": sft(source), "reward": reward, "gold": verdict, "judge": judge, "align": align, **parents}

    def cell(
        self,
        source: str,
        target: str,
        wins: Sequence[float | None] | None = None,
        *,
        groups: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        seed: int | None = 0,
        heldout: Mapping[str, Any] | None = None,
        curve: np.ndarray | None = None,
        pool: np.ndarray | None = None,
        baseline: np.ndarray | None = None,
        pairs: Mapping[str, Any] | None = None,
        rho: float | None = None,
        columns: Mapping[str, Sequence[float | None]] | None = None,
        scores: Mapping[str, np.ndarray] | None = None,
        learning: Sequence[Mapping[str, float]] | None = None,
        accuracy: Mapping[str, Any] | None = None,
        fails: str = "",
        trained: bool = True,
        notes: Mapping[str, Any] | None = None,
        own_judge: bool = False,
        **axes: Any,
    ) -> dict[str, Stage]:
        """Add a cell. Without `wins` its judge stage is not there; `fails` names the kind of stage that failed.

        With `optimizer=` other than best_of_n it is a trained policy's. columns: of items.json; scores: pool and
        baseline of the score stage; learning: rows of the align stage's curve; accuracy: the judge's. own_judge: the
        verdict is by the cell's own scores, as judge=target_rm is at home.
        """
        all_axes = {**AXES, "source_lang": source, "target_lang": target, **axes}
        stages = self.stages(source, target, seed or 0, all_axes, trained, own_judge)
        if seed is not None:
            all_axes["seed"] = seed
        self.cells.append(Cell(all_axes, stages["judge"]))
        if fails:
            self.fail(stages[fails])
        if wins is None:
            return stages
        n, sampled = len(wins), all_axes["optimizer"] == "best_of_n"
        items = {
            "prompt": list(prompts or (f"p{i}" for i in range(n))),
            "group": list(groups or (f"g{i}" for i in range(n))),
            "dataset": list(datasets or [""] * n),
            "win": [None if win is None else float(win) for win in wins],
            **_measures(n, sampled),
            **{name: [None if x is None else float(x) for x in column] for name, column in (columns or {}).items()},
        }
        files: dict[str, Any] = {"items.json": items, "summary.json": {"n_samples": N_SAMPLES, "kl_bound": None}}
        if sampled:
            flat = np.repeat(np.array(items["win"], dtype=float)[:, None], N_SAMPLES, axis=1)
            files["curve.npy"] = flat if curve is None else curve
            files["summary.json"] = {"n_samples": N_SAMPLES, "kl_bound": float(np.log(N_SAMPLES) - 1 + 1 / N_SAMPLES)}
        if pairs is not None:
            files |= {"pairs.json": pairs, "spearman.json": {"rho": rho, "n": n}}
        qualities = {
            "pool.npy": np.zeros((n, N_SAMPLES)) + np.arange(N_SAMPLES) if pool is None else pool,
            "baseline.npy": np.ones((n, 2)) if baseline is None else baseline,
        }
        self.publish(stages["baseline"], {"samples.jsonl": samples_file([["x"]] * n)})
        self.publish(stages["gold"], qualities)
        if stages["gold"].kind == "score" and all_axes.get("judge.lang"):
            self.publish(stages["gold"].parents["reward"], {"notes.json": {}})
        made = scores or {"pool": np.zeros((n, N_SAMPLES)), "baseline": np.tile([-1.0, 1.0], (n, 1))}
        score: dict[str, Any] = {f"{name}.npy": values for name, values in made.items()}
        score |= {} if heldout is None else {"heldout.json": heldout}
        score |= {} if notes is None else {"notes.json": notes}
        self.publish(stages["score"], score)
        self.publish(stages["judge"], files)
        if learning is not None:
            lines = "".join(json.dumps(row) + "\n" for row in learning)
            self.publish(stages["align"], {"curve.jsonl": lines.encode(), "align.json": {"reward_std": 1.0}})
        if accuracy is not None:
            self.publish(stages["accuracy"], {"accuracy.json": accuracy})
        return stages

    def untrained(self, source: str, target: str, wins: Sequence[float], **kwargs: Any) -> dict[str, Stage]:
        """A cell whose score needs no reward model, as the grid names it: with a source that plays no part."""
        return self.cell(source, target, wins, trained=False, **kwargs)

    def publish(self, stage: Stage, files: Mapping[str, Any], device: str = "cpu") -> None:
        """A finished result; arrays become .npy, the rest JSON."""
        if stage.key in self._published:
            return
        self._published.add(stage.key)
        with patch("os.fsync"):  # a test's results need not survive a power cut
            self._publish(stage, files, device)

    def _publish(self, stage: Stage, files: Mapping[str, Any], device: str) -> None:
        folder = self.store.begin(stage.kind, stage.key, this_process())
        for name, content in files.items():
            (folder / name).write_bytes(_encode(content))
        run = Run(1.0, 1.0, "2026-01-01T00:00:00+00:00", 1, this_process(), 1, device, "abc", {})
        self.store.publish(Sheet.of(stage), stage.key, folder, run)

    def fail(self, stage: Stage, last: str = "ValueError: loss is nan") -> None:
        failure = Failure(stage.label, 1, last, "", "", "2026-01-01T00:00:00+00:00", "here")
        self.store.record_failure(stage.kind, stage.key, failure)

    def write(self) -> "SyntheticGrid":
        """plan.json, by the real planner."""
        plan = make_plan(self.cells, self.store, name=self.name, command=["x=y"], left_out=self.left_out)
        plan.write()
        return self

    def folded(self) -> Matrix:
        """The matrix of the cells so far."""
        return fold_grid(self.write().store, self.name)

    def panel(self) -> Panel:
        """The one panel of that matrix."""
        [block] = self.folded().blocks
        [panel] = block.panels
        return panel

    def entries(self) -> Entries:
        """The entries of that matrix with draws of their errors."""
        draws = Draws()
        return grid_entries(fold_grid(self.write().store, self.name, draws.add), draws)


def _measures(n: int, sampled: bool) -> dict[str, list[float]]:
    """The columns of items.json that are not the verdict, as a judge stage writes them."""
    opponent = {"in_language": 1.0, "length": 7.0, "eos": 1.0, "repetition": 0.0, "reward": 0.0, "quality": 0.5}
    own = {**opponent, "quality": 1.0}
    columns = {name: [value] * n for name, value in own.items()}
    columns |= {f"baseline_{name}": [value] * n for name, value in opponent.items()}
    return columns | ({"index": [0] * n} if sampled else {"kl": [0.5] * n})


def _encode(content: Any) -> bytes:
    if isinstance(content, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, content)
        return buffer.getvalue()
    if isinstance(content, bytes):
        return content
    return (json.dumps(content, sort_keys=True) + "\n").encode()


LANGUAGES = ("de", "en", "es", "ru", "tr", "vi")


def realistic(
    root: Path,
    languages: Sequence[str] = LANGUAGES,
    prompts: int = 200,
    seeds: Sequence[int] = (0,),
    controls: bool = True,
    name: str = "toy",
) -> SyntheticGrid:
    """A grid that looks like a real one: shared prompts, correlated cells, controls, held-out scores. Seeded."""
    grid = SyntheticGrid(root, name)
    for seed in seeds:
        for column, target in enumerate(languages):
            random = np.random.default_rng([seed, column])
            ease = random.normal(0, 0.5, prompts)
            kwargs = {"groups": [f"fact{i}" for i in range(prompts)], "seed": seed}
            kwargs["prompts"] = [f"{target}-{i}" for i in range(prompts)]
            label = random.random(120) < 0.45
            length = random.normal(8, 2, 120) + label

            def made(skill: float, random=random, ease=ease) -> np.ndarray:
                return np.clip(np.round((random.normal(skill, 0.45, prompts) + ease + 0.5) * 4) / 4, 0, 1)

            def heldout(skill: float, random=random, label=label, length=length) -> dict[str, Any]:
                score = random.normal(0, 1, 120) + skill * (2 * label - 1)
                rule = {"threshold": 8.0, "longer_is_better": True}
                return {
                    "group": [f"d{i // 2}" for i in range(120)],
                    "score": [float(x) for x in score],
                    "label": [int(x) for x in label],
                    "length": [float(x) for x in length],
                    "length_rule": rule,
                }

            for row, source in enumerate(languages):
                skill = 0.12 if row == column else 0.07 - 0.012 * abs(row - column)
                wins = made(skill)
                steps = np.linspace(0, 1, N_SAMPLES)
                curve = 0.48 * (1 - steps) + wins[:, None] * steps
                grid.cell(source, target, wins, heldout=heldout(6 * skill), curve=curve, **kwargs)
                if controls:
                    for k in range(1, 6):
                        grid.cell(source, target, made(-0.06), rm_backbone=f"shuffled_{k}", **kwargs)
            if controls:
                for control, skill in (("random", 0.0), ("length", -0.3), ("gold", 0.4), ("likelihood_sft", 0.02)):
                    grid.cell("-", target, made(skill), heldout=heldout(skill), rm_backbone=control, **kwargs)
    return grid


OPTIMIZERS = ("best_of_n", "dpo", "grpo", "ppo", "rloo")


def five(root: Path, seeds: Sequence[int] = (0, 1, 2), prompts: int = 40) -> SyntheticGrid:
    """All optimizers in 3 x 3 cells, as the issue's grid; seeded."""
    grid = SyntheticGrid(root)
    places = itertools.product(seeds, ("de", "en", "tr"), ("de", "en", "tr"), enumerate(OPTIMIZERS))
    for seed, target, source, (number, optimizer) in places:
        random = np.random.default_rng([seed, "de en tr".index(source), "de en tr".index(target), number])
        lift = 0.05 * number + (0.1 if source == target else 0.0)
        wins = np.clip(np.round(4 * random.normal(0.5 + lift, 0.3, prompts)) / 4, 0, 1)
        columns = {"reward": random.normal(lift * 4, 1, prompts), "quality": random.normal(0.5 + lift, 0.2, prompts)}
        learning = None
        if optimizer != "best_of_n":
            columns["kl"] = random.gamma(2.0, 1 + number, prompts)
            learning = [{"step": s} | validated(s / 10, lift * s / 10) for s in (0, 20, 40)]
        names = [f"{target}{i}" for i in range(prompts)]
        kwargs = {"prompts": names, "groups": names, "columns": columns, "learning": learning}
        grid.cell(source, target, wins, seed=seed, optimizer=optimizer, **kwargs)
    return grid


def validated(step: float, reward: float) -> dict[str, float]:
    """Columns of a validation row; its quality is its step."""
    return {"validation_reward": reward, "validation_kl": 0.1, "validation_quality": float(step)}
