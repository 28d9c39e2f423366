"""The parts of the run: what each needs, which come first, and where its result lies."""

from dataclasses import dataclass

from measuring.scale import CLASS, FREE, Scale

SYSTEMS = {
    "digit": "DiGIT, autoregressive renderer",
    "vq": "VQ codes only, same size and steps",
    "vq_compute": "VQ codes only, the compute of prior and renderer",
    "masked": "DiGIT, masked renderer",
}
KINDS = {FREE: "without classes", CLASS: "by class"}
MODELS = {"vq": "model_vq", "vq_compute": "model_vq_compute"}  # folders; the others are the bundled model


@dataclass(frozen=True)
class Part:
    """A piece of work that runs as a process of its own and leaves a file when it is done."""

    name: str
    needs: tuple[str, ...] = ()
    seconds: float = 10.0  # roughly, of an H100 alone: less than half of that left, and it is not started


def parts(scale: Scale) -> list[Part]:
    """All parts; of those that are ready the first ones run first."""
    judged = ("classifier",)
    model = {"digit": judged, "masked": judged, "vq": (*judged, "prior_vq")}
    model["vq_compute"] = (*judged, "prior_vq_compute")
    extra = [system for system in ("masked", "vq_compute") if (system, FREE) in scale.grids]

    def measured(kind: str, system: str, way: str, seconds: float) -> Part:
        return Part(f"{kind}-{system}-{way}", model[system], seconds)

    def best(system: str, way: str) -> Part:
        return Part(f"winners-{system}-{way}", (f"sweep-{system}-{way}",), 20)

    found = [
        Part("classifier", (), 75),
        Part("codes-train", (), 20),
        Part("codes-test", (), 10),
        Part("prior_vq", ("codes-train", "codes-test"), 60),
        Part("projection", (), 20),
        measured("prefix", "digit", FREE, 60),
        measured("sweep", "digit", CLASS, 80),
        measured("sweep", "digit", FREE, 110),
        measured("prefix", "vq", FREE, 40),
        measured("sweep", "vq", CLASS, 45),
        measured("sweep", "vq", FREE, 45),
        *(best(system, way) for way in (CLASS, FREE) for system in ("digit", "vq")),
        measured("prefix", "digit", CLASS, 60),
        measured("prefix", "vq", CLASS, 40),
        Part("probe", ("codes-train", "codes-test", "prior_vq"), 40),
        Part("reconstruction", judged, 15),
    ]
    if "vq_compute" in extra:
        found.append(Part("prior_vq_compute", ("prior_vq",), 90))
    found += [measured("sweep", system, way, 25) for system in extra for way in (CLASS, FREE)]
    found += [best(system, way) for system in extra for way in (CLASS, FREE)]
    if scale.prefix_checks:
        found += [measured("prefix_train", system, FREE, 25) for system in ("digit", "vq")]
    return found
