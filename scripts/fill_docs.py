"""Write measured figures and real output into the documents, between their markers.

    python -m scripts.fill_docs accuracy EVALUATION.json [--photos "what DIR held"]
    python -m scripts.fill_docs speed BENCH.json
    python -m scripts.fill_docs tour

The JSON files come from ``homeward evaluate --degrade --json`` and ``homeward bench --json``; the
tour runs the demonstration in a folder of its own. No figure in the documents is typed by hand.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
ACCURACY = ROOT / "docs" / "accuracy.md"

app = typer.Typer(add_completion=False, help="Fill the documents with measured figures.")


def replace_block(path: Path, name: str, content: str) -> None:
    """Put ``content`` between ``<!-- name: begin -->`` and ``<!-- name: end -->``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{path.name} has no block {name}")
    path.write_text(f"{before}{begin}\n{content.strip()}\n{end}{after}", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows])


def rate(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A rate with its 95 % interval, where there is one."""
    if value is None:
        return "-"
    span = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{value:.3f}{span}"


# --- accuracy --------------------------------------------------------------------------------


def headline(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures that a reader looks for first."""
    spans = report["intervals"]
    lines = [
        (f"found at rank {k}", rate(report[f"rank_{k}"], spans[f"rank_{k}"])) for k in (1, 10, 50)
    ]
    lines += [
        (f"true accept rate at FMR {name}", rate(value, spans["tar_at_fmr"][name]))
        for name, value in report["tar_at_fmr"].items()
        if value is not None
    ]
    lines += [
        (f"missed (FNIR) at FPIR {name}", rate(value, spans["fnir_at_fpir"][name]))
        for name, value in report["fnir_at_fpir"].items()
        if value is not None
    ]
    return [*lines, ("no face found", f"{report['failure_to_enroll']:.4f}")]


@app.command()
def accuracy(
    evaluation: Annotated[Path, typer.Argument(help="JSON of homeward evaluate.")],
    photos: Annotated[str, typer.Option(help="What was measured on.")] = "labelled photos",
) -> None:
    """Fill docs/accuracy.md and the short table of the README."""
    report = json.loads(evaluation.read_text(encoding="utf-8"))
    sample = (
        f"{report['images']:,} photos of {report['identities']:,} people ({photos}); "
        f"{report['genuine_pairs']:,} pairs of one person and {report['impostor_pairs']:,} of two; "
        f"gallery of {report['gallery']:,}, {report['mated_probes']:,} probes with somebody "
        f"to find and {report['non_mated_probes']:,} without. Contract `{report['contract_id']}`. "
        "In brackets: 95 % interval."
    )
    lines = headline(report)
    parts = [sample, "", table(["", "measured"], lines)]
    degraded = report.get("degraded") or []
    if degraded:
        rows = [
            [
                d["title"],
                rate(d["rank_1"]),
                rate(d["rank_10"]),
                rate(d["rank_50"]),
                rate(d["share_of_clean"], d["interval"]),
                rate(d["failure_to_enroll"]),
            ]
            for d in degraded
        ]
        parts += [
            "",
            "The same probes, degraded, against the clean gallery:",
            "",
            table(["probe", "rank 1", "rank 10", "rank 50", "share of clean", "not found"], rows),
        ]
    replace_block(ACCURACY, "figures", "\n".join(parts))
    short = [line for line in lines if line[0] not in {"found at rank 50"}][:4]
    replace_block(
        README,
        "accuracy",
        f"On {report['images']:,} photos ({photos}), every photo counted:\n\n"
        + table(["", "measured (95 % interval)"], short),
    )


# --- speed -----------------------------------------------------------------------------------


@app.command()
def speed(bench: Annotated[Path, typer.Argument(help="JSON of homeward bench.")]) -> None:
    """Fill the part on speed of docs/accuracy.md."""
    report = json.loads(bench.read_text(encoding="utf-8"))
    machine = report["machine"]
    throughput = [
        [
            line["engine"],
            "by size" if line["doublings"] is None else f"x{2 ** line['doublings']}",
            str(line["threads"]),
            f"{line['images_per_s']:.2f}",
            "" if line["speedup"] is None else f"{line['speedup']:.1f} x",
        ]
        for line in report["throughput"]
    ]
    stages = [
        [line["name"], line["unit"], str(line["threads"]), f"{line['ms']:.2f}"]
        for line in report["stages"]
    ]
    searches = [
        [
            line["engine"],
            f"{line['vectors']:,}",
            str(line["dimension"]),
            str(line["threads"]),
            str(line["probes"]),
            line["skipped"] or f"{line['p50_ms']:.2f}",
        ]
        for line in report["search"]
    ]
    peak = "; ".join(f"{name} {mib:,.0f} MiB" for name, mib in report["memory_mib"].items())
    parts = [
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, "
        f"ONNX Runtime {machine['onnxruntime']}; all in one run of `homeward bench`.",
        "",
        "Detect and embed:",
        "",
        table(["engine", "upsampled", "threads", "images/s", "against dlib"], throughput),
        "",
        *report["notes"],
        "",
        "Stages, median milliseconds:",
        "",
        table(["stage", "per", "threads", "ms"], stages),
        "",
        f"The {report['neighbours']} best of so many vectors, exact, median milliseconds a probe:",
        "",
        table(["engine", "vectors", "components", "threads", "probes at once", "ms"], searches),
        "",
        f"Memory, high-water mark of the process after each part: {peak}.",
    ]
    replace_block(ACCURACY, "speed", "\n".join(parts))


# --- tour ------------------------------------------------------------------------------------


@app.command()
def tour() -> None:
    """Run the demonstration and put its real output into the README."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "homeward-data")
        with demonstration(data) as (address, key, said):
            said = said.replace(key, "demo-...").replace(address, "http://127.0.0.1:8000")
            case = fetch(f"{address}/v1/cases", key)["items"][0]["case_id"]
            found = fetch(f"{address}/v1/cases/{case}/candidates?k=20", key)
        ranked = run(data, "candidates", "SAMPLE-0001", "-k", "6")
        searched = run(
            data,
            "search",
            str(data / "demonstration" / "images" / "sample-dark.jpg"),
            "--case",
            "SAMPLE-0001",
            "--purpose",
            "training",
            "-k",
            "3",
        )
        checked = run(data, "doctor")
    first = found["items"][0]
    first["face"]["quality"]["components"] = ["..."]
    shown = {**found, "items": [first, "..."]}
    replace_block(README, "tour", tour_text(said, ranked, shown, searched, tidy(checked)))


def tidy(output: str) -> str:
    """Without the lines that tell of this machine rather than of Homeward."""
    return "\n".join(
        line
        for line in output.splitlines()
        if not re.search(r"\b(machine|disk|data folder|packages|purges)\b", line)
    )


def tour_text(said: str, ranked: str, found: dict[str, Any], searched: str, checked: str) -> str:
    """The tour as Markdown."""
    return f"""\
**1. Start it.** The sample person is the public-domain portrait of an astronaut; the sample ads are
edits of that portrait among pictures of other people.

{block("$ make run", said)}

**2. Look.** Open the address, sign in with the key and choose the case: the photo, and beside it
the ranked candidates with crop, ad and band. Pages need no JavaScript.

![A case page: photos on the left, ranked candidates with band, ad and lead on the right. Every \
face is the public-domain portrait of the sample.](docs/pictures/case-light.png)

**3. The same in a terminal**, next to the running service (`source .venv/bin/activate` first):

{block("$ homeward candidates SAMPLE-0001 -k 6", ranked)}

The edits of the portrait come first: mirrored, dark, turned on its side, small, blurred. Twelve ads
show them, in a few leads: copies of one picture, and faces that look the same, are gathered. Then
come strangers, because a list is always filled. How near they are is what the rates are for. Edits
of one photograph score far higher than two photographs of one person: the demonstration shows how
Homeward works, not how accurate it is.

**4. Over HTTP** (shortened):

{
        block(
            '$ curl -H "Authorization: Bearer $KEY" "$URL/v1/cases/$CASE/candidates?k=20"',
            json.dumps(found, indent=2),
        )
    }

**5. Compare a photo without enrolling it**, for a case and a purpose; the search is recorded:

{block("$ homeward search sample-dark.jpg --case SAMPLE-0001 --purpose training -k 3", searched)}

Is everything in order?

{block("$ homeward doctor", checked)}
"""


def block(command: str, output: str) -> str:
    """A code block of a command and what it printed."""
    lines = [line.rstrip() for line in output.strip().splitlines()]
    return "\n".join(["```text", command, *lines, "```"])


def run(data: Path, *arguments: str) -> str:
    """What ``homeward`` prints."""
    done = subprocess.run(
        [homeward(), "--data-dir", str(data), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    return done.stdout


def homeward() -> str:
    return str(Path(sys.executable).with_name("homeward"))


@contextmanager
def demonstration(data: Path) -> Iterator[tuple[str, str, str]]:
    """Address, key and output of a served demonstration."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as output:
        served = subprocess.Popen(
            [homeward(), "--data-dir", str(data), "demo", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_ready(address, served)
            output.seek(0)
            key = (data / "demonstration-key").read_text(encoding="ascii").strip()
            yield address, key, output.read()
        finally:
            served.send_signal(signal.SIGINT)
            served.wait(timeout=30)


def wait_until_ready(address: str, served: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if served.poll() is not None:
            raise SystemExit("the demonstration did not start")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=2) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            pass
        time.sleep(0.5)
    raise SystemExit("the demonstration was not ready in five minutes")


def fetch(address: str, key: str) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310
        address, headers={"Authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        loaded: dict[str, Any] = json.load(answer)
    return loaded


if __name__ == "__main__":
    app()
