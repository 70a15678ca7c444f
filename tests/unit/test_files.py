"""Files and folders appear whole or not at all."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst.files import (
    json_text,
    refuse_existing,
    refuse_unwritable,
    whole_file,
    whole_folder,
    write_json,
    write_whole,
)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(("content", "stored"), [("naïve\n", "naïve\n".encode()), (b"\x00\xff", b"\x00\xff")])
def test_write_whole_replaces_the_file(tmp_path, content, stored):
    file = tmp_path / "a.txt"
    file.write_text("before")
    write_whole(file, content)
    assert file.read_bytes() == stored
    assert names(tmp_path) == ["a.txt"]


def test_json_holds_null_for_numbers_that_are_not_finite(tmp_path):
    data = {"nan": float("nan"), "list": [float("inf"), 1.5], "tuple": (1, "a"), "nothing": None, "yes": True}
    write_json(tmp_path / "a.json", data)
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "nan": None, "list": [None, 1.5], "tuple": [1, "a"], "nothing": None, "yes": True,
    }  # fmt: skip
    assert json_text({"a": 1}, indent=None) == '{"a": 1}'


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real.json", tmp_path / "link.json"
    link.symlink_to(target)
    refuse_unwritable(link)
    for value in (1, 2):  # the first time, the target does not exist
        write_json(link, value)
        assert link.is_symlink()
        assert json.loads(target.read_text()) == value


def test_a_linked_folder_stays_a_link(tmp_path):
    target, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(target)
    with whole_folder(link) as draft:
        (draft / "a").write_text("1")
    assert link.is_symlink()
    assert names(target) == ["a"]


def fail_in_file(path, error):
    with whole_file(path / "file") as draft:
        draft.write_text("half")
        raise error


def fail_in_folder(path, error):
    with whole_folder(path / "folder") as draft:
        (draft / "part").write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError("inside"), KeyboardInterrupt()])
@pytest.mark.parametrize("fail", [fail_in_file, fail_in_folder])
def test_a_draft_never_remains(tmp_path, fail, error):
    write_whole(tmp_path / "file", "before")
    with pytest.raises(type(error)):
        fail(tmp_path, error)
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_a_full_disk_is_named_and_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_whole(file, "before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RetainFirstError, match=r"a\.json cannot be written: No space left on device"):
        write_json(file, 1)
    assert names(tmp_path) == ["a.json"]
    assert file.read_text() == "before"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RetainFirstError, match="absent/a cannot be written: No such file"):
        write_whole(tmp_path / "absent" / "a", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(RetainFirstError, match="file/a cannot be written: Not a directory"):
        write_whole(tmp_path / "file" / "a", "text")


def test_a_whole_folder_takes_an_empty_folders_place(tmp_path):
    folder = tmp_path / "new" / "results"
    folder.mkdir(parents=True)
    with whole_folder(folder) as draft:
        assert draft.parent == folder.parent
        (draft / "a").write_text("1")
    assert names(folder.parent) == ["results"]
    assert names(folder) == ["a"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_a_folder_that_was_taken_meanwhile_is_left_alone(tmp_path):
    folder = tmp_path / "results"

    def write():
        with whole_folder(folder) as draft:
            (draft / "mine").write_text("")
            folder.mkdir()
            (folder / "theirs").write_text("")

    with pytest.raises(RetainFirstError, match="results cannot be written"):
        write()
    assert names(tmp_path) == ["results"]
    assert names(folder) == ["theirs"]


def test_existing_results_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RetainFirstError, match="is a file"):
        refuse_existing(tmp_path / "file")
    with pytest.raises(RetainFirstError, match="is not empty"), whole_folder(tmp_path):
        pass
    refuse_existing(tmp_path / "absent")


def test_unwritable_places_are_refused_before_work(tmp_path):
    for path in (tmp_path, tmp_path / "absent" / "a.json"):
        with pytest.raises(RetainFirstError, match="give a file in an existing folder"):
            refuse_unwritable(path)
    refuse_unwritable(tmp_path / "a.json")
    assert names(tmp_path) == []
