"""Run every step of a Dockerfile without Docker, in a clean root folder, and try what comes out.

    python -m scripts.check_images Dockerfile Dockerfile.gpu

Needs root, `unshare`, `chroot` and `debootstrap` (a Debian package), a package index and about 3 GB
of disk (10 GB for the GPU). The base is Debian with its own Python in place of the image that FROM
names: same system, same version of Python, another build of it. The steps are those of the file:
copied, run and set up by its own words. Then, in a root that cannot be written to, as the account
and with the environment that the file names, `homeward doctor` is run, the service is started as
the container starts it, and the health check is asked until it answers.

Pip's own settings (PIP_INDEX_URL, PIP_CERT and such) are taken along.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.dockerfile import Instruction, Stage, stages

CONTEXT = Path(__file__).resolve().parents[1]
PACKAGES = "python3,python3-venv,ca-certificates"
PORT = "18917"
READY_S = 300
STOP_S = 60
_PIP = ("PIP_CERT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_DEFAULT_TIMEOUT")
_WRITABLE = {"tmp": "mode=1777", "data": "mode=700,uid=10001,gid=10001"}
_NEVER_COPIED = shutil.ignore_patterns("__pycache__", "*.pyc")


@dataclass(slots=True)
class Root:
    """A folder that is the root of what runs in it, and how things run in it so far."""

    folder: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/bin"}
    )
    user: str = "0:0"
    work: str = "/"

    def inside(self, path: str) -> Path:
        return self.folder / str(Path(self.work) / path).lstrip("/")

    def command(
        self, words: list[str], extra: Mapping[str, str], *, read_only: bool = False
    ) -> list[str]:
        """The words as the first process of namespaces of its own, with this folder as the root."""
        root = str(self.folder)
        before = [f'mount -t proc proc "{root}/proc"']
        if read_only:
            # A tmpfs over each place that a container gets to write to.
            before = [
                f'mount --bind "{root}" "{root}"',
                f'mount -o remount,bind,ro "{root}"',
                f'mount -t proc proc "{root}/proc"',
                *(
                    f'mount -t tmpfs -o {how} tmpfs "{root}/{place}"'
                    for place, how in _WRITABLE.items()
                ),
            ]
        script = " && ".join([*before, 'exec "$@"'])
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"]
        return [*enter, *self.entered(words, extra)]

    def entered(self, words: list[str], extra: Mapping[str, str]) -> list[str]:
        given = [f"{name}={value}" for name, value in (self.environment | dict(extra)).items()]
        change = ["chroot", f"--userspec={self.user}", str(self.folder), "env", "-i", *given]
        return [*change, "sh", "-c", 'cd "$0" && exec "$@"', self.work, *words]


def build(file: Path, base: Path, scratch: Path) -> tuple[Root, Stage]:
    """Run all stages; the root that comes out, and the last stage.

    Raises CalledProcessError where a step fails.
    """
    done: dict[str, Root] = {}
    found = stages(file.read_text(encoding="utf-8"))
    for number, stage in enumerate(found):
        root = Root(scratch / f"stage-{number}")
        subprocess.run(["cp", "-a", "-x", str(base), str(root.folder)], check=True)
        for step in stage.steps:
            started = time.monotonic()
            _do(step, root, done)
            took = time.monotonic() - started
            if took >= 1:
                print(f"  {took:6.1f} s  {step.keyword} {step.rest}", flush=True)
        done[stage.name] = root
    return root, found[-1]


def _do(step: Instruction, root: Root, done: Mapping[str, Root]) -> None:
    if step.keyword == "ENV":
        root.environment |= dict(word.split("=", 1) for word in step.words)
    elif step.keyword == "USER":
        root.user = step.rest
    elif step.keyword == "WORKDIR":
        root.work = step.rest
        root.inside(".").mkdir(parents=True, exist_ok=True)
    elif step.keyword == "COPY":
        _copy(step.words, root, done)
    elif step.keyword == "RUN":
        pip = {name: os.environ[name] for name in _PIP if name in os.environ}
        subprocess.run(root.command(step.words, pip), check=True)


def _copy(words: list[str], root: Root, done: Mapping[str, Root]) -> None:
    origin = CONTEXT
    if words[0].startswith("--from="):
        origin = done[words.pop(0).removeprefix("--from=")].folder
    *sources, target = words
    for source in sources:
        path, goal = origin / source.lstrip("/"), root.inside(target)
        if path.is_dir():
            shutil.copytree(path, goal, symlinks=True, dirs_exist_ok=True, ignore=_NEVER_COPIED)
            continue
        if target.endswith("/") or goal.is_dir():
            goal = goal / path.name
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, goal)


def try_it(root: Root, stage: Stage) -> None:
    """Start what the image starts, in a root that cannot be written to.

    Raises CalledProcessError or RuntimeError where it does not work.
    """
    entry, command = stage.last("ENTRYPOINT"), stage.last("CMD")
    assert entry is not None and command is not None
    # Here no GPU is promised, and the network is that of this machine.
    extra = {"HOMEWARD_PROVIDER": "cpu", "HOMEWARD_PORT": PORT, "HOMEWARD_HOST": "127.0.0.1"}
    subprocess.run(root.command([*entry.words, "doctor"], extra, read_only=True), check=True)
    if "HOMEWARD_PROVIDER" in root.environment:
        _expect_refusal(root, entry.words + command.words, extra)
    words = root.command([*entry.words, *command.words], extra, read_only=True)
    with subprocess.Popen(words) as process:
        try:
            _wait_until_healthy(process, root, stage, extra)
        finally:
            # It would outlive what started it: a change of the account ends that bond.
            for child in _children(process.pid):
                os.kill(int(child), signal.SIGTERM)
            code = process.wait(STOP_S)
    if code != 0:
        raise RuntimeError(f"the service ended with {code} when it was told to stop")


def _expect_refusal(root: Root, words: list[str], extra: Mapping[str, str]) -> None:
    """Without a GPU the image for GPUs must not serve on the processor."""
    if Path("/proc/driver/nvidia").exists():
        return
    asked = dict(extra) | {"HOMEWARD_PROVIDER": root.environment["HOMEWARD_PROVIDER"]}
    done = subprocess.run(
        root.command(words, asked, read_only=True), capture_output=True, text=True, check=False
    )
    if done.returncode != 1 or "provider_unavailable" not in done.stderr:
        raise RuntimeError(f"it started without a GPU, or failed otherwise: {done.stderr[-500:]}")
    print("  without a GPU it refuses to start: " + done.stderr.strip().splitlines()[-1][:200])


def _wait_until_healthy(
    process: subprocess.Popen[bytes], root: Root, stage: Stage, extra: Mapping[str, str]
) -> None:
    health = stage.last("HEALTHCHECK")
    assert health is not None
    check = Instruction("CMD", health.rest.partition(" CMD ")[2]).words
    started = time.monotonic()
    while time.monotonic() - started < READY_S:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}")
        for child in _children(process.pid):
            enter = ["nsenter", "--target", child, "--mount", "--pid", *root.entered(check, extra)]
            if subprocess.run(enter, capture_output=True, check=False).returncode == 0:
                print(f"  healthy after {time.monotonic() - started:.1f} s")
                return
        time.sleep(1)
    raise RuntimeError("the health check never succeeded")


def _children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []


def clean_base(folder: Path) -> None:
    """A Debian with Python in ``folder``, with this machine's way to the network."""
    subprocess.run(
        # In namespaces of its own, or what it mounts would stay mounted.
        [
            "unshare",
            "--mount",
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            "bookworm",
            str(folder),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def take_along(folder: Path) -> None:
    """How names and certificates are found here."""
    for name in ("/etc/resolv.conf", os.environ.get("PIP_CERT", "")):
        if name and Path(name).is_file():
            target = folder / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target)
    link = folder / "usr/local/bin/python"
    if not link.is_symlink():
        link.symlink_to("/usr/bin/python3")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--base", type=Path, help="a root made by debootstrap; else one is made")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="homeward-images-") as name:
        # Else the account that a step runs as could not reach its own root.
        Path(name).chmod(0o755)
        base = given.base or Path(name, "base")
        if given.base is None:
            clean_base(base)
        take_along(base)
        for file in given.files:
            print(file, flush=True)
            scratch = Path(name, file.name)
            scratch.mkdir()
            try:
                try_it(*build(file, base, scratch))
            except (subprocess.CalledProcessError, RuntimeError) as error:
                print(f"WRONG: {error}", file=sys.stderr)
                return 1
            shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
