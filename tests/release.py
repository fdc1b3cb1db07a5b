"""Runs .github/workflows/release.yml as far as it can be run without GitHub, Docker and a network.

    target/python/bin/python tests/release.py BINARY

Each job runs in a copy of the tracked files, once for each combination of its matrix. The steps' own commands are run as they
stand; `docker`, `gh` and, where it is not installed, `cargo cyclonedx` are stand-ins that note their arguments, and BINARY is
what the images contain. Actions are not run: those with results have a stand-in. A failing command and whatever is not
understood (an expression, an action, a key) fail the run.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
# With a letter that an image's name must not have.
REPOSITORY = "Owner/tcb-upload-gateway"
IMAGE = f"ghcr.io/{REPOSITORY.lower()}"
GITHUB = {
    "actor": "owner",
    "ref_name": f"v{VERSION}",
    "repository": REPOSITORY,
    "server_url": "https://github.com",
    "sha": "0123456789abcdef0123456789abcdef01234567",
    "token": "the-token",
}
STEP_KEYS = {"env", "id", "name", "run", "uses", "with"}
JOB_KEYS = {"needs", "permissions", "runs-on", "steps", "strategy", "timeout-minutes"}
# GitHub's own shell for `run` without a `shell`.
SHELL = ["bash", "-e"]

# Notes its arguments, one in a line, and an empty line. What follows is each command's.
NOTE = '#!/bin/sh\n{ printf "%s\\n" "$@"; echo; } >> "$NOTES/${0##*/}"\n'
STAND_INS = {
    # `docker create IMAGE` prints the container's id, `docker cp CONTAINER:PATH FOLDER` copies the binary.
    "docker": 'case $1 in create) echo container ;; cp) cp "$BINARY" "$3${2##*/}" ;; buildx) ;; *) exit 64 ;; esac\n',
    # The files are kept as they are when the release is made.
    "gh": 'for file in "$@"; do ! test -f "$file" || cp "$file" "$NOTES/"; done\n',
}
# `cargo cyclonedx … --override-filename NAME` writes NAME.json.
CYCLONEDX = 'echo \'{"bomFormat": "CycloneDX", "components": []}\' > "$(printf %s "${@: -1}").json"\n'


class NotUnderstood(Exception):
    """The workflow has something that GitHub may understand, and this script does not."""


def evaluated(value, contexts):
    """`value` with every `${{ name }}` replaced, in texts at any depth."""
    if isinstance(value, dict):
        return {key: evaluated(one, contexts) for key, one in value.items()}
    if isinstance(value, list):
        return [evaluated(one, contexts) for one in value]
    if not isinstance(value, str):
        return value

    def replaced(match):
        found = contexts
        for name in match[1].strip().split("."):
            if not isinstance(found, dict) or name not in found:
                raise NotUnderstood(f"the expression {match[0]}")
            found = found[name]
        if not isinstance(found, str):
            raise NotUnderstood(f"the expression {match[0]}")
        return found

    text = re.sub(r"\$\{\{(.*?)\}\}", replaced, value, flags=re.DOTALL)
    if "${{" in text:
        raise NotUnderstood(f"the expression in {value!r}")
    return text


def combinations(matrix):
    """The combinations of a matrix. An entry of `include` adds to those that it contradicts in nothing."""
    matrix = dict(matrix)
    include = matrix.pop("include", [])
    result = [dict(zip(matrix, values)) for values in itertools.product(*matrix.values())]
    for entry in include:
        fits = [one for one in result if all(one[key] == entry[key] for key in entry if key in matrix)]
        if not fits:
            raise NotUnderstood("an entry of `include` that makes a combination of its own")
        for one in fits:
            one.update(entry)
    return result


def only(given, known, what):
    if unknown := set(given) - known:
        raise NotUnderstood(f"{what} with {sorted(unknown)}")


class Run:
    """A run of the whole workflow: what the jobs share, and what is left at the end."""

    def __init__(self, workflow, binary, folder, ref_name=GITHUB["ref_name"]):
        self.workflow, self.binary, self.folder = workflow, binary, folder
        self.github = {**GITHUB, "ref_name": ref_name}
        self.artifacts, self.notes, self.bin = (folder / name for name in ("artifacts", "notes", "bin"))
        for path in (self.artifacts, self.notes, self.bin):
            path.mkdir()
        for name, text in STAND_INS.items():
            self.command(name, text)
        self.stands_in = [*STAND_INS]
        if not shutil.which("cargo-cyclonedx"):
            self.command("cargo-cyclonedx", CYCLONEDX, "#!/bin/bash\n")
            self.stands_in.append("cargo cyclonedx")
        self.digests = {}
        self.report = []

    def command(self, name, text, head=NOTE):
        path = self.bin / name
        path.write_text(head + text)
        path.chmod(0o755)

    def all(self):
        jobs, done = dict(self.workflow["jobs"]), set()
        while jobs:
            ready = [name for name, job in jobs.items() if {job.get("needs")} - {None} <= done]
            if not ready:
                raise NotUnderstood(f"what the jobs {sorted(jobs)} need")
            for name in ready:
                job = jobs.pop(name)
                only(job, JOB_KEYS, f"the job {name}")
                only(job.get("strategy", {}), {"matrix"}, "a strategy")
                for matrix in combinations(job.get("strategy", {}).get("matrix", {})):
                    self.job(name, job, matrix)
                done.add(name)

    def job(self, name, job, matrix):
        keys = [key for key in job.get("strategy", {}).get("matrix", {}) if key != "include"]
        label = " ".join([name, *(str(matrix[key]) for key in keys)])
        workspace = self.folder / label.replace(" ", "-")
        workspace.mkdir()
        contexts = {
            "env": {},
            "github": self.github,
            "matrix": matrix,
            "secrets": {"GITHUB_TOKEN": self.github["token"]},
            "steps": {},
        }
        evaluated(job["runs-on"], contexts)
        for step in job["steps"]:
            only(step, STEP_KEYS, "a step")
            step = evaluated(step, contexts)
            title = step.get("name") or step.get("uses") or step["run"].splitlines()[0]
            if "run" in step:
                how = self.run(step, workspace, contexts)
            else:
                how = self.uses(step, workspace, contexts)
            self.report.append((label, title, how))

    def run(self, step, workspace, contexts):
        written = self.folder / "github-env"
        written.write_text("")
        environment = {
            "BINARY": str(self.binary),
            "CARGO_HOME": os.environ.get("CARGO_HOME", str(Path.home() / ".cargo")),
            "GITHUB_ENV": str(written),
            "HOME": str(Path.home()),
            "NOTES": str(self.notes),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            **{f"GITHUB_{key.upper()}": value for key, value in self.github.items() if key != "token"},
            **contexts["env"],
            **step.get("env", {}),
        }
        subprocess.run([*SHELL, "-c", step["run"]], check=True, cwd=workspace, env=environment)
        for line in written.read_text().splitlines():
            name, equals, value = line.partition("=")
            if not equals or "<<" in name:
                raise NotUnderstood(f"the line {line!r} in GITHUB_ENV")
            contexts["env"][name] = value
        used = [name for name in self.stands_in if re.search(rf"(^|[\s(]){name}\b", step["run"])]
        return f"run, {' and '.join(used)} by a stand-in" if used else "run"

    def uses(self, step, workspace, contexts):
        action, given = step["uses"].split("@")[0], step.get("with", {})
        match action:
            case "actions/checkout":
                only(given, set(), action)
                listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
                for name in filter(None, listed.split("\0")):
                    if (ROOT / name).is_file():
                        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(ROOT / name, workspace / name)
            case "docker/build-push-action":
                only(given, {"context", "platforms", "build-args", "labels", "outputs", "provenance"}, action)
                outputs = dict(one.partition("=")[::2] for one in given["outputs"].split(","))
                assert outputs["name"] == IMAGE and outputs["push-by-digest"] == "true", outputs
                name, _, profile = given["build-args"].partition("=")
                assert (ROOT / "Dockerfile").read_text().count(f"ARG {name}"), f"the Dockerfile has no {name}"
                digest = hashlib.sha256(f"{given['platforms']} {profile}".encode()).hexdigest()
                self.digests.setdefault(profile, set()).add(digest)
                contexts["steps"][step["id"]] = {"outputs": {"digest": f"sha256:{digest}"}}
            case "actions/upload-artifact":
                only(given, {"name", "path"}, action)
                paths = [workspace / one for one in given["path"].split()]
                # It keeps the paths from their common folder on, and no empty folders.
                above = Path(os.path.commonpath(paths))
                for path in paths:
                    for file in filter(Path.is_file, path.rglob("*")):
                        to = self.artifacts / given["name"] / file.relative_to(above)
                        to.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(file, to)
            case "actions/download-artifact":
                only(given, {"path", "merge-multiple"}, action)
                assert given["merge-multiple"] is True
                for artifact in self.artifacts.iterdir():
                    shutil.copytree(artifact, workspace / given["path"], dirs_exist_ok=True)
            case "docker/setup-buildx-action" | "docker/login-action" | "taiki-e/install-action":
                return "not run"
            case _:
                raise NotUnderstood(f"the action {action}")
        return "by a stand-in"


def noted(run, command):
    """The arguments of each call of a stand-in."""
    calls = (run.notes / command).read_text().split("\n\n")
    return [call.split("\n") for call in calls if call]


def results(run):
    """What the workflow has published."""
    images = {}
    for call in noted(run, "docker"):
        if call[:3] == ["buildx", "imagetools", "create"]:
            tags = [tag for option, tag in zip(call, call[1:]) if option == "--tag"]
            of = {one.removeprefix(f"{IMAGE}@sha256:") for one in call if "@" in one}
            images.update({tag: of for tag in tags})
    tags = {"production": (VERSION, "latest"), "sandbox": (f"{VERSION}-sandbox", "sandbox")}
    wanted = {f"{IMAGE}:{tag}": run.digests[profile] for profile, names in tags.items() for tag in names}
    assert images == wanted, images
    assert all(len(digests) == 2 for digests in run.digests.values()), "both architectures"

    (release,) = noted(run, "gh")
    assert release[:3] == ["release", "create", f"v{VERSION}"] and "--verify-tag" in release, release
    text = (run.notes / "notes.md").read_text()
    assert text.strip() and not re.search("^## ", text, re.MULTILINE), "the changelog's section of this version"
    names = [f"tcb-upload-gateway-{VERSION}-{target}" for target in ("x86_64-linux", "aarch64-linux")]
    files = {*(f"{name}.tar.gz" for name in names), "SHA256SUMS", "sbom.cdx.json"}
    assert files <= {one.removeprefix("./") for one in release}, release
    for name in names:
        with tarfile.open(run.notes / f"{name}.tar.gz") as archive:
            files = {one.name: one for one in archive.getmembers() if one.isfile()}
            assert {Path(one).name for one in files} == {
                "tcb-upload-gateway", "LICENSE", "README.md", "README.zh-CN.md", "CHANGELOG.md",
            }, files  # fmt: skip
            binary = files[f"{name}/tcb-upload-gateway"]
            assert binary.size == run.binary.stat().st_size and binary.mode & 0o111, "it can be run"
    subprocess.run(["sha256sum", "--quiet", "--strict", "--check", "SHA256SUMS"], check=True, cwd=run.notes)
    assert len((run.notes / "SHA256SUMS").read_text().splitlines()) == 3
    components = json.loads((run.notes / "sbom.cdx.json").read_text())
    assert components["bomFormat"] == "CycloneDX"
    if "cargo cyclonedx" not in run.stands_in:
        assert components["metadata"]["component"]["version"] == VERSION
        listed = {one["name"] for one in components["components"]}
        # The last are of the sandbox and of tests, which the production image does not have.
        assert {"actix-web", "rustls"} <= listed and not {"crc", "image", "proptest"} & listed, listed
        print(f"{len(listed)} components")


def refused(text, binary, ref_name=GITHUB["ref_name"]):
    """Whether a run of a changed workflow fails."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            Run(yaml.safe_load(text), binary, Path(folder), ref_name).all()
        except (NotUnderstood, subprocess.CalledProcessError) as why:
            print(f"refused, as it should be: {why}")
            return True
    return False


def main():
    binary = Path(sys.argv[1]).resolve()
    text = WORKFLOW.read_text()
    workflow = yaml.safe_load(text)
    # YAML 1.1 reads `on` as a boolean.
    assert any(fnmatch(GITHUB["ref_name"], tag) for tag in workflow[True]["push"]["tags"])
    with tempfile.TemporaryDirectory() as folder:
        run = Run(workflow, binary, Path(folder))
        run.all()
        results(run)
        for label, title, how in run.report:
            print(f"{label:24} {title:48} {how}")
        print(f"{sum('run' == how[:3] for _, _, how in run.report)} of {len(run.report)} steps were run")

    # This script fails where the workflow would.
    assert refused(text, binary, "v0.0.0"), "a tag that is not the version"
    for what, to in [
        ("${{ matrix.profile }}", "${{ matrix.profiles }}"),
        ("${{ github.sha }}", "${{ github.sha || 'none' }}"),
        ("docker/login-action@v4", "docker/unknown-action@v4"),
        ("needs: build", "needs: builds"),
        ('mkdir "$name"', 'mkdir "$name/x"'),
        ("- name: Name of the image", "- continue-on-error: true"),
        ("docker create", "docker run"),
    ]:
        assert text.count(what), what
        assert refused(text.replace(what, to, 1), binary), to


if __name__ == "__main__":
    main()
