"""ddimctl as a user meets it: files, exit codes, terminals, failures of the network."""
import base64
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import zlib

import pytest

import support
from support import Png, eventually

DDIMCTL = os.environ.get("DDIMCTL_BIN", "")
OK, FAILED, USAGE, REFUSED, NOT_FOUND, FORBIDDEN, BUSY, UNREACHABLE = 0, 1, 2, 3, 4, 5, 7, 8
JOB_CANCELLED, DIFFERS, INTERRUPTED = 12, 13, 130


def environment(url, folder, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("DDIMD_") and k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return {**env, "DDIMD_URL": url, "HOME": str(folder), "LC_ALL": "C.UTF-8", **more}


@pytest.fixture
def ctl(daemon, tmp_path):
    assert DDIMCTL, "DDIMCTL_BIN must name ddimctl"

    def run(*arguments, url=daemon.url, expect=OK, env=None, **popen):
        done = subprocess.run([DDIMCTL, *map(str, arguments)], cwd=tmp_path, env=environment(url, tmp_path, **(env or {})),
                              capture_output=True, timeout=120, **popen)
        assert done.returncode == expect, (arguments, done)
        assert b"\033" not in done.stdout + done.stderr  # neither is a terminal
        return done.stdout.decode() if expect == OK else done.stderr.decode()

    return run


class Terminal:
    """ddimctl on a pseudo terminal of some size."""

    def __init__(self, arguments, url, folder, columns, **env):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen([DDIMCTL, *arguments], stdin=slave, stdout=slave, stderr=slave, cwd=folder,
                                        env=environment(url, folder, TERM="xterm-256color", **env), start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.text = ""

    def read(self, until=None, patience=60):
        """Everything up to a pattern, or to the end."""
        end = time.monotonic() + patience
        while until is None or not re.search(until, self.text):
            assert time.monotonic() < end, (until, self.text)
            if not select.select([self.master], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # closed from the other side
                piece = b""
            if not piece:
                assert until is None, (until, self.text)
                break
            self.text += piece.decode()
        return self.text

    def end(self):
        self.read()
        os.close(self.master)
        return self.process.wait(60)


@pytest.fixture
def terminal(daemon, tmp_path):
    return lambda *arguments, columns=80, **env: Terminal(arguments, daemon.url, tmp_path, columns, **env)


def visible_lines(text):
    """What stood in each line at some time: redrawn lines count one by one."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\033\[[0-9;]*[A-Za-z]", "", text)) if line]


# --------------------------------------------------------------------------- pictures
def test_generate_writes_what_the_daemon_answers(ctl, daemon, tmp_path):
    ctl("generate", "-c", "2,class5", "-n", 2, "-s", 3, "--eta", 0.5, "--seed", 7, "--scale", 2, "-o", "a.png")
    png = (tmp_path / "a.png").read_bytes()
    fields = {"class": "2,class5", "n": 2, "steps": 3, "eta": 0.5, "seed": 7, "scale": 2}
    assert png == daemon.generate(**fields).body
    assert ctl("replay", "a.png") == "a.png: identical\n"
    answer = json.loads(ctl("replay", "a.png", "--json"))
    assert answer["identical"] is True

    changed = png.replace(b'"seed":7', b'"seed":8')
    chunk = changed.index(b"tEXt")
    length = struct.unpack(">I", changed[chunk - 4:chunk])[0]
    crc = zlib.crc32(changed[chunk:chunk + 4 + length])
    changed = changed[:chunk + 4 + length] + struct.pack(">I", crc) + changed[chunk + 8 + length:]
    (tmp_path / "b.png").write_bytes(changed)
    ctl("replay", "b.png", expect=DIFFERS)


def test_every_field_arrives(ctl):
    plan = json.loads(ctl("generate", "--dry-run", "--json", "-c", "none", "-n", 3, "-s", 20, "--method", "trailing", "-g", 2,
                          "--sampler", "dpmpp_2m", "--seed", 5, "-m", "grey", "--nrow", 2, "--scale", 3, "--clip",
                          "--to-grayscale", "--no-result-only", "--interval", 4, "--priority", "high", "--timeout-ms", 60000))
    p = plan["parameters"]
    assert p["class"] == ["none"] and p["model"] == "grey" and p["clip"] is True and p["result_only"] is False
    assert (p["n"], p["steps"], p["method"], p["guidance"], p["sampler"]) == (3, 20, "trailing", 2, "dpmpp_2m")
    assert (p["seed"], p["nrow"], p["scale"], p["to_grayscale"], p["interval"]) == (5, 2, 3, True, 4)


def test_no_field_is_missing(ctl, daemon):
    """The options are the daemon's own fields, by its own description."""
    paths = daemon.get("/openapi.json").json()["paths"]
    for command, path, apart in (("generate", "/generate", {"dry_run"}), ("schedule", "/schedule", set()), ("jobs", "/jobs", {"after"})):
        fields = {p["name"] for p in paths[path]["get"]["parameters"] if p["in"] == "query"} - apart
        options = {o.replace("-", "_") for o in re.findall(r"--(?:\[no-\])?([a-z-]+)", ctl(command, "--help"))}
        assert fields and fields <= options, fields - options


def test_a_generation_left_as_a_job(ctl, daemon, tmp_path):
    number = ctl("generate", "-c", 1, "-n", 3, "-s", 4, "--seed", 6, "--detach", "-q").strip()
    assert f"job {number} succeeded after 3 steps" in ctl("job", number, "--follow")
    fields = {"class": 1, "n": 3, "steps": 4, "seed": 6}
    ctl("result", number, "-o", "a.png")
    assert (tmp_path / "a.png").read_bytes() == daemon.generate(**fields).body
    ctl("result", number, "-o", "a.npy")
    assert (tmp_path / "a.npy").read_bytes() == daemon.generate("application/x-npy", **fields).body
    assert number in ctl("jobs", "--type", "generate", "-q").split() and number not in ctl("jobs", "--type", "train", "-q").split()
    ctl("result", 99999, expect=NOT_FOUND)


def test_names_forms_and_standard_output(ctl, daemon, tmp_path):
    said = json.loads(ctl("generate", "-c", 1, "-s", 2, "--seed", 2**64 - 1, "--json"))
    assert said["file"] == f"colour-{2**64 - 1}.png" and said["seed"] == str(2**64 - 1)
    assert Png((tmp_path / said["file"]).read_bytes()).recipe()["seed"] == 2**64 - 1
    fields = {"class": 1, "steps": 2, "seed": 3}
    for form, media_type in (("npy", "application/x-npy"), ("zip", "application/zip")):
        ctl("generate", "-c", 1, "-s", 2, "--seed", 3, "-o", f"a.{form}")
        assert (tmp_path / f"a.{form}").read_bytes() == daemon.generate(media_type, **fields).body
    done = subprocess.run([DDIMCTL, "generate", "-c1", "-s2", "--seed=3", "-o", "-"], env=environment(daemon.url, tmp_path),
                          capture_output=True)
    assert done.returncode == OK and done.stdout == daemon.generate(**fields).body


def test_grid(ctl, daemon, tmp_path):
    said = json.loads(ctl("grid", "steps=2..4", "eta=0,1", "-c", 3, "-n", 2, "--seed", 9, "-o", "g.png", "--json"))
    assert said["across"] == {"field": "steps", "values": ["2", "3", "4"]} and said["down"]["values"] == ["0", "1"]
    grid = Png((tmp_path / "g.png").read_bytes())
    assert json.loads(grid.text["ddimd-grid"])["fields"]["seed"] == "9"
    for steps in (2, 3, 4):
        for eta in (0, 1):
            cell = Png(daemon.generate(**{"class": 3, "n": 2, "steps": steps, "eta": eta, "seed": 9}).body)
            where = [(x, y) for y in range(grid.height - cell.height + 1) for x in range(grid.width - cell.width + 1)
                     if grid.rows[y].startswith(cell.rows[0], 3 * x) and grid.crop(x, y, cell.width, cell.height) == cell.rows]
            assert len(where) == 1
    assert "0 to 1" in ctl("grid", "eta=0,2", "-o", "bad.png", expect=REFUSED)
    ctl("grid", "colour=1,2", expect=USAGE)
    ctl("grid", "eta=1..0", expect=USAGE)


# --------------------------------------------------------------------------- what can be wrong
def test_errors_say_what_would_be_right(ctl, tmp_path):
    assert "did you mean generate?" in ctl("genrate", expect=USAGE)
    assert "did you mean --guidance?" in ctl("generate", "--guidence", 2, expect=USAGE)
    assert "ddim, ddpm, dpmpp_2m" in ctl("generate", "--sampler", "dpm", expect=USAGE)
    assert "needs a value" in ctl("generate", "--steps", expect=USAGE)
    assert "needs ID" in ctl("job", expect=USAGE)
    said = ctl("generate", "-s", 1001, expect=REFUSED)
    assert "steps" in said and "allowed: 1 to 1000" in said
    assert json.loads(ctl("generate", "-s", 1001, "--json", expect=REFUSED))["field"] == "steps"
    assert "did you mean colour?" in ctl("generate", "-m", "color", expect=NOT_FOUND)
    ctl("job", 12345, expect=NOT_FOUND)
    ctl("job", "../models", expect=NOT_FOUND)
    (tmp_path / "there.png").write_text("as it was")
    assert "cannot be written" in ctl("generate", "-s", 1, "-o", "no/where.png", expect=FAILED)
    ctl("generate", "-s", 1001, "-o", "there.png", expect=REFUSED)
    assert (tmp_path / "there.png").read_text() == "as it was"
    assert "no terminal" in ctl("generate", "-s", 1, "-o", "x.png", "--show", expect=FAILED)


def test_settings_by_option_environment_and_file(ctl, daemon, tmp_path):
    settings = tmp_path / ".config" / "ddimd" / "client.json"
    settings.parent.mkdir(parents=True)
    nowhere = {"DDIMD_URL": "http://127.0.0.1:1"}
    ctl("--retries", 0, "models", env=nowhere, expect=UNREACHABLE)
    ctl("models", "--url", daemon.url, env=nowhere)
    settings.write_text(json.dumps({"url": daemon.url, "key": "secret"}))
    settings.chmod(0o600)
    ctl("models", env={"DDIMD_URL": ""})
    ctl("--retries", 0, "models", env=nowhere, expect=UNREACHABLE)
    settings.chmod(0o644)
    done = subprocess.run([DDIMCTL, "models"], env=environment("", tmp_path), capture_output=True, text=True)
    assert done.returncode == OK and "chmod 600" in done.stderr
    settings.write_text('{"urk": 1}')
    assert "urk" in ctl("models", expect=USAGE)


def test_the_key_goes_along(ctl, gate, tmp_path):
    (tmp_path / "key").write_text("from-file\n")
    ctl("models", url=gate.url, env={"DDIMD_KEY": "from-environment"})
    ctl("models", "--key-file", "key", url=gate.url, env={"DDIMD_KEY": "from-environment"})
    assert gate.header("Authorization") == ["Bearer from-environment", "Bearer from-file"]
    for status in (401, 403):
        gate.refuse(status)
        ctl("models", url=gate.url, expect=FORBIDDEN)


def test_the_daemons_own_keys_and_tls(start, ctl, certificate, tmp_path):
    made = subprocess.run([support.BINARY, "keygen", str(tmp_path / "keys"), "--name", "lab", "--roles", "generate"], check=True,
                          capture_output=True, text=True).stdout
    (tmp_path / "secret").write_text(re.search(r"ddim_\S+", made)[0] + "\n")
    (tmp_path / "secret").chmod(0o600)
    url = start("--keys", str(tmp_path / "keys"), "--tls-certificate", str(certificate[0]), "--tls-key", str(certificate[1])).address.geturl()
    assert "a key" in ctl("models", "--ca", "cert", url=url, expect=FORBIDDEN)
    assert "colour" in ctl("models", "-q", "--ca", "cert", "--key-file", "secret", url=url)
    ctl("generate", "-s", 1, "--ca", "cert", "--key-file", "secret", "-o", "a.png", url=url)
    assert "role" in ctl("load", "grey", "--ca", "cert", "--key-file", "secret", url=url, expect=FORBIDDEN)


def test_unix_socket(start, ctl, tmp_path):
    path = tmp_path / "socket"
    start(listen=f"unix:{path}")
    assert "colour" in ctl("models", "-q", url=f"unix:{path}")


def test_https(ctl, secure_gate):
    assert "colour" in ctl("models", "-q", "--ca", "cert", url=secure_gate.url)
    assert "colour" in ctl("models", "-q", url=secure_gate.url, env={"DDIMD_CA": "cert"})
    said = ctl("models", url=secure_gate.url, expect=UNREACHABLE)  # whom nobody vouches for gets no request, and no second chance
    assert "certificate" in said and "again" not in said and len(secure_gate.requests) == 2


# --------------------------------------------------------------------------- trying again
def test_waits_as_long_as_the_daemon_asks(ctl, gate):
    gate.refuse(503, retry_after=0, times=2)
    ctl("generate", "-s", 1, "-o", "a.png", url=gate.url)
    assert len(gate.requests) == 3 and len({body for body in gate.bodies}) == 1 and b"seed=" in gate.bodies[0]
    gate.refuse(503, retry_after=0)
    ctl("load", "colour", url=gate.url)
    keys = gate.header("Idempotency-Key")
    assert keys[:3] == [None] * 3 and keys[3] and keys[3] == keys[4]
    gate.refuse(429, retry_after=0, times=3)
    ctl("generate", "-s", 1, "-o", "a.png", "--retries", 2, url=gate.url, expect=BUSY)
    gate.refusals.clear()
    before = len(gate.requests)
    gate.refuse(503)  # without a time: there is none that would help
    ctl("models", url=gate.url, expect=BUSY)
    assert len(gate.requests) == before + 1


def test_a_generation_whose_stream_broke_is_asked_for_again(ctl, gate, daemon, tmp_path):
    gate.cuts = [400]
    ctl("generate", "-s", 2, "-c", 1, "-o", "a.png", url=gate.url)
    assert len(gate.requests) == 2 and gate.bodies[0] == gate.bodies[1]
    seed = Png((tmp_path / "a.png").read_bytes()).recipe()["seed"]
    assert (tmp_path / "a.png").read_bytes() == daemon.generate(**{"class": 1, "steps": 2, "seed": seed}).body


def test_interrupt_gives_a_generation_up(daemon, tmp_path):
    p = subprocess.Popen([DDIMCTL, "generate", "-n", "6", "-s", "1000", "-o", "a.png"], cwd=tmp_path,
                         env=environment(daemon.url, tmp_path))
    eventually(lambda: daemon.metric("ddimd_lanes_active") > 0, "it does not begin")
    p.send_signal(signal.SIGINT)
    assert p.wait(60) == INTERRUPTED
    eventually(lambda: daemon.metric("ddimd_lanes_active") == 0, "its lanes stay")
    assert not (tmp_path / "a.png").exists()


# --------------------------------------------------------------------------- jobs
@pytest.fixture
def recipe(config, tmp_path):
    def write(**keywords):
        (tmp_path / "run.json").write_text(json.dumps(config(**keywords)))
        return "run.json"

    return write


def test_a_run_from_submission_to_publication(ctl, recipe, gate, tmp_path):
    gate.cuts = [None, 700, 900]  # the submission passes; the stream of events breaks twice
    out = ctl("train", recipe(epochs=4), "--follow", "--json", url=gate.url)
    events = [json.loads(line) for line in out.splitlines()]
    assert [int(e["id"]) for e in events] == list(range(1, len(events) + 1))  # each once, none left out
    assert events[-1]["event"] == "state" and events[-1]["data"]["state"] == "succeeded"
    last_ids = gate.header("Last-Event-ID")
    assert len(last_ids) == 4 and last_ids[:2] == [None, None] and int(last_ids[2]) < int(last_ids[3])

    number = ctl("jobs", "-q").split()[0]
    shown = ctl("job", number)
    assert "succeeded" in shown and "100%" in shown and "loss" in shown
    assert "finished after" in ctl("job", number, "--log")
    ctl("job", number, "--samples", "-o", "s.png")
    assert Png((tmp_path / "s.png").read_bytes()).width > 16
    ctl("publish", number, "mine", "--checkpoint", "last", "--default")
    assert "default" in next(line for line in ctl("models").splitlines() if line.startswith("mine"))
    ctl("generate", "-s", 1, "-m", "mine", "-o", "m.png")
    ctl("default", "colour")
    ctl("unload", "mine")
    ctl("load", "mine")
    ctl("publish", number, "mine", "--checkpoint", "3")
    ctl("rollback", "mine")
    assert "is queued" in ctl("retry", number)
    ctl("delete", number)
    ctl("job", number, expect=NOT_FOUND)


def test_cancel_and_resume(ctl, recipe, daemon, tmp_path):
    said = ctl("train", recipe(epochs=100000), "--name", "long one", "--set", "optimizer.lr=0.0005", "-q")
    number = said.strip()
    job = lambda: daemon.get(f"/jobs/{number}").json()  # noqa: E731
    assert job()["name"] == "long one" and job()["config"]["optimizer"]["lr"] == 0.0005
    eventually(lambda: job()["progress"]["step"] > 0, "it does not begin")
    follower = subprocess.Popen([DDIMCTL, "job", number, "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=environment(daemon.url, tmp_path), text=True)
    assert "asked to stop" in ctl("cancel", number)
    out, err = follower.communicate(timeout=60)
    assert follower.returncode == JOB_CANCELLED and "cancelled" in out and "\033" not in out + err
    assert "was cancelled already" in ctl("cancel", number)
    assert "was cancelled" in ctl("resume", number)
    ctl("cancel", number)


def test_bad_configurations_are_refused(ctl, recipe, tmp_path):
    assert "lr" in ctl("train", recipe(), "--set", "optimizer.lr=fast", expect=REFUSED)
    (tmp_path / "broken.json").write_text('{"epochs": 1,\n}')
    assert "broken.json, line 2" in ctl("train", "broken.json", expect=FAILED)
    assert "parameters" in ctl("train", recipe(), "--dry-run")
    assert "unknown" in ctl("evaluate", recipe(), expect=REFUSED)  # no configuration of an evaluation


# --------------------------------------------------------------------------- terminals
@pytest.mark.parametrize("columns", [100, 30])
def test_progress_fits_the_terminal(terminal, recipe, columns):
    t = terminal("train", recipe(epochs=20), "--follow", columns=columns)  # long enough to be drawn more than once
    assert t.end() == OK
    lines = visible_lines(t.text)
    drawn = [line for line in lines if "%" in line or line.startswith("loss") or "running" in line]
    assert any("█" in line for line in drawn) and any(line.startswith("loss ") for line in drawn)
    assert max(map(len, drawn)) < columns
    assert re.search(r"job \d+ succeeded", lines[-1])


def test_generation_shows_its_progress_and_the_picture(terminal):
    t = terminal("generate", "-c", "1", "-s", "1000", "--show=blocks", "-o", "a.png", COLORTERM="truecolor")
    assert t.end() == OK
    assert re.search(r"\d+% .*/1000 steps", t.text) and t.text.count("▀") == 16 * 8 and "\033[38;2;" in t.text
    narrow = terminal("generate", "-c", "1", "-s", "2", "--show=blocks", "-o", "a.png", columns=12)
    assert narrow.end() == OK
    assert max(line.count("▀") for line in narrow.text.splitlines()) == 12 and "\033[38;5;" in narrow.text


def test_pictures_for_kitty_and_sixel(terminal, tmp_path):
    t = terminal("generate", "-c", "1", "-s", "2", "--show", "-o", "a.png", KITTY_WINDOW_ID="1", TMUX="")
    assert t.end() == OK
    pieces = re.findall(r"\033_G([^;]*);([^\033]*)\033", t.text)
    assert pieces[0][0].startswith("a=T,f=100,") and pieces[-1][0].endswith("m=0")
    assert base64.b64decode("".join(data for _, data in pieces)) == (tmp_path / "a.png").read_bytes()

    t = terminal("generate", "-c", "1", "-s", "2", "--show", "-o", "a.png", KITTY_WINDOW_ID="", TMUX="")
    t.read(until=r"\033\[c")  # it asks what the terminal can do
    os.write(t.master, b"\033[?62;4;22c")
    assert t.end() == OK
    sixel = re.search(r"\033Pq\"1;1;(\d+);(\d+)(.*)\033\\", t.text, re.S)
    width, height = int(sixel[1]), int(sixel[2])
    assert width == height == 256 and sixel[3].count("-") == -(-height // 6)  # bands of six rows
    for band in re.sub(r"^(#\d+;2;\d+;\d+;\d+)+", "", sixel[3]).split("-")[:-1]:
        for run in re.sub(r"#\d+", "", band).split("$"):
            n = sum(int(times or 1) for times, _ in re.findall(r"(?:!(\d+))?([?-~])", run))
            assert n in (0, width)
    t = terminal("generate", "-c", "1", "-s", "2", "--show", "-o", "a.png", KITTY_WINDOW_ID="", TMUX="")
    t.read(until=r"\033\[c")  # a terminal that says nothing
    assert t.end() == OK and "▀" in t.text


def test_names_of_others_cannot_drive_the_terminal(terminal, config, daemon):
    body = {"type": "train", "name": "evil\033[2Jname", "config": config()}
    number = daemon.post("/jobs", body).json()["id"]
    t = terminal("jobs")
    assert t.end() == OK and "evil?[2Jname" in t.text and "\033[2J" not in t.text
    daemon.post(f"/jobs/{number}/cancel")


@pytest.mark.parametrize("columns", [100, 44, 24])
def test_tables_fit_the_terminal(terminal, config, daemon, columns):
    name = "a name that is rather long for a table"
    number = daemon.post("/jobs", {"type": "train", "name": name, "config": config()}).json()["id"]
    for command in ("jobs", "models"):
        t = terminal(command, columns=columns)
        assert t.end() == OK
        lines = t.text.splitlines()
        assert max(map(len, lines)) <= columns and lines[0].split()[0] in ("ID", "NAME")
        assert command == "models" or (name in t.text) == ("CREATED" in lines[0]) == (columns == 100)
    daemon.post(f"/jobs/{number}/cancel")


# --------------------------------------------------------------------------- what the table makes
def commands_of(text):
    return re.findall(r"^  ([a-z]+) {2,}", text.split("Options of every")[0], re.M)


def test_help_manual_and_completion_know_every_command(ctl):
    names = commands_of(ctl("--help"))
    assert {"generate", "grid", "replay", "train", "jobs", "job", "cancel", "resume", "publish", "models", "load", "unload",
            "default", "status", "schedule"} <= set(names)
    manual = ctl("manual")
    for name in names:
        text = ctl(name, "--help")
        assert text.startswith(f"Usage: ddimctl {name}") and f'.SS "ddimctl {name}' in manual
        for option in re.findall(r"--(?:\[no-\])?([a-z-]+)", text):
            assert option.replace("-", "\\-") in manual
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 130):
        assert f".B {code}\n" in manual


@pytest.mark.parametrize("line, offered", [
    ("ddimctl gen", ["generate"]), ("ddimctl generate --sam", ["--sampler"]), ("ddimctl generate --sampler ", ["ddim", "ddpm", "dpmpp_2m"]),
    ("ddimctl generate -m ", ["colour", "grey"]), ("ddimctl --json load g", ["grey"]), ("ddimctl generate --steps ", []),
    ("ddimctl jobs --state q", ["queued"]), ("ddimctl replay a.", ["a.png"])])
def test_completion(line, offered, ctl, daemon, tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "completion").write_text(ctl("completion", "bash"))
    words = line.split(" ")
    script = f"""PATH={os.path.dirname(DDIMCTL)}:$PATH; source completion; COMP_WORDS=({' '.join(w or "''" for w in words)})
                 COMP_CWORD={len(words) - 1}; _ddimctl; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment(daemon.url, tmp_path), capture_output=True, text=True)
    got = [w for w in done.stdout.split("\n") if w]
    assert done.returncode == 0 and sorted(w for w in got if w not in ("mine",)) == offered, done


def test_not_ready_is_an_answer(ctl, gate):
    gate.refusals.append(None)
    gate.refuse(503, retry_after=1, times=2)
    ctl("status", url=gate.url, expect=BUSY)
    assert len(gate.requests) == 3  # version, readiness, metrics: none of them twice


def test_status_and_schedule(ctl, daemon):
    assert "ready      yes" in ctl("status")
    assert json.loads(ctl("status", "--json"))["ready"]["ready"] is True
    rows = json.loads(ctl("schedule", "-s", 4, "--method", "trailing", "--json"))["rows"]
    assert [r["t"] for r in rows] == [r["t"] for r in daemon.get("/schedule?steps=4&method=trailing").json()["rows"]]
    assert len(ctl("schedule", "-s", 4).splitlines()) == 1 + 4 + 2
