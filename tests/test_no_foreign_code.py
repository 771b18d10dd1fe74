"""No foreign code runs: malicious files of every kind leave no trace, and no source calls what could run them."""

from __future__ import annotations

import ast
import csv
import http.client
import io
import json
import os
import pickle
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from acto.cli import main
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.labels.page import render
from acto.labels.review_server import MAX_BODY, ReviewServer
from acto.nets.build import build_net
from acto.nets.weights import load_weights
from acto.run_folder.checkpoints import save_checkpoint
from acto.run_folder.reading import read_run
from acto.run_folder.writing import RunFolder
from acto.runs.run import Run
from bad_data import arrays, published
from label_reports import report_of, served
from labels.test_page import record_of
from trained_runs import finished_run

SOURCE = Path(__file__).parents[1] / "src" / "acto"


class Attack:
    """Unpickled by a loader that runs pickles, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """What an attack would make; it must not be there at the end."""
    path = tmp_path / "attacked"
    yield path
    assert not path.exists(), "foreign code has run"


def refused(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    """The message of a command that fails as it should."""
    assert main(list(tokens)) in (1, 2)
    message = capsys.readouterr().err
    assert "Traceback" not in message and message.count("error: ") == 1
    return message


def test_the_attack_works(tmp_path: Path) -> None:
    """Else the traces below would prove nothing."""
    pickle.loads(pickle.dumps(Attack(tmp_path / "attacked")))
    assert (tmp_path / "attacked").is_dir()


# Malicious files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays(suffix: str, tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = np.array([Attack(trace)] * 4, dtype=object)
    path = tmp_path / f"set{suffix}"
    if suffix == ".npy":
        np.save(path, evil, allow_pickle=True)
    else:
        np.savez(path, x=arrays.X, y=evil)
    for tokens in (
        ("train", "--data", str(path)),
        ("data", "check", str(path)),
        ("train", "--data", "digits", "--noise", "file", "--data.noise.path", str(path), "--epochs", "1"),
    ):
        message = refused(capsys, *tokens)
        assert path.name in message and ("Python objects" in message or "say which are the labels" in message)


@pytest.mark.parametrize("batch", ["data_batch_2", "batches.meta"])
def test_cifar(batch: str, tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published.cifar(tmp_path, {batch: {"data": Attack(trace)}})
    message = refused(capsys, "train", "--data", "cifar10", "--data-root", str(tmp_path))
    assert f"{batch} was refused: it asks for" in message and "mkdir" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_peoples_labels(zipped: bool, tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published.cifar(tmp_path)
    path = tmp_path / published.FILE
    torch.save({"worse_label": Attack(trace)}, path, _use_new_zipfile_serialization=zipped)
    message = refused(capsys, "train", "--data", "cifar10n", "--data-root", str(tmp_path))
    assert f"{published.FILE} was refused" in message and "mkdir" in message


def test_the_readers_of_pickles_know_numbers_only(tmp_path: Path) -> None:
    """Names of functions that a pickle may ask for are stand-ins: the real ones would take flags or types from it."""
    for number, content in enumerate(
        (published.ObjectsAsNumbers(), published.ObjectsAsNumbers("dtype"), np.dtype("O"), np.array([None]))
    ):
        published.cifar(tmp_path / str(number), {"data_batch_1": pickle.dumps({"data": content}, protocol=2)})
        with pytest.raises(ValueError, match="data_batch_1 was refused"):
            load_data(DataSpec(source="cifar10"), data_root=tmp_path / str(number))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_weights(suffix: str, tmp_path: Path, trace: Path) -> None:
    path = tmp_path / f"evil{suffix}"
    torch.save({"state_dict": Attack(trace)}, path)
    net = build_net("mlp", input_shape=(2,), num_classes=2)
    with pytest.raises(ValueError, match=f"evil{suffix}"):
        load_weights(net, str(path))


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 40) + b'{"a": {"dtype": "F32", "shape": [9',
        (lambda header: struct.pack("<Q", len(header)) + header)(
            json.dumps({"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
        )
        + b"\0" * 16,
        b"",
    ],
    ids=["header of 2^62 bytes", "a list", "cut off", "tensor of 4 TB", "zero bytes"],
)
def test_safetensors_with_a_lying_header(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"evil\.safetensors"):
        load_weights(build_net("mlp", input_shape=(2,), num_classes=2), str(path))
    finished_run(tmp_path / "run", "mlp", (2,))
    (tmp_path / "run" / "net0.safetensors").write_bytes(content)
    np.save(tmp_path / "new.npy", np.zeros((3, 2)))
    assert "run" in refused(capsys, "predict", str(tmp_path / "run"), str(tmp_path / "new.npy"))


def unfinished(folder: Path, trace: Path) -> Path:
    """A run whose checkpoint has right checksums and holds an attack."""
    stream = io.BytesIO()
    torch.save({"method": Attack(trace)}, stream)
    config = {**Run(method="standard").to_dict(), "device": "cpu"}
    config["protocol"]["epochs"] = 2
    with RunFolder.create(folder, config=config) as run:
        run.add_session(versions={}, device="cpu", argv=["acto"])
        labels = load_data(DataSpec()).train.labels
        run.save_labels(labels, facts={"kind": "none"}, class_names=[str(digit) for digit in range(10)])
        save_checkpoint(folder / "checkpoints", epoch=0, files={"training.pt": stream.getvalue()})
        run.set_status("interrupted", epoch=0)
    return folder


@pytest.mark.parametrize("command", ["train --resume", "audit"])
def test_checkpoints(command: str, tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = unfinished(tmp_path / "run", trace)
    message = refused(capsys, *command.split(), str(folder))
    assert "000001-epoch0/training.pt is damaged, or no file of plain tensors (it asks for" in message
    assert "mkdir" in message and "weights_only" not in message


def test_labels_of_a_run(tmp_path: Path, trace: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder.create(folder, config={"method": "standard"}) as run:
        run.save_labels(np.array([0, 1]), facts={"kind": "none"})
    np.save(folder / "noisy_labels.npy", np.array([Attack(trace)], dtype=object), allow_pickle=True)
    with pytest.raises((RuntimeError, ValueError), match=r"noisy_labels\.npy"):
        read_run(folder).noisy_labels()


# Settings that name code ------------------------------------------------------------------------------------------


@pytest.fixture
def evil_module(tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module on the path that leaves a trace when it is imported."""
    place = tmp_path / "modules"
    place.mkdir()
    (place / "evil_net.py").write_text(f"import os\nos.mkdir({str(trace)!r})\ndef make(shape, classes): ...\n")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "evil_net", raising=False)
    return "evil_net:make"


def test_a_network_named_by_a_file(evil_module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"net": evil_module, "protocol": {"epochs": 1}}))
    assert f"net {evil_module!r} names code to run" in refused(capsys, "train", "--config", str(settings))


@pytest.mark.parametrize("key", ["net", "net=evil_net:make --seed"])
@pytest.mark.parametrize("place", ["block", "method"])
def test_a_network_named_by_a_study(
    key: str, place: str, evil_module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {key: evil_module}
    block: dict[str, Any] = {"methods": [{"method": "standard"}], "data": "digits"}
    (block if place == "block" else block["methods"][0])["settings"] = settings
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump([block]))
    message = refused(capsys, "sweep", str(study), "--out", str(tmp_path / "sweep"))
    # A key is no flag: nothing that stands in it is taken for one.
    why = "names code to run" if key == "net" else "unknown setting"
    assert "evil_net:make" in message and why in message


@pytest.mark.parametrize(
    "command",
    ["train --resume RUN", "audit RUN", "predict RUN DATA", "export RUN --format safetensors", "audit RUN --data DATA"],
)
def test_a_network_named_by_a_run(
    command: str, evil_module: str, tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    if "--resume" in command or command == "audit RUN":
        unfinished(folder, trace)
    else:
        finished_run(folder, "mlp", (2,))
        first = folder / "net0.safetensors"
        content = first.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        facts = json.loads(header["__metadata__"]["acto"]) | {"net": evil_module}
        header["__metadata__"]["acto"] = json.dumps(facts)
        encoded = json.dumps(header).encode()
        first.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + length :])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "net": evil_module}))
    np.savez(tmp_path / "data.npz", x=arrays.X, y=np.array(["apple", "pear", "quince", "pear"]))
    words = command.replace("RUN", str(folder)).replace("DATA", str(tmp_path / "data.npz"))
    assert evil_module in refused(capsys, *words.split())


def test_a_network_on_the_command_line_does_run(evil_module: str, trace: Path, tmp_path: Path) -> None:
    """Else the refusals above would prove nothing."""
    assert (
        main(["train", "--data", "digits", "--net", evil_module, "--epochs", "1", "--out", str(tmp_path / "out")]) == 2
    )
    assert trace.is_dir()
    trace.rmdir()


@pytest.mark.parametrize(
    "command",
    [
        "train --config FILE",
        "sweep FILE --out OUT",
        "train --resume RUN",
        "predict RUN x.npy",
        "review RUN",
        "doctor RUN",
    ],
)
def test_yaml_that_makes_objects(command: str, tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"!!python/object/apply:os.mkdir [{str(trace)!r}]\n"
    (tmp_path / "evil.yaml").write_text(text)
    finished_run(tmp_path / "run", "mlp", (2,))
    (tmp_path / "run" / "config.yaml").write_text(text)
    words = command.replace("FILE", str(tmp_path / "evil.yaml")).replace("RUN", str(tmp_path / "run"))
    assert main(words.replace("OUT", str(tmp_path / "out")).split()) != 0
    output = "".join(capsys.readouterr())
    assert "Traceback" not in output and ("evil.yaml" in output or "config.yaml" in output)


# Pages and tables -------------------------------------------------------------------------------------------------

EVIL = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    '" onmouseover="alert(3)" x=\'',
    '=HYPERLINK("http://evil")',
    "{{ 7 * 191 }}{% raw %}",
    "&lt;b&gt;\u2028\x1b[31m",
)


def evil_report() -> Any:
    given = [*EVIL]
    return report_of(
        given,
        [*EVIL[1:], EVIL[0]],
        names=EVIL,
        ids=[f"{name}/a.png" for name in EVIL],
        paths=[f"/x/{name}" for name in EVIL],
    )


def test_names_in_pages_stay_text(tmp_path: Path) -> None:
    page = render(evil_report(), record_of(tmp_path)).decode()
    assert "<script>alert" not in page and "<img src=x" not in page and 'onmouseover="alert' not in page
    assert "1337" not in page  # what the template in the name would come to
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_names_in_tables_are_no_formulas(tmp_path: Path) -> None:
    evil_report().save(tmp_path)
    with open(tmp_path / "label_report.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell[:1] and not cell[1:2].isdigit()]


# The review server ------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    with served(record_of(tmp_path), evil_report()) as made:
        yield made


def answer(server: ReviewServer, request: bytes) -> bytes:
    """What comes back for bytes as they stand."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.connect()
    assert connection.sock is not None
    connection.sock.sendall(request)
    connection.sock.shutdown(1)
    parts = []
    while part := connection.sock.recv(65536):
        parts.append(part)
    connection.close()
    return b"".join(parts)


@pytest.mark.parametrize("path", ["/", "/picture/0", "/decisions.csv", "/../decisions.csv", "//x", "/decide"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_no_route_without_the_token(method: str, path: str, server: ReviewServer) -> None:
    host = f"127.0.0.1:{server.server_port}"
    got = answer(server, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert got.split()[1] in (b"403", b"501")
    assert server.token.encode() not in got and b"HYPERLINK" not in got and b"PNG" not in got


def test_a_foreign_host_gets_nothing_even_with_the_token(server: ReviewServer) -> None:
    """A page of another site whose name was made to point here (DNS rebinding) sends its own name as Host."""
    port = server.server_port
    hosts = (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        f"localhost.:{port}",
        "",
        "127.0.0.1",
        f"0.0.0.0:{port}",
    )
    for host in hosts:
        got = answer(
            server, f"GET /?token={server.token} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        assert got.split()[1] == b"403", host
    assert b"answers its own page only" in answer(
        server, f"GET /?token={server.token}\r\n\r\n".encode()
    )  # HTTP/0.9: no Host
    absolute = f"GET http://evil.example/?token={server.token} HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert answer(server, absolute.encode()).split()[1] == b"403"


def test_no_path_leads_to_a_file(server: ReviewServer) -> None:
    own = f"127.0.0.1:{server.server_port}"
    for path in (
        "/decisions.csv",
        "/../../etc/passwd",
        "/picture/../../etc/passwd",
        "/picture/%2e%2e%2fconfig.yaml",
        "/picture/0/../../x",
        "/config.yaml",
    ):
        got = answer(
            server, f"GET {path}?token={server.token} HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n".encode()
        )
        assert got.split()[1] == b"404", path


def test_requests_are_bounded(server: ReviewServer) -> None:
    own = f"127.0.0.1:{server.server_port}"
    head = f"POST /decide HTTP/1.1\r\nHost: {own}\r\nX-Acto-Token: {server.token}\r\nContent-Type: application/json\r\n"
    for length in (str(MAX_BODY + 1), str(10**12), "9" * 5000, "-1", "0x10", "\u0661"):
        got = answer(server, f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert got.split()[1] == b"400", length
    assert answer(server, f"GET /{'a' * 70_000} HTTP/1.1\r\n\r\n".encode()).split()[1] == b"414"
    many = "".join(f"X-{i}: 1\r\n" for i in range(300))
    assert answer(server, f"GET / HTTP/1.1\r\nHost: {own}\r\n{many}\r\n".encode()).split()[1] == b"431"
    assert not server.log.path.exists()


def test_the_page_that_is_served_is_escaped(server: ReviewServer) -> None:
    own = f"127.0.0.1:{server.server_port}"
    page = answer(server, f"GET /?token={server.token} HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n".encode())
    assert page.split()[1] == b"200" and b"HYPERLINK" in page
    assert b"<script>alert" not in page and b"<img src=x" not in page
    assert server.server_address[0] == "127.0.0.1"


# The sources ------------------------------------------------------------------------------------------------------

FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "os.execv",
    "os.execve",
    "os.execvp",
    "os.spawnv",
    "os.posix_spawn",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.load",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "dill.load",
    "dill.loads",
    "cloudpickle.load",
    "cloudpickle.loads",
    "pandas.read_pickle",
    "pd.read_pickle",
    "numpy.fromregex",
    "code.interact",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.full_load_all",
    "yaml.unsafe_load",
    "yaml.unsafe_load_all",
    "runpy.run_path",
    "runpy.run_module",
    "importlib.import_module",
    "import_module",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "ctypes.CDLL",
    "pty.spawn",
    "jinja2.Template",
}
"""What runs code, or reads a form that can hold code. A bare `.eval()` of a network is another thing."""
ALLOWED = {
    ("cli", "import_module"): "a command's module, from a table in the source",
    ("", "import_module"): "a public name's module, from a table in the source",
    ("nets.cpu_kernels", "ctypes.CDLL"): "what a C compiler made of acto/nets/kernels, in a folder of the user's own",
    ("nets.gpu_layers", "import_module"): "the module of the Triton kernels, which is slow to load",
    ("nets.libraries", "importlib.import_module"): "a network that the user typed on the command line, or trusted",
}
EXTRACTING = (".extractall", ".extract", "unpack_archive")
SUBPROCESSES = {"compare.sweep_launchers", "diagnostics.machine", "nets.cpu_kernels"}
"""They start a C compiler or acto itself, with a list of words and no shell."""


def dangers(name: str, tree: ast.Module) -> Iterator[str]:
    """What in a module could run foreign code."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and name != "data.readers.safe_pickle":
            yield from (f"subclass of {ast.unparse(base)}" for base in node.bases if "Unpickler" in ast.unparse(base))
        if not isinstance(node, ast.Call):
            continue
        written = ast.unparse(node.func)
        head, dot, rest = written.partition(".")
        called = f"{imported.get(head, head)}{dot}{rest}"
        words = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if (called in FORBIDDEN or written in FORBIDDEN) and not ALLOWED.keys() & {(name, called), (name, written)}:
            yield called
        if called in ("torch.load", "torch.hub.load_state_dict_from_url") and words.get("weights_only") != "True":
            yield f"{called} without weights_only=True"
        if called in ("numpy.load", "numpy.lib.format.read_array") and words.get("allow_pickle") != "False":
            yield f"{called} without allow_pickle=False"
        if called == "jinja2.Environment" and words.get("autoescape") != "True":
            yield "jinja2.Environment without autoescape=True"
        if words.get("shell", "False") != "False" or words.get("trust_remote_code", "False") != "False":
            yield f"{called} with a shell or remote code"
        if called.startswith("subprocess.") and name not in SUBPROCESSES:
            yield f"{called}, not among those that may start a process"
        if written.endswith(EXTRACTING):
            yield f"{written} unpacks an archive"


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.parse(path.read_text(encoding="utf-8"))


def test_no_source_calls_what_could_run_code() -> None:
    assert {name: found for name, tree in modules() if (found := list(dangers(name, tree)))} == {}


def test_what_is_allowed_is_still_there() -> None:
    """A line in the allow list that nothing needs any more would hide the next one."""
    trees = dict(modules())
    for name, called in ALLOWED:
        assert any(ast.unparse(node.func) == called for node in ast.walk(trees[name]) if isinstance(node, ast.Call)), (
            name,
            called,
        )


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "os.system(text)",
        "os.popen(text)",
        "pickle.load(file)",
        "from pickle import loads\nloads(data)",
        "import pickle as p\np.loads(data)",
        "marshal.loads(data)",
        "class Mine(pickle.Unpickler): ...",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "from yaml import full_load\nfull_load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load\nload(path)",
        "torch.hub.load('a', 'b')",
        "torch.hub.load_state_dict_from_url(url)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.lib.format.read_array(file)",
        "jinja2.Environment()",
        "jinja2.Environment(autoescape=False)",
        "jinja2.Template(text)",
        "subprocess.run(words)",
        "subprocess.run(words, shell=True)",
        "subprocess.getoutput(text)",
        "importlib.import_module(name)",
        "from importlib import import_module\nimport_module(name)",
        "tar.extractall(place)",
        "archive.extract(name)",
        "shutil.unpack_archive(path)",
        "pd.read_pickle(path)",
        "import pandas\npandas.read_pickle(path)",
        "torch.jit.load(path)",
        "load_dataset(name, trust_remote_code=True)",
        "joblib.load(path)",
        "ctypes.CDLL(path)",
        "runpy.run_path(path)",
    ],
)
def test_each_danger_is_seen(line: str) -> None:
    assert list(dangers("some.module", ast.parse(line)))


def test_ordinary_calls_are_no_danger() -> None:
    text = "net.eval()\nre.compile(x)\nyaml.safe_load(x)\ntorch.load(x, weights_only=True)"
    text += "\nimport numpy as np\nnp.load(x, allow_pickle=False)"
    assert list(dangers("some.module", ast.parse(text))) == []
