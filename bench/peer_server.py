#!/usr/bin/env python3
"""What a user would write around PyTorch: HTTP in front, one worker, a queue that batches requests with equal steps.

  peer_server.py --reference ddim_reference.py --model FILE.safetensors --port N [--threads N] [--mode f32|bf16]
                 [--max-batch N]

The oracle's own network, without gradients; DDIM with eta 0 and the quadratic spacing, as the daemon's defaults. The
worker takes the oldest request and everything that waits with the same number of steps, up to --max-batch images, runs
all steps, and answers with PNG files. It says "ready" on standard output. Needs torch, safetensors and Pillow.
"""
import argparse
import http.server
import importlib.util
import io
import json
import queue
import threading
import time
import urllib.parse

import torch
from PIL import Image
from safetensors import safe_open


def load(reference, path):
    spec = importlib.util.spec_from_file_location("reference", reference)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    with safe_open(path, "pt") as f:
        card = json.loads(f.metadata()["ddimd"])
        state = {name: f.get_tensor(name).float() for name in f.keys()}
    net = oracle.UNet(**card["model"]).eval().to(memory_format=torch.channels_last)
    net.load_state_dict(state)
    return oracle, net, card


class Request:
    def __init__(self, fields):
        self.steps, self.n = int(fields.get("steps", 50)), int(fields.get("n", 1))
        self.label, self.seed = int(fields.get("class", 0)), int(fields.get("seed", 0))
        self.arrived, self.started, self.sampled = time.perf_counter(), 0.0, 0.0
        self.images, self.done = None, threading.Event()


class Worker(threading.Thread):
    def __init__(self, oracle, net, card, mode, max_batch):
        super().__init__(daemon=True)
        self.oracle, self.net, self.max_batch = oracle, net, max_batch
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16")
        self.shape = (card["model"]["in_channels"], *card["data"]["image_size"])
        self.diffusion = {"T": card["diffusion"]["T"], "beta": card["diffusion"]["beta"]}
        self.waiting, self.inbox = [], queue.Queue()

    def take(self):
        """The oldest request and those that can go with it."""
        if not self.waiting:
            self.waiting.append(self.inbox.get())
        while not self.inbox.empty():
            self.waiting.append(self.inbox.get())
        batch, rest, images = [], [], 0
        for r in self.waiting:
            if r.steps == self.waiting[0].steps and (not batch or images + r.n <= self.max_batch):
                batch.append(r)
                images += r.n
            else:
                rest.append(r)
        self.waiting = rest
        return batch

    def sample(self, batch):
        for r in batch:
            r.started = time.perf_counter()
        x = torch.cat([torch.randn(r.n, *self.shape, generator=torch.Generator().manual_seed(r.seed % 2**63))
                       for r in batch]).to(memory_format=torch.channels_last)
        y = torch.cat([torch.full((r.n,), r.label, dtype=torch.long) for r in batch])
        with torch.inference_mode(), self.autocast:
            for x in self.oracle.ddim_sample(lambda *a: self.net(*a).float(), x, y, None, batch[0].steps, **self.diffusion):
                pass
        for r, images in zip(batch, self.oracle.to_uint8(x).split([r.n for r in batch])):
            r.sampled = time.perf_counter()
            r.images = images.permute(0, 2, 3, 1)
            r.done.set()

    def run(self):
        while True:
            self.sample(self.take())


def png(images):
    """Side by side, which is enough for a benchmark."""
    rows = torch.cat(list(images), dim=1).contiguous().numpy()
    out = io.BytesIO()
    Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows).save(out, "PNG")
    return out.getvalue()


def handler(worker):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            r = Request(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)))
            worker.inbox.put(r)
            r.done.wait()
            begun = time.perf_counter()
            body = png(r.images)
            times = (r.started - r.arrived, r.sampled - r.started, time.perf_counter() - begun)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Server-Timing", "queue;dur=%.3f, sample;dur=%.3f, encode;dur=%.3f"
                             % tuple(1e3 * t for t in times))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    return Handler


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--reference", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--mode", choices=["f32", "bf16"], default="f32")
    p.add_argument("--max-batch", type=int, default=16)
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    worker = Worker(*load(a.reference, a.model), a.mode, a.max_batch)
    worker.start()
    for steps in (1, 2):  # warm
        r = Request({"steps": steps, "n": a.max_batch})
        worker.inbox.put(r)
        r.done.wait()
    server = Server(("127.0.0.1", a.port), handler(worker))
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
