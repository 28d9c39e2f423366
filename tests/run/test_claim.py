"""--out belongs to whoever filled it, and what goes on is what began."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests_support import make_pictures

from digit.data.identity import of_images, of_set
from digit.data.images import open_images
from digit.errors import DigitError, LineageError
from digit.files import read_json, write_json_atomic
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.run.arguments import options_of
from digit.run.claim import MARK, claim, contents, differences
from digit.run.verbs import VERBS
from digit.weights.artifact import save

FILLED = [
    name
    for name, verb in VERBS.items()
    if any("out" in option.path for option in options_of(verb.function()))
]


@pytest.fixture(scope="module", autouse=True)
def network(chain):
    """Something that measures."""
    shape = ClassifierConfig(classes=3, width=4, image_size=16)
    save(Classifier(shape), chain.root / "network", classes=["blue", "green", "red"])


def command(chain, verb: str) -> list[object]:
    """A command of the verb that would run, without --out."""
    root = chain.root
    encoder = ["--encoder", "vit_tiny_patch16_224", "--encoder-weights", root / "encoder.safetensors"]
    encoder += ["--encoder-size", 16, "--encoder-arguments", "patch_size", 4, "embed_dim", 32]
    encoder += ["depth", 4, "num_heads", 2, "--clusters", 8]
    short = ["--steps", 1, "--batch", 8, "--warmup", 1]
    small = [*short, "--width", 16, "--layers", 1, "--heads", 2]
    images = ["--images", chain.images]
    vqgan = ["--image-size", 16, "--width", 8, "--multipliers", 1, 1, 2, "--blocks", 1, "--codes", 16]
    network = ["--features", f"classifier:{root}/network", "--few"]
    given = {
        "fit": [*images, *encoder],
        "train vqgan": [*images, *vqgan, "--code-dim", 4, *short],
        "tokenize": [*images, "--tokenizer", root / "tokenizer", "--vqgan", root / "vqgan"],
        "train prior": ["--codes", root / "codes", *small],
        "train renderer": ["--codes", root / "codes", *small],
        "train probe": ["--prior", root / "prior", "--codes", root / "codes", *short],
        "compose": ["--prior", root / "prior", "--vqgan", root / "vqgan", "--renderer", root / "renderer"],
        "sample": [root / "model", "--num", 4],
        "evaluate images": ["--samples", chain.images, "--reference", chain.images, *network],
        "evaluate sweep": [root / "model", "--reference", chain.images, "--num", 4, *network],
        "evaluate reconstruction": [root / "model", *images, *network],
        "evaluate prefix": [root / "model", *images, "--prefix", 0, *network],
        "evaluate probe": ["--prior", root / "prior", "--codes", root / "codes", "--epochs", 1],
        "evaluate stability": [*images, "--tokenizers", root / "tokenizer", "--noise-only", "--num", 4],
        "evaluate projection": [],
        "convert": [Path(__file__).parents[1] / "fixtures" / "vq_only.pt"],
        "convert official": ["base", "--files", root],
    }
    device = [] if verb.startswith(("compose", "convert")) else ["--device", "cpu"]
    return [*verb.split(), *given[verb], *device]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_a_byte(folder: Path) -> None:
    """Of the first picture; it can still be read."""
    file = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("verb", FILLED)
def test_no_verb_writes_among_somebody_elses_files(chain, run, tmp_path, verb):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "grid.png").write_bytes(b"my own")
    for folder in (tmp_path / "mine", chain.root / "prior", chain.root / "codes"):
        if verb == "tokenize" and folder.name == "codes":
            continue  # its own
        if verb == "train prior" and folder.name == "prior":
            continue
        before = snapshot(folder)
        code, _, err = run(*command(chain, verb), "--out", folder)
        assert code == 2 and "choose another --out" in err and str(folder) in err, err
        assert len([line for line in err.splitlines() if line.startswith("digit: ")]) == 1
        assert snapshot(folder) == before


@pytest.mark.parametrize("verb", [verb for verb in FILLED if verb != "convert official"])
def test_a_finished_command_repeated_does_nothing(chain, run, tmp_path, verb, json_of):
    out = tmp_path / "out"
    code, first, err = run(*command(chain, verb), "--out", out, "--json")
    assert code == 0, err
    before = snapshot(out)
    code, again, err = run(*command(chain, verb), "--out", out, "--json")
    assert code == 0 and "nothing is left to do" in err, err
    assert json_of(again) == json_of(first)
    assert snapshot(out) == before


def test_a_training_goes_on_with_what_began_it(chain, run, tmp_path):
    """F01: codes of another tokenizer with as many codes, pictures of equal names and sizes, other heads."""
    root, other = chain.root, tmp_path / "tokenizer"
    fit = [*command(chain, "fit"), "--seed", 1, "--out", other]
    assert run(*fit)[0] == 0
    tokens = ["tokenize", "--images", chain.images, "--tokenizer", other, "--vqgan", root / "vqgan"]
    assert run(*tokens, "--out", tmp_path / "codes")[0] == 0
    base = [*command(chain, "train prior"), "--out", tmp_path / "prior"]
    assert run(*base)[0] == 0
    more = ["--steps", 2]
    code, _, err = run(*base, *more, "--codes", tmp_path / "codes")
    assert code == 2 and "codes.tokenizer" in err, err
    code, _, err = run(*base, *more, "--heads", 4)
    assert code == 2 and "model.heads 4 in place of 2" in err, err
    code, _, err = run(*base, *more, "--dropout", 0.5, "--held-out", root / "codes")
    assert code == 0 and "model.dropout is 0.5 from here, it was 0.1" in err and "held_out is" in err, err
    code, _, err = run(*base, "--lr", 0.5)
    assert code == 0 and "has all of its 2 updates, more than --steps 1" in err and "optimizer.lr" in err, err


def test_a_finished_training_that_lost_its_artifact_writes_it_again(chain, run, tmp_path):
    base = [*command(chain, "train prior"), "--out", tmp_path / "prior"]
    assert run(*base)[0] == 0
    weights = (tmp_path / "prior" / "model.safetensors").read_bytes()
    (tmp_path / "prior" / "model.safetensors").unlink()
    assert run(*base)[0] == 0
    assert (tmp_path / "prior" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("damage", ["cut", "byte", "gone"])
@pytest.mark.parametrize("verb", ["fit", "train prior", "train vqgan", "compose", "convert", "sample"])
def test_a_damaged_result_is_not_called_finished(chain, run, tmp_path, verb, damage):
    """It is said and made again, to the byte; a single byte is found where a checksum was written."""
    out = tmp_path / "out"
    assert run(*command(chain, verb), "--out", out)[0] == 0
    before = snapshot(out)
    own = {"compose": "renderer/model.safetensors", "sample": "000001.png"}.get(verb, "model.safetensors")
    data = bytearray((out / own).read_bytes())
    data[-5] ^= 1
    if damage == "byte" and verb == "sample":
        own, data = "samples.json", bytearray(b"{")
    (out / own).write_bytes(data if damage == "byte" else data[:-1])
    if damage == "gone":
        (out / own).unlink()
    code, _, err = run(*command(chain, verb), "--out", out)
    assert code == 0 and own in err and "nothing is left to do" not in err, err
    assert "is not taken for finished" in err or "is lost or damaged: it is written again" in err
    after = snapshot(out)
    assert after[own] == before[own] and after.keys() >= before.keys()
    code, _, err = run(*command(chain, verb), "--out", out)
    assert code == 0 and "nothing is left to do" in err and snapshot(out) == after


def test_ones_own_change_of_a_json_is_left_alone(chain, run, tmp_path):
    """As `read_json` says: whoever takes out the line of the checksum has changed it on purpose."""
    out = tmp_path / "out"
    assert run(*command(chain, "compose"), "--out", out)[0] == 0
    value = json.loads((out / "config.json").read_text())
    value.pop("checksum")
    value["sampling"]["prior"]["temperature"] = 0.7
    (out / "config.json").write_text(json.dumps(value))
    before = snapshot(out)
    code, _, err = run(*command(chain, "compose"), "--out", out)
    assert code == 0 and "nothing is left to do" in err and snapshot(out) == before


def test_pictures_are_known_by_their_content(tmp_path):
    """Names and sizes in bytes alone do not tell two sets apart."""
    for name, shade in (("a", 0), ("b", 9)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / name / "0.bmp")
    a, b = (open_images(tmp_path / name) for name in ("a", "b"))
    assert a.sizes() == b.sizes() and of_images(a) != of_images(b)
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert of_set(tmp_path / "c") == of_images(a)["content"]
    zipped = make_pictures(tmp_path / "p.zip")
    shutil.unpack_archive(zipped, tmp_path / "p")
    assert of_images(open_images(tmp_path / "p")) == of_images(open_images(zipped))


def test_vqgans_do_not_go_on_with_other_pictures_of_equal_names(chain, run, tmp_path):
    shutil.unpack_archive(chain.images, tmp_path / "p")
    base = [*command(chain, "train vqgan"), "--out", tmp_path / "vq", "--images", tmp_path / "p"]
    assert run(*base)[0] == 0
    change_a_byte(tmp_path / "p")
    code, _, err = run(*base, "--steps", 2)
    assert code == 2 and "images.content" in err, err


def test_pictures_of_two_commands_never_mix(chain, run, tmp_path):
    """Fewer pictures, other classes, other settings, an .npz of somebody else's."""
    out, npz = tmp_path / "s", tmp_path / "s.npz"
    base = ["sample", chain.root / "model", "--device", "cpu", "--out", out]
    assert run(*base, "--num", 4, "--npz", npz)[0] == 0
    before = snapshot(tmp_path)
    for changed in (["--num", 2], ["--num", 4, "--temperature", 0.5], ["--num", 4, "--labels", 0]):
        code, _, err = run(*base, *changed)
        assert code == 2 and "choose another --out" in err, err
    assert run(*base, "--num", 4, "--npz", npz)[0] == 0
    code, _, err = run("sample", chain.root / "model", "--num", 4, "--out", tmp_path / "t", "--npz", npz)
    assert code == 2 and "is there already" in err
    assert snapshot(tmp_path) == before
    (out / "000001.png").unlink()
    assert run(*base, "--num", 4, "--npz", npz)[0] == 0  # what is lost is drawn again
    assert set(snapshot(tmp_path)) == set(before)


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("evaluate images", "--reference"),
        ("evaluate images", "--samples"),
        ("evaluate sweep", "--reference"),
        ("evaluate prefix", "--images"),
        ("evaluate stability", "--images"),
    ],
)
def test_results_know_the_pictures_that_they_are_of(chain, run, tmp_path, verb, option):
    """As many pictures of the same names and sizes are others."""
    shutil.unpack_archive(chain.images, tmp_path / "p")
    call = [*command(chain, verb), option, tmp_path / "p", "--out", tmp_path / "out"]
    code, _, err = run(*call)
    assert code == 0, err
    before = snapshot(tmp_path / "out")
    change_a_byte(tmp_path / "p")
    code, _, err = run(*call)
    assert code == 2 and "other models, pictures, settings" in err, err
    assert snapshot(tmp_path / "out") == before


def test_a_result_overwrites_nothing_beside_it(run, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"my own")
    call = ["evaluate", "projection", "--device", "cpu", "--out"]
    code, _, err = run(*call, tmp_path / "mine.json")
    assert code == 2 and "mine.png is there already" in err
    assert run(*call, tmp_path / "a.json")[0] == 0
    code, _, err = run(*call, tmp_path / "a.json", "--seed", 1)
    assert code == 2 and "choose another --out" in err


def test_a_claim_names_what_differs(tmp_path):
    first = claim(tmp_path / "a", "fit", {"size": 8, "images": {"content": "a" * 64}, "lr": 1})
    with first.begun():
        (tmp_path / "a" / "x").write_text("")
    with pytest.raises(LineageError, match=r"images.content b{12} in place of a{12}"):
        claim(tmp_path / "a", "fit", {"size": 8, "images": {"content": "b" * 64}})
    told = claim(tmp_path / "a", "fit", {"size": 8, "lr": 2}, may_change=["lr"])
    assert told.told == ["lr is 2 from here, it was 1"] and told.record is None
    with pytest.raises(DigitError, match="what `digit fit` wrote"):
        claim(tmp_path / "a", "compose", {})
    assert list(differences({"a": 1, "old": 2}, {"a": 1, "new": 3})) == []


def test_a_command_that_fails_at_once_leaves_no_mark(tmp_path):
    with pytest.raises(DigitError), claim(tmp_path, "fit", {}).begun():
        raise DigitError("no")
    assert contents(tmp_path) is None and not (tmp_path / MARK).exists()


def test_one_command_at_a_time_writes_and_none_over_what_came_meanwhile(tmp_path):
    first, second = (claim(tmp_path / "out", "compose", {"a": number}) for number in (1, 2))
    with first.alone():
        with pytest.raises(DigitError, match="another command is writing"), second.alone():
            pass
        with first.begun():
            (tmp_path / "out/file").write_text("first")
        first.finish({}, ["file"])
    with pytest.raises(DigitError, match=r"has written .* meanwhile"), second.alone():
        pass
    assert claim(tmp_path / "out", "compose", {"a": 1}).record == {}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".digit.json", "file"]


def test_a_command_that_leaves_nothing_leaves_no_folder(tmp_path):
    claimed = claim(tmp_path / "out", "compose", {})
    with pytest.raises(KeyError), claimed.alone(), claimed.begun():
        raise KeyError
    assert not (tmp_path / "out").exists()


def test_what_a_killed_command_left_half_written_goes_when_it_is_begun_again(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.tmp-0123abcd-model.safetensors").write_bytes(b"half")
    claimed = claim(tmp_path / "out", "convert", {})
    with claimed.alone(), claimed.begun():
        (tmp_path / "out/file").write_text("whole")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".digit.json", "file"]


def test_nothing_is_written_into_folders_that_lie_elsewhere(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "out").mkdir()
    claimed = claim(tmp_path / "out", "train prior", {})
    (tmp_path / "out/state").symlink_to(tmp_path / "away")
    with pytest.raises(DigitError, match="state is a link to a folder elsewhere"), claimed.begun():
        pass
    assert not list((tmp_path / "away").iterdir())


def test_a_finished_command_that_says_nothing_of_what_it_gave_is_repeated(tmp_path):
    claimed = claim(tmp_path / "out", "fit", {"size": 3})
    with claimed.begun():
        (tmp_path / "out" / "file.txt").write_text("x")
    claimed.finish({"out": "x"}, ["file.txt"])
    mark = read_json(tmp_path / "out" / MARK)
    del mark["record"]
    write_json_atomic(tmp_path / "out" / MARK, mark, checksum=True)
    assert claim(tmp_path / "out", "fit", {"size": 3}).record is None
