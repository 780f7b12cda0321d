"""A small demonstration, made on the spot from photographs that installed packages carry.

The person looked for is scikit-image's portrait of an astronaut (public domain); the group
picture of insightface serves as other people, and two of scikit-image's pictures show nobody.
The pictures are edited the way pictures in advertisements differ from a family's photo: other
crops, mirrored, recompressed, marked, turned, small. Nobody shown has to do with any case.

Everything is deterministic, so a second start finds what the first one loaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from indexer.cases import find_case
from indexer.errors import CaseNotFound
from indexer.ingest import ingest_ads, ingest_cases
from indexer.records import IngestReport
from indexer.workspace import Workspace
from models.errors import HomewardError

CASE_NUMBER: Final = "SAMPLE-0001"
NOTE: Final = (
    "Sample pictures: nobody shown here has anything to do with any case or advertisement."
)
FOLDER: Final = "demonstration"
KEY_FILE: Final = "demonstration-key"
_LOADED: Final = "loaded.json"
_VERSION: Final = 1

Picture: TypeAlias = Image.Image
Edit: TypeAlias = Callable[[Picture], Picture]

# The six people of the group picture, from left to right: (left, top, right, bottom) in pixels.
_SEATS: Final = (
    (0, 205, 250, 455),
    (240, 85, 450, 295),
    (425, 200, 655, 430),
    (700, 265, 930, 495),
    (855, 0, 1105, 250),
    (1075, 215, 1280, 420),
)
# Head and shoulders of the portrait; a little more; the face alone.
_PORTRAIT: Final = (60, 0, 400, 340)
_WIDE: Final = (0, 0, 512, 512)
_CLOSE: Final = (145, 25, 325, 205)


class DemonstrationPicturesMissing(HomewardError):
    """The packages that carry the sample pictures are not installed."""

    code = "demonstration_pictures_missing"


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """What :func:`write_files` wrote: the two lists and the folders of their pictures."""

    ads: Path
    images: Path
    cases: Path
    photos: Path


@dataclass(frozen=True, slots=True)
class DemoReport:
    """``loaded`` is false where an earlier start had loaded everything already."""

    case_id: str
    case_number: str
    ads: int
    loaded: bool


@dataclass(frozen=True, slots=True)
class _Ad:
    """One advertisement of the demonstration: its pictures by file name."""

    pictures: Sequence[str]
    site: str
    days: int


def carried_path(package: str, *parts: str) -> Path:
    """Where the installed ``package`` keeps the sample picture ``parts``; nothing is imported.

    Raises:
        DemonstrationPicturesMissing: the package is not installed, or has no such picture.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0], *parts) if folders else None
    if path is None or not path.is_file():
        raise DemonstrationPicturesMissing(
            f"The package {package} with the sample picture {parts[-1]} is not installed.",
            remedy="Install it (pip install 'homeward[cpu]'), or load photos of your own.",
        )
    return path


def _carried(package: str, *parts: str) -> Picture:
    with Image.open(carried_path(package, *parts)) as image:
        return image.convert("RGB")


def _crop(box: tuple[int, int, int, int], side: int) -> Edit:
    return lambda picture: picture.crop(box).resize((side, side), Image.Resampling.LANCZOS)


def _marked(text: str) -> Edit:
    """A text across the lower third, as sites put their name over a picture."""

    def edit(picture: Picture) -> Picture:
        marked = picture.copy()
        draw = ImageDraw.Draw(marked, "RGBA")
        font = ImageFont.load_default(size=picture.height / 12)
        draw.text(
            (picture.width / 2, picture.height * 0.82),
            text,
            fill=(255, 255, 255, 170),
            font=font,
            anchor="mm",
        )
        return marked

    return edit


def _framed(picture: Picture) -> Picture:
    """A picture inside a larger page, as in a screenshot."""
    page = Image.new("RGB", (picture.width * 2, picture.height * 3 // 2), (245, 245, 242))
    page.paste(picture, (picture.width // 2, picture.height // 5))
    draw = ImageDraw.Draw(page)
    for line in range(4):
        top = picture.height * 5 // 4 + line * picture.height // 18
        draw.rectangle(
            (picture.width // 2, top, picture.width * (14 - line) // 10, top + 6),
            fill=(190, 190, 186),
        )
    return page


def _beside(other: Picture) -> Edit:
    """Two people in one picture, side by side."""

    def edit(picture: Picture) -> Picture:
        side = picture.height
        pair = Image.new("RGB", (side * 2, side))
        pair.paste(other.resize((side, side), Image.Resampling.LANCZOS), (0, 0))
        pair.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (side, 0))
        return pair

    return edit


def _turned(picture: Picture) -> Picture:
    return picture.transpose(Image.Transpose.ROTATE_90)


def _tilted(picture: Picture) -> Picture:
    return picture.rotate(18, Image.Resampling.BICUBIC, fillcolor=(120, 116, 110))


def _dark(picture: Picture) -> Picture:
    return ImageEnhance.Brightness(picture).enhance(0.45)


def _warm(picture: Picture) -> Picture:
    red, green, blue = picture.split()
    return Image.merge(
        "RGB",
        (red.point(lambda v: min(255, int(v * 1.12))), green, blue.point(lambda v: int(v * 0.8))),
    )


def _grey(picture: Picture) -> Picture:
    return ImageOps.grayscale(picture).convert("RGB")


def _soft(picture: Picture) -> Picture:
    return picture.filter(ImageFilter.GaussianBlur(1.6))


def _pictures() -> Iterator[tuple[str, Picture, Mapping[str, Any]]]:
    """File name, pixels and how to save them, of every picture in the sample ads."""
    portrait = _carried("skimage", "data", "astronaut.png")
    group = _carried("insightface", "data", "images", "t1.jpg")
    seats = [_crop(box, 420)(group) for box in _SEATS]

    def sample(name: str, *edits: Edit, quality: int = 85) -> tuple[str, Picture, dict[str, Any]]:
        picture = portrait
        for edit in edits:
            picture = edit(picture)
        return f"sample-{name}.jpg", picture, {"quality": quality}

    yield sample("wide", _crop(_WIDE, 640), quality=60)
    yield sample("close", _crop(_CLOSE, 300))
    yield sample("mirrored", _crop(_PORTRAIT, 480), ImageOps.mirror)
    yield sample("marked", _crop(_PORTRAIT, 480), _marked("sample-site-b.example"))
    yield sample("turned", _crop(_PORTRAIT, 480), _turned)
    yield sample("tilted", _crop(_PORTRAIT, 480), _tilted)
    yield sample("small", _crop(_PORTRAIT, 170), quality=70)
    yield sample("dark", _crop(_PORTRAIT, 400), _dark, _warm)
    yield sample("soft", _crop(_WIDE, 420), _soft, quality=25)
    yield sample("framed", _crop(_PORTRAIT, 320), _framed)
    yield sample("pair", _crop(_PORTRAIT, 360), _beside(seats[1]))

    for number, seat in enumerate(seats, start=1):
        yield f"other-{number}.jpg", seat, {"quality": 85}
        yield f"other-{number}-mirrored.jpg", _warm(ImageOps.mirror(seat)), {"quality": 55}
        yield (
            f"other-{number}-marked.jpg",
            _grey(_marked("sample-site-a.example")(seat.resize((260, 260)))),
            {"quality": 75},
        )
    yield "group.jpg", group, {"quality": 80}
    yield "nobody-1.jpg", _carried("skimage", "data", "coffee.png"), {"quality": 80}
    yield "nobody-2.jpg", _carried("skimage", "data", "rocket.jpg"), {"quality": 80}


def _ads() -> Iterator[_Ad]:
    """Which pictures appear in which ad; the portrait's are spread among the others'."""
    a, b, c = "sample-site-a.example", "sample-site-b.example", "sample-site-c.example"
    yield _Ad(["other-1.jpg"], a, 0)
    yield _Ad(["sample-wide.jpg"], a, 1)
    yield _Ad(["other-2.jpg", "other-2-mirrored.jpg"], b, 1)
    yield _Ad(["other-3.jpg"], c, 2)
    yield _Ad(["sample-mirrored.jpg", "nobody-1.jpg"], b, 3)
    yield _Ad(["other-4.jpg"], a, 3)
    yield _Ad(["other-5.jpg"], b, 4)
    yield _Ad(["sample-close.jpg"], c, 4)
    yield _Ad(["other-6.jpg"], c, 5)
    yield _Ad(["sample-marked.jpg"], b, 6)
    yield _Ad(["other-1-mirrored.jpg"], c, 6)
    yield _Ad(["group.jpg"], a, 7)
    yield _Ad(["sample-turned.jpg"], a, 8)
    yield _Ad(["other-3-mirrored.jpg", "other-3-marked.jpg"], a, 9)
    yield _Ad(["nobody-2.jpg"], c, 9)
    yield _Ad(["sample-small.jpg"], c, 10)
    yield _Ad(["other-4-mirrored.jpg"], b, 11)
    yield _Ad(["sample-tilted.jpg"], b, 12)
    yield _Ad(["other-5-mirrored.jpg"], c, 12)
    yield _Ad(["sample-pair.jpg"], a, 13)
    yield _Ad(["other-6-mirrored.jpg"], a, 14)
    yield _Ad(["sample-dark.jpg"], c, 15)
    yield _Ad(["other-1-marked.jpg"], b, 15)
    yield _Ad(["sample-soft.jpg"], a, 16)
    yield _Ad(["other-2-marked.jpg"], c, 17)
    yield _Ad(["other-4-marked.jpg", "nobody-1.jpg"], c, 18)
    yield _Ad(["sample-framed.jpg"], b, 19)
    yield _Ad(["other-5-marked.jpg", "other-6-marked.jpg"], a, 20)
    # The very picture of the second ad again, on another site: one lead, two ads.
    yield _Ad(["sample-wide.jpg"], c, 21)


def _lines() -> Iterator[dict[str, Any]]:
    for number, ad in enumerate(_ads(), start=1):
        day = f"2025-03-{ad.days + 1:02d}"
        yield {
            "site": ad.site,
            "external_id": f"sample-{number:04d}",
            "url": f"https://{ad.site}/{number:04d}",
            "posted_at": f"{day}T09:00:00Z",
            "captured_at": f"{day}T12:00:00Z",
            "title": f"Sample ad {number}",
            "body": NOTE,
            "city": ("Sample City", "Example Town", "Test Village")[number % 3],
            "region": "Sample Region",
            "language": "en",
            "attributes": {"sample": True},
            "images": list(ad.pictures),
        }


def write_files(folder: Path) -> DemoFiles:
    """Write the sample case, ads and pictures under ``folder``; the same bytes every time.

    Raises:
        DemonstrationPicturesMissing: scikit-image or insightface is not installed.
    """
    files = DemoFiles(
        ads=folder / "ads.jsonl",
        images=folder / "images",
        cases=folder / "cases.jsonl",
        photos=folder / "photos",
    )
    files.images.mkdir(parents=True, exist_ok=True)
    files.photos.mkdir(exist_ok=True)
    for name, picture, options in _pictures():
        picture.save(files.images / name, "JPEG", **options)
    portrait = _crop(_PORTRAIT, 480)(_carried("skimage", "data", "astronaut.png"))
    portrait.save(files.photos / "portrait.jpg", "JPEG", quality=92)
    case = {
        "case_number": CASE_NUMBER,
        "person": {"name": "Sample person (public-domain portrait)"},
        "default_purpose": "training",
        "notes": NOTE,
        "photos": ["portrait.jpg"],
    }
    files.cases.write_text(json.dumps(case) + "\n", encoding="utf-8")
    files.ads.write_text("".join(json.dumps(line) + "\n" for line in _lines()), encoding="utf-8")
    return files


def prepare(ws: Workspace, *, say: Callable[[str], None] = lambda _text: None) -> DemoReport:
    """Load the demonstration into ``ws``, unless an earlier start finished doing so.

    ``say`` receives a short line for each step. An interrupted start is taken up where it
    stopped: ingest recognises what it has.

    Raises:
        DemonstrationPicturesMissing: the packages with the sample pictures are not installed.
        HomewardError: an item of the demonstration was refused.
    """
    folder = ws.data_dir / FOLDER
    mark = folder / _LOADED
    total = sum(1 for _ad in _ads())
    if _is_loaded(ws, mark):
        return DemoReport(find_case(ws, CASE_NUMBER).case_id, CASE_NUMBER, total, loaded=False)
    say("Making the sample pictures.")
    files = write_files(folder)
    say(f"Reading {total} sample ads.")
    _insist(ingest_ads(ws, files.ads, files.images))
    say("Reading the sample case and searching the ads for it.")
    _insist(ingest_cases(ws, files.cases, files.photos))
    mark.write_text(json.dumps({"version": _VERSION}) + "\n", encoding="utf-8")
    case = find_case(ws, CASE_NUMBER)
    return DemoReport(case.case_id, CASE_NUMBER, total, loaded=True)


def _is_loaded(ws: Workspace, mark: Path) -> bool:
    try:
        state = json.loads(mark.read_text(encoding="utf-8"))
        find_case(ws, CASE_NUMBER)
    except (FileNotFoundError, ValueError, CaseNotFound):
        return False
    return bool(state == {"version": _VERSION})


def _insist(report: IngestReport) -> None:
    if report.refused:
        first = report.refused[0]
        raise HomewardError(
            f"The demonstration could not be loaded: {first.item}: {first.detail}",
            remedy="Delete the data folder of the demonstration and start again.",
            code="demonstration_refused",
        )


def sample_key(data_dir: Path) -> str:
    """The demonstration's access key, made on first use and kept in a file for its owner alone.

    Only the demonstration keeps a key in a file; ``homeward serve`` prints its key once.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / KEY_FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        pass
    key = "demo-" + secrets.token_urlsafe(24)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")
    return key
