"""Prompt lists to jobs: seeds, grids, wildcards, every kind of bad row, and the way back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import RequestError
from engine.pack import Pack, open_pack
from studio.batch import filling
from studio.batch import lists as batch
from studio.batch.columns import COLUMNS, FILLED
from studio.batch.encodings import BatchError
from studio.batch.lists import PromptList
from studio.batch.record import FORMATS, Format
from studio.jobs.spec import Entry, Work
from studio.jobs.table import JobTable
from studio.system.files import OutputError
from studio.system.paths import default_pack

Parse = Callable[..., PromptList]


@pytest.fixture(scope="module")
def mini() -> Iterator[Pack]:
    with open_pack(default_pack()) as pack:
        yield pack


@pytest.fixture(scope="module")
def parse(mini: Pack) -> Parse:
    """`batch.parse` on the mini pack."""
    return lambda source, **options: batch.parse(source, mini, "cpu", **options)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    with JobTable(tmp_path / "jobs.sqlite") as table:
        yield table


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobTable]:
    with JobTable(tmp_path_factory.mktemp("table") / "jobs.sqlite") as table:
        yield table


def finish(table: JobTable, folder: Path, seconds: float = 0.0) -> None:
    """Do every waiting job as a worker would, without an engine."""
    with table.lease():
        while job := table.claim():
            path = folder / f"{job.id}.mp4"
            path.write_bytes(b"0" * 1000)
            table.announce(job.id, path, job.key)
            assert job.started
            table.finish(job.id, path, {"clip": 1.0}, at=job.started + seconds)


def prompts(listed: PromptList) -> list[str]:
    return [entry.work.prompt for entry in listed.entries]


def seeds(listed: PromptList) -> list[tuple[int, int]]:
    return [(entry.work.look_seed, entry.work.motion_seed) for entry in listed.entries]


def bad(listed: PromptList) -> dict[int, str]:
    return {row.line: str(row.reason) for row in listed.bad}


def test_a_text_list_is_a_prompt_a_line(parse: Parse) -> None:
    listed = parse("\ufeff# mine\na red ball\r\n\r\n  a house, at night \n")
    assert prompts(listed) == ["a red ball", "a house, at night"]
    assert [row.line for row in listed.rows] == [2, 4]
    assert listed.format == "text" and not listed.bad


def test_a_table_has_every_setting(parse: Parse) -> None:
    listed = parse(
        "Prompt;look seed;motion-seed;mode;steps;upscale;negative_prompt;kind;# note\n"
        '"a ""red"" ball; slow\n and low";7;8;monolithic;1,2,3;no;blue;clip;mine\n'
        "a house;;;;;;;;\n"
    )
    assert listed.format == "csv" and not listed.bad
    first, second = (entry.work for entry in listed.entries)
    assert first.prompt == 'a "red" ball; slow  and low'
    assert (first.look_seed, first.motion_seed, first.mode) == (7, 8, "monolithic")
    assert (first.steps, first.upscale, first.negative_prompt) == ((1, 2, 3), False, "blue")
    assert (second.mode, second.steps, second.upscale, second.negative_prompt) == (
        *("hybrid", None, True, None),
    )
    assert [row.line for row in listed.rows] == [2, 4]
    assert parse("prompt\tlook_seed\na, b\t4\n").entries[0].work.look_seed == 4


def test_json_lines_have_their_types(parse: Parse) -> None:
    rows = [
        {"prompt": "a", "look_seed": [1, 2], "motion_seed": "3..4", "steps": [1, 1, 2]},
        {"prompt": "b", "look_seed": 4294967295, "motion_seed": 0, "upscale": False, "#me": [1]},
        {"prompt": "c", "look_seed": None, "kind": "frame"},
    ]
    listed = parse("\n".join(json.dumps(row) for row in rows), draw=lambda: 9)
    assert not listed.bad
    assert seeds(listed) == [(1, 3), (1, 4), (2, 3), (2, 4), (4294967295, 0), (9, 0)]
    assert [entry.work.kind for entry in listed.entries][-2:] == ["clip", "frame"]


def test_random_seeds_are_drawn_before_queueing(parse: Parse) -> None:
    drawn = iter(range(100))
    listed = parse("prompt,look_seed,repeats\na,5,3\n", draw=lambda: next(drawn))
    assert seeds(listed) == [(5, 0), (5, 1), (5, 2)]
    assert len(set(seeds(parse("a\n" * 50)))) == 50


def test_defaults_stand_where_a_row_says_nothing(parse: Parse) -> None:
    listed = parse("prompt,look_seed\na,\nb,2\n", defaults={"look_seed": "1", "motion_seed": 3})
    assert seeds(listed) == [(1, 3), (2, 3)]


def test_alternatives_are_all_made_with_the_same_seeds(parse: Parse) -> None:
    listed = parse(r"a {red|blue} {ball|} \{as\|is\} {x}", draw=lambda: 1)
    assert prompts(listed) == [
        "a red ball {as|is} x",
        "a red  {as|is} x",
        "a blue ball {as|is} x",
        "a blue  {as|is} x",
    ]
    assert len(set(seeds(listed))) == 1


def test_a_wildcard_is_drawn_by_the_look_seed(parse: Parse, tmp_path: Path) -> None:
    (tmp_path / "colours.txt").write_bytes(
        "\ufeff# of the world\nred\n\nblau é\n".encode("utf-16-le")
    )
    grid = "prompt,look_seed,motion_seed\na __colours__ {ball|__colours__ star},1..40,1..2\n"
    listed = parse(grid, wildcards=tmp_path)
    assert not listed.bad
    assert prompts(listed) == prompts(parse(grid, wildcards=tmp_path))
    assert {p.removesuffix(" ball") for p in prompts(listed) if "ball" in p} == {
        "a red",
        "a blau é",
    }
    by_look: dict[int, set[str]] = {}
    for entry in listed.entries:
        by_look.setdefault(entry.work.look_seed, set()).add(entry.work.prompt)
    assert all(len(words) == 2 for words in by_look.values())  # whatever the motion


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "C:secret", "con", "nul.x", "link", "absent", "a/b", "..\\secret"],
)
def test_a_wildcard_stays_in_its_folder(parse: Parse, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("word\n")
    folder = tmp_path / "wildcards"
    folder.mkdir()
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    listed = parse(f"a ball\na __{name}__ ball", wildcards=folder)
    assert prompts(listed) == ["a ball"]
    assert bad(listed)[2].startswith("The wildcard ")
    assert "word" not in bad(listed)[2]


@pytest.mark.parametrize(
    "name", ["../a.png", "/a.png", "C:\\a.png", "b\\..\\..\\a.png", "COM1.png"]
)
def test_a_picture_stays_in_its_folder(parse: Parse, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").touch()
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "mine.png").touch()
    listed = parse(f"prompt,picture\na,mine.png\nb,{name}\n", folder=folder)
    assert [entry.work.image for entry in listed.entries] == [folder / "mine.png"]
    assert bad(listed)[3].startswith("The picture ")


BAD_CELLS = {
    "look_seed": ["-2", "4294967296", "1e99", "x", "1.5", "9..3", "0..9999", "9" * 5000],
    "motion_seed": ["0x1", "٣", "1...3"],
    "repeats": ["0", "-1", "x", "2.5", "1001"],
    "mode": ["fast", "=1"],
    "steps": ["1", "1,2", "0,1,1", "101,1,1", "a,b,c"],
    "upscale": ["perhaps", "2"],
    "kind": ["film"],
    "prompt": ["", "   ", "a\x07b", "a" * 10_001, "\ufffd", "{a|{b}}", "a}", "{a", "{a|b}" * 11],
    "promt": ["x"],
}


@pytest.mark.parametrize("name", BAD_CELLS)
def test_a_bad_cell_is_named(parse: Parse, name: str) -> None:
    for value in BAD_CELLS[name]:
        row = {"prompt": "a", "negative_prompt": "b", name: value}
        stream = io.StringIO()
        writer = csv.DictWriter(stream, row)
        writer.writeheader()
        writer.writerows([row, {"prompt": "good"}])
        for source in (stream.getvalue(), json.dumps(row) + '\n{"prompt": "good"}'):
            listed = parse(source, format="csv" if source[0] != "{" else "jsonl")
            assert prompts(listed) == ["good"], value
            (reason,) = bad(listed).values()
            assert reason.endswith(".") and len(reason) <= 400
            assert "\n" not in reason


@pytest.mark.parametrize("value", [True, -2, 2**32, 1.5, {}, [[]], [True], [], float("inf")])
def test_a_seed_of_another_type_is_named(parse: Parse, value: object) -> None:
    listed = parse('{"prompt": "a"}\n' + json.dumps({"prompt": "b", "look_seed": value}))
    assert list(bad(listed)) == [2]
    assert bad(listed)[2].startswith("The look seed (column look_seed) is ")
    assert "from 0 to 4294967295" in bad(listed)[2]


@pytest.mark.parametrize(
    "line",
    [
        *('{"prompt": "a"', "[1]", '{"prompt": "a", "Prompt": "b"}', "[" * 100_000),
        *('{"prompt": ["a"]}', '{"prompt": 1' + "0" * 5000 + "}", "\0", "nonsense"),
    ],
)
def test_a_broken_json_line_is_named(parse: Parse, line: str) -> None:
    listed = parse(f'{{"prompt": "a"}}\n{line}\n{{"prompt": "c"}}\n')
    assert prompts(listed) == ["a", "c"]
    assert list(bad(listed)) == [2]


def test_an_open_quote_costs_one_row(parse: Parse) -> None:
    listed = parse('prompt,look_seed\na,1\n"b,2\nc,3\n"d"e,4\n"two\nlines",5\nf,6,7\n"g,8\n')
    assert prompts(listed) == ["a", "c", "two lines"]
    assert list(bad(listed)) == [3, 5, 8, 9]


def test_the_same_twice_is_not_a_repetition(parse: Parse) -> None:
    listed = parse("prompt,look_seed,motion_seed,repeats\na,1,2,3\n")
    assert "makes the same again" in bad(listed)[2]


@pytest.mark.parametrize(
    "source",
    ["", "\n\n", "# only\n", b"\xff\xfe", "look_seed,prompt,prompt\n1,a,b\n"],
)
def test_a_list_without_rows_is_refused(parse: Parse, source: str | bytes) -> None:
    with pytest.raises(BatchError, match=r"^The .*; .*\.$"):
        parse(source, format="csv" if "look" in str(source) else None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings(parse: Parse, encoding: str, newline: str) -> None:
    source = newline.join(["prompt,look_seed", "ein Häuschen – „rot“,1", "b,2", ""])
    assert prompts(parse(source.encode(encoding))) == ["ein Häuschen – „rot“", "b"]


def test_one_foreign_byte_changes_no_other_line(parse: Parse) -> None:
    assert prompts(parse("né\n".encode() + b"n\xe9\n")) == ["né", "né"]
    assert list(bad(parse(b"a\nb\x81\n"))) == [2]


def test_what_is_done_is_not_made_again(parse: Parse, table: JobTable, tmp_path: Path) -> None:
    listed = parse("prompt,look_seed,motion_seed\na,1..2,1..2\na,1,1\nx,1,1,1,1\n")
    plan = batch.plan(listed, table)
    assert (plan.rows, plan.bad, plan.clips, plan.existing, plan.queued) == (2, 1, 5, 1, 0)
    assert (len(plan.new), plan.seconds, plan.size) == (4, None, None)
    assert "time unknown" in str(plan)
    name = batch.enqueue(listed, table)
    assert len(table.jobs(batch=name)) == 4
    assert batch.plan(listed, table).queued == 4
    finish(table, tmp_path, seconds=30)
    assert batch.plan(listed, table).existing == 5
    more = parse("prompt,look_seed,motion_seed\na,1..2,1..4\n")
    plan = batch.plan(more, table)
    assert (plan.existing, len(plan.new), plan.size) == (4, 4, 4000)
    assert plan.seconds == pytest.approx(120)
    assert str(plan) == (
        "1 row = 8 clips, about 2 min, about 1 MB, 4 already exist, 0 already queued, 0 bad rows"
    )
    (tmp_path / "1.mp4").unlink()  # a file that is gone is made again
    assert len(batch.plan(listed, table).new) == 1


FILES = {
    "list.csv": (
        'prompt,look_seed,# mine\r\n"a, b",,"=1+1"\r\n# words\r\n\r\n=c,7,\r\nd,x,\r\n"e,1\r\n'
    ),
    "list.tsv": "prompt\tlook_seed\na\t\nb\t7\nd\tx\n",
    "list.jsonl": '{"prompt": "a", "# mine": {"k": [1]}}\n# words\n{"prompt": "b"}\nbroken\n',
    "list.txt": "a\n# words\n\nb\n{\n",
}


@pytest.mark.parametrize("name", FILES)
def test_the_list_comes_back_filled_in(
    mini: Pack, table: JobTable, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name].encode("utf-8-sig"))
    listed = batch.read(path, mini, "cpu")
    assert len(listed.rows) == 2 and listed.bad
    batch.enqueue(listed, table)
    kept = filling.fill(path, listed, table)
    assert kept.read_bytes() == FILES[name].encode("utf-8-sig")
    assert path.read_text("utf-8-sig").count("waiting") == 2
    finish(table, tmp_path, seconds=2.4)
    filling.fill(path, listed, table)
    text = path.read_text("utf-8-sig")
    assert str(tmp_path / "1.mp4") in text.replace("\\\\", "\\")  # JSON doubles them
    assert text.count("done") == 2 and "2.4" in text and "words" in text or name == "list.tsv"
    assert all(str(row.reason)[:40] in text for row in listed.bad)
    # Read again it is the same work, and nothing is left to do; filled again it is the same file.
    again = batch.read(path, mini, "cpu")
    assert [e.key for e in again.entries] == [e.key for e in listed.entries]
    assert len(again.bad) == len(listed.bad)
    assert not batch.plan(again, table).new
    filling.fill(path, again, table)
    assert path.read_text("utf-8-sig") == text
    assert kept.read_bytes() == FILES[name].encode("utf-8-sig")
    assert not list(tmp_path.glob("*.part"))


def test_a_changed_row_is_made_again_alone(mini: Pack, table: JobTable, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("prompt\na\nb\n")
    listed = batch.read(path, mini, "cpu")
    batch.enqueue(listed, table)
    finish(table, tmp_path)
    filling.fill(path, listed, table)
    path.write_text(path.read_text("utf-8-sig").replace("\nb,", "\nz,"), encoding="utf-8")
    again = batch.read(path, mini, "cpu")
    assert [entry.work.prompt for entry in batch.plan(again, table).new] == ["z"]
    assert seeds(again) == seeds(listed)


def test_no_cell_is_a_formula(parse: Parse, table: JobTable) -> None:
    rows = ["=1+1", "+1", "-1", "@sum", "'=1", " =1", "''+x"]
    source = "prompt,# note\n" + "".join(f"{row},{row}\n" for row in rows)
    listed = parse(source, draw=lambda: 1)
    text = filling.filled(listed, table)
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not any(cell.strip().startswith(("=", "+", "-", "@")) for cell in cells)
    assert prompts(parse(text)) == prompts(listed)


def test_a_list_that_cannot_be_written_says_so(parse: Parse, table: JobTable) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        filling.fill(Path("/nowhere/list.txt"), parse("a"), table)
    with pytest.raises(BatchError, match="cannot be read"):
        batch.read(Path("/nowhere/list.txt"), None, "cpu")  # type: ignore[arg-type]


def test_a_thousand_rows_of_which_fifty_are_broken(parse: Parse, table: JobTable) -> None:
    broken = [
        *("x,-2", "x,99999999999999999999", '"x,1', "x,1,2,3", "a\x00b,1", "é" * 102_400 + ",1"),
        *("__../x__,1", "__con__,1", "{a,1", "x,one"),
    ]
    rows = [f"a red ball {n},{n}" for n in range(1000)]
    for n, line in enumerate(broken * 5):
        rows[20 * n + 7] = line
    listed = parse("prompt,look_seed\n" + "\n".join(rows))
    assert (len(listed.rows), len(listed.bad)) == (950, 50)
    assert [row.line for row in listed.bad] == [20 * n + 9 for n in range(50)]
    batch.enqueue(listed, table)
    assert [job.row for job in table.jobs()] == [row.line for row in listed.rows]


CELL = st.text(max_size=30) | st.sampled_from(["a {b|c}", "__x__", "1..3", '"', "7", "# c", "\\{"])


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.binary(max_size=300),
        st.lists(st.lists(CELL, max_size=4).map(",".join), max_size=8).map(
            lambda rows: "\n".join(["prompt,look_seed,repeats,seeds", *rows])
        ),
        st.lists(
            st.dictionaries(
                st.sampled_from([*COLUMNS, *FILLED, "x", "#x"]),
                CELL | st.integers() | st.floats() | st.none() | st.lists(st.integers()),
            ).map(json.dumps),
            max_size=6,
        ).map("\n".join),
    ),
    st.sampled_from([None, *FORMATS]),
)
@example('prompt,look_seed\n0,"\n"', None)
@example('{"prompt":"a ball\\u2028in the sun"}', None)
@example('{"prompt":"a ball\u2028in the sun"}', "jsonl")
@example('{"prompt":"a ball"}\n{"prompt":"\u2029"}', None)
def test_any_list_is_read_or_refused(
    mini: Pack, nothing: JobTable, source: str | bytes, format: Format | None
) -> None:
    try:
        listed = batch.parse(source, mini, "cpu", format=format, wildcards=Path("."))
    except BatchError as error:
        assert "\n" not in str(error)
        return
    lines = [row.line for row in (*listed.rows, *listed.bad)]
    assert len(set(lines)) == len(lines)
    for row in listed.bad:
        assert str(row.reason).endswith(".") and "\n" not in str(row.reason)
    again = batch.parse(filling.filled(listed, nothing), mini, "cpu", format=listed.format)
    assert [e.key for e in again.entries] == [e.key for e in listed.entries]
    assert len(again.bad) == len(listed.bad)


def test_work_refuses_what_is_no_work() -> None:
    entry = Entry(Work("a", 1, 2, pack="pack", backend="cpu"), "key")
    assert entry.row is None
    with pytest.raises(RequestError, match="The kind is"):
        Work("a", 1, 2, pack="pack", backend="cpu", kind="film")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="half a character"):
        Work("\ud800", 1, 2, pack="pack", backend="cpu")
