"""Model, build, device kind and parameters fix an answer's bytes: 200 recipes, in any company, order and life."""
import random

from support import parallel

N, SIZES, ORDERS = 200, (2, 3, 8), 5


def recipe(rng, k):
    fields = {"class": rng.choice(["0", "1,2", "none", "2"]), "steps": rng.randint(1, 6), "seed": rng.getrandbits(64),
              "sampler": rng.choice(["ddim", "ddim", "dpmpp_2m"]), "eta": rng.choice([0, 0, 0.3, 1]),
              "method": rng.choice(["linear", "quadratic", "trailing"]), "guidance": rng.choice([1, 1, 0, 2.5]),
              "clip": rng.choice(["true", "false"]), "n": 1 + k % 2, "priority": rng.choice(["low", "normal", "high"])}
    if k % 10 == 0:
        fields.update(result_only="false", interval=1 + fields["steps"] // 2)
    return fields


def test_200_recipes(start):
    rng = random.Random(11)
    recipes = [recipe(rng, k) for k in range(N)]
    d = start("--default-model", "colour")

    def answer(k):
        return d.generate(**recipes[k]).body

    alone = [answer(k) for k in range(N)]
    assert len(set(alone)) == N
    for size in SIZES:
        some = rng.sample(range(N), 48)
        for i in range(0, len(some), size):
            group = some[i:i + size]
            assert parallel([lambda k=k: answer(k) for k in group]) == [alone[k] for k in group]
    for _ in range(ORDERS - 1):
        order = rng.sample(range(N), N)
        assert parallel([lambda k=k: answer(k) for k in order]) == [alone[k] for k in order]
    assert d.metric('ddimd_step_lanes_bucket{le="1"}') < d.metric("ddimd_step_lanes_count")  # they did share steps
    assert d.stop() == 0
    d = start("--default-model", "colour", "--threads", "2", "--max-rows", "5", "--devices", "cpu:0,cpu:1")
    assert d.get("/capabilities").json()["devices"] == 2
    order = rng.sample(range(N), N)
    assert parallel([lambda k=k: answer(k) for k in order]) == [alone[k] for k in order]
