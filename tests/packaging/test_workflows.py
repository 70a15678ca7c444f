"""The workflows and forms of .github and the citation, as far as they can be checked without a runner."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from building import ROOT, tool

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCHEMAS = [
    *((path, "vendor.github-workflows") for path in WORKFLOWS),
    *((path, "custom.github-workflows-require-timeout") for path in WORKFLOWS),
    (GITHUB / "dependabot.yml", "vendor.dependabot"),
    (GITHUB / "ISSUE_TEMPLATE" / "config.yml", "vendor.github-issue-config"),
    *((GITHUB / "ISSUE_TEMPLATE" / name, "vendor.github-issue-forms") for name in ("bug.yml", "question.yml")),
    (ROOT / "CITATION.cff", "vendor.citation-file-format"),
]


def commands(workflow: Path) -> list[str]:
    """Return the shell commands of all steps."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize(("path", "schema"), SCHEMAS, ids=lambda value: getattr(value, "name", value))
def test_files_have_the_form_that_their_readers_want(path, schema):
    made = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", schema, str(path)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_make_target_and_file_of_a_workflow_exists(workflow):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = "\n".join(commands(workflow))
    assert set(re.findall(r"\bmake ([a-z-]+)", lines)) <= targets
    for path in re.findall(r"\b(?:tests|release)/[\w/.]+", lines):
        assert (ROOT / path).exists(), path


def test_only_publishing_has_more_rights_than_reading():
    rights = {}
    for workflow in WORKFLOWS:
        content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
        assert content["permissions"] == {"contents": "read"}
        rights |= {
            (workflow.name, name): set(job["permissions"])
            for name, job in content["jobs"].items()
            if "permissions" in job
        }
    assert rights == {("release.yml", "publish"): {"id-token"}, ("docs.yml", "publish"): {"id-token", "pages"}}
