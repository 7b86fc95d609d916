"""Files of rows: what is read, what is said of what cannot be, and ids that repeat, in little memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.fake import write_rows
from fanlight.batch.columns import COLUMNS, pyarrow, read_parquet, write_parquet
from fanlight.batch.ids import SeenIds, fingerprint
from fanlight.batch.reading import MAX_LINE_BYTES, Item, opened, read_items, scan
from fanlight.batch.rows import parse_row
from fanlight.errors import MissingExtra, OptionError


def items(path: Path) -> list[Item]:
    return list(read_items(path, "rows"))


def test_lines_are_rows_and_blank_lines_count_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \n{"prompt": "\xc3\xa9"}')
    found = items(path)
    assert [(item.index, item.value, item.is_blank) for item in found] == [
        (0, {"prompt": "a"}, False),
        (1, None, True),
        (2, None, True),
        (3, {"prompt": "é"}, False),
    ]
    assert scan(path, "rows").n_rows == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{broken", "expected a JSON object, found '{broken': Expecting property name"),
        (b"3", "expected a JSON object such as"),
        (b'{"prompt": "\xff"}', "not valid UTF-8: byte 0xff at offset 12 of 15"),
        (b'{"prompt": "a", "prompt": "b"}', "the key 'prompt' stands twice"),
        (b'{"metadata": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        (b'{"metadata": NaN}', "NaN is no JSON"),
        (b'{"temperature": 1e999}', "the number 1e999 is too large"),
        (b"[" * 100_000, "JSON that cannot be taken"),
        (b"9" * 5000, "JSON that cannot be taken"),
    ],
)
def test_a_line_that_cannot_be_read_is_an_item_of_its_own(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + line + b'\n{"prompt": "b"}\n')
    before, broken, after = items(path)
    assert (before.value, after.value) == ({"prompt": "a"}, {"prompt": "b"})
    assert broken.value is None
    assert str(broken.error).startswith("line 2: ")
    assert said in str(broken.error)


def test_a_line_of_many_megabytes_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    longest = b'{"prompt": "' + b"a" * (MAX_LINE_BYTES - 14) + b'"}'
    path.write_bytes(longest + b"\r\n" + longest + b"bc\n" + b'{"prompt": "b"}\n')
    taken, refused, after = items(path)
    assert taken.value is not None
    assert str(refused.error) == f"line 2: {MAX_LINE_BYTES + 2:,} bytes, expected at most {MAX_LINE_BYTES:,} in a line"
    assert len(refused.data) < 100
    assert after.value == {"prompt": "b"}


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"  # whatever it is called
    path.write_bytes(gzip.compress(b'{"prompt": "a"}\n') + gzip.compress(b'{"prompt": "b"}\n'))
    assert [item.value for item in items(path)] == [{"prompt": "a"}, {"prompt": "b"}]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(OptionError, match=r"rows: the gzip data is damaged or cut off after line \d"):
        items(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'\xef\xbb\xbf [{"prompt": "a"}]', "a JSON array; put each object on a line of its own"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"\x28\xb5\x2f\xfd...", "zstd"),
        (b"PK\x03\x04...", "a zip archive"),
        (b"", "no rows: the file is empty"),
        (b"\n \n", "no rows: the file is empty"),
        (b"Once upon a time\nIn a land\n", "none of 2 rows can be taken; line 1: expected a JSON object"),
        (b'{"promt": "a"}\n', "none of 1 row can be taken; line 1: unknown key 'promt'; did you mean 'prompt'?"),
        (b"PAR1....", "cannot be read as Parquet"),
    ],
)
def test_a_file_of_another_kind_is_refused_as_a_whole(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(data)
    with pytest.raises(OptionError) as caught:
        scan(path, "rows.jsonl")
    assert str(caught.value).startswith("rows.jsonl: ")
    assert said in str(caught.value)


def test_parquet_rows_lose_what_is_null_and_take_json_as_text(tmp_path: Path) -> None:
    pa, pq = pyarrow(), pyarrow("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "temperature": 0.5, "messages": None, "settings": '{"top_k": 3}'},
        {"prompt": None, "temperature": None, "messages": '[{"role": "user", "content": "x"}]', "settings": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [item.value for item in items(path)] == [
        {"prompt": "a", "temperature": 0.5, "settings": {"top_k": 3}},
        {"messages": [{"role": "user", "content": "x"}]},
    ]
    nested = [{"messages": [{"role": "user", "name": None}, {"role": "tool", "name": "f"}]}]
    pq.write_table(pa.Table.from_pylist(nested), path)
    assert [item.value for item in items(path)] == [{"messages": [{"role": "user"}, {"role": "tool", "name": "f"}]}]


def test_parquet_columns_with_gaps_as_pandas_writes_them_are_what_they_were(tmp_path: Path) -> None:
    """Numbers with gaps are floats there, and a gap is NaN."""
    pa, pq = pyarrow(), pyarrow("pyarrow.parquet")
    nan = float("nan")
    columns = {
        "id": [7.0, nan, 9.0],
        "prompt": ["a", "b", "c"],
        "max_new_tokens": [5.0, nan, 2.5],
        "temperature": [nan, 1.0, 0.5],
        "settings": [{"top_k": nan}, {"top_k": 3.0}, None],
        "bad": [nan, nan, nan],
    }
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)
    found = [dict(item.value or {}) for item in items(path)]
    assert found == [
        {"id": 7, "prompt": "a", "max_new_tokens": 5, "settings": {}},
        {"prompt": "b", "temperature": 1.0, "settings": {"top_k": 3}},
        {"id": 9, "prompt": "c", "max_new_tokens": 2.5, "temperature": 0.5},
    ]
    assert [type(found[0][name]) for name in ("id", "max_new_tokens")] == [int, int]
    assert type(found[1]["temperature"]) is float
    assert parse_row(found[0], 0).id == "7"


def test_results_go_into_parquet_columns(tmp_path: Path) -> None:
    pq = pyarrow("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    rows = [
        {"id": "a", "index": 0, "text": "é", "seed": 5, "others": [{"text": "b"}], "metadata": {"k": [1]}},
        {"id": None, "index": 1, "error": {"type": "OptionError", "message": "no"}},
        {"id": "c", "index": 2, "text": "x", "seed": 2**70},
    ]
    write_parquet((json.dumps(row).encode() + b"\n" for row in rows), path)
    table = pq.read_table(path)
    assert table.column_names == list(COLUMNS)
    first, second, third = table.to_pylist()
    assert (first["text"], first["seed"]) == ("é", 5)
    assert json.loads(first["metadata"]) == {"k": [1]}
    assert json.loads(first["others"]) == [{"text": "b"}]
    assert second["error"] == {"type": "OptionError", "message": "no"}
    assert (second["id"], second["text"]) == (None, None)
    assert (third["seed"], third["notes"]) == (None, [f"the seed {2**70} has more than the 64 bits of its column"])
    assert next(read_parquet(path, "out"))["text"] == "é"


def test_without_pyarrow_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fanlight\[batch\]'"):
        pyarrow()


def test_standard_input_and_pipes_can_be_read_several_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"prompt": "a"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with opened("-") as path:
        assert [item.value for item in items(path)] * 2 == [item.value for item in items(path)] + [{"prompt": "a"}]
        assert path.exists()
    assert not path.exists()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    with opened(pipe) as path:
        assert len(items(path)) == len(items(path)) == 1
    writer.join()
    with pytest.raises(OptionError, match="found a folder"), opened(tmp_path):
        pass
    with pytest.raises(FileNotFoundError), opened(tmp_path / "none"):
        pass


# -- reading it through ------------------------------------------------------------------------------------------------


def test_a_scan_knows_a_file_by_its_rows_however_they_are_stored(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows", [{"prompt": str(i)} for i in range(7)])
    whole = scan(path, "rows")
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(path.read_bytes() + b"\n \n"))
    assert scan(packed, "rows") == whole == (7, whole.digest, True, None)
    three = scan(path, "rows", limit=3)
    assert (three.n_rows, three.is_whole) == (3, False)
    assert scan(path, "rows", at=3).digest_at == three.digest
    assert scan(path, "rows", limit=1, at=3).digest_at == three.digest
    assert scan(path, "rows", limit=3, at=7) == (3, three.digest, False, whole.digest)
    assert scan(path, "rows", at=8).digest_at is None
    assert scan(path, "rows", limit=7) == whole
    other = write_rows(tmp_path / "other", [{"prompt": str(i)} for i in (0, 1, 3)])
    assert scan(other, "rows").digest != three.digest


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a", "id": "z"}, "", {"prompt": "b", "id": "z"}], "lines 1 and 3 have the same id 'z';"),
        ([{"prompt": "a"}, {"prompt": "b", "id": 0}], "lines 1 and 2 have the same id '0' (line 1 has none of its own"),
        ([{"prompt": "a", "id": 1}, {"prompt": "b"}], "lines 1 and 2 have the same id '1' (line 2 has none of its own"),
        ([{"prompt": "a", "id": "z"}, {"promt": "b", "id": "z"}], "lines 1 and 2 have the same id 'z';"),
    ],
)
def test_ids_that_repeat_are_refused_with_both_lines(tmp_path: Path, rows: list[Any], said: str) -> None:
    path = write_rows(tmp_path / "rows", [*rows, {"prompt": "c"}])
    with pytest.raises(OptionError) as caught:
        scan(path, "rows.jsonl")
    assert str(caught.value).startswith(f"rows.jsonl: {said}")
    assert scan(path, "rows.jsonl", limit=1).n_rows == 1


def test_two_ids_with_one_fingerprint_are_no_twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fanlight.batch import ids, reading

    for module in (ids, reading):
        monkeypatch.setattr(module, "fingerprint", lambda text: fingerprint(text) % 2)
    path = write_rows(tmp_path / "rows", [{"prompt": "a", "id": f"x{i}"} for i in range(9)])
    assert scan(path, "rows").n_rows == 9
    twins = write_rows(tmp_path / "twins", [{"prompt": "a", "id": f"x{i % 8}"} for i in range(9)])
    with pytest.raises(OptionError, match="lines 1 and 9 have the same id 'x0'"):
        scan(twins, "rows")


@given(st.lists(st.text(max_size=2), max_size=60), st.integers(1, 9))
def test_repeated_ids_are_found_whatever_is_held_in_memory(names: list[str], run_ids: int) -> None:
    with SeenIds(run_ids) as seen:
        for name in names:
            seen.add(name)
        twice = {fingerprint(name) for name in names if names.count(name) > 1}
        assert seen.repeated() == twice
        assert len(seen.repeated(most=1)) == min(1, len(twice))
