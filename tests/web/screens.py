#!/usr/bin/env python3
"""Takes pictures of every view, light and dark, wide and narrow, with the real daemon, the shipped model and a short training run.

usage: DDIMD_BIN=build/daemon/ddimd DDIMD_TRAIN=build/training/ddimd-train DDIMD_DATA=FOLDER_WITH_MNIST tests/web/screens.py FOLDER [NAME ...]
Names choose among the views; those that later ones build on are visited anyway.
"""
import base64
import os
import pathlib
import shutil
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "api")]
import browser as browsers  # noqa: E402
import support  # noqa: E402
from browser import KEYS  # noqa: E402
from dataset import write_bars  # noqa: E402


class Screens:
    def __init__(self, browser, out, names):
        self.b, self.out, self.names = browser, out, names

    def shoot(self, name):
        """Four pictures of what is there now, as long as the view is."""
        if self.names and name not in self.names:
            return
        for width, height in ((1280, 860), (390, 844)):
            for dark in (False, True):
                self.b.screen(width, height, dark)
                self.b.run("scrollTo(0, 0); document.activeElement.blur()")
                time.sleep(0.7)
                size = self.b.run("return document.querySelector('dialog') ? 0 : Math.min(2600, document.documentElement.scrollHeight)")
                if size > height:
                    self.b.screen(width, size, dark)
                    time.sleep(0.4)
                data = self.b.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
                path = self.out / f"{name}-{'wide' if width > 600 else 'narrow'}-{'dark' if dark else 'light'}.png"
                path.write_bytes(base64.b64decode(data))
        self.b.screen(1280, 860)

    def field(self, name, value):
        self.b.type(f".request [name={name}]", value)

    def run_images(self):
        self.b.press(KEYS.CONTROL, KEYS.ENTER)
        self.b.wait(lambda: self.b.all(".summary") and not self.b.all(".tile.pending"), "it does not end", 300)

    def generate(self):
        b = self.b
        b.one(".request")
        self.shoot("generate-empty")
        self.field("steps", "150")
        b.press(KEYS.CONTROL, KEYS.ENTER)
        b.wait(lambda: len(b.all(".tile.pending img")) == 10, "no previews", 300)
        self.shoot("generate-running")
        b.press(KEYS.ESCAPE)
        self.field("n", "2")
        self.field("steps", "25")
        self.run_images()
        for guidance, classes in (("2", "37"), ("4", "5")):
            b.click(".chip[data-class=all]")
            for c in classes:
                b.click(f".chip[data-class='{c}']")
            self.field("guidance", guidance)
            self.run_images()
        b.click(".chip[data-class=all]")
        self.field("guidance", "1")
        self.run_images()
        self.shoot("generate")
        b.click(".tile")
        self.shoot("enlarged")
        b.press(KEYS.ESCAPE)
        marks = b.all(".mark")
        marks[0].click()
        b.wait_text(".history", "Mark a second one")
        b.all(".mark")[3].click()
        b.one("dialog .stack")
        self.shoot("compare")
        b.press(KEYS.ESCAPE)
        b.click(".chip[data-class='8']")
        self.field("n", "2")
        b.click("[name=path]")
        self.field("interval", "3")
        self.run_images()
        self.shoot("trajectory")
        b.click("[name=path]")
        self.field("steps", "2000")
        b.wait_text(".row .error", "at most")
        self.shoot("generate-error")
        self.field("steps", "20")
        self.field("n", "1")
        b.click(".segments button", "Parameter grid")
        b.type("[name=axis-x]", "5, 10, 20, 40")
        b.type("[name=axis-y]", "0, 0.5, 1")
        b.press(KEYS.CONTROL, KEYS.ENTER)
        b.wait(lambda: "12 of 12 cells" in b.text(".sweep"), "the grid does not end", 300)
        self.shoot("grid")
        b.click(".segments button", "Images")

    def queue(self):
        b = self.b
        self.field("steps", "1000")
        self.field("n", "6")
        b.press(KEYS.CONTROL, KEYS.ENTER)
        others = [self.d.connect() for _ in range(4)]
        for i, c in enumerate(others):
            c.request("POST", f"/generate?class={i}&n={3 + 4 * i}&steps={600 + 100 * i}&priority={'low' if i == 3 else 'normal'}", headers={"Accept": "text/event-stream"})
        b.view("queue")
        b.wait_text("span.mine", "yours")
        time.sleep(8)
        self.shoot("queue")
        for c in others:
            c.close()
        b.press(KEYS.ESCAPE)
        b.wait_text("main", "Nothing is queued")
        self.shoot("queue-empty")

    def train(self, dataset):
        b = self.b
        b.view("train")
        b.wait_text("main", "No runs yet")
        self.shoot("train-empty")
        b.view("train/new")
        b.one("#c-dataset-path")
        b.type("#job-name", "small digits")
        b.run("document.querySelectorAll('details.group').forEach(d => { d.open = true; })")
        small = {"epochs": "6", "log_steps": "1", "dataset-path": "nowhere", "dataset-batch_size": "32", "model-model_channels": "32", "model-channel_mult": "1, 2", "model-attention_resolutions": "8", "validation-images": "64",
                 "sample-n": "40", "sample-steps": "10", "sample-every": "1", "optimizer-warmup_steps": "10"}
        for path, value in small.items():
            b.type(f"#c-{path}", value)
        b.run("document.querySelectorAll('details.group').forEach((d, i) => { d.open = i === 0 || d.textContent.startsWith('dataset'); })")
        b.click(".send button", "Check")
        b.wait_text(".field .error", "nowhere")
        self.shoot("train-error")
        b.type("#c-dataset-path", dataset)
        b.click(".send button", "Check")
        b.wait_text(".estimate", "Parameters")
        self.shoot("train-form")
        b.click(".send button", "Start training")
        b.wait_text(".samples", "epoch 3")
        self.shoot("job-running")
        b.wait_text(".badge", "succeeded")
        time.sleep(2)
        self.shoot("job")
        b.click(".actions button", "Publish")
        b.click("dialog button.primary", "Publish")
        b.wait_text("dialog", "is served now")
        self.shoot("publish")
        b.press(KEYS.ESCAPE)
        b.view("train")
        b.wait_text("main", "small digits")
        self.shoot("train")

    def others(self):
        for view, text in (("models", "Unload"), ("status", "Readiness"), ("api", "/generate")):
            self.b.view(view)
            self.b.wait_text("main", text)
            time.sleep(0.5)
            if view == "api":
                self.b.click(".route summary", "Generate images")
            self.shoot(view)
        self.b.press("?")
        self.b.wait_text("dialog", "Keyboard")
        self.shoot("keyboard")
        self.b.press(KEYS.ESCAPE)


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ddimd-screens-"))
    (folder / "models").mkdir()
    shutil.copy(HERE.parent.parent / "share" / "models" / "digits.safetensors", folder / "models")
    write_bars(folder / "datasets" / "bars")
    d = support.Daemon(folder / "models", "--state", str(folder / "state"), "--datasets", str(folder / "datasets"), "--trainer", os.environ["DDIMD_TRAIN"], "--default-model", "digits", "--job-threads", "1", "--job-nice", "0")
    b = browsers.Browser(shutil.which("chromium"), shutil.which("chromedriver"), folder)
    try:
        b.open(f"http://{d.address.hostname}:{d.address.port}/")
        s = Screens(b, out, sys.argv[2:])
        s.d = d
        s.generate()
        s.queue()
        s.train("bars")
        s.others()
        print("\n".join(b.complaints()))
    finally:
        b.close()
        d.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
