"""Files of labels: what is taken, and where each mistake is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.evaluation.labels import LabelsInvalid, read_labels
from indexer.evaluation.photos import Photo, PhotoSet

PHOTOS = PhotoSet(
    tuple(
        Photo(Path(name), name, identity)
        for name, identity in (
            ("ann/1.jpg", 0),
            ("ann/2.jpg", 0),
            ("ben/1.jpg", 1),
            ("cy/1.jpg", 2),
        )
    ),
    ("ann", "ben", "cy"),
    (),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def test_people_and_photos(file: Path) -> None:
    file.write_bytes(
        b"\xef\xbb\xbfidentity,photo,sex,race,age_band\r\n"
        b"ann,,Female,a,18-29\r\n\r\n"
        b',ann/2.jpg,,,"30-49"\r\n'
        b"ben,, male ,,\r\n"
    )
    labels = read_labels(file, PHOTOS)
    assert labels.attributes == ("sex", "race", "age_band")
    assert labels.values == {
        "sex": ("female", "male"), "race": ("a",), "age_band": ("18-29", "30-49"),
    }  # fmt: skip
    assert labels.codes["sex"].tolist() == [0, 0, 1, -1]
    assert labels.codes["race"].tolist() == [0, 0, -1, -1]
    assert labels.codes["age_band"].tolist() == [0, 1, -1, -1]


def test_columns_may_be_few_and_in_any_order(file: Path) -> None:
    file.write_text("age_band,photo\n0-17,ben/1.jpg\n")
    labels = read_labels(file, PHOTOS)
    assert labels.codes["age_band"].tolist() == [-1, -1, 0, -1]


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("", 1, 1, "the header needs"),
        ("identity\nann\n", 1, 1, "the header needs"),
        ("sex,race\nf,a\n", 1, 1, "the header needs"),
        ("identity,sex,income\n", 1, 3, "'income'"),
        ("identity,sex,sex\n", 1, 3, "twice"),
        ("identity,sex\nann,f\nzoe,f\n", 3, 1, "no identity 'zoe'"),
        ("photo,sex\nann/9.jpg,f\n", 2, 1, "no photo 'ann/9.jpg'"),
        ("photo,sex\n../../etc/passwd,f\n", 2, 1, "no photo"),
        ("identity,sex\nann,f\nann,f\n", 3, 1, "line 2 already"),
        ("identity,sex\nann,f,x\n", 2, 3, "3 cells, the header has 2"),
        ("identity,sex,race\nann,f\n", 2, 3, "2 cells, the header has 3"),
        ("identity,sex\n,f\n", 2, 1, "no person and no photo"),
        ("identity,photo,sex\nann,ann/1.jpg,f\n", 2, 2, "both"),
        ("identity,sex\nann,f\x1b[31m\n", 2, 2, "cannot be printed"),
        ("identity,sex\nann,f\x00\n", 2, 2, "cannot be printed"),
        ("identity,sex\nann," + "f" * 61 + "\n", 2, 2, "more than 60"),
        ("identity,sex\nann,f\nben," + "f" * 200_000 + "\n", 3, 1, "no CSV"),
        ('identity,sex\nann,"f\n', 2, 1, "no CSV"),
        ('identity,sex\n"ann"x,f\n', 2, 1, "no CSV"),
        ("identity,photo,sex\nann,,f\n,ann/2.jpg,m\n", 3, 3, "contradicts line 2"),
        ("photo,race\nann/1.jpg,a\nann/2.jpg,b\n", 3, 2, "contradicts line 2"),
    ],
)
def test_mistakes_are_named_by_line_and_column(
    file: Path, text: str, line: int, column: int, says: str
) -> None:
    file.write_text(text)
    with pytest.raises(LabelsInvalid) as caught:
        read_labels(file, PHOTOS)
    assert f"labels.csv, line {line}, column {column}: " in caught.value.detail
    assert says in caught.value.detail
    assert caught.value.remedy
    assert len(caught.value.detail) < 1_500


def test_what_is_not_text_is_named(file: Path) -> None:
    file.write_bytes(b"identity,sex\nann,f\nben,\xff\xfe\n")
    with pytest.raises(LabelsInvalid, match="line 3, column 2: this is not UTF-8"):
        read_labels(file, PHOTOS)


def test_too_many_values(file: Path) -> None:
    many = tuple(f"p{n:03}" for n in range(60))
    photos = PhotoSet(tuple(Photo(Path(n), f"{n}/1.jpg", i) for i, n in enumerate(many)), many, ())
    file.write_text("identity,race\n" + "".join(f"{name},{name}\n" for name in many))
    with pytest.raises(LabelsInvalid, match="line 1, column 2: more than 50"):
        read_labels(file, photos)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(LabelsInvalid) as caught:
            read_labels(path, PHOTOS)
        assert caught.value.remedy
