"""What users get wrong in files and options: one clear error each, with the place and what to do."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tiny
from retainfirst import data
from retainfirst.errors import MissingDependency, RetainFirstError

FORMS = "Accepted forms: text; prompt + completion; question + answer; messages"
GOOD = '{"text": "the cat"}\n'


def user(content="hi"):
    return {"role": "user", "content": content}


def assistant(content="ho"):
    return {"role": "assistant", "content": content}


# A second line of a file whose first line is good, and what the error must say.
BAD_LINES = {
    "not json": ("{'text': 1}", "line 2, column 2: invalid JSON"),
    "cut off": ('{"text": "the', "line 2, column 10: invalid JSON"),
    "a string": ('"the cat"', "line 2: expected an object, found a string"),
    "a list": ("[1]", "line 2: expected an object, found a list"),
    "null": ("null", "line 2: expected an object, found null"),
    "no keys": ("{}", f"line 2: the row has the keys of no form; keys found: none. {FORMS}"),
    "other keys": (
        '{"query": "who?", "answer": "ann"}',
        f"line 2: the row has the keys of no form; keys found: 'query', 'answer'. {FORMS}",
    ),
    "null text": ('{"text": null}', "keys found: 'text' (null)."),
    "two forms": ('{"text": "a", "question": "b", "answer": "c"}', "line 2: the row has the keys of several forms"),
    "number": ('{"text": 3}', "line 2: 'text' must be a string, found a number"),
    "list of answers": ('{"question": "a", "answer": ["b"]}', "line 2: 'answer' must be a string, found a list"),
    "bad prompt": ('{"prompt": {}, "completion": "b"}', "'prompt' must be a string, found an empty object"),
    "empty text": ('{"text": ""}', "line 2: 'text' is empty"),
    "blank answer": (r'{"question": "a", "answer": " \n"}', "line 2: 'answer' is empty"),
    "empty completion": ('{"prompt": "a", "completion": ""}', "line 2: 'completion' is empty"),
    "half a surrogate": (r'{"text": "\ud800"}', "line 2: 'text' holds half of a surrogate pair"),
    "deep": ("[" * 200_000, "line 2: JSON that cannot be read"),
    "huge number": ('{"text": ' + "1" * 5000 + "}", "line 2: JSON that cannot be read"),
    "no messages": ('{"messages": []}', "line 2: 'messages' must be a list with messages, found an empty list"),
    "messages text": ('{"messages": "hi"}', "line 2: 'messages' must be a list with messages, found a string"),
}
BAD_MESSAGES = {
    "no role": ([user(), {"content": "ho"}], "message 2 must be an object with 'role' and 'content'"),
    "no object": (["hi"], "message 1 must be an object"),
    "parts": ([user([{"type": "text"}]), assistant()], "'content' of message 1 must be a string, found a list"),
    "no assistant": ([user()], "needs an assistant turn with a turn of another role before it"),
    "assistant first": ([assistant(), user()], "needs an assistant turn with a turn of another role before it"),
    "empty answer": ([user(), assistant("")], "'content' of the last assistant turn is empty"),
}


def refused(source, message: str) -> None:
    with pytest.raises(RetainFirstError) as caught:
        data.read_rows(source)
    assert message in str(caught.value)
    assert str(source) in str(caught.value)


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line(tmp_path, case):
    line, message = BAD_LINES[case]
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + line + "\n" + GOOD, encoding="utf-8")
    refused(path, message)


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_bad_messages(tmp_path, case):
    messages, message = BAD_MESSAGES[case]
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + "\n" + json.dumps({"messages": messages}), encoding="utf-8")
    refused(path, "line 3: ")
    refused(path, message)


def test_a_bad_item_of_an_array(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[\n {"text": "a"},\n {"txt": "b"}\n]')
    refused(path, "item 2: the row has the keys of no form; keys found: 'txt'")
    path.write_text('[\n {"text": "a"},\n {"text": "b"\n]')
    refused(path, "line 4, column 1: invalid JSON")


def test_bad_tables(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,question\ncat,\n"a\nb",\n,who?\n')
    refused(path, "line 5: the row has the keys of no form; keys found: 'text' (null), 'question'")
    path.write_text('text,question\ncat,\n,"who\nis?"\ncat,\n')
    refused(path, "line 3: the row has the keys of no form; keys found: 'text' (null), 'question'")
    path.write_text("question,answer\nwho?,Ann\nwho?,Ann, a cat\n")
    refused(
        path, "line 3: 3 cells, but the table has 2 columns (question, answer). Put texts that hold the separator into"
    )
    path.write_text("text,text\na,b\n")
    refused(path, "line 1: the column 'text' stands there twice")
    path.write_text("question;answer\nwho?;Ann\n")
    refused(path, "line 2: the row has the keys of no form; keys found: 'question;answer'")
    path.write_text("text\n")
    refused(path, "has no rows")
    path.write_text("")
    refused(path, "has no rows")
    path.write_text('text\n"a" b\n')
    refused(path, "line 2: not a table of values (")
    path.write_bytes(b"text\ncaf\xe9\n")
    refused(path, "line 2: not UTF-8 text")
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    refused(path, "cannot be read as Parquet")


def test_bad_rows_of_a_parquet_file(tmp_path):
    parquet, pyarrow = (pytest.importorskip(name) for name in ("pyarrow.parquet", "pyarrow"))
    path = tmp_path / "rows.parquet"
    for rows, text in (
        (
            [{"question": "a", "answer": "b"}, {"question": "a", "answer": None}],
            "row 2: the row has the keys of no form",
        ),
        ([{"question": "a", "answer": 3}], "row 1: 'answer' must be a string, found a number"),
        ([{"messages": [user()]}], "row 1: 'messages' needs an assistant turn"),
    ):
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        refused(path, text)


def test_files_that_cannot_be_decompressed(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_text(GOOD)
    refused(path, "cannot be decompressed: Not a gzipped file")
    path.write_bytes(gzip.compress(GOOD.encode() * 100)[:-9])
    refused(path, "cannot be decompressed: ")
    path.write_bytes(gzip.compress(b"text\n"))
    refused(path, "line 1, column 1: invalid JSON")


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".zip", ".arrow", ".xlsx", ".PKL"])
def test_files_of_other_kinds_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_text(GOOD)
    refused(path, f"{Path(suffix).suffix.lower() or suffix.lower()} files are not read. Give a JSON-lines file")


def test_rows_of_a_file_are_named_by_their_lines(tmp_path, tokenizer):
    """Also after the rows were read: by what tokenising finds, in any order."""
    tokenizer = tiny.tiny_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% if messages|length > 2 %}{{ raise_exception('Too long') }}{% endif %}" + tiny.CHAT_TEMPLATE
    )
    path = tmp_path / "rows.jsonl"
    long = json.dumps({"messages": [user(), assistant(), user(), assistant()]})
    path.write_text(GOOD + "\n\n" + long + "\n" + GOOD)
    rows = data.read_rows(path)
    for given in (rows, rows[::-1], [row for row in rows if "messages" in row]):
        with pytest.raises(
            RetainFirstError, match=re.escape(f"{path}, line 4: the chat template refuses the messages: Too long")
        ):
            data.encode_rows(given, tokenizer, 99)


@pytest.mark.parametrize("text", ["", "\n \n", "[]"])
def test_a_file_without_rows(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    refused(path, f"has no rows. {FORMS}")


def test_not_utf8(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD.encode() + b'{"text": "caf\xe9"}\n')
    refused(path, "line 2: not UTF-8 text")


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "rows.jsonl", "does not exist")
    refused("rows.jsonl", "does not exist")
    refused("data/rows.jsonl", "does not exist")
    refused(tmp_path, "is a folder")


def test_unreadable(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD)

    def read_bytes(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", read_bytes)  # root, who may run this, can read anything
    refused(path, "cannot be read: Permission denied")


def test_hub_failures_keep_the_librarys_reason(monkeypatch):
    def load_dataset(path, config, *, split):
        raise FileNotFoundError("Dataset not found")

    library = ModuleType("datasets")
    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    refused("locuslab/TOFU:forget01", "is no local file, and the hub data set 'locuslab/TOFU' (config 'forget01'")
    refused("locuslab/TOFU:forget01", "could not be loaded: Dataset not found")


def test_a_bad_hub_row(monkeypatch):
    library = ModuleType("datasets")
    library.load_dataset = lambda path, config, *, split: [{"text": "a"}, {"passage": "b"}]
    monkeypatch.setitem(sys.modules, "datasets", library)
    refused("owner/name", "row 2: the row has the keys of no form; keys found: 'passage'")


def test_hub_names_need_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match=re.escape("pip install 'retainfirst[hf]'")):
        data.read_rows("locuslab/TOFU:forget10")


def test_no_row_left(tokenizer):
    rows = [{"prompt": "a long prompt", "completion": "b"}] * 2
    with pytest.raises(
        RetainFirstError, match=r"forget\.jsonl: none of 2 rows has a token to forget or retain within 5"
    ):
        data.encode_rows(rows, tokenizer, 5, name="forget.jsonl")
    with pytest.raises(RetainFirstError, match="none of 0 rows"):
        data.encode_rows([], tokenizer, 5)


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_maximal_length(tokenizer, max_length):
    with pytest.raises(RetainFirstError, match=f"at least 2 tokens, found {max_length}"):
        data.encode({"text": "cat"}, tokenizer, max_length)


def test_rows_in_memory_are_checked_too(tokenizer):
    with pytest.raises(RetainFirstError, match="rows, row 2: the row has the keys of no form"):
        data.encode_rows([{"text": "cat"}, {"txt": "cat"}], tokenizer, 5)


def test_chat_template_modes(tokenizer):
    row = {"question": "who?", "answer": "ann"}
    with pytest.raises(RetainFirstError, match="The tokenizer of tiny has no chat template"):
        data.encode(row, tokenizer, 99, chat_template="always")
    for any_row in (row, {"text": "cat"}):
        with pytest.raises(RetainFirstError, match=r"Unknown chat template mode 'alway'\. Did you mean 'always'"):
            data.encode(any_row, tokenizer, 99, chat_template="alway")


def test_a_template_that_refuses():
    tokenizer = tiny.tiny_tokenizer(chat=True)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    rows = [{"messages": [{"role": "system", "content": "be kind"}, assistant()]}]
    message = "rows, row 1: the chat template refuses the messages: System role not supported"
    with pytest.raises(RetainFirstError, match=message):
        data.encode_rows(rows, tokenizer, 99)


def test_no_pad_token(tmp_path, tokenizer_without_pad):
    with pytest.raises(RetainFirstError, match=r"tokenizer of tiny has no pad token.*--pad-token '<eos>'"):
        # Before the files are looked at: they do not exist.
        data.load_pairs(tmp_path / "a", tmp_path / "b", tokenizer_without_pad)
    data.set_pad_token(tokenizer_without_pad, "<pad>")
    assert data.pad_token_id(tokenizer_without_pad) == 0


def test_a_pad_token_must_exist(tokenizer_without_pad):
    with pytest.raises(RetainFirstError, match=r"'\[PAD\]' is not in the vocabulary of tiny.*<eos>"):
        data.set_pad_token(tokenizer_without_pad, "[PAD]")
    assert tokenizer_without_pad.pad_token is None
    assert len(tokenizer_without_pad) == len(tiny.tiny_vocabulary())


def test_pairing(tmp_path, tokenizer):
    with pytest.raises(RetainFirstError, match=r"Unknown pairing 'cylce'\. Did you mean 'cycle'"):
        data.load_pairs(tmp_path / "a", tmp_path / "b", tokenizer, pairing="cylce")
    rows = data.encode_rows([{"text": "cat"}], tokenizer, 5)
    with pytest.raises(RetainFirstError, match="Unknown pairing"):
        data.PairedDataset(rows, rows, "random")
    with pytest.raises(RetainFirstError, match="nothing has no rows"):
        data.PairedDataset(rows, data.EncodedSet([], name="nothing"))
