"""ddimd-train as what evaluates: a classifier is trained, real and generated images are measured by it, reports are written.

The program is $DDIMD_TRAIN. Data and networks are tiny and made here.
"""
import csv
import json
import math
import os
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

PROGRAM = os.environ["DDIMD_TRAIN"]
IMAGES, SIDE, HELD_OUT = 300, 16, 60


def run(*args):
    return subprocess.run([PROGRAM, *map(str, args), "--threads", "2"], capture_output=True, text=True, timeout=300)


def write(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """IDX files: a bright square whose place says the class."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    labels = np.arange(IMAGES, dtype=np.uint8) % 10
    images = rng.integers(0, 60, (IMAGES, SIDE, SIDE), dtype=np.uint8)
    for image, label in zip(images, labels):
        y, x = divmod(int(label), 4)
        image[1 + 5 * y:5 + 5 * y, 4 * x:4 * x + 4] = rng.integers(180, 255)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, IMAGES) + labels.tobytes())
    return folder


def dataset(data, **more):
    return {"kind": "mnist", "path": str(data), "image_size": [SIDE, SIDE], "mode": "L", **more}


@pytest.fixture(scope="module")
def classifier(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    config = {
        "classifier": {"in_channels": 1, "channels": [8, 16], "blocks": 1, "dropout": 0.1, "num_classes": 10},
        "dataset": dataset(data, batch_size=16, num_workers=1), "shift": 0,
        "optimizer": {"lr": 0.02, "warmup_steps": 10}, "ema": {"decay": 0.9}, "validation": {"images": HELD_OUT},
        "epochs": 12, "log_steps": 5, "seed": 1, "device": "cpu", "precision": "f32",
    }
    done = run(write(folder / "c.json", config), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == {"event": "end", "end": "finished", "step": 180, "steps": 180}
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert len(epochs) == 12 and epochs[-1]["val_accuracy"] > 0.9 > epochs[0]["val_accuracy"]
    return folder / "run" / "checkpoints" / "last.safetensors"


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A model that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("model")
    config = {
        "model": {"in_channels": 1, "out_channels": 1, "model_channels": 32, "channel_mult": [1], "num_res_blocks": 1,
                  "attention_resolutions": [], "dropout": 0.0, "num_heads": 2, "num_classes": 10},
        "dataset": dataset(data, batch_size=30, num_workers=1), "validation": {"images": HELD_OUT},
        "sample": {"every": 0}, "epochs": 1, "device": "cpu", "precision": "f32",
    }
    done = run(write(folder / "c.json", config), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run" / "checkpoints" / "last.safetensors"


def evaluation(data, classifier, **more):
    return {"extractor": str(classifier), "reference": dataset(data, held_out=HELD_OUT, part="train"), "kid": False,
            "device": "cpu", "precision": "f32", **more}


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_images_that_are_the_reference(data, classifier, tmp_path):
    """Of the reference against itself the distance is none, precision and recall are whole."""
    config = evaluation(data, classifier, images=dataset(data, held_out=HELD_OUT, part="train"), cache=str(tmp_path / "cache"))
    for out in ("a", "b"):
        done = run("evaluate", write(tmp_path / "e.json", config), "--out", tmp_path / out)
        assert done.returncode == 0, done.stderr
        report = report_of(tmp_path / out)
        assert report["images"]["n"] == report["reference"]["n"] == IMAGES - HELD_OUT
        assert abs(report["images"]["fd"]) < 1e-6 < report["real"]["fd"]
        assert report["images"]["precision"] == report["images"]["recall"] == 1
        assert report["real"]["n"] == HELD_OUT and report["real"]["accuracy"] > 0.9
        assert not report["published_comparable"] and report["because"]
        assert ("features from the cache" in done.stdout) == (out == "b")
    assert report_of(tmp_path / "a")["real"]["fd"] == report_of(tmp_path / "b")["real"]["fd"]


def test_sweep_of_a_model(data, classifier, model, tmp_path):
    config = evaluation(data, classifier, model=str(model), n=40, seeds=2, batch=16, grid=20, nearest=5,
                        sampling={"eta": [0, 1]}, inversion={"steps": [2, 8], "images": 4})
    path, out = write(tmp_path / "e.json", config), tmp_path / "out"
    done = run("evaluate", path, "--out", out, "--steps", "2,4", "--sampler", "ddim,dpmpp_2m")
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert len(report["results"]) == 12 and len(report["points"]) == 6  # two seeds; dpmpp_2m has no eta
    for point in report["points"]:
        of_seeds = [r["fd"] for r in report["results"] if all(r[k] == point[k] for k in ("sampler", "eta", "steps"))]
        assert len(of_seeds) == 2 and of_seeds[0] != of_seeds[1]
        assert point["fd"] == pytest.approx(np.mean(of_seeds))
        assert point["fd_spread"] == pytest.approx(np.std(of_seeds, ddof=1))
        assert math.isfinite(point["inception_score"]) and point["fd"] > report["real"]["fd"]
    rows = list(csv.DictReader((out / "report.csv").open()))
    assert [float(r["fd"]) for r in rows] == pytest.approx([r["fd"] for r in report["results"]], rel=1e-8)
    assert [i["steps"] for i in report["inversion"]] == [2, 8] and report["nearest"]["n"] == 5
    text = (out / "report.md").read_text()
    assert "| FD: eta \\ steps | 2 | 4 |" in text and "real images, held out" in text
    assert Image.open(out / "report.png").size == (960, 600)
    assert Image.open(out / "samples" / "epoch-0001.png").size == (10 * (SIDE + 2) + 2, 2 * (SIDE + 2) + 2)
    assert Image.open(out / "samples" / "nearest.png").size == (5 * (SIDE + 2) + 2, 2 * (SIDE + 2) + 2)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == list(range(1, 13))
    assert lines[-1] == {"event": "end", "end": "finished", "step": 12, "steps": 12}

    # again: refused, and with --resume nothing is generated twice
    assert run("evaluate", path, "--out", out).returncode == 6
    before = report["results"]
    done = run("evaluate", path, "--out", out, "--resume", "--steps", "2,4", "--sampler", "ddim,dpmpp_2m")
    assert done.returncode == 0 and "IS" not in done.stdout
    assert report_of(out)["results"] == before


def test_images_do_not_depend_on_the_batch(data, classifier, model, tmp_path):
    results = []
    for batch in (2, 7):
        config = evaluation(data, classifier, model=str(model), n=20, batch=batch, grid=0, sampling={"steps": [3], "eta": [1]})
        done = run("evaluate", write(tmp_path / "e.json", config), "--out", tmp_path / str(batch))
        assert done.returncode == 0, done.stderr
        results.append(report_of(tmp_path / str(batch))["results"][0])
        results[-1].pop("seconds")
    assert results[0] == results[1]


@pytest.mark.parametrize("change, field", [
    ({"model": "m", "images": {"kind": "mnist", "path": "x"}}, "model"),
    ({}, "model"),
    ({"model": "m", "sampling": {"sampler": ["dddim"]}}, "sampling.sampler[0]"),
    ({"model": "m", "sampling": {"etas": [0]}}, "sampling.etas"),
    ({"model": "m", "reference": {"kind": "mnist", "path": "x", "part": "held_out"}}, "reference.held_out"),
    ({"model": "m", "resize": "bicubic"}, "resize"),
])
def test_bad_configurations(data, classifier, tmp_path, change, field):
    done = run("evaluate", write(tmp_path / "e.json", evaluation(data, classifier) | change), "--check")
    assert done.returncode == 2 and done.stderr.startswith(f"ddimd-train: {field}: ")


def test_a_model_is_no_extractor(data, model, tmp_path):
    config = evaluation(data, model, images=dataset(data))
    done = run("evaluate", write(tmp_path / "e.json", config), "--out", tmp_path / "out")
    assert done.returncode == 2 and "names neither a classifier nor inception" in done.stderr
