"""ddimd-train from outside: a run, its files, its signals, its exit codes, and that a stopped run goes on bit for bit.

The program is $DDIMD_TRAIN. Data and networks are tiny and made here.
"""
import functools
import hashlib
import http.server
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import threading
import time

import numpy as np
import pytest
from PIL import Image

PROGRAM = os.environ["DDIMD_TRAIN"]
IMAGES, SIDE, BATCH, HELD_OUT = 70, 16, 8, 6
STEPS_PER_EPOCH = (IMAGES - HELD_OUT) // BATCH
TIMES = {"images_per_s", "wait_share", "seconds_left"}  # of a metrics line: the only members that the clock decides


def config(path, **changes):
    c = {
        "model": {"in_channels": 1, "out_channels": 1, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
                  "attention_resolutions": [2], "dropout": 0.1, "num_heads": 2, "num_classes": 10},
        "dataset": {"kind": "mnist", "path": str(path), "image_size": [SIDE, SIDE], "mode": "L", "batch_size": BATCH,
                    "num_workers": 2, "flip": 0.5},
        "optimizer": {"lr": 1e-3, "warmup_steps": 4, "schedule": "cosine"},
        "ema": {"decay": 0.9},
        "validation": {"images": HELD_OUT},
        "sample": {"n": 4, "steps": 3, "every": 2},
        "checkpoint": {"save_freq": 1},
        "epochs": 3, "log_steps": 3, "seed": 11, "device": "cpu", "precision": "f32",
    }
    for key, value in changes.items():
        part = c
        *parents, last = key.split("__")
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    return c


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """IDX files: a bright square whose place says the class."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    labels = np.arange(IMAGES, dtype=np.uint8) % 10
    images = rng.integers(0, 40, (IMAGES, SIDE, SIDE), dtype=np.uint8)
    for image, label in zip(images, labels):
        y, x = divmod(int(label), 4)
        image[1 + 5 * y:5 + 5 * y, 4 * x:4 * x + 4] = 230
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, IMAGES) + labels.tobytes())
    return folder


def start(tmp_path, c, *args, out="run"):
    path = tmp_path / f"{out}.json"
    path.write_text(json.dumps(c))
    return subprocess.Popen([PROGRAM, str(path), "--out", str(tmp_path / out), "--threads", "2", *args],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train(tmp_path, c, *args, out="run", code=0):
    process = start(tmp_path, c, *args, out=out)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stdout + stderr
    return stdout, stderr


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(lines):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def tensors(path):
    """name -> (dtype, shape, bytes), and the metadata."""
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    metadata = header.pop("__metadata__")
    return {k: (v["dtype"], v["shape"], raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in header.items()}, metadata


def wait_for_step(folder, step, process):
    """Until the run has written a metrics line of this step or a later one."""
    for _ in range(6000):
        if (folder / "metrics.jsonl").exists():
            text = (folder / "metrics.jsonl").read_text()
            if any(int(n) >= step for n in re.findall(r'"step":(\d+)', text)):
                return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("no progress")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data):
    """Six epochs without a stop: what every interrupted run must equal."""
    folder = tmp_path_factory.mktemp("unbroken")
    train(folder, config(data, epochs=6))
    return folder / "run"


def assert_same_run(folder, unbroken):
    for name in ("last", "best", "epoch-0004", "epoch-0006"):
        a, b = (f / "checkpoints" / f"{name}.safetensors" for f in (folder, unbroken))
        assert a.read_bytes() == b.read_bytes(), name
    assert tensors(folder / "checkpoints" / "state.safetensors")[0] == \
        tensors(unbroken / "checkpoints" / "state.safetensors")[0]
    assert without_times(metrics(folder)) == without_times(metrics(unbroken))
    assert (folder / "samples" / "epoch-0006.png").read_bytes() == (unbroken / "samples" / "epoch-0006.png").read_bytes()


# --------------------------------------------------------------------------- a run and its files
def test_run(tmp_path, data):
    stdout, stderr = train(tmp_path, config(data, optimizer__schedule="constant", epochs=6))
    run = tmp_path / "run"
    assert stderr == ""
    last = stdout.splitlines()[-1]
    assert last == f"finished after {6 * STEPS_PER_EPOCH} steps, {6 * STEPS_PER_EPOCH * BATCH} images; " \
                   f"the model: {run}/checkpoints/best.safetensors"
    assert sorted(os.listdir(run)) == ["checkpoints", "config.json", "lock", "metrics.jsonl", "samples"]
    assert sorted(os.listdir(run / "checkpoints")) == ["best.safetensors"] + \
        [f"epoch-000{k}.safetensors" for k in range(1, 7)] + ["last.safetensors", "state.safetensors"]
    assert sorted(os.listdir(run / "samples")) == [f"epoch-000{k}.png" for k in (2, 4, 6)]
    with Image.open(run / "samples" / "epoch-0006.png") as grid:
        assert grid.size == (4 * (SIDE + 2) + 2, SIDE + 4)
    lines = metrics(run)
    epochs = [line for line in lines if line["event"] == "epoch"]
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(3, 6 * STEPS_PER_EPOCH + 1, 3))
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1]["val_loss"] < 0.7 * epochs[0]["val_loss"] and steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    for line in steps:
        assert line["lr"] > 0 and line["grad_norm"] > 0 and line["images_per_s"] > 0 and 0 <= line["wait_share"] <= 1
        assert len(line["loss_by_timestep"]) == 10 and line["skipped"] == 0
    best = min(epochs, key=lambda line: line["val_loss"])
    model, metadata = tensors(run / "checkpoints" / "best.safetensors")
    about = json.loads(metadata["ddimd"])
    assert about["training"]["epoch"] == best["epoch"]
    assert about["training"]["val_loss"] == pytest.approx(best["val_loss"], rel=1e-6)
    assert about["data"] == {"image_size": [SIDE, SIDE], "mode": "L", "classes": [str(k) for k in range(10)]}
    assert all(dtype == "F32" for dtype, _, _ in model.values())
    assert model["class_embed.weight"][1] == [11, 128]


def test_bar_on_a_terminal(tmp_path, data):
    """The bar is redrawn in place and gone when a line that stays is printed; elsewhere there is none."""
    path = tmp_path / "c.json"
    path.write_text(json.dumps(config(data)))
    ours, theirs = os.openpty()
    process = subprocess.Popen([PROGRAM, str(path), "--out", str(tmp_path / "run"), "--threads", "2"], stdout=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    bars = re.findall(rb"epoch \d+/3 \[#*\.*\] \d+/8  loss [\d.]+  [\d.]+ images/s  [\d:-]+ left", shown)
    assert bars and b"\r\x1b[K" in shown
    lines = [re.split(rb"\x1b\[K", line)[-1] for line in shown.replace(b"\r\n", b"\n").splitlines()]
    assert sum(re.match(rb"epoch \d+/3  loss [\d.]+  val_loss [\d.]+", line) is not None for line in lines) == 3
    stdout, _ = train(tmp_path, config(data, epochs=1), out="plain")
    assert "\x1b" not in stdout and "[#" not in stdout


def test_same_bytes_for_any_workers(tmp_path, data):
    for workers in (0, 1, 4):
        c = config(data, epochs=1, dataset__num_workers=workers)
        train(tmp_path, c, out=f"w{workers}")
    files = [tensors(tmp_path / f"w{w}" / "checkpoints" / "last.safetensors")[0] for w in (0, 1, 4)]
    assert files[0] == files[1] == files[2]


def test_micro_batch_is_the_same_batch(tmp_path, data):
    """Pieces of 3, 3 and 2 change the sum's rounding only."""
    values = []
    for piece in (0, 3):
        train(tmp_path, config(data, epochs=1, micro_batch=piece, dataset__flip=0), out=f"m{piece}")
        values.append(tensors(tmp_path / f"m{piece}" / "checkpoints" / "last.safetensors")[0]["out_conv.weight"][2])
    a, b = (np.frombuffer(v, np.float32) for v in values)
    assert np.linalg.norm(a - b) < 1e-3 * np.linalg.norm(a)


def test_options(tmp_path, data):
    """A last batch that is not full; weighted losses, paired timesteps, a guided grid in pieces; each has its effect."""
    base = dict(epochs=2, dataset__batch_size=10, dataset__drop_last=False, sample__n=20)
    stdout, _ = train(tmp_path, config(data, **base), out="base")
    images = IMAGES - HELD_OUT
    assert f"finished after {2 * 7} steps, {2 * images} images" in stdout
    grids = {"base": (tmp_path / "base" / "samples" / "epoch-0002.png").read_bytes()}
    losses = {"base": metrics(tmp_path / "base")[0]["loss"]}
    for name, extra in (("snr", {"min_snr_gamma": 5}), ("pairs", {"antithetic": True}),
                        ("guided", {"sample__guidance": 3, "precision": "f32"})):
        train(tmp_path, config(data, **base, **extra), out=name)
        grids[name] = (tmp_path / name / "samples" / "epoch-0002.png").read_bytes()
        losses[name] = metrics(tmp_path / name)[0]["loss"]
    assert len(set(grids.values())) == 4
    assert losses["guided"] == losses["base"] and len(set(losses.values())) == 3


def test_distillation(tmp_path, data):
    """A student begins as its teacher: with guidance 1 it has nothing to learn, with guidance 3 the guided prediction."""
    train(tmp_path, config(data, epochs=3, model__dropout=0.0), out="teacher")
    teacher = tmp_path / "teacher" / "checkpoints" / "best.safetensors"
    losses = {}
    for guidance, lr in ((1, 1e-9), (3, 1e-3)):  # AdamW would make steps of lr of rounding errors too
        c = config(data, epochs=6, model__dropout=0.0, optimizer__lr=lr, distill={"teacher": str(teacher), "guidance": guidance})
        train(tmp_path, c, out=f"guided{guidance}")
        losses[guidance] = [m["val_loss"] for m in metrics(tmp_path / f"guided{guidance}") if m["event"] == "epoch"]
    assert losses[1][0] < 1e-9 < losses[3][0] * 1e-3
    assert losses[3][-1] < losses[3][0]
    metadata = json.loads(tensors(tmp_path / "guided3" / "checkpoints" / "last.safetensors")[1]["ddimd"])
    assert metadata["training"]["config"]["distill"] == {"teacher": hashlib.sha256(teacher.read_bytes()).hexdigest(), "guidance": 3.0}


def test_what_is_kept(tmp_path, data):
    train(tmp_path, config(data, epochs=5, checkpoint__keep_last=2), out="two")
    assert sorted(os.listdir(tmp_path / "two" / "checkpoints")) == \
        ["best.safetensors", "epoch-0004.safetensors", "epoch-0005.safetensors", "last.safetensors", "state.safetensors"]
    train(tmp_path, config(data, epochs=3, checkpoint__save_best_only=True, checkpoint__dtype="BF16"), out="best")
    assert sorted(os.listdir(tmp_path / "best" / "checkpoints")) == \
        ["best.safetensors", "last.safetensors", "state.safetensors"]
    model, _ = tensors(tmp_path / "best" / "checkpoints" / "best.safetensors")
    assert all(dtype == "BF16" for dtype, _, _ in model.values())
    train(tmp_path, config(data, epochs=5, checkpoint__save_freq=2, sample__every=0), out="two_by_two")
    assert sorted(os.listdir(tmp_path / "two_by_two" / "checkpoints")) == \
        ["best.safetensors", "epoch-0002.safetensors", "epoch-0004.safetensors", "epoch-0005.safetensors",
         "last.safetensors", "state.safetensors"]
    assert os.listdir(tmp_path / "two_by_two" / "samples") == []


def test_early_stopping(tmp_path, data):
    """No epoch is better by 10 than the first."""
    c = config(data, epochs=50, early_stopping={"patience": 2, "min_delta": 10})
    stdout, _ = train(tmp_path, c)
    assert stdout.splitlines()[-1].startswith(f"stopped early, nothing improves any more after {3 * STEPS_PER_EPOCH} steps")


# --------------------------------------------------------------------------- stopping and going on
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_and_resume(tmp_path, data, unbroken, number):
    c = config(data, epochs=6)
    process = start(tmp_path, c)
    wait_for_step(tmp_path / "run", STEPS_PER_EPOCH + 3, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and stderr == "", stdout + stderr
    assert stdout.splitlines()[-1].startswith("stopped on request")
    state = json.loads(tensors(tmp_path / "run" / "checkpoints" / "state.safetensors")[1]["ddimd_state"])["state"]
    assert STEPS_PER_EPOCH + 3 <= state["step"] < 6 * STEPS_PER_EPOCH, "the test's run was over before the signal"
    stdout, _ = train(tmp_path, c, "--resume")
    assert f"(step {state['step']})" in stdout
    assert_same_run(tmp_path / "run", unbroken)


def test_kill_and_resume(tmp_path, data, unbroken):
    """SIGKILL at random moments until the run is done; every broken run equals the unbroken one. DDIMD_KILLS=100: the
    long form, over as many runs as that takes."""
    c, wanted = config(data, epochs=6), int(os.environ.get("DDIMD_KILLS", "10"))
    rng, kills, runs = random.Random(5), 0, 0
    while kills < wanted or not runs:
        out, broken = f"run{runs}", 0
        while True:
            process = start(tmp_path, c, "--resume", out=out)
            try:
                stdout, stderr = process.communicate(timeout=rng.uniform(0.02, 1.0) if broken < 30 else 300)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                broken += 1
                continue
            assert process.returncode == 0, stdout + stderr
            if stdout.splitlines()[-1].startswith("finished"):
                break
        assert_same_run(tmp_path / out, unbroken)
        kills, runs = kills + broken, runs + 1
    print(f"{kills} kills in {runs} runs")


def test_full_disk(tmp_path, data, unbroken):
    """A checkpoint that cannot be written ends the run and says so; what was kept before is whole, and is gone on from."""
    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))

    c, checkpoints = config(data, epochs=6), tmp_path / "run" / "checkpoints"
    train(tmp_path, config(data, epochs=2))
    before = {p.name: p.read_bytes() for p in checkpoints.iterdir()}
    result = subprocess.run([PROGRAM, str(tmp_path / "run.json"), "--out", str(tmp_path / "run"), "--threads", "2",
                             "--resume", "--set", "epochs=6"], capture_output=True, text=True, preexec_fn=small_disk)
    assert result.returncode == 1 and "write" in result.stderr, result.stdout + result.stderr
    assert {p.name: p.read_bytes() for p in checkpoints.iterdir()} == before
    train(tmp_path, c, "--resume")
    assert metrics(tmp_path / "run")[-1]["end"] == "finished"


def test_stop_at_once(tmp_path, data):
    """A signal before the first step: the first step is done, and a checkpoint is there."""
    process = start(tmp_path, config(data, epochs=1000))
    while not (tmp_path / "run" / "lock").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").exists()


def test_resume_refuses_another_run(tmp_path, data):
    train(tmp_path, config(data, epochs=1))
    _, stderr = train(tmp_path, config(data, epochs=1), code=6)
    assert "--resume" in stderr
    _, stderr = train(tmp_path, config(data, epochs=2, label_dropout=0.2), "--resume", code=2)
    assert "label_dropout" in stderr
    train(tmp_path, config(data, epochs=2), "--resume")
    state = tmp_path / "run" / "checkpoints" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    train(tmp_path, config(data, epochs=3), "--resume", code=1)


def test_resume_from_another_folder(tmp_path, data):
    train(tmp_path, config(data, epochs=1), out="first")
    state = str(tmp_path / "first" / "checkpoints" / "state.safetensors")
    stdout, _ = train(tmp_path, config(data, epochs=2, resume=state), out="second")
    assert os.path.exists(stdout.splitlines()[-1].split("the model: ")[1])
    assert f"(step {STEPS_PER_EPOCH})" in stdout
    assert [line["epoch"] for line in metrics(tmp_path / "second") if line["event"] == "epoch"] == [2]


def test_one_process_a_folder(tmp_path, data):
    process = start(tmp_path, config(data, epochs=10000))
    wait_for_step(tmp_path / "run", 3, process)
    _, stderr = train(tmp_path, config(data), "--resume", code=6)
    assert "another ddimd-train" in stderr
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


# --------------------------------------------------------------------------- mistakes
def test_configuration_mistakes(tmp_path, data):
    _, stderr = train(tmp_path, config(data, optimizer__learning_rate=1), code=2)
    assert stderr.startswith("ddimd-train: optimizer.learning_rate: unknown key")
    _, stderr = train(tmp_path, config(data, checkpoint__save_frek=1), code=2)
    assert "save_freq" in stderr
    _, stderr = train(tmp_path, config(data, model__num_classes=9), code=2)
    assert "model.num_classes" in stderr and "10 classes" in stderr
    _, stderr = train(tmp_path, config(data, validation__images=IMAGES), code=2)
    assert "validation" in stderr
    _, stderr = train(tmp_path, config(data, dataset__batch_size=1000), code=2)
    assert "dataset.batch_size" in stderr
    _, stderr = train(tmp_path, config(tmp_path / "nowhere"), code=3)
    assert "nowhere" in stderr


def test_data_mistakes(tmp_path, data):
    empty = tmp_path / "empty"
    empty.mkdir()
    _, stderr = train(tmp_path, config(empty), code=3)
    assert "train-images" in stderr
    (empty / "train-images-idx3-ubyte").write_bytes((data / "train-images-idx3-ubyte").read_bytes()[:-1])
    (empty / "train-labels-idx1-ubyte").write_bytes((data / "train-labels-idx1-ubyte").read_bytes())
    _, stderr = train(tmp_path, config(empty), code=3)
    assert "truncated" in stderr


def test_divergence(tmp_path, data):
    """Steps of lr m / |g| without a limit: the weights overflow, ten steps in a row are left out, the run fails."""
    c = config(data, optimizer={"lr": 1, "beta2": 0, "grad_clip": 0}, log_steps=1, epochs=20)
    stdout, stderr = train(tmp_path, c, code=4)
    assert "not finite" in stderr and "(10 in a row)" in stdout
    skipped = [line["skipped"] for line in metrics(tmp_path / "run") if line["event"] == "step"]
    assert skipped[0] == 0 and skipped[-1] == 9


def run_program(*args, code):
    result = subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout, result.stderr


def test_command_line(tmp_path, data):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(config(data)))
    stdout, _ = run_program("--help", code=0)
    assert all(f"\n  {k}  " in stdout for k in range(7))
    assert run_program("--version", code=0)[0].startswith("ddimd-train ")
    assert "good" in run_program(path, "--check", code=0)[0]
    assert not (tmp_path / "run").exists()
    assert "optimizer.lr" in run_program(path, "--check", "--set", "optimizer.lr=-1", code=2)[1]
    assert "precision" in run_program(path, "--check", "--precision", "f64", code=2)[1]
    run_program(path, "--check", "--precision", "bf16", "--set", "sample.n=3", code=0)
    for args in ([], [path], [path, path, "--check"], [path, "--threads", "0", "--check"], [path, "--frobnicate"],
                 ["export", path], [tmp_path / "none.json", "--check"]):
        run_program(*args, code=2)
    path.write_text('{"model": ')
    assert "line 1" in run_program(path, "--check", code=2)[1]


def test_folder_of_images(tmp_path):
    """PNG and JPEG of several sizes in class folders; what cannot be read is named and left out."""
    rng = np.random.default_rng(1)
    for label, name in enumerate(("circle", "square")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(10):
            side = 16 + 4 * (k % 3)
            pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.{'png' if k % 2 else 'jpg'}")
    (tmp_path / "images" / "circle" / "broken.png").write_bytes(b"\x89PNG")
    c = config(tmp_path / "images", epochs=1, model__in_channels=3, model__out_channels=3, model__num_classes=2,
               dataset__kind="folder", dataset__mode="RGB", dataset__batch_size=4, validation__images=4)
    stdout, _ = train(tmp_path, c)
    assert "circle/broken.png" in stdout and "16 training images, 4 held out, 1 unreadable, 2 classes" in stdout
    _, metadata = tensors(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert json.loads(metadata["ddimd"])["data"]["classes"] == ["circle", "square"]


@pytest.mark.skipif("DDIMD_DATA" not in os.environ, reason="DDIMD_DATA is not set: nothing to serve as MNIST")
def test_download(tmp_path):
    """From a server of our own, by the published digests; what is there is not fetched again."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.environ["DDIMD_DATA"])
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        c = config("digits", epochs=1, dataset__download=True, dataset__train=False, dataset__image_size=[32, 32],
                   validation__images=9990, sample__every=0)
        arguments = ("--datasets", str(tmp_path), "--mirror", f"http://127.0.0.1:{server.server_port}")
        stdout, _ = train(tmp_path, c, *arguments)
        assert "fetching" in stdout and "10 training images" in stdout
        assert sorted(os.listdir(tmp_path / "digits")) == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
        server.shutdown()
        stdout, _ = train(tmp_path, c, *arguments, out="again")
        assert "fetching" not in stdout
    (tmp_path / "digits" / "t10k-labels-idx1-ubyte.gz").unlink()
    _, stderr = train(tmp_path, c, "--datasets", str(tmp_path), "--mirror", "http://127.0.0.1:1", out="gone", code=3)
    assert "dataset.download" in stderr


# --------------------------------------------------------------------------- export
def test_export(tmp_path, data):
    train(tmp_path, config(data, epochs=1))
    source = tmp_path / "run" / "checkpoints" / "best.safetensors"
    original, metadata = tensors(source)
    for dtype, bits, kind in (("F16", 10, np.float16), ("BF16", 7, None)):
        target = tmp_path / f"{dtype}.safetensors"
        run_program("export", source, "--dtype", dtype, "--out", target, code=0)
        half, metadata_half = tensors(target)
        assert metadata_half == metadata and list(half) == list(original)
        for name, (found_dtype, shape, raw) in half.items():
            assert found_dtype == dtype and shape == original[name][1]
            wide = np.frombuffer(original[name][2], np.float32)
            values = (np.frombuffer(raw, np.float16).astype(np.float32) if kind else
                      (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32))
            assert np.all(np.abs(values - wide) <= np.abs(wide) * 2.0 ** -(bits + 1) + 2.0 ** -25), name
    assert "dtype" in run_program("export", source, "--dtype", "F8", "--out", tmp_path / "x", code=2)[1]
    run_program("export", tmp_path / "none", "--dtype", "F16", "--out", tmp_path / "x", code=1)
    run_program("export", tmp_path / "run.json", "--dtype", "F16", "--out", tmp_path / "x", code=2)
