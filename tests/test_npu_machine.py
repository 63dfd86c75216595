"""Snapdragon machines as people report them: loads that fail, runs that fail, an NPU in use,
folders with other letters, chips of a table. Failures are put in where ONNX Runtime makes its
sessions; what stands for the NPU then is the CPU or, where it can be, QNN's emulation.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from engine import Request, generate
from engine.canary import canary, require_sound
from engine.errors import BackendError, Message
from engine.graph_cache import GraphCache
from engine.pack import Context, Graph, Pack, open_pack
from engine.session import (
    CHIPS,
    NpuBusyError,
    available,
    chip_with,
    chips,
    driver,
    library,
    notices_to,
    open_graphs,
    owner,
    placement,
    qnn,
    qnn_options,
    qnn_sdk,
)
from studio.health import doctor

emulated = pytest.mark.skipif("npu-emulated" not in available(), reason="no NPU emulation here")
MAPPING = "RPC 8003: failed to map; QNN_COMMON_ERROR_MEM_ALLOC, error code: 1002"
DRIVER = "Failed to create context from binary. Error code: 5005"
RUN = "QNN graph execute error. Error code: 1100"
Load = Callable[[Graph, Mapping[str, str]], str]


@pytest.fixture(autouse=True)
def place_of_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(owner.FOLDER_VARIABLE, str(tmp_path))
    yield
    assert owner._count == 0, "what took the NPU has let it go"


@pytest.fixture
def pack(mini_pack: Path) -> Iterator[Pack]:
    """The mini pack with its upscaler in every form, the compiled ones being the CPU's renamed."""
    with open_pack(mini_pack) as opened:
        part = opened.components["upscaler"]
        (portable,) = part.variants["portable"].values()
        about = Context(60, 73, qnn_sdk() or "2.1", shared=False)
        compiled = replace(portable, context=about, fidelity_db=None)
        shared = replace(compiled, context=replace(about, shared=True))
        forms = {
            "context-shared": {"upscaler": shared},
            "context": {"upscaler": compiled},
            "portable": {"upscaler": portable},
        }
        yield replace(
            opened, components={**opened.components, "upscaler": replace(part, variants=forms)}
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Load], list[str]]:
    """An NPU that answers each load with a problem, "" for none; the list is of loads it saw."""

    def build(problem: Load) -> list[str]:
        seen: list[str] = []
        start = placement.start

        def npu(graph: Graph, path: Path, backend: Any, *others: Any) -> ort.InferenceSession:
            options = others[-1]
            form = "portable"
            if backend == "npu":
                form = "shared" if graph.context and graph.context.shared else "own"
                form += " unmapped" * ("disable_file_mapped_weights" in options)
            seen.append(form)
            if backend == "npu" and (said := problem(graph, options)):
                raise ort_state.Fail(f"[ONNXRuntimeError] : 1 : FAIL : {said}")
            return start(replace(graph, context=None), path, "cpu", *others[:-1], {})

        monkeypatch.setattr(placement, "start", npu)
        monkeypatch.setattr(placement, "_check_context", lambda graph, path: None)
        return seen

    return build


LADDERS: dict[str, tuple[Load, list[str], list[str]]] = {
    "all is well": (lambda graph, options: "", ["shared"], []),
    "no shared weights": (
        lambda graph, options: MAPPING if graph.context and graph.context.shared else "",
        ["shared", "own"],
        ["its graphs with weights of their own are tried"],
    ),
    "no mapped files": (
        lambda graph, options: "" if options.get("disable_file_mapped_weights") else MAPPING,
        ["shared", "own", "own unmapped"],
        ["weights of their own are tried", "without mapping its files"],
    ),
    "an old driver": (
        lambda graph, options: DRIVER,
        ["shared", "own", "own unmapped", "portable"],
        ["weights of their own", "without mapping", "it runs on the CPU, which is slower"],
    ),
}


@pytest.mark.parametrize("case", LADDERS)
def test_a_load_that_fails_is_tried_in_other_ways(
    case: str,
    pack: Pack,
    machine: Callable[[Load], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    problem, expected, sentences = LADDERS[case]
    seen = machine(problem)
    opened = open_graphs(pack, "upscaler", "upscaler", "npu", 1)
    assert seen == expected
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(sentences)
    for line, sentence in zip(told, sentences, strict=True):
        assert sentence in line and line.startswith("upscaler does not load") and line[-1] == "."
        assert "1002" in line or "5005" in line
    (session,) = opened.values()
    image = np.zeros((1, 3, 128, 192), np.float32)
    assert session.run(image=image)["image_2x"].shape == (1, 3, 256, 384)
    session.close()
    assert owner._count == 0


def test_graphs_that_stay_loaded_say_again_how_they_came_to_be(
    pack: Pack, machine: Callable[[Load], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = machine(lambda graph, options: DRIVER)
    cache = GraphCache(budget=10**9)
    for _ in range(2):
        said: list[Message] = []
        with notices_to(said.append):
            cache.give_back(*cache.take(pack, "upscaler", "upscaler", "npu", 1))
        assert len(said) == 3 and "runs on the CPU, which is slower" in str(said[-1])
    assert len(seen) == 4, "it was loaded once"
    assert not capsys.readouterr().err
    cache.clear()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("bad allocation"),
        UnicodeDecodeError(
            "utf-8", b"\xb2\xbb", 0, 1, "invalid start byte"
        ),  # of a Windows in Chinese
        RuntimeError(""),
        ort_state.EngineError("QNN_DEVICE_ERROR_INVALID_CONFIG\nat line 3"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_load_raises_the_next_way_is_tried(
    error: Exception,
    pack: Pack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = placement.start

    def npu(graph: Graph, path: Path, backend: Any, *others: Any) -> ort.InferenceSession:
        if backend == "npu":
            raise error
        return start(graph, path, backend, *others)

    monkeypatch.setattr(placement, "start", npu)
    monkeypatch.setattr(placement, "_check_context", lambda graph, path: None)
    open_graphs(pack, "upscaler", "upscaler", "npu", 1)["upscaler"].close()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and "it runs on the CPU, which is slower" in told[-1]


def test_without_any_other_form_the_error_is_said(
    pack: Pack, machine: Callable[[Load], list[str]]
) -> None:
    part = pack.components["upscaler"]
    forms = {k: v for k, v in part.variants.items() if k == "context"}
    lean = replace(pack, components={"upscaler": replace(part, variants=forms)})
    seen = machine(lambda graph, options: DRIVER)
    with pytest.raises(BackendError, match="does not load on npu .*5005") as error:
        open_graphs(lean, "upscaler", "upscaler", "npu", 1)
    assert seen == ["own", "own unmapped"] and "\n" not in str(error.value)
    assert owner._count == 0


def test_what_is_loaded_makes_room_before_other_forms_are_tried(
    pack: Pack, machine: Callable[[Load], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = GraphCache(budget=10**9)
    seen = machine(lambda graph, options: MAPPING if cache._idle else "")
    cache.give_back(*cache.take(pack, "clip_l", "clip_l", "cpu", 1))
    cache.give_back(*cache.take(pack, "upscaler", "upscaler", "npu", 1))
    assert seen == ["portable", "shared", "shared"] and not capsys.readouterr().err
    assert owner._count == 1, "graphs that stay loaded keep it"
    cache.clear()


@emulated
def test_the_emulation_takes_no_other_way(
    pack: Pack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ran elsewhere was not emulated."""

    def refuse(*arguments: Any) -> Any:
        raise ort_state.Fail(DRIVER)

    monkeypatch.setattr(placement, "start", refuse)
    monkeypatch.setattr(placement, "_check_context", lambda graph, path: None)
    with pytest.raises(BackendError, match="does not load on npu-emulated .*5005"):
        open_graphs(pack, "upscaler", "upscaler", "npu-emulated", 1)
    assert not capsys.readouterr().err


class Tired:
    """ONNX Runtime's session whose first runs fail."""

    def __init__(self, session: ort.InferenceSession, failures: list[str]) -> None:
        self.session, self.failures = session, failures

    def __getattr__(self, name: str) -> Any:
        if name in ("run", "run_with_iobinding") and self.failures:
            raise ort_state.EPFail(f"[ONNXRuntimeError] : 11 : EP_FAIL : {self.failures.pop()}\nx")
        return getattr(self.session, name)


@emulated
@pytest.mark.parametrize(
    ("failures", "loads"), [([RUN], 2), ([RUN, RUN], 2), (["Error code: 1003"], 1)]
)
def test_a_run_that_failed_is_tried_once_more_from_a_fresh_load(
    mini_pack: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failures: list[str],
    loads: int,
) -> None:
    left, made, start = list(failures), [], placement.start

    def tired(*arguments: Any) -> Any:
        made.append(start(*arguments))
        return Tired(made[-1], left)

    image = np.random.default_rng(0).random((1, 3, 128, 192), np.float32)
    with open_pack(mini_pack) as pack:
        (expected,) = open_graphs(pack, "upscaler", "upscaler", "npu-emulated").values()
        wanted = expected.run(image=image)["image_2x"]
        monkeypatch.setattr(placement, "start", tired)
        (session,) = open_graphs(pack, "upscaler", "upscaler", "npu-emulated").values()
        if failures == [RUN]:
            assert np.array_equal(session.run(image=image)["image_2x"], wanted)
            told = capsys.readouterr().err.splitlines()
            assert len(told) == 1 and "upscaler failed on the NPU" in told[0] and "1100" in told[0]
        else:
            with pytest.raises(BackendError, match="upscaler failed"):
                session.run(image=image)
    assert len(made) == loads


def test_a_step_of_a_stream_is_tried_once_more_too(
    mini_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pack(mini_pack) as pack:
        shape = (1, pack.geometry.latent_channels, 16, 24)
        latents = [np.full(shape, value, np.float32) for value in (0.1, 0.5, -0.3)]

        def decoded(failing: int | None) -> list[Any]:
            (decoder,) = open_graphs(pack, "video_decoder", "video_decoder", "cpu", 1).values()
            whole = decoder._session
            decoder._reload = lambda: whole  # type: ignore[assignment, return-value]
            stream, frames = decoder.stream(), []
            for number, latent in enumerate(latents):
                if number == failing:
                    decoder._session = Tired(whole, [RUN])  # type: ignore[assignment, arg-type]
                frames.append(stream.step(latent=latent)["frames"])
            return frames

        assert np.array_equal(decoded(None), decoded(1))


HOLD = """
import sys, time
from engine.session import owner
owner.acquire(0)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[str]]:
    """A process that has the NPU."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, encoding="utf-8"
    ) as run:
        try:
            assert run.stdout and run.stdout.readline() == "held\n"
            yield run
        finally:
            run.kill()


def test_the_npu_has_one_owner_until_it_dies(other_process: subprocess.Popen[str]) -> None:
    with pytest.raises(NpuBusyError, match="used by another clip") as error, owner.held(0):
        pass
    assert "\n" not in str(error.value) and owner._count == 0
    other_process.kill()
    other_process.wait()
    with owner.held(0), owner.held(0):
        assert owner._count == 2
    assert owner._count == 0


def test_a_second_clip_says_that_it_waits(
    other_process: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NpuBusyError):
        owner.acquire(0.2)
    told = capsys.readouterr().err.splitlines()
    assert told == ["The NPU is used by another clip; this one waits for it."]


def test_a_clip_owns_the_npu_while_it_is_made(
    pack: Pack, machine: Callable[[Load], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(lambda graph, options: "")
    monkeypatch.setattr(qnn, "_unavailable", lambda backend: None)
    running = generate(pack, Request("a red ball", 1, 2), "npu", 1)
    next(running)
    asking = [sys.executable, "-c", "from engine.session import owner; owner.acquire(0)"]
    refused = subprocess.run(asking, capture_output=True, encoding="utf-8")
    assert refused.returncode and "NpuBusyError" in refused.stderr
    running.close()
    assert owner._count == 0
    assert subprocess.run(asking, capture_output=True).returncode == 0


def test_an_npu_that_cannot_load_the_canary_is_not_refused(
    pack: Pack, machine: Callable[[Load], list[str]]
) -> None:
    lean = replace(pack, components={"upscaler": pack.components["upscaler"]})
    machine(lambda graph, options: DRIVER)
    assert "5005" in str(canary(lean, "npu").problem)
    require_sound(lean, "npu")
    seen = machine(
        lambda graph, options: "" if options.get("disable_file_mapped_weights") else MAPPING
    )
    assert not canary(lean, "npu").problem
    assert "own unmapped" in seen or "shared unmapped" in seen


def test_the_table_of_chips() -> None:
    assert [(chip.htp_arch, chip.soc_model) for chip in CHIPS] == [(73, 60), (81, 88)]
    assert len({chip.target for chip in CHIPS}) == len(CHIPS)
    for name, target in {
        "ARMv8 (64-bit) Family 8 Model 1 Revision 201, Snapdragon(R) X Elite - X1E80100 - Qualcomm"
        "(R) Oryon(TM) CPU": "x-elite",
        "Snapdragon(R) X Plus - X1P42100": "x-elite",
        "Snapdragon(R) X - X1-26-100 - Qualcomm(R) Oryon(TM) CPU": "x-elite",
        "Snapdragon(R) X - X126100 - Qualcomm(R) Oryon(TM) CPU": "x-elite",
        "X1E-80-100": "x-elite",
        "Snapdragon X-Plus (X1P-64-100)": "x-elite",
        "snapdragon(r) x elite": "x-elite",
        "Qualcomm Technologies, Inc. X1E001DE Devkit": "x-elite",
        "Snapdragon(R) X2 Elite - X2E80100": "x2-elite",
        "X2E-96-100": "x2-elite",
        "SNAPDRAGON(R) X2-ELITE": "x2-elite",
        "Snapdragon(R) X2 Plus - X2P64100": "x2-elite",
        "Snapdragon(R) X2 Elite Extreme - X2E96100": "x2-elite",
        "Intel64 Family 6 Model 143": None,
        "Snapdragon (TM) 8cx Gen 3 @ 3.0 GHz": None,
        "Microsoft SQ3 @ 3.0 GHz": None,
        "Intel(R) Xeon(R) X5670": None,
        "AMD Athlon(tm) 64 X2 Dual Core Processor 4800+": None,
        "AMD Ryzen AI 9 HX 370": None,
        "": None,
    }.items():
        found = chips.chip_named(name)
        assert (found.target if found else None) == target, name


@pytest.mark.parametrize("mine", CHIPS)
def test_a_graph_runs_on_the_chip_it_was_made_for(
    mine: chips.Chip,
    pack: Pack,
    machine: Callable[[Load], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(lambda graph, options: "")
    monkeypatch.setattr(placement, "this_chip", lambda: mine)
    part = pack.components["upscaler"]
    compiled = part.variants["context"]["upscaler"]
    assert compiled.context is not None
    for chip in CHIPS:
        about = replace(compiled.context, htp_arch=chip.htp_arch, soc_model=chip.soc_model)
        forms = {"context": {"upscaler": replace(compiled, context=about)}}
        made = replace(pack, components={"upscaler": replace(part, variants=forms)})
        assert made.chips == (chip.htp_arch,)
        if chip == mine:
            open_graphs(made, "upscaler", "upscaler", "npu", 1)["upscaler"].close()
            continue
        with pytest.raises(BackendError, match=f"{chip.name}, and this machine has {mine.name}"):
            open_graphs(made, "upscaler", "upscaler", "npu", 1)


def test_options_are_those_of_the_machines_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn, "this_chip", lambda: chip_with(81))
    assert qnn_options("npu")["soc_model"] == "88" and qnn_options("npu")["htp_arch"] == "81"
    assert qnn_options("npu-emulated")["htp_arch"] == "73"
    for name in (
        "disable_file_mapped_weights",
        "enable_vtcm_backup_buffer_sharing",
        "htp_share_resource_optimization",
    ):
        assert qnn_options("npu", **{name: "1"})[name] == "1"
    with pytest.raises(BackendError, match="disable_file_mapped_weight'"):
        qnn_options("npu", disable_file_mapped_weight="1")


@pytest.mark.skipif(not library.is_installed(), reason="onnxruntime-qnn is not installed")
def test_every_option_that_is_allowed_is_in_the_library() -> None:
    provider = Path(library.libraries()[0]).read_bytes()
    missing = [name for name in qnn.QNN_OPTION_NAMES if name.encode() not in provider]
    assert missing == []


RUN_THERE = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime_qnn
source = Path(sys.argv[1])
onnxruntime_qnn.get_library_path = lambda: str(source / Path(sys.argv[2]).name)
onnxruntime_qnn.get_qnn_htp_path = lambda: str(source / Path(sys.argv[3]).name)
from engine.pack import open_pack
from engine.session import library, open_graphs
with open_pack(sys.argv[4]) as pack:
    (session,) = open_graphs(pack, "upscaler", "upscaler", "npu-emulated").values()
    session.run(image=np.zeros((1, 3, 128, 192), np.float32))
print(ascii(library.libraries()[0]))
"""


@emulated
def test_qnn_is_run_from_a_folder_of_plain_letters(
    mini_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, htp = library.libraries()
    strange = tmp_path / "Jürgen 龙"
    strange.mkdir()  # and a user's name may have such letters too
    plain = Path(tempfile.mkdtemp(dir=tmp_path if str(tmp_path).isascii() else tmp_path.anchor))
    package = Path(provider).parent
    for folder in (package, package.with_name(package.name + ".libs")):
        if sys.platform == "win32" and folder.exists():  # where a link takes a right of its own
            shutil.copytree(folder, strange / folder.name)
        elif folder.exists():
            (strange / folder.name).symlink_to(folder)
    monkeypatch.setenv("LOCALAPPDATA", str(strange))
    monkeypatch.setenv("ProgramData", str(plain))
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            RUN_THERE,
            str(strange / package.name),
            provider,
            htp,
            str(mini_pack),
        ],
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    (copy,) = (plain / "Neodragon").iterdir()
    copy /= package.name
    assert repr(str(copy / Path(provider).name)) == ran.stdout.splitlines()[-1]
    assert library.plain_folder(strange / package.name) == copy  # again: the same, and whole
    changed = copy / Path(htp).name
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    monkeypatch.setenv("PUBLIC", "")
    monkeypatch.setattr("tempfile.tempdir", str(strange))
    with pytest.raises(BackendError, match="its copy has been changed"):
        library.plain_folder(strange / package.name)


def test_a_plain_folder_is_used_as_it_is(tmp_path: Path) -> None:
    plain = Path(tmp_path.anchor, "plain")
    assert library.plain_folder(plain) == plain


def test_python_3_11_is_refused_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn.sys, "platform", "win32")
    monkeypatch.setattr(qnn.sys, "version_info", (3, 11, 9))
    with pytest.raises(BackendError, match="Python 3.12 the right ones"):
        qnn.require("npu")
    assert qnn.require("cpu") == "cpu"


class Registry:
    """What winreg gives of a machine with one NPU."""

    HKEY_LOCAL_MACHINE = object()
    DEVICES = {
        "0000": {"ProviderName": "Other", "DriverDesc": "Camera", "DriverVersion": "1.0"},
        "0001": {
            "ProviderName": "Qualcomm Technologies, Inc.",
            "DriverDesc": "Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Hexagon(TM) NPU",
            "DriverVersion": "30.0.140.1000",
        },
    }

    @contextmanager
    def OpenKey(self, key: Any, name: str) -> Iterator[Any]:  # noqa: N802
        if name == "Properties":
            raise PermissionError(5, "Access is denied")
        yield self.DEVICES.get(name, name)

    def QueryInfoKey(self, key: Any) -> tuple[int, int, int]:  # noqa: N802
        return 3, 0, 0

    def EnumKey(self, key: Any, number: int) -> str:  # noqa: N802
        return ["Properties", *self.DEVICES][number]

    def QueryValueEx(self, key: Any, name: str) -> tuple[str, int]:  # noqa: N802
        return key[name], 1


def test_the_driver_stands_beside_what_the_pack_needs(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert driver.npu_driver() == "" or sys.platform == "win32"
    monkeypatch.setitem(sys.modules, "winreg", Registry())  # type: ignore[arg-type]
    monkeypatch.setattr(driver.sys, "platform", "win32")
    assert driver.npu_driver() == "30.0.140.1000"
    monkeypatch.undo()

    part = pack.components["upscaler"]
    compiled = part.variants["context"]["upscaler"]
    assert compiled.context is not None
    for least, mine, arch, state in (
        ("", "30.0.9.0", 73, "ok"),
        ("30.0.9.0", "30.0.140.1", 73, "ok"),
        ("30.0.140.1", "30.0.9.0", 73, "warn"),
        ("30.0.140.1", "", 73, "ok"),
        ("", "", 81, "fail"),
    ):
        about = replace(compiled.context, driver=least)
        forms = {"context": {"upscaler": replace(compiled, context=about)}}
        made = replace(pack, components={"upscaler": replace(part, variants=forms)})
        assert made.driver == least
        with monkeypatch.context() as patch:
            patch.setattr(doctor, "npu_driver", lambda mine=mine: mine)
            patch.setattr(doctor, "this_chip", lambda arch=arch: chip_with(arch))
            line = doctor._chip(made)
        assert (line.code, line.state) == ("D15", state), line
        assert all(part in str(line.sentence) for part in (least or "?", mine or "not found"))


def test_the_doctor_does_not_wait_for_the_npu(
    pack: Pack, other_process: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "available", lambda: ("npu", "cpu"))
    line = doctor._npu(pack)
    assert (line.code, line.state) == ("D13", "warn")
    assert "Another clip uses the NPU" in str(line.sentence)
