"""Every feature of the page, used once as a person would, against the real daemon and a real training job. In order: later ones build on earlier."""
import base64
import json
import re
import shlex
import subprocess
import time

from browser import KEYS
from dataset import IMAGES
from support import Png, eventually


def field(browser, name, value):
    browser.type(f".request [name={name}]", value)


def run_images(browser, n):
    """Ctrl+Enter, then all tiles are done."""
    browser.press(KEYS.CONTROL, KEYS.ENTER)
    browser.wait(lambda: len(browser.all(".tile:not(.pending)")) == n and browser.all(".summary"), f"no {n} finished tiles")


def choose_classes(browser, *classes):
    browser.click(".chip[data-class=all]")
    for c in classes:
        browser.click(f".chip[data-class='{c}']")


def lines_of(curl):
    """What a copied command answers."""
    return subprocess.run(shlex.split(curl.replace("curl", "curl -sS --max-time 60", 1)), check=True, capture_output=True).stdout


def copied(browser, label):
    """The text behind a copy button, the clipboard being replaced by a variable."""
    browser.run("navigator.clipboard.writeText = t => { window.copied = t; return Promise.resolve(); }")
    browser.click("main button, dialog button", label)
    return browser.wait(lambda: browser.run("return window.copied"), "nothing was copied")


# ---- the page itself

def test_page_is_small_and_closed(browser, daemon):
    browser.one(".request")
    policy = daemon.get("/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "script-src 'self'" in policy
    loaded = browser.run("return performance.getEntriesByType('resource').map(e => [e.name, e.decodedBodySize])")
    assert all(name.startswith(daemon.url) for name, _ in loaded)
    files = set(re.findall(r'["/](\w[\w.-]*\.(?:js|css|svg))"', daemon.get("/").body.decode()))
    queue, total = list(files | {"index"}), 0
    while queue:
        name = queue.pop()
        body = daemon.get("/" if name == "index" else f"/web/{name}").body
        total += len(body)
        new = set(re.findall(rb'["\']\./([\w.-]+\.js)["\']', body)) if name.endswith(".js") else set()
        queue += [n.decode() for n in new if n.decode() not in files]
        files |= {n.decode() for n in new}
    assert len(files) > 15 and total + len(daemon.get("/web/presets.json").body) < 300_000
    assert browser.run("return document.querySelectorAll('script:not([src]), [style], style').length") == 0


def test_text_does_not_become_script(whole_browser):
    b = whole_browser
    attempts = ("document.createElement('a').setAttribute('onclick', 'window.ran = 1')", "document.body.insertAdjacentHTML('beforeend', '<b>text</b>')")
    for attempt in attempts:
        assert b.run(f"try {{ {attempt}; return 'done'; }} catch (error) {{ return error.name; }}") == "TypeError", attempt
    assert b.run("return window.ran") is None
    b.complaints()  # the policy's own


# ---- generate

def test_generate_shows_previews_and_result(browser):
    choose_classes(browser, 3, 7)
    field(browser, "n", "2")
    field(browser, "steps", "120")
    browser.run("""window.previews = 0; window.part = 0;
        window.watch = new MutationObserver(() => {
          for (const t of document.querySelectorAll('.tile.pending')) if (!t.querySelector('img').hidden) window.previews++;
          window.part = Math.max(window.part, ...[...document.querySelectorAll('.tile.pending progress')].map(p => p.value));
        });
        watch.observe(document.querySelector('.stage'), {subtree: true, attributes: true, childList: true});""")
    run_images(browser, 4)
    browser.run("watch.disconnect()")
    assert browser.run("return previews") > 0 and 0 < browser.run("return part") < 120
    assert [t.text for t in browser.all(".tile .label")] == ["3", "3", "7", "7"]
    browser.wait_text(".summary", "4 images of digits, 120 steps")
    browser.wait(lambda: len(browser.all(".thumbs li")) == 1, "no history")


def test_download_is_what_curl_makes(browser, downloads):
    curl = copied(browser, "Copy as curl")
    browser.click("button", "Download PNG")
    path = browser.wait(lambda: next(iter(downloads.glob("*.png")), None), "no download")
    eventually(lambda: path.stat().st_size > 0, "an empty download")
    made = downloads / "curl.out"
    assert re.search(r" -o ddimd\.png$", curl)
    assert lines_of(curl.replace("-o ddimd.png", f"-o {made}")) == b""
    assert made.read_bytes() == path.read_bytes() and Png(path.read_bytes()).recipe()["steps"] == 120


def test_enlarge(browser):
    browser.click(".tile")
    browser.wait_text("dialog", "Image 1 of 4, class 3")
    browser.press(KEYS.ARROW_RIGHT)
    browser.press(KEYS.ARROW_RIGHT)
    browser.wait_text("dialog", "Image 3 of 4, class 7")
    browser.press(KEYS.ESCAPE)
    browser.wait(lambda: not browser.all("dialog"), "the dialog stays")


def test_cancel_frees_the_lanes(browser, daemon):
    field(browser, "steps", "1000")
    field(browser, "n", "16")
    browser.press(KEYS.CONTROL, KEYS.ENTER)
    browser.wait_text(".stage", "image steps")
    assert daemon.get("/queue").json()["requests_total"] == 1
    browser.press(KEYS.ESCAPE)
    browser.wait_text(".stage", "Cancelled")
    eventually(lambda: daemon.get("/queue").json()["lanes"] == 0, "lanes are left")
    assert daemon.metric('ddimd_generations_total{outcome="cancelled"}') == 1


def test_bad_field_is_named(browser):
    field(browser, "steps", "5000")
    browser.wait_text(".row .error", "at most 1000")
    assert browser.one("[name=steps]").get_attribute("aria-invalid") == "true"
    field(browser, "steps", "10")
    browser.wait(lambda: not browser.all(".row .error"), "the message stays")


def test_seed_buttons(browser):
    field(browser, "n", "1")
    field(browser, "seed", "18446744073709551614")
    browser.click(".buttons button", "+1")
    assert browser.one("[name=seed]").get_attribute("value") == "18446744073709551615"
    run_images(browser, 2)
    browser.wait_text(".summary code", "18446744073709551615")
    browser.press(KEYS.TAB)
    browser.click(".buttons button", "Random")
    assert browser.one("[name=seed]").get_attribute("value") != "18446744073709551615"


def test_dropped_file_brings_its_settings_and_replays(browser, downloads):
    data = next(downloads.glob("ddimd-*.png")).read_bytes()
    recipe = Png(data).recipe()
    browser.drop(base64.b64encode(data).decode())
    browser.wait_text(".summary", f"seed {recipe['seed']}")
    assert browser.one("[name=steps]").get_attribute("value") == "120" and browser.one("[name=seed]").get_attribute("value") == str(recipe["seed"])
    assert [c.text for c in browser.all(".chip[aria-pressed=true]")] == ["3", "7"]
    browser.click("button", "Replay and compare")
    browser.wait_text("dialog", "Identical, byte for byte")
    browser.press(KEYS.ESCAPE)
    browser.drop(base64.b64encode(b"no png at all").decode(), "text.png")
    browser.wait_text(".toast.bad", "is not a PNG file")


def test_trajectory(browser):
    choose_classes(browser, 5)
    field(browser, "n", "1")
    field(browser, "steps", "20")
    browser.click("[name=path]")
    field(browser, "interval", "5")
    run_images(browser, 1)
    browser.wait(lambda: len(browser.all(".strip img")) == 5, "not five states")
    last = browser.one(".tile img").get_attribute("src")
    browser.choose(".trajectory input", "0")
    browser.wait_text(".trajectory", "state 1 of 5")
    assert browser.one(".tile img").get_attribute("src") != last == browser.all(".strip img")[-1].get_attribute("src")
    browser.click("[name=path]")


def test_history_restores_and_compares(browser):
    browser.wait(lambda: len(browser.all(".thumbs li")) == 3, "not three results")
    browser.all(".mark")[0].click()
    browser.wait_text(".history", "Mark a second one")
    browser.all(".mark")[2].click()
    browser.wait_text("dialog", "differs")
    browser.choose("dialog input[type=range]", "20")
    assert "20%" in browser.run("return getComputedStyle(document.querySelector('.stack .over')).clipPath.replace('80%', '20%')")
    browser.press(KEYS.ESCAPE)
    browser.click(".thumbs li:last-child .thumb")
    browser.click("dialog button", "Use settings")
    assert browser.one("[name=steps]").get_attribute("value") == "120"


def test_parameter_grid_shares_steps(browser):
    browser.click(".segments button", "Parameter grid")
    choose_classes(browser, 8)
    field(browser, "n", "1")
    browser.type("[name=axis-x]", "20, 40")
    browser.type("[name=axis-y]", "0, 1")
    browser.press(KEYS.CONTROL, KEYS.ENTER)
    browser.wait_text(".sweep", "4 of 4 cells")
    said = re.search(r"(\d+) image steps in (\d+) steps", browser.text(".sweep"))
    assert int(said[1]) == 120 and int(said[2]) < 120, said  # some step had more than one cell's image
    pictures = {e.get_attribute("src") for e in browser.all(".cells img")}
    assert len(pictures) == 4
    browser.click(".segments button", "Images")


# ---- queue

def test_queue_shows_and_cancels_own(browser, daemon):
    field(browser, "steps", "1000")
    field(browser, "n", "4")
    browser.press(KEYS.CONTROL, KEYS.ENTER)
    browser.view("queue")
    browser.wait_text("span.mine", "yours")
    browser.wait(lambda: len(browser.all(".lane.mine")) == 4, "not four lanes")
    browser.wait(lambda: re.search(r"[1-9]\d* images?", browser.text(".facts")), "no images on the device")
    browser.click("tr:has(.mine) button", "Cancel")
    browser.wait_text("main", "Nothing is queued")
    eventually(lambda: daemon.get("/queue").json()["lanes"] == 0, "lanes are left")
    assert drawn(browser, ".queue canvas") == 2


def drawn(browser, css):
    """Canvases that are not empty."""
    script = """return [...document.querySelectorAll(arguments[0])].filter(c => c.width && new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer).some(p => p)).length"""
    time.sleep(0.5)
    return browser.run(script, css)


# ---- train

HELD_OUT, BATCH = 40, 16
LONG_STEPS = 3 * ((IMAGES - HELD_OUT) // BATCH)


def start_run(browser, epochs, name):
    browser.view("train/new")
    browser.one("#c-dataset-path")
    browser.choose("#preset", "digits")
    browser.type("#job-name", name)
    for path, value in {"epochs": epochs, "log_steps": "1", "dataset-path": "bars", "dataset-batch_size": BATCH}.items():
        browser.type(f"#c-{path}", str(value))
    browser.run("document.querySelectorAll('details.group').forEach(d => { d.open = true; })")
    for path, value in {"model-model_channels": "32", "model-channel_mult": "1, 1", "model-attention_resolutions": "8", "validation-images": HELD_OUT, "sample-n": "10", "sample-steps": "4", "sample-every": "1",
                        "optimizer-warmup_steps": "2"}.items():
        browser.type(f"#c-{path}", str(value))


def test_train_form_names_the_field(browser):
    start_run(browser, "2", "bars")
    browser.type("#c-dataset-path", "nowhere")
    browser.click(".send button", "Check")
    browser.wait_text(".field .error", "nowhere")
    assert browser.one("#c-dataset-path").get_attribute("aria-invalid") == "true"
    assert not browser.one(".send .primary").is_enabled()


def test_train_run_to_its_end(browser, daemon):
    browser.type("#c-dataset-path", "bars")
    browser.click(".send button", "Check")
    browser.wait_text(".estimate", "Parameters")
    assert daemon.get("/jobs").json()["jobs"] == []  # a dry run queues nothing
    browser.click(".send button", "Start training")
    browser.wait_text(".badge", "succeeded")
    job = daemon.get("/jobs/1").json()
    assert job["name"] == "bars" and job["progress"]["epoch"] == 2
    browser.wait_text(".facts", f"{job['progress']['step']} / {job['progress']['step']}")
    browser.wait(lambda: drawn(browser, ".train canvas") == 4, "not four charts")
    browser.wait_text(".samples", "epoch 2")
    last = browser.one(".samples img").get_attribute("src")
    browser.choose(".samples input", "0")
    browser.wait(lambda: browser.one(".samples img").get_attribute("src") != last, "the scrubber shows the same")
    browser.wait_text(".log", "epoch")


def test_train_cancel_and_resume(browser, daemon):
    start_run(browser, "3", "longer")
    browser.press(KEYS.CONTROL, KEYS.ENTER)
    browser.wait_text(".estimate", "Parameters")
    browser.press(KEYS.CONTROL, KEYS.ENTER)
    browser.wait(lambda: daemon.get("/jobs/2").status == 200 and daemon.get("/jobs/2").json()["progress"]["step"] > 0, "it does not begin")
    browser.wait_text(".facts", f"/ {LONG_STEPS}")  # live: nobody asked the page to look again
    browser.click(".actions button", "Cancel")
    browser.click("dialog button", "Cancel")
    browser.wait_text(".badge", "cancelled")
    browser.click(".actions button", "Resume")
    browser.wait_text(".badge", "succeeded")
    steps = [s["step"] for s in daemon.get("/jobs/2/metrics").json()["steps"]]
    assert steps == list(range(1, LONG_STEPS + 1))
    browser.view("train")
    browser.wait(lambda: len(browser.all(".train tbody tr")) == 2, "not two jobs")


def test_publish_and_roll_back(browser, daemon):
    browser.view("train/1")
    for round in range(2):
        browser.click(".actions button", "Publish")
        browser.type("#publish-name", "bars")
        browser.click("dialog button.primary", "Publish")
        browser.wait_text("dialog", "bars is served now")
        if round == 0:
            browser.press(KEYS.ESCAPE)
    browser.click("dialog button", "Roll back")
    browser.wait_text("dialog", "what it was before")
    browser.press(KEYS.ESCAPE)
    browser.view("generate/bars")
    browser.wait(lambda: browser.one("[name=model]").get_attribute("value") == "bars", "the model is not chosen")
    field(browser, "steps", "4")
    run_images(browser, 4)
    browser.wait_text(".summary", "of bars")


# ---- models, status, API

def test_models(browser, daemon):
    browser.view("models")
    browser.wait(lambda: len(browser.all(".model")) == 2, "not two models")
    first = browser.all(".model")[0]
    assert first.text.startswith("bars")
    browser.click(".model button", "Make default")
    browser.wait(lambda: daemon.get("/models/bars").json()["default"], "not the default")
    browser.wait_text(".toast", "bars is the default now")
    browser.wait(lambda: len(browser.all(".model")) == 2, "not two models")
    browser.click(".model button", "Unload")
    eventually(lambda: not all(m["resident"] for m in daemon.get("/models").json()["models"]), "none was unloaded")
    browser.click(".model button", "Load")
    eventually(lambda: all(m["resident"] for m in daemon.get("/models").json()["models"]), "it was not loaded")


def test_status(browser, daemon):
    browser.view("status")
    browser.wait_text(".badge", "ready")
    assert len(browser.all(".checks .good")) == len(daemon.get("/readyz?verbose").json()["checks"]) >= 4
    browser.wait_text("main", "/generate")


def test_api_page_lists_every_route(browser, daemon):
    browser.view("api")
    operations = sum(len(m) for m in daemon.get("/openapi.json").json()["paths"].values())
    browser.wait(lambda: len(browser.all(".route")) == operations, "routes are missing")
    browser.type("input[type=search]", "/version")
    browser.wait(lambda: len(browser.all(".route")) == 1, "the search finds more")
    browser.click(".route summary")
    assert json.loads(lines_of(browser.one(".example code").text))["name"] == "ddimd"


# ---- keyboard, phone, failures

def test_keyboard(browser):
    browser.run("document.activeElement.blur()")
    for number, view in enumerate(("generate", "queue", "train", "models", "status", "api"), 1):
        browser.press(str(number))
        browser.wait(lambda: browser.run("return location.hash") == f"#{view}", f"{number} does not lead to {view}")
    browser.press("?")
    browser.wait_text("dialog", "Ctrl+Enter")
    browser.press(KEYS.ESCAPE)
    browser.wait(lambda: not browser.all("dialog"), "the dialog stays")


def test_everything_has_a_name(browser):
    """Every control has a text for those who do not see it."""
    for view in ("generate", "queue", "train/new", "train/1", "models", "status", "api"):
        browser.view(view)
        time.sleep(0.5)
        nameless = browser.run("""return [...document.querySelectorAll('button, a[href], input:not([type=file]), select, textarea, progress, [role=img], img')].filter(e => e.checkVisibility()
            && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.hasAttribute('alt') || e.title || e.placeholder)).map(e => e.outerHTML.slice(0, 120))""")
        assert nameless == [], view


def test_fits_a_phone(browser):
    for dark in (False, True):
        browser.screen(390, 844, dark)
        for view in ("generate", "queue", "train", "train/new", "train/1", "models", "status", "api"):
            browser.view(view)
            time.sleep(0.4)
            assert browser.run("return document.documentElement.scrollWidth") <= 390, view
    paper = browser.run("return getComputedStyle(document.documentElement).backgroundColor")
    browser.click("#theme")
    assert browser.run("return getComputedStyle(document.documentElement).backgroundColor") != paper  # light by choice
    browser.click("#theme")
    browser.click("#theme")
    browser.screen(1280, 900)


def test_daemon_that_went_away(whole_browser, daemon):
    """Last: what the page says when nobody answers."""
    b = whole_browser
    b.view("generate")
    daemon.stop()
    b.wait_text("#health", "not reachable")
    b.press(KEYS.CONTROL, KEYS.ENTER)
    b.wait_text(".notice", "The daemon does not answer")
