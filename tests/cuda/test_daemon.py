"""The whole daemon on a CUDA device: the emulated one (DDIMD_PLUGINS, EMULATED) in CI, a real one in tests/gpu/run."""
import io
import os
import pathlib
import subprocess
import sys

import numpy
import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "api"))
import support  # noqa: E402

DEVICE_LOST = 3  # daemon.h
EMULATED = "EMULATED" in os.environ


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda") / "models"
    folder.mkdir()
    subprocess.run([sys.executable, str(ROOT / "support" / "make_tiny_model.py"), str(folder / "tiny.safetensors"), "--size",
                    "8", "8", "--seed", "1"], check=True)
    return folder


@pytest.fixture
def start(models):
    started = []

    def begin(*arguments, **keywords):
        started.append(support.Daemon(models, "--max-rows", "4", *arguments, **keywords))
        return started[-1]

    yield begin
    logs = [d.log_text() for d in started]
    for d in started:
        d.close()
    assert not any("Sanitizer" in log or "runtime error" in log for log in logs), logs


def images(daemon, **fields):
    answer = daemon.generate("application/x-npy", **fields)
    assert answer.status == 200, answer.body
    return numpy.load(io.BytesIO(answer.body))


REQUEST = {"class": 3, "n": 3, "steps": 6, "eta": 0.7, "seed": 11, "guidance": 2}


def test_same_images_as_on_the_cpu(start):
    """To rounding; noise has the same bits on both."""
    gpu, cpu = start("--backend", "cuda", "--precision", "f32"), start("--backend", "cpu", "--precision", "f32")
    a, b = images(gpu, **REQUEST), images(cpu, **REQUEST)
    error = numpy.linalg.norm(a.astype(float) - b) / numpy.linalg.norm(b)
    assert error < 1e-4 and a.std() > 0.05, error
    assert gpu.stop() == 0
    assert "cuda" in gpu.log_text() and "sm_" in gpu.log_text()


def test_alone_and_among_others(start):
    """bf16: the same bytes whatever else is in the batch."""
    d = start("--backend", "cuda")
    alone = d.generate("image/png", **REQUEST).body
    answers = support.parallel([lambda k=k: d.generate("image/png", **{**REQUEST, "class": k, "seed": 11 + (k != 3)}).body
                                for k in range(6)])
    assert answers[3] == alone and len(set(answers)) == len(answers)
    assert d.get("/readyz").status == 200
    assert d.stop() == 0


def test_capabilities_name_the_device(start):
    d = start("--backend", "cuda")
    text = d.get("/capabilities").body.decode()
    assert "cuda" in text and ("emulated GPU" in text or not EMULATED)
    assert d.stop() == 0


@pytest.mark.skipif(not EMULATED, reason="a real device is not told to fail")
@pytest.mark.parametrize("call, number", [("cudaGraphLaunch", 200), ("cudaStreamSynchronize", 400)])
def test_a_lost_device_ends_the_process(start, call, number):
    """So that the service manager starts it anew; what failed is in the log or in the answer."""
    d = start("--backend", "cuda", environment={"STANDIN_FAIL": f"{call}:{number}"})
    for seed in range(200):
        try:
            d.generate("image/png", **{"class": 1, "steps": 2, "seed": seed})
        except (OSError, AssertionError):
            break  # a problem that says so, or it hung up
    assert d.process.wait(support.PATIENCE) == DEVICE_LOST
    assert f"the device failed: {call}" in d.log_text()


def run(*arguments, **environment):
    return subprocess.run([support.BINARY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=support.PATIENCE,
                          env={**os.environ, **environment})


def test_without_the_library(models):
    done = run("--listen", "127.0.0.1:0", "--models", str(models), "--backend", "cuda", DDIMD_PLUGINS="/nonexistent")
    assert done.returncode == 1 and "without CUDA" in done.stderr


@pytest.mark.skipif("REAL_PLUGINS" not in os.environ or pathlib.Path("/dev/nvidiactl").exists(),
                    reason="no real library here, or there is a GPU")
def test_refusals(models):
    """The real library on a machine without a driver, and with one that has no device."""
    arguments = ["--listen", "127.0.0.1:0", "--models", str(models), "--backend", "cuda"]
    done = run(*arguments, DDIMD_PLUGINS=os.environ["REAL_PLUGINS"], LD_LIBRARY_PATH="")  # meson puts DRIVER_FOLDER there
    assert done.returncode == 1 and "no NVIDIA driver on this machine" in done.stderr
    done = run(*arguments, DDIMD_PLUGINS=os.environ["REAL_PLUGINS"], LD_LIBRARY_PATH=os.environ["DRIVER_FOLDER"])
    assert done.returncode == 1 and "no NVIDIA GPU that the driver could see" in done.stderr
    garbage = models.parent / "plugins"
    garbage.mkdir()
    (garbage / "libddimd-cuda.so").write_bytes(b"no library")
    done = run(*arguments, DDIMD_PLUGINS=str(garbage))
    assert done.returncode == 1 and "CUDA cannot be loaded" in done.stderr


@pytest.mark.skipif("REAL_PLUGINS" not in os.environ or pathlib.Path("/dev/nvidiactl").exists(),
                    reason="no real library here, or there is a GPU")
def test_auto_says_why_it_runs_on_the_cpu(start):
    d = start("--backend", "auto", environment={"DDIMD_PLUGINS": os.environ["REAL_PLUGINS"], "LD_LIBRARY_PATH": ""})
    assert "no CUDA: there is no NVIDIA driver on this machine" in d.log_text()
    assert d.generate("image/png", **REQUEST).status == 200
    assert d.stop() == 0
