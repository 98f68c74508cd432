"""Texts of strangers: how files are decoded, split and listed, and how words are looked up."""

import codecs
import json
import os

import pytest

from motion_app.errors import RequestError
from motion_app.text_files import (
    is_leftover,
    json_text,
    listed,
    located,
    read_json,
    read_rows,
    read_table,
    read_text,
    records,
)
from motion_app.wording import Reading, as_named, as_read, difference, lookalike, uses

# Characters at which str.splitlines splits and JSON allows as they are inside a string.
BREAKS = "\u2028\u2029\x85"


# files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
    ],
)
def test_a_text_is_the_same_in_every_encoding_with_and_without_a_mark(tmp_path, mark, encoding):
    text = json.dumps({"caption": "红色的猫 moves, café"}, ensure_ascii=False)
    (tmp_path / "a.json").write_bytes(mark + text.encode(encoding))
    assert read_text(tmp_path / "a.json") == text
    assert read_json(tmp_path / "a.json") == {"caption": "红色的猫 moves, café"}


def test_what_is_no_text_is_told_with_its_line_and_the_way_out(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n" + "café".encode("cp1252"))
    with pytest.raises(RequestError, match=r"a\.txt is not UTF-8 text: line 2 .* 0xe9 .*CSV UTF-8"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(RequestError, match=r"^none\.txt cannot be read"):
        read_text(tmp_path / "none.txt")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, "\ud7ff"])
def test_what_is_no_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=r"^a\.json is not JSON: "):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_records_split_at_line_feeds_alone_and_keep_what_json_allows(ending):
    rows = [{"text": f"a{letter}b \x7f\u200b\ufeff"} for letter in (*BREAKS, "\u0000", "\ud800")]
    lines = [json.dumps(row, ensure_ascii="\ud800" in row["text"]) for row in rows]
    text = ending.join(["\ufeff" + lines[0], "", "  ", "\ufeff" + lines[1], *lines[2:], ""])
    found = list(records(text))
    assert [json.loads(line) for _, line in found] == rows
    assert [number for number, _ in found] == [1, 4, 5, 6, 7]


def test_every_string_that_json_holds_can_be_written_and_read_back():
    for text in (f"a{BREAKS}b", "\ud83d", "红", "\x00"):
        line = json_text({"text": text})
        assert json.loads(line.encode().decode()) == {"text": text} and "\n" not in line
    assert json_text({"text": "红"}) == '{"text": "红"}'


# tables -----------------------------------------------------------------------------------------

KNOWN = ("item", "caption")


def table(tmp_path, text: str, encoding: str = "utf-8"):
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    return read_table(tmp_path / "t.csv", KNOWN, optional=("kind",))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("told", [False, True])
def test_a_table_is_the_same_however_a_spreadsheet_writes_it(
    tmp_path, delimiter, ending, encoding, told
):
    rows = [["item", "caption", "kind", ""], ["a", '"x, y; z"', "main", ""], ["", "", "", ""]]
    text = ending.join(delimiter.join(row) for row in [*rows, ["b", "w", "", ""], [""]])
    head = f"sep={delimiter}\r\n" if told else ""
    found = table(tmp_path, head + text, encoding)
    assert found.columns == ("item", "caption", "kind")
    assert [dict(row.cells) for row in found.rows] == [
        {"item": "a", "caption": "x, y; z", "kind": "main"},
        {"item": "b", "caption": "w", "kind": ""},
    ]
    assert [row.line for row in found.rows] == [2 + told, 4 + told]


def test_line_numbers_are_those_an_editor_shows(tmp_path):
    text = 'item,caption\n\na,"two\nlines ""quoted"""\n,\nb,c,\nlast,d,too many\n'
    with pytest.raises(RequestError, match='line 7 of t.csv .* "too many" is one too many'):
        table(tmp_path, text)
    rows = table(tmp_path, text.replace(",too many", ""))
    assert [(row.line, row.cells["item"]) for row in rows.rows] == [(3, "a"), (6, "b"), (7, "last")]
    assert rows.rows[0].cells["caption"] == 'two\nlines "quoted"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item,caption\nx\n", 'line 2 .* not as many cells .* the column "caption"'),
        ("item,caption,item\nx,y,z\n", 'the column "item" twice'),
        ("item,caption,\nx,y,z\n", 'line 2 .* "z" in column 3, which has no name'),
        ('item,caption\nx,"never ends\n', "begins in line 2"),
        ('item;caption\nx;"y"z\n', "with semicolons .* begins in line 2"),
    ],
)
def test_a_table_with_a_mistake_names_the_line_and_the_cause(tmp_path, text, said):
    with pytest.raises(RequestError, match=said):
        table(tmp_path, text)


def test_the_last_optional_cells_of_a_row_may_be_missing(tmp_path):
    (row,) = table(tmp_path, "item,caption,kind\nx,y\n").rows
    assert row.cells == {"item": "x", "caption": "y", "kind": ""}


def test_a_table_without_content_has_no_columns_and_no_rows(tmp_path):
    for delimiter in ",;\t":
        assert table(tmp_path, f"\ufeff\n{delimiter * 2}\n \n").columns == ()
        assert read_rows(tmp_path / "t.csv") == []


# paths and folders ------------------------------------------------------------------------------


def test_a_path_is_found_as_windows_and_macos_write_it(tmp_path):
    place = tmp_path / "clips" / "cafe\u0301"  # as macOS has it, in parts
    place.mkdir(parents=True)
    (place / "a.mp4").touch()
    (tmp_path / "odd\\name.mp4").touch()
    for written in ("clips\\café\\a.mp4", "clips/cafe\u0301/a.mp4", ".\\clips\\café\\a.mp4"):
        assert located(tmp_path, written).samefile(place / "a.mp4")
    assert located(tmp_path, str(place / "a.mp4")) == place / "a.mp4"
    assert located(tmp_path, "odd\\name.mp4").name == "odd\\name.mp4"  # here a name like any other
    assert located(tmp_path, "clips\\none.mp4") == tmp_path / "clips/none.mp4"


@pytest.mark.parametrize("written", ["C:\\clips\\a.mp4", "d:/clips/a.mp4", "\\\\server\\a.mp4"])
def test_the_path_of_a_windows_drive_is_named_as_one(tmp_path, written):
    with pytest.raises(RequestError, match="a path of a Windows drive"):
        located(tmp_path, written)


LEFT = [
    *(".DS_Store", "._a.mp4", ".ipynb_checkpoints", "__MACOSX", "Thumbs.db", "desktop.ini"),
    *(
        "~$items.xlsx",
        "a.mp4.swp",
        ".a.mp4.swp",
        "@eaDir",
        ".~lock.items.csv#",
        "a.txt~",
        "#a.txt#",
    ),
    *("$RECYCLE.BIN", "System Volume Information", "ehthumbs.db", "Icon\r", "__pycache__"),
]


@pytest.mark.parametrize("name", LEFT)
def test_what_systems_and_editors_leave_is_never_listed(tmp_path, name):
    (tmp_path / name).touch()
    for kept in ("a.mp4", "b.MP4", "~a.mp4", "macosx"):
        (tmp_path / kept).touch()
    assert [path.name for path in listed(tmp_path)] == ["a.mp4", "b.MP4", "macosx", "~a.mp4"]
    assert [path.name for path in listed(tmp_path, "*.mp4")] == ["a.mp4", "~a.mp4"]
    assert is_leftover(f"item/{name}/x") and not is_leftover("../a/b.mp4")


# words ------------------------------------------------------------------------------------------


def found(phrase: str, text: str) -> list[str]:
    reading = Reading.of(text)
    spans = [reading.written(a, b) for _, a, b in uses([Reading.of(phrase).text], reading.text)]
    return [text[a:b] for a, b in spans]


@pytest.mark.parametrize(
    ("phrase", "text", "words"),
    [
        ("is moving", "A cat is\u00a0moving.", ["is\u00a0moving"]),
        ("is moving", "A cat is \t\u2009 moving.", ["is \t\u2009 moving"]),
        (" is\u3000moving ", "A cat is moving.", ["is moving"]),
        ("is moving", "A cat is\u200b mov\u00ading.", ["is\u200b mov\u00ading"]),
        ("is moving", "A cat ｉｓ　ｍｏｖｉｎｇ.", ["ｉｓ　ｍｏｖｉｎｇ"]),
        ("café", "the cafe\u0301 dances", ["cafe\u0301"]),
        ("cafe\u0301", "the café dances", ["café"]),
        ("正在跳跃", "猫正在跳跃。", ["正在跳跃"]),
        ("is moving", "红色的猫is moving。", ["is moving"]),
        ("跳", "猫跳。狗跳。", ["跳", "跳"]),
        ("走る", "猫が走るよ", ["走る"]),
        ("ガ", "ｶﾞ", ["ｶﾞ"]),
        ("กระโดด", "แมวกระโดดสูง", ["กระโดด"]),
        ("ก", "กิน", []),  # a letter is never parted from its marks
        ("cat", "catcat concat cats cat's cat", ["cat", "cat"]),
        ("is moving", "this moving, is moving_up, is moving2", []),
        ("moving", "moving\u0301 on", []),
        ("움직인다", "고양이가 움직인다", ["움직인다"]),
        ("움직", "고양이가 움직인다", []),
        ("", "anything", []),
        ("a b a", "xa b a b a", ["a b a"]),
    ],
)
def test_a_phrase_is_found_as_it_is_read_and_in_whole_words(phrase, text, words):
    assert found(phrase, text) == words


def test_reading_twice_changes_nothing_more():
    for text in ("a\u00a0 b\u2028c", "ﬁ ｶﾞ e\u0301", "红T恤is \ud800 \u200bx", " \u3000 "):
        assert as_read(as_read(text)) == as_read(text) and as_named(as_named(text)) == as_named(
            text
        )
        reading = Reading.of(text)
        assert reading.text == as_read(text).replace("\n", " ")
        assert len(reading.sources) == len(reading.text)
        as_read(text).encode()


@pytest.mark.parametrize(
    ("wanted", "text", "said"),
    [
        ("is moving", "A cat is m\u043eving.", "U+043E CYRILLIC SMALL LETTER O where U+006F"),
        ("is moving", "A cat ismoving.", "nothing where U+0020 SPACE"),
        ("is moving", "A cat Is moving.", "U+0049 LATIN CAPITAL LETTER I where U+0069"),
        ("doesn't", "it doesn’t", "U+2019 RIGHT SINGLE QUOTATION MARK where U+0027 APOSTROPHE"),
        ("café", "a cafe", "U+0065 LATIN SMALL LETTER E where U+00E9"),
        ("alpha", "beta", ""),
        ("cat", "a cat sits", ""),
    ],
)
def test_what_looks_alike_is_told_by_code_points(wanted, text, said):
    told = difference(wanted, text)
    assert said in told and bool(told) == bool(said)


def test_a_name_is_compared_with_those_that_look_like_it_as_a_whole():
    assert "U+0430 CYRILLIC" in lookalike(["beta", "alpha"], ["\u0430lpha"])
    assert lookalike(["alpha"], ["alpha two", "alpha", ""]) == ""


def test_no_reader_of_lines_splits_where_json_does_not():
    """``str.splitlines`` is for messages; what is read from a file goes through ``records``."""
    root = os.path.join(os.path.dirname(__file__), "..", "motion_app")
    for place, _, names in os.walk(root):
        for name in names:
            if name.endswith(".py"):
                text = read_text(os.path.join(place, name))
                for number, line in enumerate(text.split("\n"), start=1):
                    read = "read_text" in line or "read()" in line
                    assert not (read and "splitlines" in line), f"{name}, line {number}"
