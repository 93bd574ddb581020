"""Whose code may run: nobody's unless the spec names it, whatever a checkpoint or a results folder says."""

import ast
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import families
import pytest
from huggingface_hub import constants
from transformers import dynamic_module_utils

import xling
from xling.config.policies import LanguageModel
from xling.errors import ConfigError, DataError
from xling.grid import files, host
from xling.grid.records import Sheet
from xling.grid.stage import Context, Kind, Stage
from xling.grid.store import Store
from xling.models import encoder
from xling.models.checkpoints import check_policy
from xling.models.load import load_config, load_policy, load_tokenizer, load_trunk, loading
from xling.models.training import store_trained
from xling.planning import KINDS
from xling.planning.specs import base
from xling.rewards.classifier import Settings as Classifier
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.runners.execute import Executor, Job

NAME, COMMIT = "some/coded-model", "0123456789abcdef0123456789abcdef01234567"
# Code of a checkpoint: a configuration and a model that say that they ran.
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path({witness!r}).touch()

class CodedConfig(LlamaConfig):
    model_type = "coded"

class CodedForCausalLM(LlamaForCausalLM):
    config_class = CodedConfig
"""
COPY = Kind("sft", KINDS["sft"].version, lambda context: _copy(context), gpu=lambda stage: False)


def _copy(context: Context) -> None:
    """A stage that stores its parent's model as one that was trained is stored."""
    model, tokenizer = load_policy(context.parents["base"])
    store_trained(context.parents["base"], context.out, model, tokenizer, None)


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Code of checkpoints is copied below the test's own folder."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    base.cache_clear()
    yield
    base.cache_clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What somebody at a terminal would have been asked; the answer is yes."""
    questions: list[str] = []

    def answer(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    return questions


def coded(folder: Path, where: str = "") -> tuple[Path, Path]:
    """(a checkpoint with code of its own, the file that the code makes when it runs)."""
    families.saved(folder, "llama")
    witness = folder.parent / f"{folder.name}-ran"
    (folder / "coded.py").write_text(CODE.format(witness=str(witness)))
    mapped = {"AutoConfig": f"{where}coded.CodedConfig", "AutoModelForCausalLM": f"{where}coded.CodedForCausalLM"}
    edit(folder / "config.json", auto_map=mapped, model_type="coded", architectures=["CodedForCausalLM"])
    return folder, witness


def edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def tokenizer_code(folder: Path, where: str = "", pad: bool = False) -> Path:
    """Makes a checkpoint's tokenizer one of its own; the file that its code makes when it runs."""
    witness = folder.parent / "tokenizer-ran"
    (folder / "tok.py").write_text(
        f"from pathlib import Path\nPath({str(witness)!r}).touch()\n"
        "from transformers import PreTrainedTokenizerFast\nclass Tok(PreTrainedTokenizerFast): pass\n"
    )
    named = json.loads((folder / "tokenizer_config.json").read_text()) | {
        "tokenizer_class": "Tok",
        "auto_map": {"AutoTokenizer": [None, f"{where}tok.Tok"]},
    }
    if not pad:  # so that planning has to look at it
        named.pop("pad_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return witness


class Root:
    """Results below one root, made by the executor as every runner makes them."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.executor = Executor(self.store, KINDS | {"sft": COPY}, who=host.this_process())
        self.store.prepare()

    def made(self, stage: Stage) -> Path:
        report = self.executor.execute(Job(stage.key, Sheet.of(stage)))
        assert report.event in ("done", "found"), report
        return self.store.load(stage.kind, stage.key)

    def failed(self, stage: Stage) -> str:
        report = self.executor.execute(Job(stage.key, Sheet.of(stage)))
        assert report.event == "failed", report
        return report.text

    def forge(self, stage: Stage, name: str, content: bytes) -> None:
        """Change a file of a result, and its marker too, as somebody would who wants it to be believed."""
        folder = self.store.folder(stage.kind, stage.key)
        (folder / name).write_bytes(content)
        status, marker = (folder / name).stat(), json.loads((folder / "done.json").read_text())
        marker["files"][name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }
        marker.pop("checksum", None)
        (folder / "done.json").write_bytes(files.sealed_json(marker))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "root")


def trained(parent: Stage) -> Stage:
    return Stage.make("sft", COPY.version, "sft[de]", {"lang": "de"}, {"base": parent})


def test_there_is_no_other_door() -> None:
    """Weights are read in one module, GGUF files in the one that converts them; a call that could run code says if."""
    doors = {"from_pretrained", "from_config"}
    for path in Path(xling.__file__).parent.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            if isinstance(call.func, ast.Attribute) and call.func.attr in doors:
                said = [ast.unparse(keyword) for keyword in call.keywords]
                assert "trust_remote_code=False" in said or "**_code(how)" in said, f"{path}:{call.lineno}"
                model = "AutoTokenizer" not in ast.unparse(call.func)
                random = call.func.attr == "from_config"  # which reads none
                outside = path.name == "load_reward.py"  # which goes out with an export, and reads that
                assert path.name in ("load.py", "gguf.py") or not model or random or outside, (
                    f"{path}:{call.lineno} reads weights"
                )


# --- no code unless it is asked for -------------------------------------------------------------------------


def test_planning_asks_nobody_whether_code_may_run(tmp_path: Path, asked: list[str]) -> None:
    folder = families.saved(tmp_path / "model", "llama")
    witness = tokenizer_code(folder)
    seq2seq = families.saved(tmp_path / "mt5", "mt5")
    tokenizer_code(seq2seq, pad=True)
    check_policy(LanguageModel(str(folder)))
    families.check_reward(SameAsPolicy(init=str(folder)))
    encoder.check_encoder(str(folder))
    with pytest.raises(ConfigError, match="The translator has no language"):  # its tokenizer was read
        families.check_translator(seq2seq)
    assert asked == [] and not witness.exists()


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_no_door_runs_code_or_asks(tmp_path: Path, asked: list[str], part: str) -> None:
    if part == "model":
        folder, witness = coded(tmp_path / "model")
    else:
        folder = families.saved(tmp_path / "model", "llama")
        witness = tokenizer_code(folder)
    doors: dict[str, Callable[[Path], Any]] = {
        "policy": load_policy,
        "tokenizer": load_tokenizer,
        "trunk": load_trunk,
        "config": load_config,
        "encoder": lambda where: encoder.load_encoder(str(where))(["ein Haus"]),
    }
    for door in doors.values():
        try:
            door(folder)
        except DataError as error:
            assert "name its repository: policy.remote_code=" in str(error)
    assert asked == [] and not witness.exists()


def test_a_model_that_needs_code_of_its_own_says_what_to_type(root: Root, tmp_path: Path) -> None:
    folder, witness = coded(tmp_path / "model")
    assert "name its repository: policy.remote_code=OWNER/NAME" in root.failed(base(LanguageModel(str(folder))))
    assert not witness.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_of_another_repository_is_refused_wherever_it_is_named(tmp_path: Path, file: str) -> None:
    folder, witness = coded(tmp_path / "model")
    named = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    wanted = {"AutoTokenizer": [None, "else/where--tok.Tok"], "AutoConfig": "coded.CodedConfig"}
    (folder / file).write_text(json.dumps(named | {"nested": {"auto_map": wanted}}))
    with pytest.raises(ConfigError, match=r"runs code of else/where, and policy\.remote_code="):
        check_policy(LanguageModel(str(folder), remote_code=str(folder)))
    assert not witness.exists()


def test_a_classifiers_code_is_named_by_its_own_setting(tmp_path: Path) -> None:
    folder, _ = coded(tmp_path / "model", "else/where--")
    with pytest.raises(ConfigError, match=r"runs code of else/where, and rm_backbone\.remote_code="):
        families.check_reward(Classifier(str(folder), remote_code=str(folder)))


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "else/kernels"},
        {"_attn_implementation": {"": "else/kernels"}},
        {"text_config": {"experts_implementation": "else/kernels"}},
    ],
)
def test_kernels_that_a_config_names_are_not_downloaded(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = families.saved(tmp_path / "model", "llama")
    edit(folder / "config.json", **settings)
    with pytest.raises(ConfigError, match="asks for kernels of else/kernels"):
        check_policy(LanguageModel(str(folder)))
    for door in (load_policy, load_tokenizer, lambda where: encoder.load_encoder(str(where))):
        with pytest.raises((DataError, ConfigError), match="asks for kernels of else/kernels"):
            door(folder)


# --- code that is asked for ---------------------------------------------------------------------------------


def test_code_that_the_spec_names_runs_for_a_base_and_for_what_is_trained_from_it(root: Root, tmp_path: Path) -> None:
    folder, witness = coded(tmp_path / "model")
    start = base(LanguageModel(str(folder), remote_code=str(folder)))
    assert set(start.spec["code"]) == {"coded.py"}
    root.made(start)
    assert witness.exists()
    out = root.made(trained(start))
    assert (out / "coded.py").exists() and type(load_policy(out)[0]).__name__ == "CodedForCausalLM"


def test_code_that_was_changed_does_not_run(root: Root, tmp_path: Path) -> None:
    folder, _ = coded(tmp_path / "model")
    start = base(LanguageModel(str(folder), remote_code=str(folder)))
    after = trained(start)
    root.made(start)
    root.made(after)
    evil = tmp_path / "evil"
    content = f"from pathlib import Path\nPath({str(evil)!r}).touch()\n".encode() + (folder / "coded.py").read_bytes()
    root.forge(after, "coded.py", content)
    with pytest.raises(DataError, match=r"is not that of .* Nothing was run"):
        load_policy(root.store.load("sft", after.key))
    (folder / "coded.py").write_bytes(content)  # and in the checkpoint itself
    with pytest.raises(DataError, match=r"another one than was planned with"):
        load_policy(root.store.load("base", start.key))
    how = json.loads((root.store.folder("base", start.key) / "load.json").read_text())
    how.pop("digest")  # which somebody may have taken out
    root.forge(start, "load.json", json.dumps(how).encode())
    with pytest.raises(DataError, match=r"is not that of .* Nothing was run"):
        load_policy(root.store.load("base", start.key))
    assert not evil.exists()


@pytest.mark.parametrize("named", ["", f"{NAME}--"])
def test_code_of_a_repository_is_that_of_the_commit_in_the_spec(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """The hub's cache has two commits; `main` is the other one; settings may name the repository outright."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(dynamic_module_utils, "HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--some--coded-model"
    folder, witness = coded(repository / "snapshots" / COMMIT, named)
    other, newer = repository / "snapshots" / ("f" * 40), tmp_path / "newer-ran"
    shutil.copytree(folder, other)
    (other / "coded.py").write_text(CODE.format(witness=str(newer)))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("f" * 40)
    start = base(LanguageModel(NAME, revision=COMMIT, remote_code=NAME))
    root.made(start)
    load_policy(root.made(trained(start)))
    assert witness.exists() and not newer.exists()
    # somebody has load.json lead to the other commit, whose code the spec does not name
    how = json.loads((root.store.folder("base", start.key) / "load.json").read_text())
    root.forge(start, "load.json", json.dumps(how | {"folder": str(other)}).encode())
    with pytest.raises(DataError, match="is not that of some/coded-model"):
        load_policy(root.store.load("base", start.key))
    assert not newer.exists()


# --- results from elsewhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"attention": "else/kernels"}, {"dtype": "float1"}, {"folder": 7}])
def test_load_json_says_what_a_spec_could_say(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = families.saved(tmp_path / "model", "llama")
    (folder / "load.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"load\.json does not say how a model is read"):
        load_policy(folder)


@pytest.mark.parametrize("kind", ["base", "sft"])
def test_a_results_folder_cannot_switch_code_on(root: Root, tmp_path: Path, kind: str) -> None:
    """Its marker fits, its spec says that no code may run, and load.json says otherwise."""
    evil, witness = coded(tmp_path / "evil")
    start = base(LanguageModel(str(families.saved(tmp_path / "model", "llama"))))
    after = trained(start)
    root.made(start)
    root.made(after)
    forged = start if kind == "base" else after
    how = json.loads((root.store.folder(kind, forged.key) / "load.json").read_text())
    how.pop("digest", None)
    root.forge(forged, "load.json", json.dumps(how | {"remote_code": "x", "folder": str(evil)}).encode())
    folder = root.store.load(kind, forged.key)  # which finds nothing wrong with the bytes
    assert loading(folder).remote_code == "x"
    for door in (load_policy, load_trunk, load_tokenizer, load_config):
        with pytest.raises(DataError, match=r"load\.json in .* asks to run the code of x, and the spec .* Nothing was"):
            door(folder)
    assert not witness.exists()


def test_a_forged_spec_is_not_believed_either(root: Root, tmp_path: Path) -> None:
    """That of the base which a policy was trained from: its key tells."""
    evil, witness = coded(tmp_path / "evil")
    start = base(LanguageModel(str(families.saved(tmp_path / "model", "llama"))))
    after = trained(start)
    root.made(start)
    root.made(after)
    sheet = json.loads((root.store.folder("base", start.key) / "spec.json").read_text())
    sheet.pop("checksum", None)
    sheet["spec"] |= {"remote_code": "x", "code": {"coded.py": "0" * 64}}
    root.forge(start, "spec.json", files.sealed_json(sheet))
    how = json.loads((root.store.folder("sft", after.key) / "load.json").read_text())
    root.forge(after, "load.json", json.dumps(how | {"remote_code": "x", "folder": str(evil)}).encode())
    with pytest.raises(DataError, match="asks to run the code of x"):
        load_policy(root.store.load("sft", after.key))
    assert not witness.exists()
