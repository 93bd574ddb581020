"""Every option of conf/policy runs from base to samples on a tiny model of its own architecture, and resumes."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from architectures import checkpoint
from families import saved, saved_chat, without
from small_grid import BUDGET, TASK, Runner, changed, contents, experiment, kinds_that_differ, labelled, read, refused

from xling.compose.composer import Composer
from xling.config.common import Training
from xling.config.policies import LanguageModel, Lora
from xling.errors import ConfigError, DataError, StageError
from xling.experiment import experiment_from
from xling.grid.stage import WHERE, Interrupted, Stage
from xling.judges.target_rm import Settings as TargetRM
from xling.models.architecture import trunk_of
from xling.models.load import load_policy, loading
from xling.models.published import load_log_ratio
from xling.models.text import LIMITS, policy_ids
from xling.optimizers.ppo import Settings as PPO
from xling.planning import KINDS, packages
from xling.planning.dag import judge_stage
from xling.planning.specs import base, samples, sft
from xling.results.samples import read_samples
from xling.results.specs import located
from xling.rewards.networks import RewardNet
from xling.runners import slurm
from xling.tasks import files
from xling.tasks.files import Settings as Files

ROOT = Path(__file__).parents[2]
FAMILY = {
    "eurollm_1_7b": "llama",
    "mt5_base": "mt5",
    "mt5_large": "mt5",
    "mt5_small": "mt5",
    "mt5_xl": "mt5",
    "pretrained": "qwen3",
    "qwen3_0_6b": "qwen3",
    "qwen3_1_7b": "qwen3",
    "qwen3_4b": "qwen3",
    "qwen3_8b": "qwen3",
    "smollm3_3b": "smollm3",
}
SMALL = {"max_new_tokens": 8, "n": 3, "baseline_samples": 2, "sampling_chunk": 4}
PAPER = msgspec.structs.replace(BUDGET, optimizer="adafactor", schedule="constant", dropout=0.1, warmup_steps=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    families = sorted({*FAMILY.values(), "gemma3"})
    return {family: saved(tmp_path_factory.mktemp(family), family) for family in families}


def option(composer: Composer, name: str, folder: Path) -> LanguageModel:
    """The option's own settings with the tiny model in place of the real one."""
    container = composer.compose([f"policy={name}", f"policy.checkpoint={folder}"]).container
    keys = ("task", "policy", "sft", "rm_backbone", "optimizer", "judge", "seed", "target_lang")
    policy = experiment_from({k: container[k] for k in keys} | {"source_langs": [container["source_lang"]]}).policy
    assert isinstance(policy, LanguageModel)
    return policy


def drawn(kind: str, lang: str, policy: LanguageModel, training: Training) -> Stage:
    """Samples of a language's fine-tuned policy."""
    return samples(kind, TASK, lang, policy, sft(TASK, (lang,), policy, training, 0), 0)


def test_every_option_is_run_below() -> None:
    names = {path.stem for path in (ROOT / "conf" / "policy").glob("*.yaml")}
    assert names - {"micro", "micro_tiny", "recorded"} == set(FAMILY)


@pytest.mark.parametrize("name", FAMILY)
def test_an_option_runs_from_base_to_samples(
    composer: Composer, name: str, folders: dict[str, Path], runner: Runner
) -> None:
    policy = msgspec.structs.replace(option(composer, name, folders[FAMILY[name]]), **SMALL)
    stage = drawn("pool", "tr", policy, PAPER)
    out, tuned = runner.folder(stage), runner.folder(stage.parents["sft"])
    rows = read_samples(out)
    assert len(rows) == TASK.test_prompts and all(len(row.responses) == 3 for row in rows)
    assert read(out / "samples.json") == {"prompts": TASK.test_prompts, "prompts_cut": 0}
    report = read(tuned / "sft.json")
    assert report["demonstrations"] == 40 and report["prompts_cut"] == report["responses_cut"] == 0
    model, _ = load_policy(tuned)
    assert model.dtype == torch.bfloat16 and loading(tuned).folder == "."
    assert not list(tuned.glob("adapter*"))


def test_a_policy_with_a_chat_template_is_trained_and_sampled_by_it(tmp_path: Path, runner: Runner) -> None:
    """Gemma's turns do not end with its tokenizer's eos; what is trained from it ends them as it does."""
    policy = LanguageModel(str(saved_chat(tmp_path, "gemma")), **SMALL | {"max_new_tokens": 40})
    stage = drawn("pool", "tr", policy, msgspec.structs.replace(BUDGET, steps=60))
    rows = read_samples(runner.folder(stage))
    _, tokenizer = load_policy(tuned := runner.folder(stage.parents["sft"]))
    names = tokenizer.convert_ids_to_tokens(loading(tuned).ends)
    assert names == ["<end_of_turn>", "<eos>"] and tokenizer.eos_token == "<eos>"
    texts, ended = [text for row in rows for text in row.responses], [end for row in rows for end in row.eos]
    assert sum(ended) > len(ended) / 2
    assert not [text for text in texts if "_turn>" in text or "<eos>" in text]
    assert all(end or length == 40 for row in rows for length, end in zip(row.lengths, row.eos, strict=True))


def test_the_turns_of_chats_are_the_templates_in_every_stage(tmp_path: Path, runner: Runner) -> None:
    """Gemma's takes no system turn: it is put into the user's, and counted."""
    system, question = {"role": "system", "content": "Kurz."}, {"role": "user", "content": "was <end_of_turn>"}
    rows = [
        {
            "lang": "de", "chosen": f"gut {n}", "rejected": f"schlecht {n}",
            "prompt": [system, question, {"role": "assistant", "content": f"{n}"}, {"role": "user", "content": f"{n}"}],
            "group": n,
        }
        for n in range(40)
    ]  # fmt: skip
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    task = Files(str(path), ("de",), feedback="pairwise", validation=0.2, test=0.2)
    policy = LanguageModel(str(saved_chat(tmp_path / "gemma", "gemma")), **SMALL)
    tuned = sft(task, ("de",), policy, BUDGET, 0)
    pool = samples("pool", task, "de", policy, tuned, 0)
    report, drawn = read(runner.folder(tuned) / "sft.json"), read(runner.folder(pool) / "samples.json")
    assert report["turns_joined"] == report["demonstrations"] and drawn["turns_joined"] == drawn["prompts"]
    model, tokenizer = load_policy(runner.folder(tuned))
    asked = files.prompts(task, "de", "test")
    tokens, _ = policy_ids(tokenizer, asked)
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert all(ids.count(turn) == 3 for ids in tokens)
    net = RewardNet(trunk_of(model), tokenizer, "last")
    assert [ids for ids, _ in net.rows([p.reward_text for p in asked], ["ja"] * len(asked))] == tokens
    chosen = load_log_ratio(runner.folder(tuned), runner.folder(tuned), "chat", 1.0, LIMITS)
    assert chosen._ids([p.reward_text for p in asked], [[] for _ in asked])[0] == tokens
    said = tokenizer.decode(tokens[0])
    assert said.startswith("<bos><start_of_turn>user\nKurz.\n\nwas ") and said.count("<start_of_turn>model") == 2


# --- adapters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mt5", "qwen3"])
def test_adapters_move_the_layers_that_were_named(family: str, folders: dict[str, Path], runner: Runner) -> None:
    lora = Lora(r=4, alpha=8, dropout=0.1, target_modules=("q", "v") if family == "mt5" else "all-linear")
    policy = LanguageModel(str(folders[family]), tuning="lora", lora=lora, **SMALL)
    tuned = runner.folder(sft(TASK, ("de",), policy, BUDGET, 0))
    before, _ = load_policy(folders[family])
    after, _ = load_policy(tuned)
    moved = {
        name for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }  # fmt: skip
    wanted = (".q.weight", ".v.weight") if family == "mt5" else ("_proj.weight",)
    assert moved and all(name.endswith(wanted) for name in moved)


def test_qlora_without_a_gpu_says_so(folders: dict[str, Path], runner: Runner) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    policy = LanguageModel(str(folders["qwen3"]), tuning="qlora", **SMALL)
    with pytest.raises(StageError, match=r"policy\.tuning=qlora needs a GPU\. Type policy\.tuning=lora"):
        runner.folder(sft(TASK, ("de",), policy, BUDGET, 0))


# --- long prompts -------------------------------------------------------------------------------------------------


def test_prompts_over_the_limit_are_counted(folders: dict[str, Path], runner: Runner) -> None:
    policy = LanguageModel(str(folders["mt5"]), max_prompt_tokens=40, **SMALL)
    stage = drawn("pool", "de", policy, BUDGET)
    assert read(runner.folder(stage) / "samples.json")["prompts_cut"] == TASK.test_prompts
    assert read(runner.folder(stage.parents["sft"]) / "sft.json")["prompts_cut"] == 40


# --- large pools --------------------------------------------------------------------------------------------------


KILLED = """
import json, sys
from pathlib import Path
from xling.grid.stage import Context
from xling.stages import pool
spec, parent, out, scratch = json.loads(sys.argv[1]), *map(Path, sys.argv[2:])
def progress(done, total):
    print(done, flush=True)
    if done == 8:
        sys.stdin.read()  # where it is when the kill comes
pool.run(Context(spec, {"sft": parent}, out, scratch, progress))
"""


@pytest.mark.parametrize("by_length", [False, True])
def test_a_killed_pool_goes_on_at_a_chunk_and_gives_the_same_bytes(
    by_length: bool, folders: dict[str, Path], runner: Runner, tmp_path: Path
) -> None:
    policy = LanguageModel(str(folders["qwen3"]), by_length=by_length, **(SMALL | {"sampling_chunk": 2}))
    stage = drawn("pool", "de", policy, BUDGET)
    undisturbed, parent = runner.folder(stage), runner.folder(stage.parents["sft"])
    spec = json.dumps(located(stage.spec))
    other, scratch = Runner(tmp_path), tmp_path / "scratch" / stage.key
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", KILLED, spec, str(parent), str(tmp_path / "out"), str(scratch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "8\n":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    kept = contents(scratch / "samples")
    assert len([name for name in kept if name.endswith(".jsonl")]) == 4  # each with its checksum beside it
    seen: list[int] = []
    other.run(stage, {"sft": parent}, tmp_path / "again", lambda done, total: seen.append(done))
    assert contents(tmp_path / "again") == contents(undisturbed)
    assert seen == [2, 4, 6, 8, 10, 12] and kept.items() <= contents(scratch / "samples").items()


def test_a_pool_that_has_to_stop_keeps_its_chunks(folders: dict[str, Path], runner: Runner, tmp_path: Path) -> None:
    stage = drawn("baseline", "de", LanguageModel(str(folders["qwen3"]), **SMALL), BUDGET)
    parents, again, out = {"sft": runner.folder(stage.parents["sft"])}, Runner(tmp_path), tmp_path / "out"
    seen: list[int] = []
    with pytest.raises(Interrupted, match="after 8 of 12 items, which are kept"):
        again.run(stage, parents, out, lambda done, total: seen.append(done), lambda: len(seen) == 2)
    again.run(stage, parents, out)
    assert contents(out) == contents(runner.folder(stage))


@pytest.mark.parametrize("family", ["qwen3", "mt5"])
def test_samples_do_not_depend_on_how_many_prompts_are_decoded_together(
    family: str, folders: dict[str, Path], runner: Runner, tmp_path: Path
) -> None:
    """So that the setting is in no key; of real sizes the last bits of a logit are others, and hardly ever a sample."""
    found, keys = [], set()
    for chunk in (1, 5, 32):
        policy = LanguageModel(str(folders[family]), **(SMALL | {"sampling_chunk": chunk, "by_length": True}))
        stage, out = drawn("pool", "de", policy, BUDGET), tmp_path / str(chunk)
        keys.add(stage.key)
        counts: list[int] = []
        Runner(tmp_path / f"scratch {chunk}").run(
            stage, {"sft": runner.folder(stage.parents["sft"])}, out, lambda done, total, to=counts: to.append(done)
        )
        assert counts[0] == min(chunk, TASK.test_prompts)
        found.append(contents(out))
    assert len(keys) == 1 and found[0] == found[1] == found[2]


def test_decoding_by_length_gives_every_prompt_its_own_samples(folders: dict[str, Path], runner: Runner) -> None:
    policy = LanguageModel(str(folders["qwen3"]), **SMALL)
    stages = [drawn("pool", "de", msgspec.structs.replace(policy, by_length=flag), BUDGET) for flag in (False, True)]
    one, other = (read_samples(runner.folder(stage)) for stage in stages)
    assert stages[0].key != stages[1].key and one == other  # of a tiny model: no rounding decides


# --- what is refused while planning ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"remote_code": "some/one"}, r"policy\.remote_code=some/one must name the repository of policy\.checkpoint="),
        ({"attention": "flash_attention_2"}, "flash_attention_2 has no float32"),
        (
            {"parallel": "fsdp", "dtype": "float16"},
            r"does not share out policy\.dtype=float16\. Type policy\.dtype=bfloat16",
        ),
        (
            {"parallel": "fsdp", "tuning": "qlora"},
            r"does not share out policy\.tuning=qlora\. Type policy\.tuning=lora",
        ),
        ({"parallel": "ddp", "gather": "layers"}, r"policy\.gather=layers gathers .* Type policy\.parallel=fsdp"),
    ],
)
def test_settings_that_cannot_work_are_refused(no_model: Path, settings: dict[str, Any], sentence: str) -> None:
    refused(changed(experiment(no_model), "policy", **settings), sentence)


@pytest.mark.parametrize("part", ["sft", "rm_backbone", "optimizer"])
def test_optimizers_that_take_less_memory_are_refused_where_they_cannot(part: str, no_model: Path) -> None:
    def asked(optimizer: str, **policy: Any) -> Any:
        whole = changed(experiment(no_model, optimizer=PPO()), "policy", **policy)
        if part == "rm_backbone":
            training = msgspec.structs.replace(BUDGET, optimizer=optimizer)
            return changed(whole, part, training=training, tuning=policy.get("tuning", "full"))
        return changed(whole, part, optimizer=optimizer)

    setting = "rm_backbone.training.optimizer" if part == "rm_backbone" else f"{part}.optimizer"
    half = {"dtype": "bfloat16"}
    judge_stage(asked("adamw_kahan", **half))
    for experiment_, sentence in (
        (asked("adamw_kahan"), "adamw_kahan trains weights in bfloat16.*Type policy.dtype=bfloat16"),
        (asked("adamw_stochastic", tuning="lora", **half), f"few learn. Type {setting}=adamw"),
        (asked("adamw_8bit", parallel="fsdp"), f"does not share out what {setting}=adamw_8bit holds"),
    ):
        refused(experiment_, sentence)
    eight = asked("adamw_8bit")
    judge_stage(eight)
    assert_needed(eight, f"{setting}=adamw_8bit needs bitsandbytes", "eightbit")


def assert_needed(asked: Any, needs: str, install: str) -> None:
    """Refused where the stages run without the package, and said where another Python has it, perhaps."""
    with pytest.raises(ConfigError, match=rf"^{re.escape(needs)}, which is not installed: pip install .*{install}"):
        packages.check([asked], here=True)
    [told] = packages.check([asked], here=False)
    assert (
        told.startswith(f"{needs}, which is not installed here. Where the stages run: pip install") and install in told
    )


def test_packages_are_asked_for_where_stages_run(no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, needs, install in (
        (
            {"attention": "flash_attention_2", "dtype": "bfloat16"},
            "attention=flash_attention_2 needs flash_attn",
            "flash",
        ),
        ({"tuning": "qlora"}, "tuning=qlora needs bitsandbytes", "qlora"),
        ({"engine": "vllm"}, "engine=vllm needs vllm", "vllm"),
    ):
        assert_needed(changed(experiment(no_model), "policy", **settings), f"policy.{needs}", install)
    assert packages.check([experiment(no_model)], here=True) == []
    assert [slurm.elsewhere(slurm.read(given, KINDS)) for given in ({}, {"python": "srun python"})] == [False, True]
    judge = TargetRM(rm_backbone=msgspec.structs.replace(experiment(no_model).rm_backbone, tuning="qlora"))
    judged = msgspec.structs.replace(experiment(no_model), judge=judge)
    assert_needed(judged, "judge.rm_backbone.tuning=qlora needs bitsandbytes", "qlora")
    monkeypatch.setattr(packages, "_installed", lambda module: module != "peft")  # with the extra eightbit alone
    assert_needed(changed(experiment(no_model), "policy", tuning="qlora"), "policy.tuning=qlora needs peft", "lora")
    assert_needed(judged, "judge.rm_backbone.tuning=qlora needs peft", "lora")


def test_how_processes_share_a_training_is_in_no_key(no_model: Path) -> None:
    cells = [changed(experiment(no_model), "policy", parallel=how) for how in ("auto", "fsdp")]
    assert kinds_that_differ(*cells) == set()
    one, other = (labelled(judge_stage(cell), "sft[tr]").spec.get(WHERE, {}) for cell in cells)
    assert other == one | {"parallel": "fsdp"} and "parallel" not in one


def test_micro_batches_must_divide_the_batch(no_model: Path) -> None:
    refused(
        changed(experiment(no_model), "sft", micro_batch_size=3),
        r"sft\.micro_batch_size=3 does not divide sft\.batch_size=8",
    )


def test_vllm_is_for_decoder_only_models(folders: dict[str, Path]) -> None:
    refused(
        changed(experiment(folders["mt5"]), "policy", engine="vllm"), r"policy\.engine=vllm samples decoder-only models"
    )


def test_a_base_that_cannot_be_read_fails_at_once(tmp_path: Path, folders: dict[str, Path]) -> None:
    """In the base stage, before anything is trained."""
    shutil.copytree(folders["qwen3"], tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for wrong, sentence in (
        ({"model_type": "unheard_of"}, r"The model .* cannot be used as a language model"),
        ({"layer_types": ["chunked_attention"] * 4}, "has layers of chunked_attention"),
    ):
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | wrong))
        stage: Stage = base(LanguageModel(str(tmp_path / "model"), n=len(sentence)))
        with pytest.raises(DataError, match=sentence):
            Runner(tmp_path).run(stage, {}, tmp_path / "out")


def test_a_checkpoint_in_pickle_format_is_refused_while_planning(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(experiment(tmp_path), r"policy\.checkpoint=.* The weights in .* are in pickle format")


@pytest.mark.parametrize("role", ["pad", "eos"])
def test_a_tokenizer_without_pad_or_eos_is_refused_while_planning(
    folders: dict[str, Path], tmp_path: Path, role: str
) -> None:
    folder = without(role, folders["qwen3"], tmp_path / "model")
    refused(experiment(folder), rf"policy\.checkpoint=.* its tokenizer has no {role} token")
    if role == "pad":
        with pytest.raises(ConfigError, match=r"has no piece 'x y z'.* as in \"policy\.pad_token='</s>'\""):
            judge_stage(changed(experiment(folder), "policy", pad_token="x y z"))
        judge_stage(changed(experiment(folder), "policy", pad_token="</s>"))


def test_what_the_comparison_refuses_fails_in_the_base_stage(tmp_path: Path) -> None:
    """ALiBi by place in the batch (MPT): padding between prompt and response would count as distance."""
    folder = checkpoint("decoder", "mpt", tmp_path / "model")
    with pytest.raises(DataError, match=r"MptForCausalLM in .* gives other logits .* when its prompt is read"):
        Runner(tmp_path).run(base(LanguageModel(str(folder))), {}, tmp_path / "out")
