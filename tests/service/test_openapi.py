"""Requests made from openapi.json at random, good and bad: only documented answers, errors always problem documents."""
import http.client
import json
import os
import random
import re
import urllib.parse

import pytest

from support import eventually

SEEDS = int(os.environ.get("PROPERTY_REQUESTS", "400"))
ODD = ["", "0", "-1", "1e400", "nan", "true", "null", "\u0000", "\ud7ff", "%", "../../etc/passwd", "x" * 300, "9" * 40, "[]", "{}",
       "a,b", " ", "1.5", "'", "\"", "\\", "all", "none"]


class Maker:
    """Values for schemas: mostly good, at times odd."""

    def __init__(self, document, dice):
        self.document, self.dice = document, dice

    def resolve(self, schema):
        while "$ref" in schema:
            at = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                at = at[part]
            schema = at
        return schema

    def value(self, schema, depth=0):
        schema, dice = self.resolve(schema), self.dice
        if dice.random() < 0.08:
            return dice.choice(ODD + [None, [], {}, -1, 2**63, 1e300, [[]]])
        for key in ("oneOf", "anyOf"):
            if key in schema:
                return self.value(dice.choice(schema[key]), depth + 1)
        if "enum" in schema:
            return dice.choice(schema["enum"])
        kind = schema.get("type", "string")
        kind = dice.choice(kind) if isinstance(kind, list) else kind
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = min(schema.get("maximum", low + 9), low + 9)
        if kind == "integer":
            return dice.randint(int(low), int(high))
        if kind == "number":
            return round(dice.uniform(low, high), 3)
        if kind == "boolean":
            return dice.random() < 0.5
        if kind == "array":
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(dice.randint(0, 3))]
        if kind == "object" and depth < 4:
            return {k: self.value(v, depth + 1) for k, v in schema.get("properties", {}).items()
                    if k in schema.get("required", ()) or dice.random() < 0.3}
        return dice.choice(["colour", "grey", "a", "0", "1", *ODD])


def text_of(value):
    return value if isinstance(value, str) else json.dumps(value)


def quote(text):
    return urllib.parse.quote(text.encode("utf-8", "surrogatepass"), safe="")


def make(document, dice):
    """(method, the path's template, target, body, headers, operation)"""
    path = dice.choice(sorted(document["paths"]))
    method = dice.choice(sorted(document["paths"][path]))
    operation, maker = document["paths"][path][method], Maker(document, dice)
    target, query, headers, body = path, [], {}, None
    for p in operation.get("parameters", []):
        value = text_of(maker.value(p.get("schema", {})))
        if p["in"] == "path":
            target = target.replace("{%s}" % p["name"], quote(dice.choice([value, "colour", "1"])) or "x")
        elif p["in"] == "query" and (p.get("required") or dice.random() < 0.4):
            query.append((p["name"], value))
    if dice.random() < 0.05:
        query.append((dice.choice(ODD), dice.choice(ODD)))
    if query:
        target += "?" + "&".join(f"{quote(k)}={quote(v)}" for k, v in query)
    content = operation.get("requestBody", {}).get("content", {})
    if content and dice.random() < 0.8:
        kind = dice.choice(sorted(content))
        schema = content[kind].get("schema", {})
        value = maker.value(schema)
        headers["Content-Type"] = kind
        if kind == "application/json":
            body = json.dumps(value).encode() if dice.random() < 0.95 else dice.choice([b"{", b"\xff", b"[1,", b'{"a":1,"a":2}'])
        elif isinstance(value, dict):
            body = "&".join(f"{quote(k)}={quote(text_of(v))}" for k, v in value.items()).encode()
        else:
            body = text_of(value).encode("utf-8", "surrogatepass")
    offers = sorted({t for a in operation["responses"].values() for t in a.get("content", {})})
    if offers and dice.random() < 0.5:
        headers["Accept"] = dice.choice([*offers, "text/nothing", "*/*;q=0"])
    return method.upper(), path, target, body, headers, operation


@pytest.fixture
def all_of_it(start, tmp_path, models):
    import shutil
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    daemon = start("--default-model", "colour", "--state", str(tmp_path / "state"), "--max-images", "16", "--max-row-steps", "400",
                   folder=folder)
    yield daemon
    assert daemon.stop() == 0


# Made below the routes, for any of them; documented for the interface as a whole.
ANYWHERE = {"404", "405", "406", "408", "413", "414", "415", "431"}


def test_only_what_is_documented(all_of_it):
    daemon, seen = all_of_it, {}
    document = daemon.get("/openapi.json").json()
    for number in range(SEEDS):
        dice = random.Random(number)
        method, path, target, body, headers, operation = make(document, dice)
        if path.endswith("/events"):
            continue  # streams that end with their job
        c = daemon.connect()
        try:
            c.request(method, target, body, headers)
            response = c.getresponse()
            data = response.read()
        except http.client.InvalidURL:
            continue
        finally:
            c.close()
        where = f"request {number}: {method} {target} {headers} {body} -> {response.status} {data[:300]}"
        code = str(response.status)
        seen[code] = seen.get(code, 0) + 1
        assert daemon.process.poll() is None, where
        assert code in operation["responses"] or code in ANYWHERE, where
        assert response.status < 500 or response.status in (503, 504), where
        if response.status >= 400:
            assert response.headers["Content-Type"] == "application/problem+json", where
            problem = json.loads(data)
            assert problem["status"] == response.status and problem["title"] and problem["detail"], where
            assert problem["type"] in known_problems(document), where
            assert "/tmp" not in problem["detail"], where
        elif response.status != 204 and response.status != 304:
            kind = response.headers["Content-Type"].split(";")[0]
            offered = {t.split(";")[0] for a in operation["responses"].values() for t in a.get("content", {})}
            assert kind in offered, where
            if kind == "application/json":
                json.loads(data)
    assert seen.get("200", 0) > SEEDS / 10 and seen.get("400", 0) > SEEDS / 20, seen
    print(seen)
    eventually(lambda: daemon.metric("ddimd_queue_requests") == 0, "requests are left")


def known_problems(document):
    return set(re.findall(r"/problems/[a-z-]+", json.dumps(document))) | {"/problems/" + p for p in (
        "not-found", "method-not-allowed", "not-acceptable", "request-timeout", "body-too-large", "uri-too-long",
        "unsupported-media-type", "headers-too-large")}
