import json

from digit.evaluation.sweep import best, combinations, key, named, pareto, sweep, varied


def row(top_k, top_p, fd, score):
    return {"setting": {"top_k": top_k, "top_p": top_p, "noise": 1.0}, "values": {"FID": fd, "IS": score}}


ROWS = [row(k, p, 10 + abs(k - 3) + p, 5 + k - p) for k in (0, 1, 3, 9) for p in (0.5, 1.0)]


def test_combinations():
    assert combinations({}) == [{}]
    assert combinations({"a": [1, 2, 1], "b": [3.0]}) == [{"a": 1, "b": 3.0}, {"a": 2, "b": 3.0}]


def test_the_prior_draws_once_for_all_renderer_settings():
    drawn, scored = [], []

    def draw(setting):
        drawn.append(setting)
        return setting["p"] * 10

    def score(codes, setting):
        scored.append((codes, setting))
        yield "FD", codes + setting["r"]

    priors, renderers = combinations({"p": [1, 2]}), combinations({"r": [0, 1, 2]})
    rows = list(sweep(priors, renderers, draw=draw, score=score))
    assert drawn == priors
    assert [r["values"]["FD"] for r in rows] == [10, 11, 12, 20, 21, 22]
    assert rows[4]["setting"] == {"p": 2, "r": 1}

    drawn.clear()
    scored.clear()
    stored = json.loads(json.dumps(rows[:3] + rows[5:]))  # what an interrupted run left
    again = list(sweep(priors, renderers, draw=draw, score=score, done={key(r["setting"]) for r in stored}))
    assert drawn == [{"p": 2}] and again == rows[3:5] and len(scored) == 2


def test_a_setting_stays_the_same_cell_through_json():
    assert key({"top_k": 50, "top_p": 1}) == key(json.loads(json.dumps({"top_p": 1.0, "top_k": 50})))
    assert key({"top_k": 50}) != key({"top_k": 51})


def test_varied_axes_come_by_number_of_values():
    assert varied(ROWS) == {"top_k": [0, 1, 3, 9], "top_p": [0.5, 1.0]}
    assert varied(ROWS[:1]) == {}


def test_best_and_pareto_front():
    assert best(ROWS, "FID")["setting"] == {"top_k": 3, "top_p": 0.5, "noise": 1.0}
    front = pareto(ROWS, "FID", "IS")
    for r in ROWS:
        beaten = any(
            o["values"]["FID"] <= r["values"]["FID"]
            and o["values"]["IS"] >= r["values"]["IS"]
            and o["values"] != r["values"]
            for o in ROWS
        )
        assert (r in front) is not beaten


def test_names_say_what_varies():
    names = dict(named(ROWS))
    assert len(names) == 16
    assert names["FID, top_k 3, top_p 0.5"] == 10.5
    assert dict(named(ROWS[:1])) == {"FID": 13.5, "IS": 4.5}
