from digit.evaluation.paper import CONDITIONAL, UNCONDITIONAL, generation_rows


def test_the_rows_that_the_published_weights_reproduce():
    ours = {(row.table, row.method, row.parameters): row for row in UNCONDITIONAL + CONDITIONAL}
    base, large = ours[3, "DiGIT (+VQGAN)", "219M"], ours[4, "DiGIT (+VQGAN)", "732M"]
    assert (base.fid, base.inception_score, base.epochs) == (9.13, 73.85, "400")
    assert (large.fid, large.inception_score) == (3.39, 205.96)
    assert (len(UNCONDITIONAL), len(CONDITIONAL)) == (12, 20)


def test_rows_are_json_with_every_column():
    rows = generation_rows()
    assert len(rows) == 32
    assert all(row["fid"] > 1 and set(row) == set(rows[0]) for row in rows)
