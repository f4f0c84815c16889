"""GET /metrics: names that dashboards and alerts rely on are frozen; values are equal to what a client counts itself."""
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import threading

import pytest

from support import eventually

HERE = pathlib.Path(__file__).parent
ETC = HERE.parent.parent / "etc"
NAMES = HERE / "metrics.txt"  # what is promised: `name type label,label`; a line may be added, none may change


def exposition(text):
    """{family: (type, {sample with labels: value})}"""
    families, family = {}, None
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            family = line.split()[2]
            families[family] = (line.split()[3], {})
        elif not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert re.match(re.escape(family) + r"(_bucket|_sum|_count)?(\{|$)", name), line
            families[family][1][name] = float(value)
    return families


def labels_of(samples):
    found = set()
    for name in samples:
        found |= set(re.findall(r'(\w+)="', name)) - {"le"}
    return ",".join(sorted(found)) or "-"


@pytest.fixture
def busy(start, tmp_path):
    daemon = start("--default-model", "colour", "--state", str(tmp_path / "state"), "--max-queue-images", "64")
    yield daemon
    assert daemon.stop() == 0


def test_names_are_frozen(busy):
    busy.generate(**{"class": 1, "steps": 2})
    busy.get("/nowhere")
    families = exposition(busy.get("/metrics").body.decode())
    promised = {line.split()[0]: line.split()[1:] for line in NAMES.read_text().splitlines()}
    for name, (kind, labels) in promised.items():
        assert name in families, f"{name} is promised"
        assert families[name][0] == kind, name
        assert families[name][1] == {} or labels_of(families[name][1]) == labels, name
    assert set(families) == set(promised), "a new one belongs into metrics.txt"
    for name, (kind, samples) in families.items():
        assert (kind == "counter") == name.endswith("_total") , name
        assert not re.search(r"_(ms|us|kib|mib|percent)(_|$)", name), f"{name} is not in base units"
        assert len(samples) < 200, f"{name} has too many series"


def test_values_equal_a_count_of_our_own(busy):
    """Requests of many kinds at random, counted as they are answered."""
    dice, count, lock = random.Random(7), {}, threading.Lock()

    def add(name, n=1):
        with lock:
            count[name] = count.get(name, 0) + n

    def ask(method, path, code, route=None):
        assert busy.request(method, path).status == code, path
        route = path.split("?")[0] if route is None else route
        add(f'ddimd_http_requests_total{{route="{route}",code="{code}"}}')

    def generate(n, s, guidance):
        ask("GET", f"/generate?class=0&n={n}&steps={s}&guidance={guidance}", 200)
        add("ddimd_images_total", n)
        add("ddimd_lane_steps_total", n * s)
        add('ddimd_generations_total{outcome="completed"}')
        add("ddimd_queue_wait_seconds_count")
        add("ddimd_lane_joins_total", n)
        add("ddimd_lane_leaves_total", n)

    before = exposition(busy.get("/metrics").body.decode())
    threads = []
    for _ in range(24):
        kind = dice.choice("ggggbnmr")
        call = {"g": lambda a=(dice.randint(1, 4), dice.randint(1, 9), dice.choice((1, 2))): generate(*a),
                "b": lambda: ask("GET", "/generate?steps=0", 400),
                "n": lambda: ask("GET", "/nowhere", 404, ""),
                "m": lambda: ask("GET", "/models/none-such", 404, "/models/{name}"),
                "r": lambda: ask("DELETE", "/generate", 405)}[kind]
        threads.append(threading.Thread(target=call))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    ask("GET", "/generate?class=0&n=65&steps=1", 400)  # never fits the queue
    add('ddimd_refusals_total{reason="size"}')

    def difference():
        now = exposition(busy.get("/metrics").body.decode())
        old = {k: v for _, samples in before.values() for k, v in samples.items()}
        return {k: v - old.get(k, 0) for _, samples in now.values() for k, v in samples.items()}

    eventually(lambda: all(difference().get(k, 0) == v for k, v in count.items()),
               f"expected {count}, found {dict((k, difference().get(k)) for k in count)}", 30)
    d = difference()
    requests = {k: v for k, v in d.items() if k.startswith("ddimd_http_requests_total") and v and "/metrics" not in k}
    assert set(requests) <= set(count), requests
    assert d['ddimd_step_lanes_sum'] == d["ddimd_lane_steps_total"] and d["ddimd_step_lanes_count"] == d["ddimd_steps_total"]
    assert d["ddimd_steps_total"] <= d["ddimd_lane_steps_total"]


def test_histograms_are_sound(busy):
    busy.generate(**{"class": "all", "n": 2, "steps": 5})
    for name, (kind, samples) in exposition(busy.get("/metrics").body.decode()).items():
        if kind != "histogram":
            continue
        buckets = [(float(re.search(r'le="([^"]+)"', k).group(1)), v) for k, v in samples.items() if "_bucket" in k]
        assert buckets == sorted(buckets) and [v for _, v in buckets] == sorted(v for _, v in buckets), name
        assert buckets[-1][0] == float("inf") and buckets[-1][1] == samples[name + "_count"], name
        assert samples[name + "_sum"] >= 0


def test_cancelled_and_refused(busy):
    s = busy.socket()
    s.sendall(b"GET /generate?class=0&n=60&steps=900 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    eventually(lambda: busy.metric("ddimd_queue_images") == 60, "the request did not begin")
    assert busy.metric("ddimd_queue_requests") == 1 and busy.metric("ddimd_queue_row_steps") <= 54000
    assert busy.get("/generate?class=0&n=8&steps=9").status == 503
    assert busy.metric('ddimd_refusals_total{reason="queue"}') == 1
    s.close()
    eventually(lambda: busy.metric('ddimd_generations_total{outcome="cancelled"}') == 1, "not cancelled")
    assert busy.metric("ddimd_cancel_seconds_count") == 1 and busy.metric("ddimd_queue_images") == 0
    assert busy.metric("ddimd_lane_joins_total") == busy.metric("ddimd_lane_leaves_total")


def test_process(busy):
    pid = busy.process.pid
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024
    assert abs(busy.metric("process_resident_memory_bytes") / resident - 1) < 0.1
    eventually(lambda: abs(busy.metric("process_open_fds") - len(os.listdir(f"/proc/{pid}/fd"))) <= 1,  # the one that asks
               "descriptors are counted wrong")
    assert busy.metric("process_threads") == int(re.search(r"Threads:\s+(\d+)", status).group(1))
    started = os.stat(f"/proc/{pid}").st_ctime
    assert abs(busy.metric("process_start_time_seconds") - started) < 5
    assert busy.metric("ddimd_device_memory_bytes") > 0 and busy.metric("ddimd_models_resident") == 1


# ---- what uses the names

def names_in(text):
    return set(re.findall(r"\b(?:ddimd|process)_[a-z_]+\b", text))


@pytest.mark.parametrize("path", ["alerts/ddimd.yml", "grafana/ddimd.json"])
def test_dashboard_and_alerts_use_what_is_there(path):
    promised = {line.split()[0]: line.split()[1] for line in NAMES.read_text().splitlines()}
    known = set(promised)
    for name, kind in promised.items():
        if kind in ("histogram", "summary"):
            known |= {name + "_sum", name + "_count"} | ({name + "_bucket"} if kind == "histogram" else set())
    used = names_in((ETC / path).read_text())
    assert used and used <= known, used - known


def test_dashboard_is_whole():
    d = json.loads((ETC / "grafana/ddimd.json").read_text())
    panels = [p for p in d["panels"] if p["type"] != "row"]
    assert len({p["id"] for p in d["panels"]}) == len(d["panels"]) and all(p["title"] and p["targets"] for p in panels)
    places = [(x, y) for p in d["panels"] for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
              for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]
    assert len(places) == len(set(places)) and max(x for x, _ in places) < 24


def test_alerts_by_promtool():
    if not shutil.which("promtool"):
        pytest.skip("promtool (of Debian's prometheus) is not installed")
    done = subprocess.run(["promtool", "check", "rules", ETC / "alerts/ddimd.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_operations_explain_each_alert():
    alerts = re.findall(r"alert: (\w+)", (ETC / "alerts/ddimd.yml").read_text())
    text = (HERE.parent.parent / "docs/OPERATIONS.md").read_text()
    assert len(alerts) >= 8 and all(a in text for a in alerts), [a for a in alerts if a not in text]
