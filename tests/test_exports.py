"""`xling export`: what leaves the grid gives xling's numbers where xling is not, and says where it comes from."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from models import families

from xling.errors import ConfigError, StageError, XlingError
from xling.exports import Asked, export, located
from xling.exports.card import asked, private, results
from xling.exports.load_reward import Reward
from xling.exports.models import HOW, PROBE, _tried, export_reward
from xling.grid.store import Store
from xling.jsonfiles import read_json
from xling.models.load import Loading, load_tokenizer, load_trunk, loading, write_loading
from xling.models.text import Limits
from xling.rewards.networks import ImplicitNet, PairNet, RewardNet, load_reward, save_reward

PROMPTS, SAID = [prompt for prompt, _ in PROBE], [response for _, response in PROBE]
OUTSIDE = """
import sys
sys.modules["xling"] = None  # importing it fails
sys.path.insert(0, sys.argv[1])
from load_reward import Reward
import json
print(json.dumps(Reward().score(*json.loads(sys.argv[2]))))
"""


def stored(
    folder: Path, base: Path, pooling: str, pair: bool = False, limits: Limits | None = None, bias: float = 0.25
) -> Any:
    """A reward model with a random head, as its stage stores it."""
    kind, needed = (PairNet, ("pad",)) if pair else (RewardNet, ("pad", "eos"))
    net = kind(load_trunk(base, encoder=pair), load_tokenizer(base, needed), pooling, limits or Limits(40, 20)).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.constant_(net.head.bias, bias)
    save_reward(folder, net, loading(base))
    return net


def exported(folder: Path, out: Path) -> Any:
    out.mkdir()
    return export_reward(Store(folder), SimpleNamespace(spec={}, parents={}), folder, out)


def said_outside(out: Path) -> list[float]:
    texts = json.dumps([PROMPTS, SAID])
    run = subprocess.run([sys.executable, "-c", OUTSIDE, str(out), texts], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def ran_as_shown(card: str, beside: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the code of a card leaves, run as it stands, beside the folder."""
    monkeypatch.chdir(beside)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("load_reward", None)
    left: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], left)
    return left


def ours(net: Any) -> list[float]:
    return [row[0] for row in net.score(PROMPTS, [[text] for text in SAID])]


@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm3", "gemma3"])
def test_a_decoder_is_a_sequence_classifier(family: str, tmp_path: Path) -> None:
    net = stored(tmp_path / "rm", families.saved(tmp_path / "base", family), "last")
    made = exported(tmp_path / "rm", tmp_path / "out")
    assert made.form == "AutoModelForSequenceClassification" and made.worst < 1e-4
    model, info = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[missing] for missing in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.num_labels == 1
    rows = [prompt + answer for prompt, answer in net.rows(PROMPTS, SAID)]  # padded beside each other
    pad = hf.AutoTokenizer.from_pretrained(tmp_path / "out").pad_token_id
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    with torch.inference_mode():
        logits = model.eval()(ids, attention_mask=(torch.arange(width) < lengths[:, None]).long()).logits[:, 0]
    bias = read_json(tmp_path / "out" / HOW)["bias"]
    np.testing.assert_allclose(logits.numpy() + bias, ours(net), rtol=2e-4, atol=2e-5)


def test_what_16_bits_lose_is_told_by_the_spread_of_scores(tmp_path: Path) -> None:
    """However far from zero the scores lie: a bias adds to all of them, and to no distance."""
    base = families.saved(tmp_path / "base", "llama")
    write_loading(base, Loading(dtype="bfloat16"))
    for bias in (0.0, 1000.0):
        where, out = tmp_path / f"rm-{bias:g}", tmp_path / f"out-{bias:g}"
        net = stored(where, base, "last", bias=bias)
        made = exported(where, out)
        theirs, own = np.array(Reward(out).score(PROMPTS, SAID)), np.array(ours(net))
        assert abs(own.mean() - bias) < 100
        apart = np.linalg.norm(theirs - own) / np.linalg.norm(own - own.mean())
        assert made.worst == pytest.approx(apart, rel=1e-6) and 1e-4 < made.worst < 0.3
        with pytest.raises(StageError, match=r"in bfloat16 by [\d.]+ % of the spread of five scores"):
            _tried(out, read_json(out / HOW), lambda *_, own=own, bias=bias: (bias + 2 * (own - bias)).tolist())


def test_what_pads_is_not_what_ends_a_response(tmp_path: Path) -> None:
    """The class looks for the end of a text by its padding: with eos for padding it would read the token before."""
    base = families.saved(tmp_path / "base", "llama")
    config = read_json(base / "tokenizer_config.json")
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": config["eos_token"]}))
    net = stored(tmp_path / "rm", base, "last")
    assert net.tokenizer.pad_token_id == net.tokenizer.eos_token_id
    assert exported(tmp_path / "rm", tmp_path / "out").worst < 1e-4


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        ("qwen2", "mean"),
        ("mt5", "last"),
        ("mt5", "mean"),
        ("xlm_roberta", "first"),
        ("bert", "first"),
        ("bert", "mean"),
    ],
)
def test_what_no_class_says_is_a_model_and_a_head(family: str, pooling: str, tmp_path: Path) -> None:
    pair = family in families.ENCODERS
    save = families.saved_encoder if pair else families.saved
    net = stored(tmp_path / "rm", save(tmp_path / "base", family), pooling, pair)
    made = exported(tmp_path / "rm", tmp_path / "out")
    assert made.form == "AutoModel and a head" and made.worst < 1e-4
    if (family, pooling) in (("mt5", "last"), ("bert", "first")):
        np.testing.assert_allclose(said_outside(tmp_path / "out"), ours(net), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("family", "pooling"), [("qwen2", "sum"), ("mt5", "mean")])
def test_a_log_ratio_is_two_models(family: str, pooling: str, tmp_path: Path) -> None:
    base = families.saved(tmp_path / "base", family)
    net = ImplicitNet(ImplicitNet.read(base), load_tokenizer(base), pooling, Limits(40, 20), beta=0.3).eval()
    net.held_to(ImplicitNet.read(base))
    with torch.no_grad():
        torch.nn.init.constant_(net.head.bias, 0.25)
        for weight in net.trunk.parameters():
            weight.mul_(0.9)
    save_reward(tmp_path / "rm", net, loading(base))
    made = exported(tmp_path / "rm", tmp_path / "out")
    assert made.form.startswith("two models of AutoModelFor") and made.worst < 1e-4
    np.testing.assert_allclose(said_outside(tmp_path / "out"), ours(net), rtol=2e-4, atol=2e-5)


def test_chat_templates_are_written_as_in_training(tmp_path: Path) -> None:
    from xling.models.load import turn_ends, write_loading

    base = families.saved_chat(tmp_path / "base", "qwen3")
    write_loading(base, loading(base).__class__(ends=turn_ends(base, "policy")))
    stored(tmp_path / "rm", base, "last", limits=Limits(120, 60))
    made = exported(tmp_path / "rm", tmp_path / "out")
    assert read_json(tmp_path / "out" / HOW)["template"] and "one turn" in " ".join(made.notes)
    assert made.worst < 1e-4


# --- from a grid, by the command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """From English into Turkish: `g` with the paper's reward model, `frozen` with a frozen reader's head."""
    import xling

    root = tmp_path_factory.mktemp("exports")
    few = [f"task.{name}=32" for name in ("ratings", "demonstrations", "test_prompts")]
    few += [
        "sft.steps=2",
        "optimizer.n=2",
        "hydra.launcher.workers=1",
        "tracking.mode=off",
        "source_lang=en",
        "target_lang=tr",
    ]
    short = [f"rm_backbone.training.{name}=2" for name in ("steps", "eval_every", "warmup_steps")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        xling.run("sweeps=demo", *few, "name=frozen")
        xling.run("sweeps=demo", *few, "name=g", "rm_backbone=same_as_policy", *short)
    return Store(root / "outputs")


@pytest.mark.parametrize(("name", "form"), [("g", "AutoModelForSequenceClassification"), ("frozen", "a linear head")])
def test_a_reward_model_of_a_grid(
    grid: Store, name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [said] = export(grid, name, "reward[en]", Asked(tmp_path / "rm", license="apache-2.0"))
    card = (tmp_path / "rm" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0" and head["language"] == ["en"] and "reward-model" in head["tags"]
    assert form in said and "| en | tr |" in card and "digest of its data" in card
    assert str(grid.root.parent) not in card  # no path of this machine goes out
    ran_as_shown(card, tmp_path, monkeypatch)
    theirs = said_outside(tmp_path / "rm")
    assert len(set(theirs)) == len(PROBE)
    if name == "g":
        np.testing.assert_allclose(theirs, ours(load_reward(located(grid, "g", "reward[en]"))), rtol=2e-4, atol=2e-5)


def test_a_policy_of_a_grid_writes_as_before(grid: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(grid, "g", "sft[tr]", Asked(tmp_path / "sft"))
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    before = hf.AutoModelForCausalLM.from_pretrained(located(grid, "g", "sft[tr]"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    card = (tmp_path / "sft" / "README.md").read_text()
    assert "Not known to xling" in card
    assert "model" in ran_as_shown(card, tmp_path, monkeypatch)


def test_tables_are_a_data_set(grid: Store, tmp_path: Path) -> None:
    export(grid, "g", "matrix", Asked(tmp_path / "matrix"))
    export(grid, "g", "items", Asked(tmp_path / "items"))
    cells = datasets.load_dataset(str(tmp_path / "matrix"), "cells", cache_dir=str(tmp_path / "cache"))["train"]
    assert list(cells["target_lang"]) == ["tr"] and "win_rate_low" in cells.column_names
    items = datasets.load_dataset(str(tmp_path / "items"), "samples", cache_dir=str(tmp_path / "cache"))["train"]
    assert len(items) == 32 and "response" in items.column_names
    long = datasets.load_dataset(str(tmp_path / "matrix"), "long", cache_dir=str(tmp_path / "cache"))["train"]
    assert {"cell", "baseline", "mean", "mean abroad"} == set(long["row"]) and "win_rate" in long["measure"]


def test_samples_are_a_line_a_prompt_and_say_what_the_stages_say(grid: Store, tmp_path: Path) -> None:
    import xling

    out = tmp_path / "samples"
    [said] = export(grid, "g", "samples", Asked(out, cells={"target_lang": frozenset({"tr"})}))
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "(32 lines)" in said and len(lines) == 32
    known = xling.load(grid.root, "g")
    responses, wins = known.samples.set_index("prompt"), known.items.set_index("prompt").win
    opposed = known.baselines.groupby("prompt").response.apply(list)
    for line in lines:
        row = responses.loc[line["prompt"]]
        assert (line["source_lang"], line["target_lang"], line["seed"]) == ("en", "tr", "0")
        assert (line["responses"], line["text"]) == ([row.response], row.text)
        assert (line["rewards"], line["scores"]) == ([row.reward], [row.quality])
        assert line["opponents"] == opposed[line["prompt"]] and line["win"] == wins[line["prompt"]]
        [points] = line["points"]
        assert np.mean(points) == line["win"] and points == [
            float(np.sign(row.quality - other) / 2 + 0.5) for other in line["opponent_scores"]
        ]
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.column_names == list(lines[0]) and loaded[3] == lines[3]
    with pytest.raises(ConfigError, match="has no such cell"):
        export(grid, "g", "samples", Asked(tmp_path / "none", cells={"target_lang": frozenset({"en"})}))
    with pytest.raises(ConfigError, match="--cells chooses among samples, not in items"):
        export(grid, "g", "items", Asked(tmp_path / "none", cells={"target_lang": frozenset({"tr"})}))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("reward[xx]", "Or give matrix, items or samples"),
        ("judge[en, tr]", "trains no model"),
        ("base", "trains no model"),
    ],
)
def test_what_cannot_go_out_is_said(grid: Store, tmp_path: Path, what: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        export(grid, "g", what, Asked(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(grid: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        export(grid, "g", "matrix", Asked(tmp_path / "out"))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("task.path=/data/me/my data/x y.jsonl", "task.path=x y.jsonl"),
        ("task.path=~me/x.jsonl", "task.path=x.jsonl"),
        ("measures=[/data/me/a.py:f,../b/c.py:g]", "measures=[a.py:f,c.py:g]"),
        ("judge.base_url=http://gpu7.lab:8000/v1", "judge.base_url=URL"),
        ("policy.checkpoint=owner/name", "policy.checkpoint=owner/name"),
        ("+hydra/launcher=slurm", "+hydra/launcher=slurm"),
        ("policy.checkpoint=runs/2024/mine", "policy.checkpoint=mine"),
        ("policy.checkpoint=tests/report", "policy.checkpoint=report"),  # a folder that is there
        ("task.path={de:data/de.jsonl,tr:data/tr.jsonl}", "task.path={de:de.jsonl,tr:tr.jsonl}"),
        ("rate and/or say why, or /skip it", "rate and/or say why, or skip it"),
    ],
)
def test_cards_name_no_folder_and_no_server(typed: str, said: str) -> None:
    assert private([typed]) == [said]


def test_the_command_of_a_card_can_be_typed() -> None:
    assert asked(["target_lang=glob(*)", "root=/data/me/out", "seed=0,1"]) == "xling run 'target_lang=glob(*)' seed=0,1"


def test_a_card_names_models_of_the_hub_by_their_ids(grid: Store, tmp_path: Path, monkeypatch: Any) -> None:
    """The hub refuses cards with anything else as base_model."""
    monkeypatch.setattr("xling.exports._base", lambda spec: "owner/name@0123456789ab")
    export(grid, "g", "sft[tr]", Asked(tmp_path / "sft"))
    card = (tmp_path / "sft" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == ["owner/name"] and "owner/name@0123456789ab" in card


def test_a_cell_of_one_document_has_no_interval_in_a_card() -> None:
    row = {"source_lang": "de", "win_rate": 75.0, "win_rate_low": np.nan, "win_rate_high": np.nan, "n": 4, "seeds": 1}
    assert results([row], ["source_lang"])[-1] == "| de | 75.0 |  | 4 | 1 |"


def test_a_licence_that_the_hub_would_refuse_is_refused_at_once(grid: Store, tmp_path: Path) -> None:
    for typed, said in (("Apache-2.0", "Did you mean .apache-2.0"), ("", "no identifier"), ("mine", "no identifier")):
        with pytest.raises(ConfigError, match=said):
            export(grid, "g", "matrix", Asked(tmp_path / "out", push="me/matrix", license=typed))
    assert not (tmp_path / "out").exists()


def test_a_push_needs_a_token_and_a_name(grid: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    for name in ("name", "", "a/b/c"):
        with pytest.raises(ConfigError, match="OWNER/NAME"):
            export(grid, "g", "matrix", Asked(tmp_path / "out", push=name))
    with pytest.raises(ConfigError, match="needs a token"):
        export(grid, "g", "matrix", Asked(tmp_path / "out", push="me/matrix"))
    monkeypatch.setenv("HF_TOKEN", "hf_abc")  # and a hub that answers
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(XlingError, match=r"the hub cannot be asked: .*refused"):
        export(grid, "g", "matrix", Asked(tmp_path / "out", push="me/matrix"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_said(grid: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, said in (
        ("file/x", r"cannot be written .* with --out FOLDER"),
        ("a" * 300, "too long"),
        ("link", "is there already"),
    ):
        with pytest.raises(XlingError, match=said):
            export(grid, "g", "matrix", Asked(tmp_path / out))


# --- to the hub, played by a server that speaks what its client asks: names, a repository, a commit --------------


class Hub(BaseHTTPRequestHandler):
    """Keeps what is committed in `server.files`, by repository."""

    def _answer(self, code: int, body: Any, **headers: str) -> None:
        self.send_response(code)
        content = json.dumps(body).encode()
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self) -> None:
        kept = self.server.files.get(self.path.split("?")[0].removeprefix("/api/"))
        if kept is None:
            return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return self._answer(200, {"id": "me/rm", "modelId": "me/rm", "siblings": [], "tags": []})

    def do_POST(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization", ""))
        body = self._body()
        where = self.path.split("?")[0].removeprefix("/api/")
        if where == "repos/create":
            asked = json.loads(body)
            self.server.private = asked["private"] if "private" in asked else asked.get("visibility") == "private"
            owner = asked.get("organization") or "me"
            name = f"{owner}/{asked['name'].rpartition('/')[2]}"
            self.server.files[f"{asked.get('type') or 'model'}s/{name}"] = {}
            return self._answer(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        if where == "validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in where:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self._answer(200, {"files": files})
        assert "/commit/" in where, where
        if self.server.full:
            return self._answer(403, {"error": "storage limit reached"})
        kept = self.server.files[where.partition("/commit/")[0]]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._answer(
            200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"http://{self.headers['Host']}/me/rm/commit/0"}
        )

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.tokens, server.private, server.full = {}, set(), None, False
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def pushed(hub: Any, grid: Store, what: str, out: Path, name: str) -> subprocess.CompletedProcess[str]:
    to = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": "hf_abc", "HF_HUB_DISABLE_XET": "1"}
    command = ["export", what, "frozen", "--root", str(grid.root), "--out", str(out), "--push", name]
    env = {**os.environ, **to, "PYTHONDONTWRITEBYTECODE": ""}  # compiled code would name the folder of this machine
    return subprocess.run([sys.executable, "-m", "xling", *command], env=env, capture_output=True, text=True)


def test_a_push_makes_a_private_repository_of_the_folder(hub: Any, grid: Store, tmp_path: Path) -> None:
    run = pushed(hub, grid, "reward[en]", tmp_path / "rm", "me/rm")
    assert run.returncode == 0, run.stderr
    assert "Pushed to" in run.stdout and hub.private is True and hub.tokens == {"Bearer hf_abc"}
    kept = hub.files["models/me/rm"]
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "rm").iterdir()}

    assert sorted(kept) == ["README.md", "config.json", "generation_config.json", "head.safetensors",
                            "load_reward.json", "load_reward.py", "model.safetensors", "tokenizer.json",
                            "tokenizer_config.json"]  # fmt: skip

    again = pushed(hub, grid, "reward[en]", tmp_path / "again", "me/rm")
    assert again.returncode == 2 and "of that name already" in again.stderr and not (tmp_path / "again").exists()


def test_a_push_that_fails_says_what_sends_it_again_as_private_as_it_was(hub: Any, grid: Store, tmp_path: Path) -> None:
    hub.full = True
    run = pushed(hub, grid, "matrix", tmp_path / "my matrix", "me/matrix")
    assert run.returncode == 2 and (tmp_path / "my matrix" / "README.md").exists()
    again = f"hf upload me/matrix '{tmp_path / 'my matrix'}' --repo-type dataset --private"
    assert run.stderr.rstrip().endswith(f"To send it again type: {again}")
