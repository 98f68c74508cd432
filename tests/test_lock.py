"""The lock files: what they pin is what the requirements ask for, by hash, on any machine."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11.9", "3.12.9")
SYSTEMS = {
    "Linux on x86-64": {"sys_platform": "linux", "platform_machine": "x86_64"},
    "Linux on ARM": {"sys_platform": "linux", "platform_machine": "aarch64"},
    "macOS on ARM": {"sys_platform": "darwin", "platform_machine": "arm64"},
}


SERVICES = {  # what the tool says, its status, and what is said then
    "clean": ("No known vulnerabilities found", 0, 0, "No known vulnerabilities"),
    "found": ("Found 2 known vulnerabilities in 1 package\nx 1.0 PYSEC-1", 1, 1, "PYSEC-1"),
    "away": ("ConnectionError: the service cannot be reached", 1, 3, "nothing was audited"),
}


@pytest.mark.parametrize("service", SERVICES)
def test_the_audit_says_what_it_found_or_that_no_service_answers(
    tmp_path: Path, service: str
) -> None:
    said, status, expected, told = SERVICES[service]
    tool = tmp_path / "uv"
    tool.write_text(
        f"#!/bin/sh\ncat <<'END'\n{said}\nEND\necho \"$@\" >>{tmp_path}/asked\nexit {status}\n"
    )
    tool.chmod(0o755)
    done = subprocess.run(
        ["make", "--silent", "--old-file=.venv/.installed", "audit"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert told in done.stdout + done.stderr, done
    assert done.returncode == (2 if expected else 0)  # make's own word for any fault
    assert not expected or f"Error {expected}" in done.stderr
    asked_for = (tmp_path / "asked").read_text()
    assert "--requirement requirements-dev.lock --require-hashes" in asked_for


def asked(name: str) -> list[Requirement]:
    """What a requirements file names, with those of the file that it begins with."""
    found = []
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found += asked(line[3:])
        elif line:
            found.append(Requirement(line))
    return found


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """What a lock file pins, each with its hashes."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)
    entries = [entry.split("--hash=") for entry in text.replace("\\\n", " ").splitlines()]
    return [(Requirement(head), [one.strip() for one in hashes]) for head, *hashes in entries]


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_a_lock_pins_every_file_by_its_hash_and_names_no_host(name: str) -> None:
    entries = locked(f"{name}.lock")
    assert len(entries) > 100
    for entry, hashes in entries:
        assert [one.operator for one in entry.specifier] == ["=="], entry
        assert entry.url is None
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), entry
    text = (ROOT / f"{name}.lock").read_text(encoding="utf-8")
    assert "://" not in text and "index-url" not in text and "find-links" not in text


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_a_lock_answers_what_is_asked_for_on_every_system(
    name: str, python: str, system: str
) -> None:
    here = {"python_version": python[:4], "python_full_version": python, **SYSTEMS[system]}
    pinned = {}
    for entry, _ in locked(f"{name}.lock"):
        if entry.marker is None or entry.marker.evaluate(here):
            (pin,) = entry.specifier
            assert canonicalize_name(entry.name) not in pinned, f"{entry.name} is pinned twice"
            pinned[canonicalize_name(entry.name)] = pin.version
    for wanted in asked(f"{name}.txt"):
        version = pinned.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted} is not in the lock; run: make lock"
        assert wanted.specifier.contains(version), f"{wanted} is locked at {version}: make lock"
