"""A small HTTP server that speaks what the W&B client asks for; it is not W&B.

It keeps what arrived in memory, for tests to look at:

    with WandbServer() as server:
        ...  # with WANDB_BASE_URL=server.url and any WANDB_API_KEY of 40 letters
    server.runs["key"].history, .summary, .config, .files; server.artifacts["sft-key"]; server.views

Written by listening to wandb 0.31 and wandb-workspaces 0.4: GraphQL by the names of their operations, the file stream
(history, summary, exit), and uploads of run files and artifacts. Rules of W&B that it keeps: a run is one by its name;
history lines stand at their offsets; an artifact's content that is there already is no new version; a view with an id
is replaced.
"""

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote

ENTITY = "probe-team"


@dataclass
class ServerRun:
    """What the server knows of a run."""

    id: str
    project: str
    name: str = ""
    job_type: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)  # of history, by offset
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # name:version of artifacts
    logged: set[str] = field(default_factory=set)
    exits: int = 0

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[offset]) for offset in sorted(self.lines)]

    def table(self, name: str) -> dict[str, Any]:
        """The table that the summary shows now: {"columns": [...], "data": [...]}."""
        content: dict[str, Any] = json.loads(self.files[self.summary[name]["path"]])
        return content


@dataclass
class Version:
    """One content of an artifact."""

    id: str
    name: str
    type: str
    number: int
    digest: str
    metadata: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)  # as uploaded, by path in the artifact
    committed: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}:v{self.number}"


class WandbServer:
    """Runs, artifacts and views in memory, behind http://127.0.0.1:<port>."""

    def __init__(self) -> None:
        self.runs: dict[str, ServerRun] = {}
        self.artifacts: dict[str, list[Version]] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.projects: set[str] = set()
        self.asked: list[str] = []  # operations, in the order in which they came
        self.unknown: list[str] = []  # operations that were not understood
        self.lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "WandbServer":
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL operation."""
        name = query.split("(")[0].split("{")[0].split()[1]
        self.asked.append(name)
        operation = getattr(self, f"_{name[0].lower()}{name[1:]}", None)
        if operation is None:
            self.unknown.append(query)
            return {}
        found: dict[str, Any] = operation(variables)
        return found

    # --- who, and what the server can --------------------------------------------------------------------------

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "user", "entity": ENTITY, "username": "probe", "email": "", "flags": "{}"}
        return {"viewer": viewer | {"admin": False, "teams": {"edges": []}, "apiKeys": {"edges": []}}}

    def _serverFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _xXHashDigestsEnabled(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def _projectInternalId(self, variables: dict[str, Any]) -> dict[str, Any]:
        there = variables["projectName"] in self.projects
        return {"project": {"id": "model", "internalId": "1"} if there else None}

    def _getProjects(self, variables: dict[str, Any]) -> dict[str, Any]:
        about = {"__typename": "Project", "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00Z"}
        about |= {"isBenchmark": False, "user": None}
        edges = [{"node": {"id": name, "name": name, **about}} for name in sorted(self.projects)]
        pages = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": pages, "edges": edges}}

    # --- runs --------------------------------------------------------------------------------------------------

    def _runResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        bucket = None
        if run is not None:
            tail = [run.lines[max(run.lines)]] if run.lines else []
            lines = {"historyLineCount": len(run.lines), "logLineCount": 0, "eventsLineCount": 0}
            bucket = (
                self._bucket(run)
                | lines
                | {
                    "summaryMetrics": json.dumps(run.summary),
                    "historyTail": json.dumps(tail),
                    "eventsTail": "[]",
                    "tags": run.tags,
                    "notes": "",
                    "wandbConfig": json.dumps({"t": 1}),
                }
            )
        entity = {"id": "team", "name": ENTITY}
        return {"model": {"id": "model", "name": variables["project"], "entity": entity, "bucket": bucket}}

    def _upsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name, project = variables["name"], variables["project"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, ServerRun(name, project))
        self.projects.add(project)
        run.name = variables.get("displayName") or run.name
        run.job_type = variables.get("jobType") or run.job_type
        run.group = variables.get("groupName") or run.group
        run.tags = variables.get("tags") or run.tags
        run.config |= {key: item["value"] for key, item in json.loads(variables.get("config") or "{}").items()}
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: ServerRun) -> dict[str, Any]:
        project = {"id": "model", "name": run.project, "entity": {"id": "team", "name": ENTITY}}
        config = json.dumps({key: {"value": value} for key, value in run.config.items()})
        about = {"id": f"id-{run.id}", "name": run.id, "displayName": run.name, "description": "", "sweepName": None}
        return about | {"config": config, "project": project, "historyLineCount": len(run.lines)}

    def _createRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/run/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": f"id-{run}", "uploadHeaders": [], "files": files}}

    def stream(self, run: ServerRun, body: dict[str, Any]) -> None:
        """A piece of a run's file stream."""
        for name, chunk in body.get("files", {}).items():
            if name == "wandb-history.jsonl":
                run.lines |= {chunk["offset"] + place: line for place, line in enumerate(chunk["content"])}
            elif name == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
        run.exits += bool(body.get("complete"))

    # --- artifacts ---------------------------------------------------------------------------------------------

    def _createArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        asked = variables["input"]
        name = (asked.get("artifactCollectionNames") or [asked.get("artifactCollectionName")])[0]
        versions = self.artifacts.setdefault(name, [])
        version = next((one for one in versions if one.digest == asked["digest"]), None)
        if version is None:
            metadata = json.loads(asked.get("metadata") or "{}")
            ident = f"{name}/{len(versions)}"
            version = Version(ident, name, asked["artifactTypeName"], len(versions), asked["digest"], metadata)
            versions.append(version)
        if asked.get("runName"):
            self.runs[asked["runName"]].logged.add(version.label)
        latest = [one for one in versions if one.committed]
        sequence = {"id": name, "latestArtifact": _brief(latest[-1]) if latest else None}
        return {"createArtifact": {"artifact": _brief(version) | {"artifactSequence": sequence}}}

    def _artifactType(self, variables: dict[str, Any]) -> dict[str, Any]:
        versions = self.artifacts.get(variables["name"].split(":")[0].split("/")[-1])
        found = {"artifactType": {"name": versions[0].type}} if versions else None
        return {"project": {"artifact": found}}

    def _fetchArtifactDigestAlgorithm(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _createArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        ident = variables["artifactID"]
        url = f"{self.url}/manifest/{ident}"
        return {"createArtifactManifest": {"artifactManifest": {"id": ident, "file": _upload(ident, url)}}}

    def _updateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        ident = variables["artifactManifestID"]
        url = f"{self.url}/manifest/{ident}"
        return {"updateArtifactManifest": {"artifactManifest": {"id": ident, "file": _upload(ident, url)}}}

    def _createArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in variables["input"]["artifactFiles"]:
            ident = file["artifactID"]
            node = {
                "storagePath": file["name"],
                "uploadUrl": f"{self.url}/artifact/{ident}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": ident},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        version = self.version(variables["artifactID"])
        version.committed = True
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def _useArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        asked = variables["input"]
        self.runs[asked["runName"]].used.add(self.version(asked["artifactID"]).label)
        return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}

    def version(self, ident: str) -> Version:
        name, _, number = ident.rpartition("/")
        return self.artifacts[name][int(number)]

    def upload(self, path: str, content: bytes) -> None:
        """A file of a run or an artifact, or an artifact's manifest."""
        what, _, rest = path.lstrip("/").partition("/")
        if what == "run":
            run, _, name = rest.partition("/")
            self.runs[run].files[name] = content
            return
        name, number, *file = rest.split("/", 2)
        version = self.artifacts[name][int(number)]
        if what == "manifest":
            version.manifest = json.loads(content)
        else:
            version.files[file[0]] = content

    # --- views: workspaces and reports -------------------------------------------------------------------------

    def _upsertView2(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self._upsertView(variables)

    def _upsertView(self, variables: dict[str, Any]) -> dict[str, Any]:
        ident = variables.get("id") or f"view{len(self.views)}"
        inserted = ident not in self.views
        self.views[ident] = {**variables, "spec": json.loads(variables["spec"])}
        project = {"id": "model", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {
            **{name: variables.get(name) for name in ("type", "name", "displayName", "description", "spec")},
            "id": ident,
            "project": project,
            "updatedAt": "2026-01-01T00:00:00Z",
        }
        return {"upsertView": {"view": view, "inserted": inserted}}


def _brief(version: Version) -> dict[str, Any]:
    state = "COMMITTED" if version.committed else "PENDING"
    return {"id": version.id, "state": state, "digest": version.digest, "versionIndex": version.number}


def _upload(ident: str, url: str) -> dict[str, Any]:
    return {"id": ident, "uploadUrl": url, "uploadHeaders": []}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content, answer = self._content(), {}
            with server.lock:
                if self.path.endswith("/graphql"):
                    asked = json.loads(content)
                    answer = {"data": server.answer(asked["query"].strip(), asked.get("variables") or {})}
                elif self.path.endswith("/file_stream"):
                    server.stream(server.runs[self.path.split("/")[-2]], json.loads(content))
            self._say(json.dumps(answer).encode())

        def do_PUT(self) -> None:
            content = self._content()
            with server.lock:
                server.upload(unquote(self.path), content)
            self._say(b"")

        def _content(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _say(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
