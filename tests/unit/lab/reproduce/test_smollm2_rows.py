"""TOFU's rows from local files."""

import json

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst_lab.reproduce.smollm2_rows import read_rows


def test_a_line_of_json_may_hold_any_character_and_a_file_a_byte_order_mark(tmp_path):
    rows = [{"question": "who\u2028is it?", "answer": "Ann"}, {"question": "and?", "answer": "Bo"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "tofu").mkdir()
    (tmp_path / "tofu" / "forget10_perturbed.jsonl").write_text(text, encoding="utf-8-sig")
    assert read_rows("forget10_perturbed", tmp_path) == rows


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "a"}\n{"question": ')
    with pytest.raises(RetainFirstError, match=r"test\.jsonl, line 2, column \d+: invalid JSON"):
        read_rows("test", tmp_path)
