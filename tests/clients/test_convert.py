"""ddimd.convert: the same seed through PyTorch's network and through the daemon's, from the same weights, gives the same numbers."""
import io
import json
import math
import pathlib
import shutil
import subprocess
import sys

import pytest

numpy = pytest.importorskip("numpy", reason="converted models are compared with numpy")
torch = pytest.importorskip("torch", reason="without PyTorch there is nothing to convert from: skipped")

PACKAGE = pathlib.Path(__file__).parent.parent.parent / "clients" / "python"
sys.path.insert(0, str(PACKAGE))

from ddimd.convert.__main__ import main as convert  # noqa: E402
from original_unet import OriginalUNet  # noqa: E402

SIZE = 16
TOLERANCE = 2e-5  # of the norm; measured: 1.3e-6 (original), 2.7e-6 (diffusers), 8.1e-6 (with biases of q, k and v)


# --------------------------------------------------------------------------- the sampler, on PyTorch's side
def philox(seed, draw, image, blocks):
    """Philox4x32-10 (Salmon et al. 2011): four words for each block."""
    low, high = numpy.uint64(0xFFFFFFFF), numpy.uint64(32)
    c = [numpy.arange(blocks, dtype=numpy.uint64)] + [numpy.full(blocks, v, numpy.uint64) for v in (draw, image, 0)]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p, q = numpy.uint64(0xD2511F53) * c[0], numpy.uint64(0xCD9E8D57) * c[2]
        c = [(q >> high) ^ c[1] ^ numpy.uint64(k[0]), q & low, (p >> high) ^ c[3] ^ numpy.uint64(k[1]), p & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return numpy.stack(c, axis=1)


def normals(seed, draw, image, channels):
    n = SIZE * SIZE * channels
    u = (numpy.floor(philox(seed, draw, image, n // 4) / 256.0) + 0.5) * 2.0 ** -24
    r, a = numpy.sqrt(-2 * numpy.log(u[:, 0::2])), 2 * math.pi * u[:, 1::2]
    z = numpy.stack([r * numpy.cos(a), r * numpy.sin(a)], axis=2).reshape(-1)
    return torch.tensor(z.reshape(SIZE, SIZE, channels).transpose(2, 0, 1), dtype=torch.float32)


@torch.no_grad()
def sample(network, label, seed, channels, steps=3, eta=0.5, T=1000, beta=(1e-4, 0.02)):
    """DDIM over trailing timesteps, one image: [H, W, C]."""
    ab = torch.cumprod(1 - torch.linspace(*beta, T), 0).double()
    tau = [(i + 1) * T // steps - 1 for i in range(steps)]
    x = normals(seed, 0, 0, channels)[None]
    for k, i in enumerate(reversed(range(steps))):
        a, p = float(ab[tau[i]]), float(ab[tau[i - 1]]) if i else 1.0
        sigma = eta * math.sqrt((1 - p) / (1 - a) * (1 - a / p))
        e = network(x, torch.tensor([tau[i]]), torch.tensor([label]))
        x = math.sqrt(p / a) * x + (math.sqrt(max(1 - p - sigma ** 2, 0)) - math.sqrt(p * (1 - a) / a)) * e
        if sigma:
            x = x + sigma * normals(seed, 1 + k, 0, channels)[None]
    return x[0].permute(1, 2, 0).numpy()


def random_network(make, seed=0):
    """Every parameter away from its initial value, so that none can be left out unseen."""
    torch.manual_seed(seed)
    network = make()
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.dim() == 1:
                p.add_(0.2 * torch.randn_like(p))
            elif name.startswith("out.2") or name.startswith("conv_out"):
                p.mul_(3)
    return network.eval()


@pytest.fixture
def served(start, tmp_path):
    """Starts a daemon in f32 on the file that was converted, and asks it for the same image."""
    def ask(file, label, seed):
        folder = tmp_path / "serving"
        folder.mkdir()
        shutil.copy(file, folder / "m.safetensors")
        daemon = start("--precision", "f32", folder=folder)
        answer = daemon.generate("application/x-npy", **{"class": label, "seed": seed, "steps": 3, "eta": 0.5, "method": "trailing"})
        return numpy.load(io.BytesIO(answer.body))[0]

    return ask


def check_equal(network, file, served, label, channels=3):
    seed = 2 ** 40 + 17
    expected, got = sample(network, label, seed, channels), served(file, label, seed)
    error = numpy.linalg.norm(got - expected) / numpy.linalg.norm(expected)
    print(f"relative error {error:.2e}")
    assert error < TOLERANCE and numpy.std(expected) > 0.1
    assert numpy.linalg.norm(sample(network, (label + 1) % 3, seed, channels) - expected) > 0.01 * numpy.linalg.norm(expected)


def metadata(file):
    data = file.read_bytes()
    n = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8:8 + n])["__metadata__"]["ddimd"])


# --------------------------------------------------------------------------- the original project's checkpoints
def save(tensors, path):
    torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("order, null, bias, wrapper", [
    ("fused", True, False, "plain"), ("preact", False, False, "ema"), ("fused", True, True, "parallel")])
def test_a_state_dict(order, null, bias, wrapper, served, tmp_path, capsys):
    network = random_network(lambda: OriginalUNet(order, null=null, qkv_bias=bias))
    state = network.state_dict()
    if wrapper == "ema":  # beside raw weights, which must not be taken
        raw = {k: torch.zeros_like(v) for k, v in state.items()}
        state = {"epoch": 3, "model": raw, "optimizer": {"lr": 1e-4},
                 "ema": {"decay": 0.999, "shadow": {"module." + k: v for k, v in state.items()}}}
    elif wrapper == "parallel":
        betas = torch.linspace(1e-4, 0.02, 1000)
        state = {"module.model." + k: v for k, v in state.items()}
        state.update({"betas": betas, "alphas_cumprod": torch.cumprod(1 - betas, 0)})
    out = tmp_path / "m.safetensors"
    assert convert([save(state, tmp_path / "m.pth"), str(out), "--image-size", "16", "16"]) == 0
    said = capsys.readouterr()
    described = metadata(out)
    assert described["model"]["residual_block"] == order and described["model"]["num_classes"] == 10
    assert described["model"]["attention_resolutions"] == [2] and described["data"]["classes"][3] == "cat"
    assert ("null class" in said.err) == (not null) and ("ema.shadow" in said.err) == (wrapper == "ema")
    check_equal(network, out, served, 3)


def test_our_own_names_in_grey(served, tmp_path):
    """The names that ddimd itself uses, which PyTorch code for its models has."""
    network = random_network(lambda: OriginalUNet("preact", channels=1, classes=4))
    renames = [("label_emb", "class_embed"), ("down_blocks", "down"), ("middle_block", "middle"), ("up_blocks", "up"), ("conv1.0.", "norm1."),
               ("conv1.2.", "conv1."), ("conv2.0.", "norm2."), ("conv2.3.", "conv2."), ("time_emb.1", "emb"), ("out.0.", "out_norm."),
               ("out.2.", "out_conv.")]
    state = {}
    for name, t in network.state_dict().items():
        for old, new in renames:
            name = name.replace(old, new)
        state[name] = t
    out = tmp_path / "m.safetensors"
    assert convert([save(state, tmp_path / "m.pt"), str(out), "--image-size", "16", "16", "--num-classes", "4", "--classes", "a,b,c,d"]) == 0
    assert metadata(out)["data"] == {"image_size": [16, 16], "mode": "L", "classes": ["a", "b", "c", "d"]}
    check_equal(network, out, served, 2, channels=1)


def refused(source, capsys, tmp_path, *options):
    assert convert([str(source), str(tmp_path / "no.safetensors"), *options]) == 1
    assert not (tmp_path / "no.safetensors").exists()
    return capsys.readouterr().err


def test_what_cannot_be_mapped_is_named(tmp_path, capsys):
    state = OriginalUNet().state_dict()
    extra = {**state, "down_blocks.1.0.gate.weight": torch.zeros(3, 3, 5, 5), "style.weight": torch.zeros(2, 2)}
    assert "gate" in refused(save(extra, tmp_path / "a.pth"), capsys, tmp_path)
    extra = {**state, "style.weight": torch.zeros(2, 2)}
    assert "style.weight (2, 2)" in refused(save(extra, tmp_path / "b.pth"), capsys, tmp_path)
    less = {k: v for k, v in state.items() if not k.startswith("up_blocks.3")}
    assert "up.3.0.conv1.weight is missing" in refused(save(less, tmp_path / "c.pth"), capsys, tmp_path)
    film = {k: torch.cat([v, v]) if "time_emb.1" in k else v for k, v in state.items()}
    assert "scale and shift" in refused(save(film, tmp_path / "d.pth"), capsys, tmp_path)
    bent = {**state, "betas": torch.linspace(1e-4, 0.02, 1000) ** 2}
    assert "betas are not linear" in refused(save(bent, tmp_path / "e.pth"), capsys, tmp_path)
    assert "epoch, optimizer" in refused(save({"epoch": 1, "optimizer": {}}, tmp_path / "f.pth"), capsys, tmp_path)
    assert "7 classes" in refused(save(state, tmp_path / "g.pth"), capsys, tmp_path, "--num-classes", "7")
    (tmp_path / "h.pth").write_bytes(b"not a file of PyTorch's")
    refused(tmp_path / "h.pth", capsys, tmp_path)
    refused(tmp_path / "not there", capsys, tmp_path)


class Harmful:
    def __reduce__(self):
        return (print, ("a pickle ran",))


def test_pickles_are_not_run(tmp_path, capsys):
    state = {"state_dict": OriginalUNet().state_dict(), "config": Harmful()}
    assert "--trust-pickle" in refused(save(state, tmp_path / "m.pth"), capsys, tmp_path)
    assert convert([str(tmp_path / "m.pth"), str(tmp_path / "m.safetensors"), "--trust-pickle"]) == 0
    assert "a pickle ran" in capsys.readouterr().out


def test_without_pytorch_it_says_so():
    script = "import sys; sys.modules['torch'] = None; from ddimd.convert.__main__ import main; sys.exit(main(['a', 'b']))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 1 and "needs PyTorch" in done.stderr


# --------------------------------------------------------------------------- diffusers
def unet2d(**changes):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not there: its models are not compared")
    fields = dict(sample_size=SIZE, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64),
                  down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                  attention_head_dim=16, num_class_embeds=5)
    return diffusers.UNet2DModel(**{**fields, **changes})


def test_a_diffusers_folder(served, tmp_path):
    network = random_network(unet2d)
    network.save_pretrained(tmp_path / "folder")
    out = tmp_path / "m.safetensors"
    assert convert([str(tmp_path / "folder"), str(out)]) == 0
    assert metadata(out)["model"]["num_heads"] == 4 and metadata(out)["data"]["image_size"] == [16, 16]
    check_equal(lambda x, t, y: network(x, t, class_labels=y).sample, out, served, 2)


def test_a_diffusers_pipeline(tmp_path):
    network = unet2d(num_class_embeds=None)
    (tmp_path / "folder" / "scheduler").mkdir(parents=True)
    network.save_pretrained(tmp_path / "folder" / "unet", safe_serialization=False)
    scheduler = tmp_path / "folder" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.01}))
    out = tmp_path / "m.safetensors"
    assert convert([str(tmp_path / "folder"), str(out)]) == 0
    assert metadata(out)["diffusion"] == {"T": 500, "beta": [0.001, 0.01]} and metadata(out)["model"]["num_classes"] == 1


@pytest.mark.parametrize("field, changes", [
    ("norm_num_groups", dict(norm_num_groups=16)), ("resnet_time_scale_shift", dict(resnet_time_scale_shift="scale_shift")),
    ("downsample_padding", dict(downsample_padding=0)), ("attention_head_dim", dict(attention_head_dim=8, down_block_types=(
        "AttnDownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"))),
    ("time_embedding_type", dict(time_embedding_type="fourier")), ("flip_sin_to_cos", dict(flip_sin_to_cos=False)),
    ("up_block_types", dict(up_block_types=("UpBlock2D", "UpBlock2D"))), ("norm_eps", dict(norm_eps=1e-6))])
def test_a_diffusers_field_that_differs_is_named(field, changes, tmp_path, capsys):
    unet2d(**changes).save_pretrained(tmp_path / "folder")
    assert field in refused(tmp_path / "folder", capsys, tmp_path)


def test_a_scheduler_that_differs_is_named(tmp_path, capsys):
    unet2d().save_pretrained(tmp_path / "folder" / "unet")
    (tmp_path / "folder" / "scheduler").mkdir()
    (tmp_path / "folder" / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    assert "prediction_type" in refused(tmp_path / "folder", capsys, tmp_path)
