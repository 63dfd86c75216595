"""Every form in which people hand in a list: it is read right, or refused in a sentence.

What is not understood never becomes words to draw without a word to the user.
"""

from __future__ import annotations

import io
import json
import locale
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import NeodragonError
from engine.pack import Pack, open_pack
from studio.batch import filling
from studio.batch import lists as batch
from studio.batch.columns import column_of
from studio.batch.encodings import BatchError, decode
from studio.batch.lists import Plan, PromptList
from studio.batch.records import guess
from studio.jobs.table import JobTable
from studio.language.catalogue import translated
from studio.system.paths import ASSETS, default_pack

Read = Callable[..., PromptList]
NUMBER = 7  # what a random seed is drawn as


@pytest.fixture(scope="module")
def mini() -> Iterator[Pack]:
    with open_pack(default_pack()) as pack:
        yield pack


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobTable]:
    with JobTable(tmp_path_factory.mktemp("table") / "jobs.sqlite") as table:
        yield table


@pytest.fixture
def read(mini: Pack, tmp_path: Path) -> Read:
    """The list of a file with this content and name; a random seed is NUMBER."""

    def read(source: str | bytes, name: str = "list.txt") -> PromptList:
        path = tmp_path / name
        path.write_bytes(source.encode() if isinstance(source, str) else source)
        return batch.read(path, mini, "cpu", name=None, draw=lambda: NUMBER)

    return read


def jobs(listed: PromptList) -> list[tuple[str, int, int]]:
    return [(e.work.prompt, e.work.look_seed, e.work.motion_seed) for e in listed.entries]


def reasons(listed: PromptList) -> dict[int, str]:
    return {row.line: str(row.reason) for row in listed.bad}


def notes(listed: PromptList) -> str:
    return "\n".join(map(str, listed.notes))


TABLE = "prompt\tkind\tlook_seed\r\na red bällchen\tframe\t5\r\n"


@pytest.mark.parametrize(
    "encoding",
    [
        *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"),
        *("utf-32-be", "cp1252"),
    ],
)
@pytest.mark.parametrize("name", ["Book1.txt", "list.csv", "list.tsv"])
def test_a_table_is_one_in_every_encoding(read: Read, encoding: str, name: str) -> None:
    (entry,) = read(TABLE.encode(encoding), name).entries
    work = entry.work
    assert (work.prompt, work.kind, work.look_seed) == ("a red bällchen", "frame", 5)


@pytest.mark.parametrize("bom", ["utf-16", "utf-32"])
def test_a_mark_before_big_endian(read: Read, bom: str) -> None:
    for order in ("le", "be"):
        source = ("\ufeff" + TABLE).encode(f"{bom}-{order}")
        listed = read(source)
        assert jobs(listed) == [("a red bällchen", 5, 0)] and listed.assumed is None


LEGACY = {
    "gb18030": ["红球在草地上弹跳", "夜晚的小船"],
    "shift_jis": ["赤いボールが跳ねる", "夜の船"],
    "big5": ["紅色的球在草地上彈跳", "夜晚的小船"],
    "cp1251": ["красный мяч прыгает", "ночь"],
    "koi8-r": ["красный мяч прыгает ночью"],
    "cp1252": ["ein großes Häuschen – „rot“", "une étoile dorée s'élève"],
    "euc_kr": ["빨간 공이 튄다"],
    "euc_jp": ["赤いボールが跳ねる"],
}


@pytest.mark.parametrize("encoding", LEGACY)
def test_legacy_encodings_are_recognised_and_named(
    read: Read, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locale, "getencoding", lambda: "utf-8")
    rows = LEGACY[encoding]
    source = "prompt,look_seed\r\n" + "".join(f"{row},5\r\n" for row in rows)
    listed = read(source.encode(encoding), "list.csv")
    assert jobs(listed) == [(row, 5, NUMBER) for row in rows]
    assert "not UTF-8 and was read as" in str(listed.assumed)


def test_the_encoding_of_the_system_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' code page is what Excel writes; a wide one that speaks for itself overrules it."""
    for system, words in (("cp1250", "žlutý kůň"), ("gbk", "红"), ("cp1253", "κόκκινη")):
        monkeypatch.setattr(locale, "getencoding", lambda system=system: system)
        assert decode(words.encode(system)).content == words
    monkeypatch.setattr(locale, "getencoding", lambda: "cp1252")
    assert decode("红球在草地上弹跳".encode("gbk")).content == "红球在草地上弹跳"
    monkeypatch.setattr(locale, "getencoding", lambda: "cp65001x")  # no such thing
    assert decode(b"a\xe9b").content == "aéb"


def test_one_zero_byte_costs_one_row(read: Read) -> None:
    listed = read(b"a ball\na \0star\na house\n")
    assert [prompt for prompt, *_ in jobs(listed)] == ["a ball", "a house"]
    assert "U+0000" in reasons(listed)[2]
    assert [p for p, *_ in jobs(read("夜晚的小船\n红球\n".encode("utf-16-le")))] == [
        "夜晚的小船",
        "红球",
    ]


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, "<x/>")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (archive("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook"),
        (archive("word/document.xml"), "a Word document"),
        (archive("mimetype", "content.xml"), "an OpenDocument file"),
        (archive("a.csv"), "a zip archive"),
        (b"PK\x03\x04 broken", "a zip archive"),
        (b"%PDF-1.7\n1 0 obj", "a PDF document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), "old Office"),
        (b"{\\rtf1\\ansi a red ball}", "Rich Text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "a PNG picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG picture"),
        (b"\0\0\0 ftypisom" + bytes(40), "a video"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"<!DOCTYPE html><html><body>a red ball", "HTML"),
        (b"<?xml version='1.0'?>\n<a>a red ball</a>", "XML"),
        (bytes(range(128, 256)) * 9 + bytes(range(32)) * 40, "bytes that no text has"),
    ],
)
@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.json", "list.xlsx"])
def test_what_is_no_text_is_named(read: Read, source: bytes, kind: str, name: str) -> None:
    with pytest.raises(BatchError, match="save it as CSV") as error:
        read(source, name)
    assert kind in str(error.value)


RED = [("a red ball", 5, 6)]
ROW = '{"prompt": "a red ball", "seed": 5, "motion_seed": 6}'
FORMS = {
    "plain csv": "prompt,look_seed,motion_seed\na red ball,5,6\n",
    "trailing empty columns": "prompt,look_seed,motion_seed,,\r\na red ball,5,6,,\r\n,,,,\r\n",
    "sep line": "sep=;\r\nprompt;look_seed;motion_seed\r\na red ball;5;6\r\n",
    "sep line, quoted": '"sep=\t"\nprompt\tlook_seed\tmotion_seed\na red ball\t5\t6\n',
    "sep line with columns": "sep=,,,\nprompt,look_seed,motion_seed\na red ball,5,6\n",
    "semicolons": 'prompt;look_seed;motion_seed\n"a red ball";5;6\n',
    "quoted tabs": '"prompt"\t"look_seed"\t"motion_seed"\n"a red\tball"\t"5"\t"6"\n',
    "floats of pandas": "prompt,look_seed,motion_seed\na red ball,5.0,6.00\n",
    "an index of pandas": ",prompt,look_seed,motion_seed\n0,a red ball,5.0,6.0\n",
    "an index twice": "Unnamed: 0,prompt,look_seed,motion_seed\n0,a red ball,5,6\n",
    "names as written": "Prompt, SEED ,Motion Seed\na red ball,5,6\n",
    "names in camel case": "PROMPT;lookSeed;MotionSeed\na red ball;5;6\n",
    "empty as pandas writes it": (
        "prompt,look_seed,motion_seed,negative_prompt,mode,steps,image,repeats\n"
        "a red ball,5,6,NaN,nan,None,null,N/A\n"
    ),
    "a comment and empty lines": "\n# 1\n\nprompt,look_seed,motion_seed\n# x\na red ball,5,6\n\n",
    "json": f"[{ROW}]",
    "json over lines": json.dumps([json.loads(ROW)], indent=2),
    "json with a list": f'{{"version": 1, "prompts": [{ROW}]}}',
    "json with settings for all": '{"look_seed": 5, "motion_seed": 6, "items": ["a red ball"]}',
    "one json object": json.dumps(json.loads(ROW), indent=1),
    "json lines": f"{ROW}\n",
    "json by column": '{"prompt": ["a red ball"], "seed": [5.0], "motion_seed": [6]}',
    "json of pandas": '{"prompt": {"0": "a red ball"}, "seed": {"0": 5}, "motion_seed": {"0": 6}}',
    "json of pandas, split": (
        '{"columns": ["prompt", "seed", "motion_seed"], "index": [0],'
        ' "data": [["a red ball", 5, 6]]}'
    ),
    "json of pandas, index": f'{{"0": {ROW}}}',
    "web ui": '--prompt "a red ball" --seed 5 --motion_seed 6',
    "web ui with curly quotes": "--prompt “a red ball” --seed 5 --motion-seed=6",
    "web ui without quotes": "--prompt a red ball --seed 5 --motion_seed 6",
    "options behind": '"a red ball" --seed 5 --motion_seed 6',
    "count": "a red ball, look_seed=5, motion_seed = 6",
    "count and more": "a red ball, seed=5, motion_seed=6, count=1",
    "a label": "Prompt: a red ball, seed=5, motion_seed=6",
    "yaml": "- prompt: a red ball\n  look_seed: 5\n  motion_seed: 6\n",
    "quotes around all": '"a red ball", seed=5, motion_seed=6',
    "mixed line ends": "prompt,look_seed,motion_seed\r\r\na red ball,5,6\u2028",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_form_is_understood(read: Read, form: str, mark: str) -> None:
    for name in ("list.txt", "list.json" if "json" in form else "list"):
        listed = read(mark + FORMS[form], name)
        assert jobs(listed) == RED and not listed.bad, form
        work = listed.entries[0].work
        assert (work.steps, work.mode, work.image, work.negative_prompt) == (
            None,
            "hybrid",
            None,
            None,
        )


def test_json_is_json_under_any_name(read: Read) -> None:
    for name in ("list.csv", "list.tsv", "list.jsonl", "list.json", "list.txt"):
        assert jobs(read(f"[\n {ROW}\n]\n", name)) == RED
        assert jobs(read(f"{ROW}\n{ROW}\n", name)) == RED * 2
    assert [p for p, *_ in jobs(read('["a ball", "a star"]', "list.json"))] == ["a ball", "a star"]


INFOTEXT = (
    "a red ball\nNegative prompt: blurry, low\nSteps: 20, Sampler: Euler a, Seed: 5, Size: 1x1"
)


@pytest.mark.parametrize(
    "text",
    [
        INFOTEXT,
        INFOTEXT.replace("\n", " "),
        "a red ball, Negative prompt: blurry, low Steps: 20, Sampler: Euler a, Seed: 5",
        '--prompt "a red ball" --negative_prompt "blurry, low" --seed 5 --steps 20 --cfg_scale 7',
        "a red ball --no blurry, low --seed 5 --ar 16:9",
        'a red ball, negative_prompt="blurry, low", seed=5',
    ],
)
def test_settings_of_other_programs_are_no_words(read: Read, text: str) -> None:
    listed = read(f"{text}\n\na house\n")
    first, second = (entry.work for entry in listed.entries)
    assert (first.prompt, first.negative_prompt, first.look_seed) == (
        "a red ball",
        "blurry, low",
        5,
    )
    assert second.prompt == "a house" and second.negative_prompt is None and not listed.bad
    assert "=" in text or "are read as settings" in notes(listed)
    if "teps" in text:
        assert "left out" in notes(listed)


@pytest.mark.parametrize(
    ("text", "count"),
    [("a star, count=2", 2), ("a star, repeats=3", 3), ("a star, Count = 2.0", 2)],
)
def test_count(read: Read, text: str, count: int) -> None:
    listed = read(text)
    assert [prompt for prompt, *_ in jobs(listed)] == ["a star"] * count and not listed.notes


@pytest.mark.parametrize(
    "text",
    [
        *("a ball, count=0", "a ball, count=two", "a ball, count=", "count=2 a ball, and more"),
        *("--seed 5", '--prompt "a ball', "Negative prompt: blurry", "Steps: 20, Seed: 5"),
        *("a ball, look_seed=1, 2, 3", "a ball, seed=5, seed=6", "a ball, mode=fast", "a ball\t5"),
        *('-p "a ball"', "-s 5 a ball"),
        *('{"prompt": "a ball"},', '"prompt": "a ball",', "]", "},", "{", "---", "NaN", "null"),
        *(
            "[prompts]",
            "prompt look_seed",
            "None",
            "n/a",
            '--prompt "a" --prompt "b"',
            "a ball --prompt a star",
        ),
    ],
)
def test_a_line_that_is_no_prompt_is_bad(read: Read, text: str) -> None:
    listed = read(f"a house\n\n{text}\n")
    assert [prompt for prompt, *_ in jobs(listed)] == ["a house"], text
    assert list(reasons(listed)) == [3]


SUSPICIOUS = [
    *("a red AND b", "a ball, seed 5", "a ball x2", "a ball -s 30", "a\\nb", "a ball // b"),
    *("a ball --slow and fast --", "a ball —slow—", "a (red:1.2) ball", "((red)) ball"),
    *(
        "a ball <lora:x:1>",
        "a <b>ball</b>",
        "a ball, cfg=7",
        "a ball seed: x",
        "a ball BREAK night",
    ),
    *('a "ball": "red"', "a ball;5;6", "a ball,5", "a ball | 5", "1. a ball", "- a ball", "42"),
    *("see https://example.org", "[[red]] ball", "draw(ball)", "a ball ::2", "a red++ ball"),
    *("=1+1", '="a ball"', "+SUM(A1)", "-SUM(A1)"),
]


@pytest.mark.parametrize("text", SUSPICIOUS)
def test_what_looks_like_syntax_is_told(read: Read, text: str) -> None:
    listed = read(f"a house\n{text}\n")
    assert "Line 2: " in notes(listed) and "is read as part of the prompt" in notes(listed)
    assert jobs(listed)[1][0] == text  # to the letter


@pytest.mark.parametrize("text", ["a {1-3} ball", "a {red} ball", "a {2$$red|blue} ball"])
def test_braces_of_other_programs_are_told(read: Read, text: str) -> None:
    assert "is read as part of the prompt" in notes(read(text))


@pytest.mark.parametrize(
    "text",
    [
        *("it's a red ball", "a house, at night", "a {red|blue} boat", "a ball: slow, then fast"),
        *("a well-known boat — at night", "ein Häuschen, „rot“", "红球在草地上弹跳", "🎈🎈"),
        *(
            "2 balls and 3 stars",
            "a \\{red\\} ball",
            "a ball (red) and a star",
            "Who? A ball!",
            "a 1920s house",
        ),
    ],
)
def test_plain_words_are_left_in_peace(read: Read, text: str) -> None:
    listed = read(text)
    assert listed.rows and not listed.bad and not listed.notes


def test_many_lines_make_one_note(read: Read) -> None:
    listed = read("a (red:1.2) ball\n" * 50)
    assert notes(listed).startswith("Lines 1, 2, 3 and 47 more: 'a (red:1.2) ball'")


SEEDS = {
    **{"5": 5, "5.0": 5, " 5 ": 5, "+5": 5, "'5": 5, "1e3": 1000, "1E+03": 1000, "0": 0},
    **{"1,234,567": 1234567, "1.234.567": 1234567, "1'234'567": 1234567, "12,345": 12345},
    **{"1 234 567": 1234567, "1\xa0234\xa0567": 1234567, "4,294,967,295": 4294967295},
    **{"1,234,567.00": 1234567, "007": 7},
    **dict.fromkeys(
        ["-1", "-1.0", "\u22121", "", "random", "RANDOM", "NaN", "nan", "None"], NUMBER
    ),
    **dict.fromkeys(["null", "N/A", "#N/A", "<NA>"], NUMBER),
}


@pytest.mark.parametrize("cell", SEEDS)
def test_a_seed_as_programs_write_it(read: Read, cell: str) -> None:
    listed = read(f'prompt,seed,motion_seed\na,"{cell}","{cell}"\n', "list.csv")
    assert jobs(listed) == [("a", SEEDS[cell], SEEDS[cell])] and not listed.bad
    listed = read(json.dumps([{"prompt": "a", "seed": cell, "motion_seed": cell}]), "list.json")
    assert jobs(listed) == [("a", SEEDS[cell], SEEDS[cell])]


@pytest.mark.parametrize(
    ("value", "seed"),
    [(5.0, 5), (-1, NUMBER), (-1.0, NUMBER), (None, NUMBER), (float("nan"), NUMBER)],
)
def test_a_seed_in_json(read: Read, value: object, seed: int) -> None:
    listed = read(json.dumps([{"prompt": "a", "look_seed": value, "motion_seed": 1}]), "list.json")
    assert jobs(listed) == [("a", seed, 1)]


@pytest.mark.parametrize(
    ("cell", "seeds"),
    [
        ("1, 2, 3", [1, 2, 3]),
        ("1..3", [1, 2, 3]),
        ("1;2", [1, 2]),
        ("[1, 2]", [1, 2]),
        ("[5]", [5]),
        ("7, 100, 200", [7, 100, 200]),
    ],
)
def test_several_seeds(read: Read, cell: str, seeds: list[int]) -> None:
    listed = read(f'prompt,seed,motion_seed\na,"{cell}",1\n', "list.csv")
    assert [look for _, look, _ in jobs(listed)] == seeds


@pytest.mark.parametrize(
    "cell",
    [
        *("100,200,300", "5,0", "1.5", "12.5", "1.234", "4.29E+09", "1.23457E+09", "0x10", "-2"),
        *("4294967296", "1e10", "inf", "seven", "٣", "1-9", "1…9", "9..1", "5%", "$5", "TRUE"),
    ],
)
def test_a_seed_in_doubt_is_bad(read: Read, cell: str) -> None:
    listed = read(f'prompt,Seed,motion_seed\na,"{cell}",1\nb,2,3\n', "list.csv")
    assert jobs(listed) == [("b", 2, 3)]
    assert "look seed (column Seed)" in reasons(listed)[2]
    assert cell in reasons(listed)[2] and "; " in reasons(listed)[2]


VALUES: list[tuple[str, str, str, object]] = [
    *(("upscale", cell, "upscale", False) for cell in ("FALSE", "no", "0", "0.0", "FALSCH", "否")),
    *(("upscale", cell, "upscale", True) for cell in ("TRUE", "1.0", "WAHR", "Yes")),
    *(("steps", cell, "steps", (1, 2, 3)) for cell in ("1,2,3", "1 2 3", "1.0, 2.0, 3.0", "1;2;3")),
    *(("steps", cell, "steps", (1, 2, 3)) for cell in ("[1, 2, 3]", "(1, 2, 3)")),
    *(("mode", cell, "mode", "monolithic") for cell in ("monolithic", " Monolithic ")),
    ("Kind", "Frame", "kind", "frame"),
    *(
        (name, "blue", "negative_prompt", "blue")
        for name in ("neg", "Negative Prompt", "negative", "NEG")
    ),
]


@pytest.mark.parametrize(("column", "cell", "field", "value"), VALUES)
def test_values(read: Read, column: str, cell: str, field: str, value: object) -> None:
    (entry,) = read(f'prompt,{column}\na,"{cell}"\n', "list.csv").entries
    assert getattr(entry.work, field) == value


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("repeats", "2.5", "whole number from 1"),
        ("repeats", "-1", "whole number from 1"),
        ("steps", "20", "three whole numbers from 1 to 100"),
        ("steps", "1,1,101", "three whole numbers from 1 to 100"),
        ("Mode", "fast", "hybrid, monolithic"),
        ("kind", "film", "clip, frame"),
        ("Upscale", "perhaps", "yes or no"),
        ("suffix", "2", "yes or no"),
        ("Image", "absent.png", "is not in"),
        ("promt", "x", "did you mean prompt?"),
        ("look_sed", "5", "did you mean look_seed?"),
        ("artist", "me", "put # before the name"),
    ],
)
def test_a_wrong_value_is_told_with_its_column(
    read: Read, column: str, cell: str, expected: str
) -> None:
    listed = read(f'prompt,{column}\nb,\na,"{cell}"\n', "list.csv")
    (line, reason), *_ = reasons(listed).items()
    assert line == 3 and expected in reason
    assert f"column {column}" in reason or column == "Image"
    assert cell in reason or "column" in expected or column in ("promt", "look_sed", "artist")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("prompt,look_seed\n", "no prompt"),
        ("prompt\n", "no prompt"),
        ("look_seed,motion_seed\n1,2\n", "one of them prompt"),
        ("prompt,seed,look_seed\na,1,2\n", "look_seed twice"),
        ("prompt,Prompt\na,b\n", "prompt twice"),
        ("| prompt | seed |\n|---|---|\n| a | 5 |\n", "save it as CSV"),
        ('[{"prompt": "a"},\n', "looks like JSON"),
        ('[{"prompt": "a",}]', "looks like JSON"),
        ("[{'prompt': 'a'}]", "looks like JSON"),
        ("{“prompt”: “a”}", "looks like JSON"),
        ('{"version": 1}', "no list of prompts"),
        ("[]", "no prompt"),
        ("", "no prompt"),
        (" \n# only\n", "no prompt"),
        ('{"prompt": ["a", "b"], "seed": [1, 2, 3]}', "different lengths"),
    ],
)
def test_a_list_is_refused_in_a_sentence(read: Read, source: str, said: str) -> None:
    with pytest.raises(BatchError) as error:
        read(source)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_items_that_are_no_rows_are_bad(read: Read) -> None:
    listed = read('["a", 5, null, [1], {"prompt": "b", "Prompt": "c"}, {"seed": 5}]', "list.json")
    assert [prompt for prompt, *_ in jobs(listed)] == ["a"]
    assert list(reasons(listed)) == [2, 3, 4, 5, 6]


def test_a_cell_without_a_name_is_told(read: Read) -> None:
    listed = read("prompt,,look_seed\na,lost,5\n", "list.csv")
    assert jobs(listed) == [("a", 5, NUMBER)] and "Column 2 has no name" in notes(listed)
    assert not read(",prompt\n0,a\n1,b\n", "list.csv").notes


def test_wildcards_lie_beside_the_list_or_in_a_folder(read: Read, tmp_path: Path) -> None:
    (tmp_path / "colours.txt").write_bytes("rød\n".encode("utf-16"))
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "colours.txt").write_text("never\n")
    (tmp_path / "wildcards" / "moods.txt").write_text("sad\n")
    (tmp_path / "nested.txt").write_text("a\n{b|c}\n")
    listed = read("a __colours__ ball\na __moods__ ball\na __nested__ ball\na __none__ ball\n")
    assert [prompt for prompt, *_ in jobs(listed)] == ["a rød ball", "a sad ball"]
    assert "{b|c}" in reasons(listed)[3] and str(tmp_path) in reasons(listed)[4]


@pytest.mark.parametrize("form", FORMS)
def test_a_filled_list_is_the_same_work(mini: Pack, table: JobTable, read: Read, form: str) -> None:
    listed = read(FORMS[form] + ("\n" if "json" not in form else ""))
    batch.enqueue(listed, table)
    text = filling.filled(listed, table)
    again = batch.parse(text, mini, "cpu", format=listed.format)
    assert [e.key for e in again.entries] == [e.key for e in listed.entries]
    assert not again.bad and "waiting" in text
    assert filling.filled(again, table) == text


def test_old_names_are_read_and_new_ones_written(table: JobTable, read: Read) -> None:
    listed = read("prompt,negative\na,b\n", "list.csv")
    assert filling.filled(listed, table).startswith("prompt,negative_prompt,status,")
    assert [column_of(name) for name in ("picture", "Image", "init image")] == ["image"] * 3


def test_a_quoted_hash_is_a_prompt(mini: Pack, table: JobTable, read: Read) -> None:
    listed = read('prompt,look_seed\n"# 5 balls",5\n', "list.csv")
    again = batch.parse(filling.filled(listed, table), mini, "cpu", format="csv")
    assert jobs(listed)[0][:2] == jobs(again)[0][:2] == ("# 5 balls", 5)


@pytest.mark.parametrize(
    ("counts", "people", "scripts"),
    [
        ((1, 0, 1, 0), "1 row = 1 clip, time unknown", "1 rows = 1 clips, time unknown"),
        ((2, 0, 3, 1), "2 rows = 3 clips and 1 frame", "2 rows = 3 clips and 1 frames"),
        ((0, 1, 0, 0), "0 rows: nothing to make, 0 already", "0 rows: nothing to make, 0 already"),
    ],
)
def test_plurals(read: Read, counts: tuple[int, ...], people: str, scripts: str) -> None:
    rows, bad, clips, frames = counts
    plan = Plan(rows, bad, clips, frames, 0, 0, tuple(read("a").entries), None, None)
    assert str(plan).startswith(people)
    assert ", ".join(plan.summary(plurals=False)).startswith(scripts)
    done = Plan(1, 1, 1, 0, 1, 0, (), 0.0, 0)
    assert str(done) == (
        "1 row = 1 clip, nothing to make, 1 already exists, 0 already queued, 1 bad row"
    )


FRAGMENTS = st.sampled_from(
    [
        *(
            "a red ball",
            "prompt",
            ",",
            ";",
            "\t",
            "\n",
            '"',
            "“",
            "{",
            "}",
            "[",
            "]",
            "|",
            "=",
            "--",
        ),
        *("seed", "count", "Negative prompt:", "Steps: 20", "5", "__x__", ":", "#", "sep=;", "\\"),
        *("look_seed", "NaN", "\r", "\0", "<lora:x:1>", " ", "é", "红"),
    ]
)


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(FRAGMENTS, max_size=25).map("".join).map(str.encode),
        st.tuples(
            st.lists(FRAGMENTS, max_size=25).map("".join),
            st.sampled_from(["utf-16", "utf-16-le", "utf-32", "gb18030", "cp1252", "utf-7"]),
        ).map(lambda pair: pair[0].encode(pair[1], "replace")),
    ),
    st.sampled_from([None, "csv", "tsv", "jsonl", "json"]),
)
@example(b"\xff\xfe\0\0", None)
@example(b"PK\x03\x04", "csv")
@example(b'{"prompt": {"0": "a"}}', None)
def test_any_bytes_are_a_list_or_a_sentence(
    mini: Pack, table: JobTable, source: bytes, named: Any
) -> None:
    try:
        listed = batch.parse(source, mini, "cpu", named=named, wildcards=Path("."))
    except NeodragonError as error:
        assert "\n" not in str(error)
        return
    again = batch.parse(filling.filled(listed, table), mini, "cpu", format=listed.format)
    assert [entry.key for entry in again.entries] == [entry.key for entry in listed.entries]
    assert len(again.bad) == len(listed.bad)


SYNTAX = st.sampled_from(
    [
        *(" --seed 5", " --ar 16:9", " (red:1.2)", " <lora:x:0.5>", ", cfg=7", ", count=2"),
        *(
            '{"prompt": "x"}',
            ";5;6",
            "x\t5",
            " Negative prompt: x",
            " Steps: 20, Seed: 5",
            " BREAK ",
        ),
        *('"prompt": "x",', " seed: 5"),
    ]
)
WORD = st.sampled_from(["a red ball", "ein Häuschen", "star", "at night, slowly", "红球"])


@settings(max_examples=200, deadline=None, database=None)
@given(WORD, SYNTAX, st.one_of(WORD, st.just("")), st.booleans())
def test_no_syntax_becomes_words_in_silence(
    mini: Pack, word: str, syntax: str, rest: str, first: bool
) -> None:
    """It is a setting, or the row is bad, or a note says that it is drawn."""
    line = f"{syntax}{word}{rest}" if first else f"{word}{syntax}{rest}"
    try:
        listed = batch.parse(f"a house\n{line}\n", mini, "cpu")
    except BatchError:
        return
    drawn = {entry.work.prompt for entry in listed.entries} - {"a house"}
    silent = not listed.notes and not listed.bad
    assert not (silent and any(syntax.strip() in prompt for prompt in drawn)), line


def test_guess() -> None:
    for text in ('{"red"|"blue"} ball', "{red|blue} ball", "[low] ball", "a prompt, of course"):
        assert guess(text) == "text"
    assert guess("prompt;foo\na;b") == "csv" and guess("foo\tprompt\n") == "tsv"


def test_what_a_list_says_is_said_in_every_language(read: Read) -> None:
    listed = read('prompt,Seed\na,1.5\nb,"5,0"\n(c:1.2),1\n'.encode("utf-16-le"), "list.csv")
    messages = [*(row.reason for row in listed.bad), *listed.notes]
    assert len(messages) == 3 and listed.assumed
    for code in ("de", "zh"):
        told = [translated(message, code) for message in (*messages, listed.assumed)]
        assert not any(re.search(r"\b(is|the|was|which)\b", sentence) for sentence in told), told
        assert "Seed" in told[0] and "1.5" in told[0] and "5,0" in told[1]


def test_translations_have_the_places_of_their_sentence() -> None:
    table = json.loads((ASSETS / "messages.json").read_text(encoding="utf-8"))
    for template, texts in table.items():
        wanted = set(re.findall(r"\{\w+\}", template))
        for text in texts.values():
            assert set(re.findall(r"\{\w+\}", text)) == wanted, template


@pytest.mark.parametrize("error", ["#REF!", "#NAME?", "#VALUE!", "#DIV/0!", '"#NUM!"'])
def test_a_spreadsheets_error_is_no_prompt_and_no_comment(read: Read, error: str) -> None:
    listed = read(f"prompt,seed\n{error},5\na red ball,6\n", "list.csv")
    assert jobs(listed) == [("a red ball", 6, NUMBER)]
    assert "write a prompt" in reasons(listed)[2]


def test_text_as_spreadsheets_export_it(read: Read) -> None:
    listed = read('prompt,seed\n"=""a """"red"""" ball""","=""5"""\n', "list.csv")
    assert jobs(listed) == [('a "red" ball', 5, NUMBER)]


def test_options_that_need_no_value(read: Read) -> None:
    lines = ("a ball --no-upscale", '--prompt "a ball" --upscale', "a ball --no_suffix --seed 5")
    listed = read("\n".join(lines))
    assert [(e.work.upscale, e.work.suffix) for e in listed.entries] == [
        (False, True),
        (True, True),
        (True, False),
    ]
    assert {e.work.prompt for e in listed.entries} == {"a ball"}
    assert "twice" in reasons(read("a ball --upscale --no-upscale"))[1]
