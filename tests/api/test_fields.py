"""Every field of /generate: what is right, and what is refused by name."""
import json
import urllib.parse

import pytest

WRONG = [
    # query, field, part of the detail
    ("steps=abc", "steps", "whole number from 1 to"),
    ("steps=1e3", "steps", "whole number"),
    ("steps=5.0", "steps", "whole number"),
    ("steps=0", "steps", "from 1"),
    ("steps=-1", "steps", "from 1"),
    ("steps=1001", "steps", "1000"),
    ("steps=99999999999999999999", "steps", "whole number"),
    ("steps=", "steps", "no value"),
    ("steps", "steps", "no value"),
    ("steps=0x10", "steps", "whole number"),
    ("steps=%205", "steps", "whole number"),
    ("n=0", "n", "from 1"),
    ("n=129&class=0", "n", "128"),
    ("n=13", "n", "130 images"),
    ("n=1&n=1", "n", "more than once"),
    ("eta=nan", "eta", "number from 0 to 1"),
    ("eta=inf", "eta", "number"),
    ("eta=1.01", "eta", "from 0 to 1"),
    ("eta=-0.1", "eta", "from 0 to 1"),
    ("eta=0x1p-1", "eta", "number"),
    ("guidance=20.5", "guidance", "from 0 to 20"),
    ("guidance=two", "guidance", "number"),
    ("seed=-1", "seed", "18446744073709551615"),
    ("seed=18446744073709551616", "seed", "18446744073709551615"),
    ("seed=1.0", "seed", "18446744073709551615"),
    ("seed=+1", "seed", "18446744073709551615"),
    ("method=quadratik", "method", "quadratic"),
    ("sampler=DDIM", "sampler", "ddim"),
    ("priority=urgent", "priority", "normal"),
    ("class=10", "class", "0 to 9"),
    ("class=-1", "class", "no class"),
    ("class=cat", "class", "no class"),
    ("class=0,,1", "class", "empty"),
    ("class=,", "class", "empty"),
    ("class=" + "x" * 80, "class", "longer"),
    ("nrow=0", "nrow", "from 1"),
    ("scale=17", "scale", "from 1 to 16"),
    ("to_grayscale=yes", "to_grayscale", "true or false"),
    ("result_only=False", "result_only", "true or false"),
    ("clip=2", "clip", "true or false"),
    ("interval=0", "interval", "from 1"),
    ("interval=6&steps=5", "interval", "at most steps"),
    ("timeout_ms=0", "timeout_ms", "from 1"),
    ("dry_run=maybe", "dry_run", "true or false"),
    ("model=a/b", "model", ""),
    ("stepz=5", "stepz", "steps"),
    ("banana=1", "banana", "unknown"),
    ("digest=1", "digest", "unknown"),
    ("class=%zz", "class", "percent"),
    ("class=%0", "class", "percent"),
    ("class=%ff", "class", ""),
]


@pytest.mark.parametrize("query, field, part", WRONG)
def test_wrong_query(daemon, query, field, part):
    answer = daemon.get("/generate?" + query)
    assert answer.status == (404 if field == "model" else 400)
    problem = answer.problem()
    assert problem["field"] == field
    assert part in problem["detail"]


@pytest.mark.parametrize("query, field, part", WRONG)
def test_wrong_form(daemon, query, field, part):
    answer = daemon.post("/generate", query, Content_Type="application/x-www-form-urlencoded")
    assert answer.status == (404 if field == "model" else 400)
    assert answer.problem()["field"] == field


WRONG_JSON = [
    ('{"n": "1"}', "n"),
    ('{"n": 1.0}', "n"),
    ('{"n": null}', "n"),
    ('{"n": true}', "n"),
    ('{"n": [1]}', "n"),
    ('{"n": 99999999999999999999999}', "n"),
    ('{"n": 1, "n": 1}', "n"),
    ('{"eta": "0"}', "eta"),
    ('{"eta": 1e400}', None),
    ('{"seed": -1}', "seed"),
    ('{"seed": 1.5}', "seed"),
    ('{"seed": 18446744073709551616}', "seed"),
    ('{"seed": "abc"}', "seed"),
    ('{"seed": ""}', "seed"),
    ('{"clip": "true"}', "clip"),
    ('{"clip": 1}', "clip"),
    ('{"method": 1}', "method"),
    ('{"class": []}', "class"),
    ('{"class": [1.5]}', "class"),
    ('{"class": [null]}', "class"),
    ('{"class": {}}', "class"),
    ('{"class": [0, "nothing of the kind"]}', "class"),
    ('{"classes": 1}', "classes"),
    ('{"model": 3}', "model"),
    ('[]', None),
    ('3', None),
    ('{', None),
    ('{"n": 1} x', None),
    ('{"n": 0x1}', None),
    ('', None),
    ('\xff', None),
]


@pytest.mark.parametrize("body, field", WRONG_JSON)
def test_wrong_json(daemon, body, field):
    if body == "":
        body = " "
    answer = daemon.post("/generate", body.encode("latin-1"), Content_Type="application/json")
    assert answer.status == 400
    assert answer.problem().get("field") == field


def test_allowed_and_nearest(daemon):
    problem = daemon.get("/generate?method=quadratik").problem()
    assert problem["allowed"] == ["linear", "quadratic", "trailing"]
    assert problem["nearest"] == "quadratic"
    assert daemon.get("/generate?scale=99").problem()["allowed"] == {"minimum": 1, "maximum": 16}
    problem = daemon.get("/generate?gudance=1").problem()
    assert problem["nearest"] == "guidance" and "guidance" in problem["allowed"]
    assert daemon.get("/generate?model=colours").problem()["nearest"] == "colour"


def resolved(daemon, query="", body=None, **headers):
    answer = daemon.post("/generate?dry_run=true&" + query, body, **headers)
    assert answer.status == 200, answer.body
    return answer.json()


def test_defaults(daemon):
    document = resolved(daemon)
    p = document["parameters"]
    assert p["class"] == list(range(10)) and p["n"] == 1 and p["nrow"] == 1
    assert (p["steps"], p["method"], p["eta"], p["sampler"], p["guidance"]) == (50, "quadratic", 0, "ddim", 1)
    assert (p["scale"], p["to_grayscale"], p["result_only"], p["interval"], p["clip"]) == (1, False, True, 50, False)
    assert p["model"] == "colour" and len(p["digest"]) == 64
    assert document["images"] == 10 and document["lane_steps"] == 500 and document["row_steps"] == 500
    assert len(document["timesteps"]) == 50 and document["timesteps"][-1] == 0
    assert document["expected_ms"] >= 0


def test_nrow_and_interval(daemon):
    assert resolved(daemon, "class=1&n=10")["parameters"]["nrow"] == 4
    assert resolved(daemon, "class=1,2&n=10")["parameters"]["nrow"] == 10
    assert resolved(daemon, "class=1&n=10&nrow=3")["parameters"]["nrow"] == 3
    assert resolved(daemon, "steps=20&class=1")["parameters"]["interval"] == 20
    p = resolved(daemon, "class=1&steps=20&interval=8&result_only=false")["parameters"]
    assert p["nrow"] == 4  # noise, after 8, after 16, the result


def test_classes(daemon):
    assert resolved(daemon, "class=3")["parameters"]["class"] == [3]
    assert resolved(daemon, "class=3,0,3")["parameters"]["class"] == [3, 0, 3]
    assert resolved(daemon, "class=none")["parameters"]["class"] == ["none"]
    assert resolved(daemon, "class=none,all")["parameters"]["class"] == ["none", *range(10)]
    assert resolved(daemon, body={"class": [3, "4", "none"]})["parameters"]["class"] == [3, 4, "none"]
    assert resolved(daemon, body={"class": 7})["parameters"]["class"] == [7]
    names = daemon.get("/models/colour").json()["classes"]
    assert resolved(daemon, "class=" + urllib.parse.quote(names[2]))["parameters"]["class"] == [2]


@pytest.mark.parametrize("seed", [0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_seeds_are_exact(daemon, seed):
    assert resolved(daemon, f"seed={seed}")["parameters"]["seed"] == seed
    for value in (seed, str(seed)):
        assert resolved(daemon, body={"seed": value, "class": 0})["parameters"]["seed"] == seed


def test_seeds_are_random(daemon):
    assert len({resolved(daemon)["parameters"]["seed"] for _ in range(20)}) == 20


def test_query_wins(daemon):
    assert resolved(daemon, "n=2&class=1", {"n": 3, "steps": 7})["parameters"]["n"] == 2
    assert resolved(daemon, "n=2&class=1", {"n": "wrong", "steps": 7})["parameters"]["steps"] == 7
    form = resolved(daemon, "n=2&class=1", "n=3&steps=7", Content_Type="application/x-www-form-urlencoded")
    assert form["parameters"]["n"] == 2 and form["parameters"]["steps"] == 7
    assert daemon.post("/generate?n=2", {"nn": 3}).problem()["field"] == "nn"


def test_ddpm_is_all_timesteps(daemon):
    document = resolved(daemon, "sampler=ddpm&class=1&steps=7")
    assert document["timesteps"] == list(range(999, -1, -1)) and document["row_steps"] == 1000
    assert document["parameters"]["steps"] == 1000 and document["parameters"]["eta"] == 1


def test_guidance_takes_two_rows(daemon):
    document = resolved(daemon, "class=1&steps=7&guidance=2")
    assert document["lane_steps"] == 7 and document["row_steps"] == 14


def test_limits_name_the_limit(daemon):
    problem = daemon.get("/generate?class=1&n=128&steps=100&result_only=false&interval=1&scale=16").problem()
    assert problem["field"] == "scale" and "134217728 bytes" in problem["detail"]
    problem = daemon.get("/generate?class=1&steps=1000&result_only=false&interval=1&scale=4").problem()
    assert problem["field"] == "scale" and "65500 on a side" in problem["detail"]
    problem = daemon.get("/generate?class=1&n=128&steps=1000&result_only=false&interval=1").problem()
    assert problem["field"] == "interval" and "268435456" in problem["detail"]
    problem = daemon.get("/generate?class=1&n=128&steps=1000&guidance=2&sampler=ddpm&n=1").problem()
    assert problem["field"] == "n"


def test_form_and_json_bodies(daemon):
    form = daemon.post("/generate?dry_run=true", "class=1%2C2&n=2&seed=5",
                       Content_Type="application/x-www-form-urlencoded; charset=utf-8").json()
    body = daemon.post("/generate?dry_run=true", json.dumps({"class": [1, 2], "n": 2, "seed": 5}),
                       Content_Type="Application/JSON").json()
    assert form["parameters"] == body["parameters"]
