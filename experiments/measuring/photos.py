"""Figure 5 on real photos: a tokenizer fitted on some of them, both projections of others."""

from pathlib import Path

from digit.run.evaluate.projection import evaluate_projection
from digit.run.fit import fit

PER_CLASS, BLOCK = 100, -3  # as many photos of each class; the tenth of twelve blocks, as the paper reads


def project_photos(photos: Path, encoder: Path, out: Path, *, device: str, smoke: bool) -> None:
    """Write projection-photos.json and .png into out/results.

    The photos lie in val/CLASS, which the tokenizer is fitted on, and train/CLASS, which are projected; the
    encoder is a ViT-S/14 in DINOv2's names, whose artifact is called after its file.
    """
    tokenizer, side = out / encoder.stem, 28 if smoke else 224
    if not (tokenizer / "config.json").exists():
        fit(
            str(photos),
            tokenizer,
            encoder="vit_small_patch14_dinov2",
            encoder_weights=encoder,
            encoder_size=side,
            block=BLOCK,
            size=side * 8 // 7,
            under="val",
            clusters=8 if smoke else 256,
            per_cluster=128,
            iterations=2 if smoke else 10,
            mirror=False,
            batch=16,
            device=device,
        )
    results = out / "results"
    evaluate_projection(
        out=results / "projection-photos.json",
        images=str(photos),
        tokenizer=tokenizer,
        under="train",
        per_class=4 if smoke else PER_CLASS,
        size=side * 8 // 7,
        batch=16,
        device=device,
    )
    (results / "features.png").replace(results / "projection-photos.png")
    (results / "toy.png").unlink()
