"""Pictures: rendered scenes, class folders, COCO as it is published, and what cannot be used."""

import dataclasses
import io
import json
import pathlib
import types
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from micronets_jax import data
from micronets_jax.data import pictures
from micronets_jax.data.embedded import scenes
from micronets_jax.data.sources import class_folders, visual_wake_words

FRONT_END = data.Pixels(12, 16)
SMALL = scenes.Scenes(train=40, validation=8, test=36, rows=32, columns=40)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MICRONETS_CACHE", str(tmp_path / "cache"))


def photo(seed: int, mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A smooth picture, so that JPEG keeps it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def as_bytes(picture: Image.Image, kind: str = "png") -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def folder_of(path: pathlib.Path, classes: str, count: int) -> pathlib.Path:
    for i, name in enumerate(classes.split()):
        (path / name).mkdir(parents=True)
        for k in range(count):
            photo(100 * i + k).save(path / name / f"{k}.{'jpg' if k % 2 else 'png'}")
    return path


# --- rendered scenes -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_scenes_on_any_number_of_cores(monkeypatch):
    first = scenes.generate(SMALL)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    again = scenes.generate(SMALL)
    other = scenes.generate(dataclasses.replace(SMALL, seed=1))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(first["train_examples"], other["train_examples"])
    assert first["train_examples"].shape == (40, 32, 40, 1)
    whole = np.concatenate(
        [first[f"{split}_examples"] for split in ("train", "validation", "test")]
    )
    assert len({scene.tobytes() for scene in whole}) == 84
    for split in ("train", "validation", "test"):
        counts = np.bincount(first[f"{split}_labels"])
        assert counts[0] == counts[1]


def test_light_and_contrast_tell_nothing():
    arrays = scenes.generate(dataclasses.replace(SMALL, train=400))
    pixels = arrays["train_examples"].astype(float)
    for statistic in (pixels.mean(axis=(1, 2, 3)), pixels.std(axis=(1, 2, 3))):
        person, none = (statistic[arrays["train_labels"] == k] for k in (1, 0))
        error = np.sqrt(person.var() / len(person) + none.var() / len(none))
        assert abs(person.mean() - none.mean()) < 4 * error


def test_a_stroke_covers_what_it_should():
    x, y = np.meshgrid((np.arange(40) + 0.5) / 40, (np.arange(40) + 0.5) / 40)
    pixels = np.zeros((1, 40, 40, 3), np.float32)
    stroke = np.array([[0.25, 0.5, 0.75, 0.5, 0.1, 0.1, 0.5, 0.5, 0.5]], np.float32)
    scenes._paint(pixels, x.astype(np.float32), y.astype(np.float32), stroke, 1 / 40)
    # A rectangle of 0.5 x 0.2 with half discs of radius 0.1 at its ends.
    covered = (pixels[0, ..., 0] > 0).mean()
    assert covered == pytest.approx(0.5 * 0.2 + np.pi * 0.1**2, abs=0.03)
    assert pixels[0, 20, 20, 0] > 0.3 and pixels[0, 2, 20, 0] == 0


def test_embedded_scenes_have_the_front_end_s_size():
    tiny = visual_wake_words.load("embedded", data.Pixels(20, 24, 3), size="tiny")
    assert tiny.train.examples.shape == (480, 20, 24, 3)
    assert tiny.class_names == ("not_person", "person")
    with pytest.raises(data.DataError, match=r"size='huge'.*tiny, quick, paper"):
        visual_wake_words.load("embedded", FRONT_END, size="huge")
    with pytest.raises(data.DataError, match="12x16 is too small to see anybody"):
        visual_wake_words.load("embedded", FRONT_END, size="tiny")


# --- image files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "png"), ("RGB", "jpeg"), ("L", "png"), ("CMYK", "jpeg"), ("P", "png"),
     ("RGBA", "png"), ("LA", "png"), ("1", "png")],
)  # fmt: skip
def test_every_colour_space_is_read(mode, kind):
    picture = photo(3, mode)
    grey = np.asarray(picture.convert("RGB").convert("L").resize((16, 12), Image.Resampling.BOX))
    read = pictures.decode(as_bytes(picture, kind), (12, 16, 1), "x")
    assert read.shape == (12, 16, 1) and read.dtype == np.uint8
    np.testing.assert_allclose(read[..., 0], grey, atol=16 if kind == "jpeg" else 1)
    assert pictures.decode(as_bytes(picture, kind), (30, 40, 3), "x").shape == (30, 40, 3)


def test_sixteen_bits_keep_their_upper_half():
    levels = np.linspace(0, 65_535, 20 * 24).reshape(20, 24).astype(np.uint16)
    read = pictures.decode(as_bytes(Image.fromarray(levels)), (20, 24, 1), "x")
    np.testing.assert_allclose(read[..., 0], levels / 257, atol=0.51)


def test_what_is_transparent_is_white_and_cameras_are_turned_upright():
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    assert (pictures.decode(as_bytes(clear), (10, 10, 1), "x") == 255).all()
    picture = Image.fromarray(np.repeat([[0], [255]], 10, axis=0).repeat(20, 1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    out = io.BytesIO()
    picture.save(out, "png", exif=exif)
    assert (
        pictures.decode(out.getvalue(), (20, 20, 1), "x")[:, 0, 0].tolist() == [255] * 10 + [0] * 10
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is an empty file"),
        (b"no picture", "cannot be read as an image"),
        (as_bytes(photo(0), "jpeg")[:-200], "cannot be read as an image.*[Tt]runcated"),
        (as_bytes(photo(0), "png")[:-60], "cannot be read as an image"),
        (as_bytes(photo(0, size=(1, 1))), "has 1 x 1 pixels; give at least 8"),
        (as_bytes(photo(0, size=(7, 90))), "has 7 x 90 pixels"),
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "one pixel", "narrow"],
)
def test_unusable_files_are_named(tmp_path, content, part):
    folder = folder_of(tmp_path / "d", "cat dog", 10)
    (folder / "cat" / "bad.jpg").write_bytes(content)
    with pytest.raises(data.DataError, match=rf"bad\.jpg.*{part}") as caught:
        class_folders.load(folder, FRONT_END)
    assert "\n" not in str(caught.value)
    with pytest.raises(data.DataError, match=r"bad\.jpg"):
        FRONT_END.read(folder / "cat" / "bad.jpg")
    assert not (tmp_path / "cache").exists()


def test_pixels_span_minus_one_to_one():
    levels = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(data.Pixels(1, 3)(levels).ravel(), [-1, -0.6, 1], atol=1e-6)
    restored = data.frontends.from_json(data.frontends.to_json(data.Pixels(5, 6, 3)))
    assert restored == data.Pixels(5, 6, 3) and restored.shape == (5, 6, 3)
    for wrong in ({"rows": 0}, {"channels": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            data.Pixels(**wrong)


# --- class folders -------------------------------------------------------------------------------


def test_folders_are_the_classes_and_each_is_divided(tmp_path):
    folder = folder_of(tmp_path / "pets", "cat dog owl", 20)
    (folder / "cat" / "notes.txt").write_text("not a picture")
    first, again = class_folders.load(folder, FRONT_END), class_folders.load(folder, FRONT_END)
    assert first.class_names == ("cat", "dog", "owl") and first.name == "pets"
    for split, each in (("train", 16), ("validation", 2), ("test", 2)):
        part = getattr(first, split)
        np.testing.assert_array_equal(np.bincount(part.labels), [each] * 3)
        np.testing.assert_array_equal(part.examples, getattr(again, split).examples)
    seen = np.concatenate([first.train.examples, first.validation.examples, first.test.examples])
    assert len({picture.tobytes() for picture in seen}) == 60
    assert class_folders.load(folder, FRONT_END, seed=1).fingerprint != first.fingerprint


def test_given_splits_are_kept(tmp_path):
    folder_of(tmp_path / "d" / "train", "cat dog", 20)
    folder_of(tmp_path / "d" / "test", "cat dog", 3)
    loaded = class_folders.load(tmp_path / "d", FRONT_END)
    assert [len(p) for p in (loaded.train, loaded.validation, loaded.test)] == [36, 4, 6]
    expected = FRONT_END.read(tmp_path / "d" / "test" / "dog" / "0.png")[0]
    assert any(np.array_equal(expected, one) for one in loaded.test.examples[3:])


def bad_folder(path: pathlib.Path, problem: str) -> None:
    if problem == "missing":
        return
    folder_of(path, "cat" if problem == "one class" else "cat dog", 10)
    if problem == "empty class":
        (path / "owl").mkdir()
    if problem == "few":
        folder_of(path / "..", "d/owl", 3)
    if problem == "only train":
        folder_of(path / "train", "cat dog", 3)
    if problem == "other classes":
        folder_of(path / "train", "cat dog", 9)
        folder_of(path / "test", "cat owl", 9)


@pytest.mark.parametrize(
    ("problem", "part"),
    [
        ("missing", "is not there; give a folder"),
        ("one class", "has 1 class folders"),
        ("empty class", "the class 'owl' holds no images"),
        ("few", "1 images of 'owl' fall into the train split"),
        ("only train", "has train but no test"),
        ("other classes", "class 'dog' is in only one of train and test"),
    ],
)
def test_bad_folders_end_in_one_sentence(tmp_path, problem, part):
    bad_folder(tmp_path / "d", problem)
    with pytest.raises(data.DataError, match=part) as caught:
        class_folders.load(tmp_path / "d", FRONT_END)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_visual_wake_words_need_both_folders(tmp_path):
    folder = folder_of(tmp_path / "d", "person not_person trees", 10)
    loaded = visual_wake_words.load(folder, FRONT_END)
    assert loaded.class_names == ("not_person", "person") and len(loaded.train) == 16
    folder_of(tmp_path / "e", "person dogs", 10)
    with pytest.raises(data.DataError, match="has no folder not_person"):
        visual_wake_words.load(tmp_path / "e", FRONT_END)


# --- COCO ----------------------------------------------------------------------------------------


PERSON, DOG = 1, 18


def annotations(count: int, first: int = 0) -> dict:
    """Pictures of 100 x 80; every third has a person of 0.5 %, every third a smaller one."""
    images = [
        {"id": i, "file_name": f"COCO_{i:012d}.jpg", "width": 100, "height": 80}
        for i in range(first, first + count)
    ]
    boxes = []
    for image in images:
        kind = image["id"] % 3
        wide = 8 if kind == 0 else 7.9  # times 5, of 8000: 0.5 % and less
        boxes.append({"image_id": image["id"], "category_id": DOG, "bbox": [0, 0, 90, 70]})
        if kind < 2:
            box = {"image_id": image["id"], "category_id": PERSON, "bbox": [3, 4, wide, 5]}
            boxes.append(box)
    categories = [{"id": DOG, "name": "dog"}, {"id": PERSON, "name": "person"}]
    return {"images": images, "annotations": boxes, "categories": categories}


def archives(folder: pathlib.Path, missing: int = 0) -> pathlib.Path:
    """COCO 2014 in miniature: 120 training pictures, 12 validation pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train2014": annotations(120), "val2014": annotations(12, 1000)}
    with zipfile.ZipFile(folder / "annotations_trainval2014.zip", "w") as packed:
        for part, content in parts.items():
            packed.writestr(f"annotations/instances_{part}.json", json.dumps(content))
    for part, content in parts.items():
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as packed:
            for image in content["images"][missing if part == "train2014" else 0 :]:
                picture = as_bytes(photo(image["id"], size=(100, 80)), "jpeg")
                packed.writestr(f"{part}/{image['file_name']}", picture)
    return folder


def test_a_person_of_half_a_per_cent_counts():
    found = visual_wake_words.labels(annotations(6))
    assert [one.person for one in found] == [True, False, False] * 2
    with pytest.raises(data.DataError, match="not an annotation file"):
        visual_wake_words.labels({"images": []})


def test_coco_is_read_packed_and_unpacked(tmp_path):
    folder = archives(tmp_path / "coco")
    packed = visual_wake_words.load(folder, FRONT_END)
    assert len(packed.train) + len(packed.validation) == 120
    np.testing.assert_array_equal(np.bincount(packed.test.labels), [8, 4])
    for name in ("train2014.zip", "val2014.zip", "annotations_trainval2014.zip"):
        with zipfile.ZipFile(folder / name) as content:
            content.extractall(folder)
        (folder / name).unlink()
    unpacked = visual_wake_words.load(folder, FRONT_END)
    assert unpacked.fingerprint == packed.fingerprint
    np.testing.assert_array_equal(unpacked.train.examples, packed.train.examples)


def test_missing_images_are_counted_or_refused(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = visual_wake_words.load(archives(tmp_path / "one", missing=1), FRONT_END)
    said = [str(w.message) for w in caught]
    assert len(said) == 1 and said[0].startswith("1 of 120 annotated images")
    assert "COCO_000000000000.jpg" in said[0]
    assert len(loaded.train) + len(loaded.validation) == 119
    with pytest.raises(
        data.DataError, match=r"2 of 120 .* such as COCO_0+\.jpg; that is more than 1"
    ):
        visual_wake_words.load(archives(tmp_path / "two", missing=2), FRONT_END)


@pytest.mark.parametrize("name", ["annotations_trainval2014.zip", "train2014.zip"])
def test_damaged_archives_are_named(tmp_path, name):
    folder = archives(tmp_path / "coco")
    (folder / name).write_bytes(b"PK no archive")
    with pytest.raises(data.DataError, match=f"{folder} has n"):
        visual_wake_words.load(folder, FRONT_END)


@pytest.mark.slow
def test_the_builder_makes_the_same_of_the_same_archives(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from micronets_jax.data.builders import micronets_vww

    archives(tmp_path / "tfds" / "downloads" / "manual")
    builder = micronets_vww.MicronetsVww(data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    assert sizes == {"train": 120, "validation": 12}
    served = visual_wake_words.from_tfds(FRONT_END, data_dir=tmp_path / "tfds")
    plain = visual_wake_words.load(archives(tmp_path / "coco"), FRONT_END)
    for split in ("train", "validation", "test"):
        mine, theirs = getattr(served, split), getattr(plain, split)
        np.testing.assert_array_equal(np.bincount(mine.labels), np.bincount(theirs.labels))
        # Another decoder: one level is allowed to differ.
        pair = (np.sort(part.examples.mean(axis=(1, 2, 3))) for part in (mine, theirs))
        np.testing.assert_allclose(*pair, atol=1.0)


@pytest.mark.slow
def test_coco_as_tfds_serves_it(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    person = tfds.features.ClassLabel(names=["person", "dog"])

    class Builder:
        """What a prepared builder shows of itself, with a miniature data set behind it."""

        info = types.SimpleNamespace(
            full_name="coco/2014/1.1.0",
            features={"objects": {"label": person}},
            splits={"train": types.SimpleNamespace(num_examples=60)},
        )

        def download_and_prepare(self):
            pass

        def as_dataset(self, split):
            for k in range(60):
                box = np.array([[0.0, 0.0, 0.5, 0.01 if k % 2 else 0.009]], np.float32)
                yield {
                    "image": np.full((30, 40, 3), k, np.uint8),
                    "image/filename": f"{split}{k}.jpg".encode(),
                    "objects": {"bbox": box, "label": np.zeros(1, np.int64)},
                }

    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder())
    monkeypatch.setattr(tfds, "as_numpy", lambda examples: examples)
    served = visual_wake_words.from_tfds(FRONT_END, data_dir=tmp_path)
    assert len(served.train) + len(served.validation) == len(served.test) == 60
    np.testing.assert_array_equal(served.test.examples[:, 0, 0, 0], np.arange(60))
    np.testing.assert_array_equal(served.test.labels, np.arange(60) % 2)


def test_boxes_of_tfds_follow_the_same_rule():
    class Names:
        def str2int(self, name: str) -> int:
            assert name == "person"
            return 0

    features = {"objects": {"label": Names()}}
    box = [[0.5, 0.2, 0.6, 0.25], [0.0, 0.0, 0.9, 0.9]]  # 0.5 % and 81 %, rows first

    def shows(labels, boxes=box):
        objects = {"label": np.array(labels), "bbox": np.array(boxes, np.float32)}
        return visual_wake_words.shows_person({"objects": objects}, features)

    assert shows([0, 7]) and not shows([7, 7])
    assert not shows([0, 7], [[0.5, 0.2, 0.6, 0.249], [0, 0, 1, 1]])
    assert visual_wake_words.shows_person({"label": 1}, None)
