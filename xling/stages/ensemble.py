"""ensemble[s,t]: the scores of several reward models as one, and of references beside them.

Each member's rewards are standardised over the pool of a prompt, opponents by the same mean and deviation, so that
none counts more because its numbers are larger; or (scale=pool) divided by one deviation a member, so that a prompt
whose samples it tells apart counts more than one whose samples it does not; or (none) taken as they are. Of reward
models the mean is taken, or the least: worst-of-k, the guard against over-optimisation of Coste et al. (2024, arXiv
2310.02743, section 3). References are added `weight` times: with the likelihood under SFT_t that is best-of-n
regularised by KL, with consensus MBR-regularised best-of-n (Jinnai et al. 2024, arXiv 2404.01054, sections 3.1 and
3.2), each in standard deviations. No model is read here.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from xling.grid.stage import Context
from xling.jsonfiles import write_json
from xling.results.items import read_array, read_json, read_notes
from xling.results.samples import Array
from xling.results.specs import EnsembleSpec


def run(context: Context) -> None:
    """Writes pool.npy, baseline.npy (prompts, samples), heldout.json, and notes.json, as a score stage."""
    spec = msgspec.convert(context.spec, EnsembleSpec)
    members = [context.parents[f"member_{number}"] for number in range(spec.models + spec.references)]
    pools, opposed = ([read_array(folder / name) for folder in members] for name in ("pool.npy", "baseline.npy"))
    for name, tables in (("pool.npy", pools), ("baseline.npy", opposed)):
        rows = zip(pools, tables, strict=True)
        np.save(context.out / name, combined([scaled(pool, table, spec.scale) for pool, table in rows], spec))
    records = [read_json(folder / "heldout.json", dict[str, Any]) for folder in members]
    columns = [name for name in ("score", "chosen", "rejected") if name in records[0]]
    own = [_held_out(record, columns, number < spec.models, spec.scale) for number, record in enumerate(records)]
    joint = {name: combined([one[name] for one in own], spec).tolist() for name in columns}
    write_json(context.out / "heldout.json", records[0] | joint)
    unknown = sorted({lang for folder in members for lang in read_notes(folder).unknown_languages})
    write_json(context.out / "notes.json", {"unknown_language": bool(unknown), "unknown_languages": unknown})


def scaled(pool: Array, values: Array, scale: str | UnsetType = UNSET) -> Array:
    """(prompts, m) values by mean and deviation of (prompts, n) pool, NaN left out; 0 where all of a pool are equal.

    scale: pool, by the root of the mean squared deviation over all prompts; none, as they are; UNSET: by each prompt's.
    """
    if scale == "none":
        return values
    mean, spread = np.nanmean(pool, axis=1, keepdims=True), np.nanstd(pool, axis=1, keepdims=True)
    same = spread <= 1e-12 * np.abs(mean)
    if scale == "pool":
        spread = np.sqrt(np.nanmean(np.where(same, 0.0, spread) ** 2))
    found: Array = np.where(same, 0.0 * values, (values - mean) / np.where(spread > 0.0, spread, 1.0))
    return found


def combined(members: Sequence[Array], spec: EnsembleSpec) -> Array:
    """Mean or least of the first `spec.models`, and the others' sum `spec.weight` times."""
    models = np.stack(members[: spec.models])
    joint = models.min(axis=0) if spec.combine == "min" else models.mean(axis=0)
    found: Array = joint + spec.weight * sum(members[spec.models :])
    return found


def _held_out(record: dict[str, Any], columns: Sequence[str], model: bool, scale: str | UnsetType) -> dict[str, Array]:
    """Held-out scores in deviations over all of them: prompts have no pool here. Or, by scale=none, as they are.

    A reward model's keep their zero, which parts good from bad; a reference has none, and its mean is taken.
    """
    values = np.stack([record[name] for name in columns]).astype(np.float64)
    deviation = 1.0 if scale == "none" else values.std() or 1.0
    found = (values if model else values - values.mean()) / deviation
    return dict(zip(columns, found, strict=True))
