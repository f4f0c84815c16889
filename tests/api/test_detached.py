"""Generations as jobs: Prefer: respond-async, Idempotency-Key, POST /jobs of type generate; cancel, restart, results."""
import json
import signal
import threading

import pytest

from conftest import make_model
from support import Daemon, eventually, parallel

ENDED = ("succeeded", "failed", "cancelled")
LONG = "class=all&n=8&steps=1000&seed=5"  # some seconds, even of a tiny model


@pytest.fixture
def begin(models, tmp_path):
    """Daemons that keep their jobs in the same folder, one after the other."""
    started = []

    def make(*arguments):
        started.append(Daemon(models, "--default-model", "colour", "--state", str(tmp_path / "state"), *arguments))
        return started[-1]

    yield make
    logs = [d.log_text() for d in started]
    for d in started:
        d.close()
    assert not any("Sanitizer" in log or "runtime error" in log for log in logs), logs


def job(d, link):
    return d.get(link).json()


def wait(d, link, states=ENDED):
    eventually(lambda: job(d, link)["state"] in states, f"{link} is none of {states}")
    return job(d, link)


def detached(d, query, **headers):
    answer = d.post(f"/generate?{query}", Prefer="respond-async", **headers)
    assert answer.status == 202 and answer.headers["Preference-Applied"] == "respond-async", answer.body
    assert answer.json()["type"] == "generate"
    return answer.headers["Location"]


def test_the_same_bytes_later(begin):
    d = begin()
    for query in ("class=1&steps=5&seed=7", "class=0,2&n=3&steps=4&seed=18446744073709551615&eta=1&guidance=2&scale=2",
                  "model=grey&class=all&steps=6&interval=2&result_only=false&seed=3", "n=9&class=none&steps=2&seed=1"):
        link = detached(d, query)
        assert wait(d, link)["state"] == "succeeded"
        for accept in ("image/png", "application/zip", "application/x-npy"):
            now, later = d.post("/generate?" + query, Accept=accept), d.get(link + "/result", Accept=accept)
            assert later.status == 200 and later.body == now.body
            for name in ("Content-Type", "X-Seed", "X-Model", "ETag"):
                assert later.headers[name] == now.headers[name]
        now, later = d.generate("application/json", **dict(p.split("=") for p in query.split("&"))).json(), d.get(
            link + "/result", Accept="application/json").json()
        assert now.pop("timing") and later.pop("timing")
        assert now == later
    assert d.get(link + "/result", Accept="text/html").problem()["status"] == 406


def test_parts_of_a_result(begin):
    d = begin("--max-images", "100")
    made = d.post("/jobs", {"type": "generate", "name": "many", "config": {"class": [0, 1], "n": 60, "steps": 2, "seed": 9}})
    assert made.status == 201, made.body
    link = made.headers["Location"]
    config = made.json()["config"]
    assert config["priority"] == "low" and config["seed"] == 9 and len(config["digest"]) == 64
    assert wait(d, link)["state"] == "succeeded"
    whole = d.get(link + "/result", Accept="application/x-npy")
    assert whole.problem()["status"] == 400 and whole.problem()["field"] == "count"  # more than one answer holds
    parts = [d.get(f"{link}/result?first={k}&count=40", Accept="application/x-npy").body for k in (0, 40, 80)]
    assert all(b"(40, 16, 16, 3)" in p[:128] for p in parts)
    images = b"".join(p[128:] for p in parts)
    alone = d.generate("application/x-npy", **{"class": "0", "n": 40, "steps": 2, "seed": 9}).body
    assert images[:len(alone) - 128] == alone[128:]
    names = d.get(f"{link}/result?first=59&count=2", Accept="application/json").json()
    assert len(names["images"]) == 2 and names["classes"][0] != names["classes"][1] and names["parameters"] is None
    for bad, field in (("first=120", "first"), ("first=119&count=2", "count"), ("count=0", "count"), ("last=1", "last")):
        problem = d.get(f"{link}/result?{bad}").problem()
        assert problem["status"] == 400 and problem["field"] == field


def test_a_seed_is_chosen_once(begin):
    d = begin()
    link = d.post("/jobs", {"type": "generate", "config": {"class": 1, "steps": 3}}).headers["Location"]
    seed = job(d, link)["config"]["seed"]
    assert wait(d, link)["state"] == "succeeded"
    assert d.get(link + "/result").headers["X-Seed"] == str(seed)
    assert d.get(link + "/result").body == d.generate(**{"class": 1, "steps": 3, "seed": seed}).body


def test_what_cannot_run(begin):
    d = begin()
    for config, field in (({"class": "dog-of-no-kind"}, "class"), ({"steps": 0}, "steps"), ({"stepz": 3}, "stepz"),
                          ({"class": ["all"] * 6, "n": 65536, "steps": 1}, "n"), ({"model": "no"}, "model"),
                          ({"steps": 1001}, "steps")):
        problem = d.post("/jobs", {"type": "generate", "config": config}).problem()
        assert problem["status"] == 422 and problem["field"] == "config." + field


def test_cancel(begin):
    d = begin()
    link = detached(d, LONG)
    wait(d, link, ("running",))
    eventually(lambda: d.metric("ddimd_lanes_active") > 0, "no lane of the job")
    assert d.get(link + "/result").problem()["status"] == 409
    assert d.post(link + "/cancel").json()["was"] == "running"
    assert wait(d, link)["state"] == "cancelled"
    assert d.metric("ddimd_lanes_active") == 0 and d.metric("ddimd_queue_row_steps") == 0
    assert "cancelled" in d.get(link + "/result").problem()["detail"]
    assert d.request("DELETE", link).status == 204


def test_events_of_a_job(begin):
    d = begin()
    link = detached(d, "class=0&n=50&steps=10&seed=1")
    events = d.get(link + "/events").body.decode()  # until its end
    assert '"state":"running"' in events and '"step":50,"steps":50' in events and '"state":"succeeded"' in events


def test_many_share_steps(begin):
    d = begin()
    links = parallel([lambda k=k: detached(d, f"class={k % 3}&steps={20 + k}&seed={k}") for k in range(24)])
    assert len(set(links)) == 24
    for k, link in enumerate(links):
        assert wait(d, link)["state"] == "succeeded"
        assert d.get(link + "/result").body == d.generate(**{"class": k % 3, "steps": 20 + k, "seed": k}).body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart(begin, number):
    query = "class=0,1&n=20&steps=50&seed=12"
    d = begin()
    link = detached(d, query)
    wait(d, link, ("running",))
    eventually(lambda: d.metric("ddimd_lane_steps_total") > 400, "the job does nothing")
    d.stop(number)
    d = begin()
    assert wait(d, link)["state"] == "succeeded"
    assert d.get(link + "/result", Accept="application/x-npy").body == d.post("/generate?" + query, Accept="application/x-npy").body


def test_another_model_begins_anew(begin, models):
    make_model(models / "swapped.safetensors", "--seed", "7")
    query = "model=swapped&class=0,1&n=20&steps=50&seed=12"
    d = begin()
    link = detached(d, query)
    wait(d, link, ("running",))
    eventually(lambda: d.metric("ddimd_lane_steps_total") > 400, "the job does nothing")
    d.stop()
    make_model(models / "swapped.safetensors", "--seed", "8")
    d = begin()
    assert wait(d, link)["state"] == "succeeded"
    assert d.get(link + "/result", Accept="application/x-npy").body == d.post("/generate?" + query, Accept="application/x-npy").body
    (models / "swapped.safetensors").unlink()  # the folder is every test's


# ---- Idempotency-Key

def keyed(d, key, query, **headers):
    return d.post(f"/generate?{query}", Idempotency_Key=key, **headers)


def test_the_same_key(begin):
    d = begin()
    for accept in ("image/png", "application/json", "application/x-npy"):
        query = "class=1&steps=5&n=3"  # a random seed
        first, again = keyed(d, accept, query, Accept=accept), keyed(d, accept, query, Accept=accept)
        assert first.status == again.status == 200 and first.headers["X-Seed"] == again.headers["X-Seed"]
        assert first.headers["Idempotent-Replayed"] is None and again.headers["Idempotent-Replayed"] == "true"
        if accept != "application/json":
            assert first.body == again.body
        else:
            a, b = first.json(), again.json()
            a["timing"].pop("encode_ms"), b["timing"].pop("encode_ms")
            assert a == b
        other = keyed(d, accept, query + "&eta=1", Accept=accept).problem()
        assert other["status"] == 422 and other["type"] == "/problems/key-reused"
    plain = d.generate(**{"class": 1, "steps": 5, "n": 3, "seed": first.headers["X-Seed"]})
    assert keyed(d, "image/png", query).body != plain.body  # another seed
    d.stop()
    d = begin()
    assert keyed(d, "application/x-npy", query, Accept="application/x-npy").body == first.body
    assert d.metric("ddimd_lane_steps_total") == 0
    assert keyed(d, "x" * 256, query).problem()["status"] == 400
    assert keyed(d, "y", query, Accept="text/event-stream").problem()["status"] == 400


def test_a_body_counts(begin):
    d = begin()
    body = json.dumps({"class": 2, "steps": 3})
    first = d.post("/generate", body, Content_Type="application/json", Idempotency_Key="b")
    again = d.post("/generate", body, Content_Type="application/json", Idempotency_Key="b")
    assert first.status == 200 and first.body == again.body
    assert d.post("/generate", {"class": 2, "steps": 4}, Idempotency_Key="b").problem()["status"] == 422


def test_still_running(begin):
    d = begin()
    s = d.socket()
    s.sendall(f"POST /generate?{LONG} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n".encode())
    eventually(lambda: d.metric("ddimd_lanes_active") > 0, "no lane of the request")
    second = keyed(d, "k", LONG)
    assert second.problem()["status"] == 409 and second.problem()["type"] == "/problems/key-in-use"
    link = second.headers["Location"]
    assert job(d, link)["state"] == "running"
    s.close()  # hangs up: its lanes are freed
    assert wait(d, link)["state"] == "cancelled"
    eventually(lambda: d.metric("ddimd_lanes_active") == 0, "lanes are left")
    short = "class=0&steps=3&seed=2"
    assert keyed(d, "k2", short).body == d.post("/generate?" + short).body


def test_hung_up_and_asked_again(begin):
    d = begin()
    query = "class=0,1&n=2&steps=300&seed=4"
    s = d.socket()
    s.sendall(f"POST /generate?{query} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n".encode())
    eventually(lambda: d.metric("ddimd_lanes_active") > 0, "no lane of the request")
    s.close()
    eventually(lambda: d.metric("ddimd_lanes_active") == 0, "lanes are left")
    eventually(lambda: keyed(d, "k", query).status == 200, "the key does not run again")
    assert keyed(d, "k", query).body == d.post("/generate?" + query).body


def test_key_and_preference(begin):
    d = begin()
    query = "class=0&steps=4&seed=2"
    assert detached(d, query, Idempotency_Key="k") == detached(d, query, Idempotency_Key="k")
    link = detached(d, query, Idempotency_Key="k")
    assert wait(d, link)["state"] == "succeeded"
    assert keyed(d, "k", query).body == d.get(link + "/result").body
    assert d.post("/generate?dry_run=true", Idempotency_Key="k", Prefer="respond-async").status == 200


def test_cancelled_while_a_client_waits(begin):
    d = begin()
    answers = []
    t = threading.Thread(target=lambda: answers.append(keyed(d, "k", LONG)))
    t.start()
    eventually(lambda: d.metric("ddimd_lanes_active") > 0, "no lane of the request")
    d.post("/jobs/1/cancel")
    t.join()
    assert answers[0].problem()["status"] == 409 and "cancelled" in answers[0].problem()["detail"]


def test_timeout_of_a_job(begin):
    d = begin()
    link = detached(d, LONG + "&timeout_ms=60000")
    assert d.post(link + "/cancel").status == 200
    answer = keyed(d, "k", "class=all&n=8&steps=1000&timeout_ms=1")
    assert answer.problem()["status"] == 504
    again = keyed(d, "k", "class=all&n=8&steps=1000&timeout_ms=1")
    assert again.problem()["status"] == 504 and again.headers["Idempotent-Replayed"] == "true"


def test_stop_with_a_client_that_waits(begin):
    d = begin()
    s = d.socket()
    s.sendall(f"POST /generate?{LONG} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n".encode())
    eventually(lambda: d.metric("ddimd_lanes_active") > 0, "no lane of the request")
    assert d.stop() == 0
    assert s.recv(65536).startswith(b"HTTP/1.1 503 ")
    s.close()
    d = begin()
    assert job(d, "/jobs/1")["state"] in ("queued", "running")
    d.post("/jobs/1/cancel")
    wait(d, "/jobs/1")


def test_without_jobs(daemon):
    query = "class=0&steps=3&seed=2"
    plain = daemon.post("/generate?" + query)
    answer = daemon.post("/generate?" + query, Prefer="respond-async")
    assert answer.status == 200 and answer.body == plain.body and answer.headers["Preference-Applied"] is None
    assert daemon.post("/generate?" + query, Idempotency_Key="k").problem()["type"] == "/problems/no-jobs"
