"""The ablations: objectives alone, equal rows, parts that resume, tables out of rows."""

import itertools
import re
from pathlib import Path
from typing import Any

import ablations
import numpy as np
import pytest
import torch
from ablation.pictures import CodeBatches
from ablation.plan import FULL, PriorPlan, TokenizerPlan, priors_of, tokenizers
from ablation.predict import PREDICTORS, correlations, spearman
from ablation.report import page
from ablation.schedule import Task, side_by_side
from cifar10.masked_autoencoder import MaskedAutoencoder
from cifar10.objectives import RECIPES, stage_of
from cifar10.vit import ViTConfig
from tests_support import make_pictures

from digit.errors import DigitError
from digit.evaluation.result import read_result
from digit.files import read_json
from digit.nn.batch import PixelBatch
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.artifact import save


@pytest.fixture(autouse=True)
def one_thread():
    """Everything here is tiny: a second thread only waits, longest on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


VIT = ViTConfig(image_size=16, width=64, depth=3, heads=1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_the_encoder_that_is_exported(recipe):
    torch.manual_seed(0)
    changes = {} if recipe == "mae" else {"prototypes": 16}
    stage = stage_of(recipe, VIT, steps=10, **changes)
    batch = PixelBatch(torch.rand(4, 3, 16, 16), None)
    stage.loss(batch).backward()
    trained = stage.encoder if isinstance(stage, MaskedAutoencoder) else stage.student
    gradient = trained.vit.blocks[0].attn.qkv.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0
    assert ("masked" in stage.metrics) == (recipe in ("mixed", "ibot"))
    assert stage.encoder.features(batch.pixels)[0].shape == (4, 17, 64)


def test_an_encoder_of_mae_sees_the_visible_patches_alone():
    torch.manual_seed(0)
    stage: Any = stage_of("mae", VIT, steps=1).eval()
    pixels, visible = torch.rand(1, 3, 16, 16), torch.tensor([[0, 5, 6]])
    changed = pixels.clone()
    changed[:, :, 12:, 12:] = 0  # patch 15
    torch.testing.assert_close(stage.restored(pixels, visible), stage.restored(changed, visible))
    assert not torch.allclose(
        stage.restored(pixels, torch.tensor([[0, 15]])), stage.restored(changed, torch.tensor([[0, 15]]))
    )
    # The order in which patches are given does not move them.
    torch.testing.assert_close(
        stage.restored(pixels, visible), stage.restored(pixels, visible.flip(1)), atol=1e-5, rtol=1e-4
    )


def test_mae_learns_to_restore():
    torch.manual_seed(0)
    stage: Any = stage_of("mae", VIT, steps=1).eval()
    ramp = torch.linspace(0, 1, 16)
    batch = PixelBatch((ramp * ramp[:, None]).expand(8, 3, 16, 16).contiguous(), None)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = stage.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_rows_differ_from_the_main_one_in_one_thing():
    plans = tokenizers(FULL, "distilled", 4096)
    assert len(plans) == len(set(plans)) >= 8
    rows = [row for plan in plans for row in priors_of(plan, plans)]
    main = PriorPlan(plans[0])
    assert main in rows
    for row in rows:
        parts = (row.tokenizer.encoder, row.tokenizer.codes, row.size, row.share)
        same = (main.tokenizer.encoder, main.tokenizer.codes, main.size, main.share)
        different = sum(one != other for one, other in zip(parts, same, strict=True))
        assert different <= 1 or (row.tokenizer.encoder == "vq" and different == 2)
    with pytest.raises(DigitError, match=r"^main vq"):
        tokenizers(FULL, "vq", 4096)


def test_every_code_is_seen_in_each_view_and_with_its_vq_codes():
    codes = torch.arange(2 * 6, dtype=torch.int16).view(6, 2, 1)
    data = CodeBatches(codes, 6, vq_codes=codes + 100)
    seen = [data(step) for step in range(2)]
    assert sorted(torch.cat([batch.codes for batch in seen]).flatten().tolist()) == list(range(12))
    for batch in seen:
        assert batch.vq_codes is not None
        assert torch.equal(batch.vq_codes, batch.codes + 100)
    assert torch.equal(data(1).codes, seen[1].codes)


def test_spearman_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.integers(0, 6, 9).astype(float), rng.normal(size=9)
        assert spearman(list(a), list(b)) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman([1.0, 2.0, 4.0], [5.0, 6.0, 70.0]) == pytest.approx(1)
    assert spearman([1.0, 1.0, 1.0], [5.0, 6.0, 70.0]) == 0


def invented(distance: float, plan: PriorPlan) -> dict:
    return {
        **{"name": plan.name, "tokenizer": plan.tokenizer.title, "encoder": plan.tokenizer.encoder},
        **{"codes": plan.tokenizer.codes, "size": plan.size, "share": plan.share, "FD": distance, "IS": 2.0},
        **{"probe_prior": 0.5, "probe_layer": 3.0, "probe_encoder": 0.6, "prior_bits": 10 - distance / 10},
        **{"entropy_bits": 9.0, "token_change_20dB": distance / 100, "reconstruction_FD": 3.0, "steps": 100},
        **{
            "probe_layers": [0.3, 0.5, 0.4],
            "renderer_steps": 200,
            "parameters": 10**7,
            "samples": 1000,
            "features": {"name": "classifier-0", "sha256": "0"},
        },
    }


def test_the_page_has_the_papers_rows_beside_ours_and_the_best_predictor_first():
    plans = tokenizers(FULL, "distilled", 4096)
    rows = [row for plan in plans for row in priors_of(plan, plans)]
    found = [invented(20.0 + i, row) for i, row in enumerate(rows)]
    text = page(found, "a device")
    mae = next(line for line in text.splitlines() if line.startswith("| MAE, K=1024 | P+R"))
    assert "45.51 | 18.39 | 31.40 | 75.80" in mae
    assert re.search(r"\| VQ codes \| [\d.]+ \| 2.00 \| 100 \| 24.38 / 30.93 \|", text)
    assert "| K=256 | 30.0 | 50.0 | 40.0 |" in text
    order = [text.index(PREDICTORS[key][0]) for key in ("token_change", "probe_encoder")]
    assert text.rindex(PREDICTORS["token_change"][0]) < text.rindex(PREDICTORS["probe_encoder"][0])
    assert all(place > 0 for place in order)
    whole = [row for row in found if row["size"] == "medium" and row["share"] == 1]
    rho = {key: each["rho"] for key, each in correlations(whole).items()}
    assert rho["token_change"] == pytest.approx(1) and rho["prior_loss"] == pytest.approx(-1)


def test_the_whole_run_in_parts_that_are_done_once(tmp_path, capsys):
    pictures, out = make_pictures(tmp_path / "pictures.zip", count=24), tmp_path / "run"
    torch.manual_seed(0)
    shape = VQGANConfig(image_size=16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4)
    save(VQGAN(shape), tmp_path / "vqgan")
    command = ["--images", str(pictures), "--test", str(pictures), "--out", str(out), "--device", "cpu"]
    command += ["--smoke", "--workers", "1", "--encoder-steps", "3"]
    command += ["--vqgan", str(tmp_path / "vqgan"), "--main", "random"]
    parts = ["pictures", "plan", "classifier", "rows:vq-16"]
    assert ablations.main([*command, "--steps", "2", "--parts", *parts]) == 0
    assert ablations.main([*command, "--parts", "report"]) == 3  # the other rows are named as missing
    assert "vq-16" not in "".join(line for line in capsys.readouterr().err.splitlines() if "yet" in line)
    first = {path: path.stat().st_mtime_ns for path in (out / "rows").rglob("*.json")}
    assert ablations.main(command) == 0
    result = read_result(out / "results" / "ablations.json")
    plans = tokenizers(ablations.SMOKE, "random", 16)
    names = {row.name for plan in plans for row in priors_of(plan, plans)}
    assert {row["name"] for row in result["rows"]} == names
    assert {row["steps"] for row in result["rows"]} == {1, 2}
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    assert {row["renderer_steps"] for row in result["rows"]} == {0, 3}
    assert len(result["rows"][0]["probe_layers"]) == 1 + ablations.SMOKE.medium[1]
    assert (out / "results" / "probes.png").stat().st_size > 10_000
    assert (out / "results" / "ablations.png").stat().st_size > 10_000
    assert "# Ablations on CIFAR-10" in (out / "results" / "ablations.md").read_text()
    assert not list(out.rglob("rows/*/*/state"))
    encoders = [path.read_bytes() for path in out.glob("encoders/*/encoder.safetensors")]
    assert len(encoders) == len(set(encoders)) == 4  # each objective moved it elsewhere
    for plan, key in itertools.product(plans, ("entropy_bits", "token_change_20dB", "probe_encoder")):
        assert key in read_json(out / "rows" / plan.name / "tokenizer.json")


def test_tasks_wait_for_one_another_and_share_devices(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    log = tmp_path / "order"

    def task(name: str, needs: str | None = None, code: int = 0, until: str = "", **more) -> Task:
        waits = f"until grep -q '{until}' {log}; do sleep 0.05; done"
        script = f"echo {name} $CUDA_VISIBLE_DEVICES >> {log}; {waits}; exit {code}"
        return Task(name, ["bash", "-c", script], needs, **more)

    tasks = [task("a", until="e"), task("b", "a"), task("c", code=3), task("d", "c"), task("e", "f")]
    tasks += [task("f"), task("g", done=lambda: True)]
    missing = side_by_side(tasks, devices=2, workers=1, left=lambda: 60.0, logs=tmp_path / "logs")
    ran = dict(line.split() for line in log.read_text().splitlines())
    assert [name for name in ran if name != "a"] == ["c", "f", "e", "b"]
    assert (ran["a"], ran["c"]) == ("0", "1")
    assert [line.split(":")[0] for line in missing] == ["c", "d"]
    missing = side_by_side(tasks[:1], devices=1, workers=1, left=lambda: 0.0, logs=tmp_path / "logs")
    assert missing == ["a: not begun, repeat the command"]


def test_processes_do_what_one_call_does(tmp_path, monkeypatch):
    done: list[str] = []

    def run(tasks: list[Task], **options: object) -> list[str]:
        for each in tasks:
            part = each.command[each.command.index("--parts") + 1]
            done.append(part)
            assert "--wait" in each.command and options["devices"] == 1
        return []

    pictures = make_pictures(tmp_path / "pictures.zip", count=24)
    torch.manual_seed(0)
    shape = VQGANConfig(image_size=16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4)
    save(VQGAN(shape), tmp_path / "vqgan")
    monkeypatch.setattr(ablations, "side_by_side", run)
    command = ["--images", str(pictures), "--test", str(pictures), "--out", str(tmp_path / "run")]
    command += ["--device", "cpu", "--smoke", "--vqgan", str(tmp_path / "vqgan"), "--steps", "3"]
    assert ablations.main([*command, "--workers", "2"]) == 3  # no row came of it
    assert read_json(tmp_path / "run" / "plan.json") == {"steps": 3, "renderer_steps": 5}
    encoders = [f"encoders:{name}" for name in ("ibot", "dino", "mocov3", "mae")]
    assert done[:5] == ["classifier", *encoders]
    assert len(done) == 5 + len(tokenizers(ablations.SMOKE, "distilled", 16))


def test_an_encoder_cut_off_by_its_limit_is_taken_up(tmp_path):
    from ablation.encoders import train_encoder
    from ablation.pictures import Sets

    codes = torch.zeros(8, 2, 16, dtype=torch.int16)
    labels = torch.zeros(8, dtype=torch.int64)
    pixels = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    sets = Sets(pixels, labels, codes, pixels, labels, codes[:, 0], None)
    how = {"seconds": 1.0, "steps": 3}
    assert not train_encoder("mae", sets, tmp_path, ablations.SMOKE, limit=0.0, **how)
    assert not (tmp_path / "trained.json").exists()
    assert train_encoder("mae", sets, tmp_path, ablations.SMOKE, limit=60.0, **how)
    assert read_json(tmp_path / "trained.json")["steps"] == 3


def test_the_tokenizers_name_says_encoder_and_codes():
    assert TokenizerPlan("mae", 256).name == "mae-256"
    assert PriorPlan(TokenizerPlan("mae", 256), share=0.5).name == "mae-256-medium-0.5"
    assert Path(ablations.__file__).name == "ablations.py"
