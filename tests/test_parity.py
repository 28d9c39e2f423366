"""The authors' code, run on small random models, against the modules that `digit convert` makes of its files.

tests/fixtures holds its inputs and outputs; its manifest.json says how they were computed, and how near to
them one can come.
"""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests_support import FIXTURES

from digit.evaluation.probe import pooled_states
from digit.kmeans import assign
from digit.nn.batch import CodeBatch
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig, draw, filter_logits
from digit.prior import Prior
from digit.renderer_masked import masked_after
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.update import Updater
from digit.weights.conversion import tokenizer_copy, vqgan_copy
from digit.weights.fairseq import BLOCK, convert_checkpoint, probed_prior
from digit.weights.foreign import read

TOLERANCE = json.loads((FIXTURES / "manifest.json").read_text())["tolerances"]


@cache
def checkpoint(name: str):
    return read(FIXTURES / f"{name}.pt")


@cache
def model(name: str):
    return convert_checkpoint(checkpoint(name), where=name)


@cache
def golden(name: str):
    return load_file(FIXTURES / f"{name}.safetensors")


def vocabulary_logits(name: str):
    module, g = model(name), golden(name)
    with torch.no_grad():
        if name == "stage1_uncond":
            return module.vocabulary_logits(g["codes"])
        if name == "stage1_cls":
            return module.vocabulary_logits(g["codes"], g["class_ids"])
        if name == "vq_only":
            return module.vocabulary_logits(g["vq_codes"])
        if name == "stage2_ar":
            return module.vocabulary_logits(g["disc_codes"], g["vq_codes"])
        masked = g["vq_codes"].masked_fill(g["mask"][:, 1:], module.mask)
        return module.vocabulary_logits(g["disc_codes"], masked)


DECODERS = ["stage1_uncond", "stage1_cls", "stage2_ar", "stage2_nar", "vq_only"]


@pytest.mark.parametrize("name", DECODERS)
def test_logits_over_the_whole_vocabulary(name):
    torch.testing.assert_close(
        vocabulary_logits(name), golden(name)["logits"], atol=TOLERANCE["logits"]["atol"], rtol=0
    )


@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_the_surface_are_those_of_the_codes_alone(name):
    module, g = model(name), golden(name)
    codes = g.get("codes", g.get("disc_codes", g.get("vq_codes")))
    with torch.no_grad():
        if name == "stage2_ar":
            logits = module.logits(codes, g["vq_codes"])
        elif name == "stage2_nar":
            logits = module.logits(codes, g["vq_codes"].masked_fill(g["mask"][:, 1:], module.mask))
        else:
            logits = module.logits(codes, g.get("class_ids"))
    expected = g["logits"][:, 1:, 5:] if name == "stage2_nar" else g["logits"][:, :-1, 5:]
    torch.testing.assert_close(logits, expected, atol=TOLERANCE["logits"]["atol"], rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_smoothed_loss_of_a_batch(name):
    module, g = model(name), golden(name)
    labels = g.get("class_ids")
    with torch.no_grad():
        if name == "stage2_nar":
            loss = module.masked_loss(g["disc_codes"], g["vq_codes"], g["mask"][:, 1:])
        elif name == "vq_only":
            loss = module.loss(CodeBatch(g["vq_codes"]))
        else:
            loss = module.loss(CodeBatch(g.get("codes", g.get("disc_codes")), labels, g.get("vq_codes")))
    assert loss == pytest.approx(g["loss"].item(), abs=TOLERANCE["losses"]["atol"])


@pytest.mark.parametrize("name", DECODERS)
def test_likelihood_and_smoothing_are_pytorchs(name):
    g = golden(name)
    counts = g["mask"] if name == "stage2_nar" else torch.ones_like(g["tgt"], dtype=torch.bool)
    logits, targets = vocabulary_logits(name)[counts], g["tgt"][counts]
    atol = TOLERANCE["losses"]["atol"]
    assert F.cross_entropy(logits, targets) == pytest.approx(g["nll_loss"].item(), abs=atol)
    assert F.cross_entropy(logits, targets, label_smoothing=0.1) == pytest.approx(g["loss"].item(), abs=atol)


def test_inner_states():
    g = golden("stage1_uncond")
    with torch.no_grad():
        states = torch.stack(model("stage1_uncond").states(g["codes"]))
    atol = TOLERANCE["inner_states"]["atol"]
    torch.testing.assert_close(states[:, 0], g["inner_states_sample0"], atol=atol, rtol=0)
    torch.testing.assert_close(states.mean(2), g["pooled_states"], atol=atol, rtol=0)


def test_inner_states_by_class():
    g = golden("stage1_cls")
    with torch.no_grad():
        pooled = pooled_states(model("stage1_cls"), g["codes"], g["class_ids"])
    atol = TOLERANCE["inner_states"]["atol"]
    torch.testing.assert_close(pooled.transpose(0, 1), g["pooled_states"], atol=atol, rtol=0)


def test_probe_heads_read_what_each_block_reads():
    g, probe = golden("linear_probe"), model("linear_probe")
    prior = probed_prior(checkpoint("linear_probe"), where="linear_probe")
    with torch.no_grad():
        pooled = pooled_states(prior, g["codes"])
        logits = probe.logits(pooled[:, : probe.config.layers]).squeeze(2)
    losses = [F.cross_entropy(logits[:, i], g["class_ids"]).item() for i in range(2)]
    for i in range(2):
        name = f"classifier_{i}_blocks"
        atol = TOLERANCE["probe_logits"]["atol"]
        torch.testing.assert_close(logits[:, i], g[f"logits.{name}"], atol=atol, rtol=0)
        assert losses[i] == pytest.approx(g[f"loss.{name}"].item(), abs=TOLERANCE["losses"]["atol"])
    assert sum(losses) == pytest.approx(g["loss_sum"].item(), abs=2 * TOLERANCE["losses"]["atol"])


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_copy(checkpoint("stage1_uncond"), where="stage1_uncond", encoder_heads=3)


@pytest.fixture(scope="module")
def images():
    return golden("tokenizer")["images_u8"].float() / 255


def test_features(tokenizer, images):
    atol = TOLERANCE["features"]["atol"]
    torch.testing.assert_close(tokenizer.features(images), golden("tokenizer")["features"], atol=atol, rtol=0)


def test_codes_of_pictures(tokenizer, images):
    g = golden("tokenizer")
    assert torch.equal(tokenizer.encode(images), g["ids_ckpt"])
    assert torch.equal(tokenizer.encode(images[:, :, 16:240, 16:240]), g["ids_ckpt_center224"])


def test_codes_from_the_table_of_kmeans(tokenizer, images):
    g = golden("tokenizer")
    assert torch.equal(assign(tokenizer.features(images), read(FIXTURES / "km.npy")), g["ids_npy"])
    assert torch.equal(assign(g["tie_features"], g["tie_centroids"]), g["tie_ids"])


def test_centroids_and_norms_are_those_of_the_checkpoint(tokenizer):
    table = read(FIXTURES / "km.npy")
    assert torch.equal(tokenizer.centroids, table.half().float())
    assert torch.equal(tokenizer.squares, table.square().sum(1).half().float())


def test_vqgan_codes_and_pixels():
    g, vqgan = golden("vqgan"), vqgan_copy(checkpoint("stage2_ar"), where="stage2_ar")
    pixels = g["image_u8"].float() / 255
    with torch.no_grad():
        latents = vqgan.latents(pixels)
        codes = vqgan.encode(pixels)
        vectors = vqgan.quantize.vectors(codes).transpose(1, 2).unflatten(2, (16, 16))
        again = vqgan.decode_latents(vectors)
        shown = vqgan.decode(codes)
    torch.testing.assert_close(latents, g["prequant"], atol=TOLERANCE["prequant"]["atol"], rtol=0)
    assert torch.equal(codes, g["ids"])
    torch.testing.assert_close(again, g["recon"], atol=TOLERANCE["recon"]["atol"], rtol=0)
    truncated = (shown * 255).to(torch.uint8)
    steps = (truncated.int() - g["recon_u8"].int()).abs()
    assert steps.max() <= TOLERANCE["recon_u8"]["max_step"]
    assert (steps > 0).float().mean() <= TOLERANCE["recon_u8"]["max_fraction"]


def test_losses_from_images(tokenizer, images):
    g, atol = golden("end_to_end"), TOLERANCE["losses"]["atol"]
    codes = tokenizer.encode(images)
    with torch.no_grad():
        vq_codes = vqgan_copy(checkpoint("stage2_ar"), where="stage2_ar").encode(images)
        assert torch.equal(codes, g["disc_codes"])
        assert torch.equal(vq_codes, g["vq_codes"])
        uncond = model("stage1_uncond").loss(CodeBatch(codes))
        by_class = model("stage1_cls").loss(CodeBatch(codes, g["class_ids"]))
        renderer = model("stage2_ar").loss(CodeBatch(codes, None, vq_codes))
    assert uncond == pytest.approx(g["stage1_uncond_loss"].item(), abs=atol)
    assert by_class == pytest.approx(g["stage1_cls_loss"].item(), abs=atol)
    assert renderer == pytest.approx(g["stage2_ar_loss"].item(), abs=atol)


ROWS = range(14)


@pytest.mark.parametrize("row", ROWS)
def test_kept_by_top_k(row):
    g = golden("samplers")
    for i, k in enumerate(g["topk_values"].tolist()):
        kept = filter_logits(g["lprobs_masked"][row, 5:], SamplerConfig(top_k=k))
        kept = torch.isfinite(kept) & (kept.softmax(-1) > 0)
        expected = g["topk_keep"][row, i, 5:]
        if g["topk_boundary_tie"][row, i]:
            assert kept.sum() == expected.sum()
        else:
            assert torch.equal(kept, expected)
            probabilities = filter_logits(g["logits"][row, 5:], SamplerConfig(top_k=k)).softmax(-1)
            torch.testing.assert_close(probabilities, g["topk_probs"][row, i, 5:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_kept_by_top_p_of_the_vocabulary(row):
    g, compared = golden("samplers"), 0
    logits = g["logits"][row]
    for i, p in enumerate(g["topp_values"].tolist()):
        if g["topp_margin"][row, i] < 1e-5:
            continue
        config = SamplerConfig(top_p=min(p, 1.0), top_p_of="vocabulary")
        kept = filter_logits(logits[5:], config, specials=logits[:5])
        probabilities = kept.softmax(-1)
        kept = torch.isfinite(kept) & (logits.softmax(-1)[5:] > 0)  # what underflows cannot be drawn
        expected = g["topp_keep"][row, i, 5:]
        if g["topp_boundary_tie"][row, i]:
            assert kept.sum() == expected.sum()
        else:
            assert torch.equal(kept, expected), (p, row)
            torch.testing.assert_close(probabilities, g["topp_probs"][row, i, 5:], atol=1e-6, rtol=1e-5)
        compared += 1
    assert compared >= 2


def test_top_p_of_codes_differs_where_specials_are_heavy():
    logits = golden("samplers")["logits"]
    vocabulary = SamplerConfig(top_p=0.8, top_p_of="vocabulary")
    alone = filter_logits(logits[:, 5:], SamplerConfig(top_p=0.8))
    beside = filter_logits(logits[:, 5:], vocabulary, specials=logits[:, :5])
    more = torch.isfinite(beside).sum(1) - torch.isfinite(alone).sum(1)
    assert (more >= 0).all()
    assert (more > 0).any()


def test_draws_never_give_a_special():
    logits = torch.zeros(64, 8)
    logits[:, :5] = 50.0
    config = SamplerConfig(top_p=0.5, top_p_of="vocabulary")
    drawn = draw(logits, keys(range(64), stage="test"), torch.tensor(0), config, specials=5)
    assert drawn.unique().tolist() == [0, 1, 2]  # all three codes are kept: they never reach one half


GREEDY = SamplerConfig(temperature=0.0)


def test_greedy_codes():
    """Drawn one after another, and as the likeliest of all positions read at once."""
    g = golden("generation")
    prior, drawn = model("stage1_uncond"), g["stage1_uncond_codes"]
    assert torch.equal(prior.sample([0], config=GREEDY), drawn)
    assert torch.equal(prior.logits(drawn).argmax(-1), drawn)
    prior, labels, drawn = model("stage1_cls"), g["stage1_cls_class_ids"], g["stage1_cls_codes"]
    assert torch.equal(prior.sample(list(range(len(labels))), labels, GREEDY), drawn)
    assert torch.equal(prior.logits(drawn, labels).argmax(-1), drawn)
    renderer, codes, drawn = model("stage2_ar"), g["stage2_ar_disc_codes"], g["stage2_ar_vq_codes"]
    assert torch.equal(renderer.sample(codes, list(range(len(codes))), GREEDY), drawn)
    assert torch.equal(renderer.logits(codes, drawn).argmax(-1), drawn)


def test_greedy_by_top_k_1():
    g = golden("generation")
    drawn = model("stage1_uncond").sample([7], config=SamplerConfig(top_k=1))
    assert torch.equal(drawn, g["stage1_uncond_codes"])


@pytest.mark.parametrize("steps", [8, 12])
def test_mask_counts(steps):
    assert masked_after(256, steps) == golden("nar_decode")[f"n_mask_T{steps}"].tolist()


def test_masked_decoding_replays_the_reference(monkeypatch):
    """Its drawn codes and its Gumbel noise take the place of ours; the rest is our loop."""
    g, passes = golden("nar_decode"), []

    def draw(logits, keys, masked, config, *, step):
        passes.append(masked.shape[1])
        return (g["sampled_T8"][step, :, 1:] - 5).gather(1, masked)

    gumbel = F.pad(g["gumbel_T8"][:, :, 1:].transpose(0, 1), (0, 0, 0, 1))  # none at the last step
    monkeypatch.setattr("digit.renderer_masked.draw", draw)
    monkeypatch.setattr("digit.renderer_masked.gumbels", lambda *_, **__: gumbel)
    vq_codes = model("stage2_nar").sample(g["disc_codes"], [0, 1], steps=8, noise=4.5)
    assert torch.equal(vq_codes + 5, g["tokens_T8"][8, :, 1:])
    assert passes == [256, 251, 236, 212, 181, 142, 97, 49]


STEPS = json.loads((FIXTURES / "schedules_and_optimizer.json").read_text())["optimizer_steps"]


@cache
def five_updates(epsilon: str):
    """The prior after the fixture's five updates through our training step, its losses and gradient norms."""
    hyper = STEPS["hyper"]
    with torch.random.fork_rng([]):
        prior = Prior(replace(model("stage1_uncond").config, dropout=0.0))
    prior.load_state_dict(model("stage1_uncond").state_dict())
    optimizer = OptimizerConfig(
        lr=hyper["lr"],
        betas=tuple(hyper["betas"]),
        eps=hyper["eps"],
        weight_decay=hyper["weight_decay"],
        warmup=hyper["warmup_updates"],
        warmup_from=hyper["warmup_init_lr"],
        epsilon=epsilon,
    )
    batch = CodeBatch(golden("stage1_uncond")["codes"])
    with torch.random.fork_rng([]):
        training = TrainConfig(steps=100, batch=2, clip=hyper["clip_norm"], optimizer=optimizer)
        updater = Updater(prior, training, torch.device("cpu"))
        for _ in range(5):
            updater.update(batch)
    updater.read_losses("")
    prior.eval()
    with torch.no_grad():
        return prior, [*updater.losses, prior.loss(batch).item()], updater.norms


def theirs(prior: Prior) -> dict[str, torch.Tensor]:
    """Our tensors by the names and rows they have in the reference."""
    state, tensors = prior.state_dict(), {}
    tensors["decoder.embed_positions.weight[0:264]"] = state["position_embedding.weight"]
    tensors["decoder.embed_tokens.weight"] = state["code_embedding.weight"]
    tensors["decoder.output_projection.weight"] = state["projection.weight"]
    for i in range(prior.config.layers):
        ours, name = f"transformer.blocks.{i}", f"decoder.layers.{i}"
        for part in ("weight", "bias"):
            for own, other in BLOCK.items():
                tensors[f"{name}.{other}.{part}"] = state[f"{ours}.{own}.{part}"]
            for letter, rows in zip("qkv", state[f"{ours}.attention.qkv.{part}"].chunk(3), strict=True):
                tensors[f"{name}.self_attn.{letter}_proj.{part}"] = rows
    return tensors


@pytest.mark.parametrize(
    ("epsilon", "bounds"),
    [("reference", "same_update"), ("corrected", "eps_after_bias_correction")],
)
def test_five_updates(epsilon, bounds):
    bound, golden_weights = TOLERANCE["optimizer"][bounds], golden("optimizer_final_weights")
    prior, losses, norms = five_updates(epsilon)
    expected = [*STEPS["loss"], STEPS["loss_after"]]
    assert losses == pytest.approx(expected, abs=bound["loss_atol"])
    assert norms == pytest.approx(STEPS["grad_norm"], rel=bound["grad_norm_rtol"])
    tensors, rows = theirs(prior), {"decoder.embed_positions.weight[0:264]": slice(2, 259)}
    rows["decoder.embed_tokens.weight"] = slice(5, 53)
    for name, weights in golden_weights.items():
        if name.endswith("k_proj.bias"):  # no output depends on it: its update is rounding
            continue
        torch.testing.assert_close(
            tensors[name], weights[rows.get(name, slice(None))], atol=bound["weights_atol"], rtol=0
        )
    for name, value in tensors.items():
        if name.endswith("k_proj.bias") or "embed" in name:  # tables of theirs have rows that ours lack
            continue
        total = value.double().square().sum().item()
        assert total == pytest.approx(STEPS["sum_squares"][name], rel=bound["sum_squares_rtol"]), name


def test_where_epsilon_enters_is_seen():
    """The two rules part by more than the bound of the same rule, so that bound can tell them apart."""
    reference, corrected = theirs(five_updates("reference")[0]), theirs(five_updates("corrected")[0])
    names = [name for name in reference if not name.endswith("k_proj.bias")]
    apart = max((reference[name] - corrected[name]).abs().max().item() for name in names)
    assert apart > TOLERANCE["optimizer"]["same_update"]["weights_atol"]
