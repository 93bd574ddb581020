"""Command lines, well-formed, mistyped and hostile: a plan or one sentence, never a traceback, and nothing is written.

Each is the real command line in this process, from sys.argv to the plan: `dry_run=true` and what was drawn.
"""

import os

import pytest
from command_line import called
from hypothesis import example, given, settings
from hypothesis import strategies as st

FEWER = 4  # a command line is planned in most of a second, in which others read some dozen files

SMALL = ["task=micro_tiny", "policy=micro_tiny", "rm_backbone=bag_of_words", "dry_run=true"]
KEYS = [
    *("source_lang", "target_lang", "task", "policy", "rm_backbone", "optimizer", "judge", "sft", "translator"),
    *("reward_task", "judge/rm_backbone", "scale", "sweeps", "experiment", "hydra/launcher", "hydra/sweeper"),
    *("seed", "task.seed", "judge.seed", "pairs", "controls", "mode", "name", "root", "cost", "tracking"),
    *("tracking.mode", "tracking.artifacts", "cost.utilisation", "cost.utilisation.training", "cost.prompt_tokens"),
    *("task.lead_bias", "task.label_noise", "task.languages", "task.test_prompts", "task.feedback", "task.path"),
    *(
        "policy.n",
        "policy.checkpoint",
        "policy.temperature",
        "policy.lora",
        "policy.lora.r",
        "policy.max_prompt_tokens",
    ),
    *("sft.steps", "sft.learning_rate", "sft.optimizer", "rm_backbone.permutation", "rm_backbone.training.steps"),
    *("optimizer.n", "optimizer.beta", "judge.lang", "judge.half", "judge.checkpoint", "judge.win", "reward_data"),
    *("hydra.launcher.workers", "hydra.launcher.threads", "hydra.launcher.catalogue", "hydra.launcher._target_"),
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.mode", "hydra.sweeper.params", "hydra.searchpath", "hydra.job.name"),
]
VALUES = [
    *("", "null", "true", "off", "no", "nan", "-inf", "inf", "0", "-1", "3", "1.5", "1e400", "9" * 25, "9" * 400, "de"),
    *("de,en", "de+en", "others", "xx", "glob(*)", "glob(z*)", "range(0,3)", "range(0,1,0)", "range(0,9999999)"),
    *("choice(a,b)", "choice()", "interval(0,1)", "sort(b,a)", "shuffle(a,b)", "tag(t,a)", "int(x)", "float(nan)"),
    *("[]", "[a]", "[1,[2]]", "{}", "{a:1}", "{a:{b:nan}}", "'", '"', "'a'", "\\", "a=b", "a#b", "~a", "!x", "ä/ö (1)"),
    *("${seed}", "${nope}", "${oc.env:NOPE}", "${hydra:job.num}", "micro", "gold", "llm", "target_rm", "ppo", "files"),
    *(
        "a" * 300,
        "../x",
        "/",
        ".",
        "\x00",
        "\n",
        "\u202e",
        "\ud7ff",
        "🙂",
        "packaged",
        "same_as_policy",
        "slurm",
        "1,1",
    ),
]
FLAGS = ["--experimental-rerun=x", "--config-name=x", "--config-dir=/x", "--nope", "-x", "--", "=", "==", "+", "~", "a"]

keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=12), st.sampled_from(KEYS).map(lambda key: key[:-1]))
values = st.one_of(
    st.sampled_from(VALUES),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20),
    st.lists(st.sampled_from(VALUES), min_size=2, max_size=3).map(",".join),
)
assignments = st.tuples(st.sampled_from(["", "", "", "", "+", "++", "~"]), keys, values).map(
    lambda drawn: f"{drawn[0]}{drawn[1]}={drawn[2]}"
)
arguments = st.lists(st.one_of(assignments, assignments, st.sampled_from(FLAGS)), min_size=1, max_size=2)


@settings(max_examples=max(1, settings.default.max_examples // FEWER))
@given(arguments)
@example(["task.lead_bias=nan"])
@example(["tracking=off"])
@example(["seed=range(0,1,0)"])
@example(["~translator=null,1"])
@example(["root=" + "a" * 300])
@example(["hydra.launcher.workers=" + "9" * 14])
@example(["hydra.launcher.gpus=" + "9" * 14])
def test_a_plan_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, drawn: list[str]) -> None:
    folder = tmp_path_factory.mktemp("cwd")
    before = os.getcwd()
    os.chdir(folder)
    try:
        code, _, said = called([*SMALL, *drawn])
    finally:
        os.chdir(before)
    assert code in (0, 2), (code, said)
    assert "Traceback" not in said
    assert len(said) < 20_000
    if code == 2 and "usage:" not in said:
        assert any(line.startswith("xling: ") for line in said.splitlines()), said
    assert not list(folder.iterdir()), "a dry run has written something"
