"""What tables call the options of a cell: the option's name, or what was put in its place.

`policy=micro policy.checkpoint=FOLDER` runs FOLDER, so that `micro` would name another model. A label says what decides
the numbers; what is an axis of its own (`judge.lang=de,en`) has a column of its own.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

Settings = Mapping[str, Any]

MODELS = {  # settings that name a model, by group
    "policy": ("checkpoint",),
    "rm_backbone": ("checkpoint", "init", "encoder", "policy", "reference"),
    "judge": ("checkpoint", "model"),
}
NO_MODELS = (None, "???", "sft", "base")  # what such a setting may say besides


def option_label(group: str, option: str, settings: Settings, defaults: Settings, swept: Collection[str]) -> str:
    """An option's label. defaults: what its YAML says; swept: keys that are axes of the grid.

    policy: the model's own name; rm_backbone, judge: kind(model); task=files: files(name of the data). Options that
    are swept keep their names, so that no two have the same label.
    """
    if group in ("task", "reward_task"):
        return f"{option}({short(str(settings['path']))})" if settings.get("name") == "files" else option
    changed = [name for name in MODELS.get(group, ()) if name in settings and settings[name] != defaults.get(name)]
    models = [short(str(settings[name])) for name in changed if settings[name] not in NO_MODELS]
    if group == "policy" and models and group not in swept:
        return models[0]
    replaced = any(defaults.get(name) not in NO_MODELS for name in changed)
    if group == "rm_backbone" and replaced and group not in swept:
        option = str(settings["name"])  # xlm_roberta with another checkpoint is an encoder, and not XLM-R
    return f"{option}({', '.join(models)})" if models else option


def short(name: str) -> str:
    """The last part of a path or hub id, without what a data file's kind says: /data/own.jsonl is `own`."""
    path = Path(name.rstrip("/") or "/")
    last = path.name if path.name not in ("", ".", "..") else path.expanduser().resolve().name
    for ending in (".gz", ".jsonl", ".json", ".csv", ".tsv", ".parquet"):
        last = last.removesuffix(ending)
    return last or name
