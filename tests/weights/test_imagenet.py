from digit.weights.imagenet import imagenet_ids, imagenet_names


def test_ids_are_in_the_order_of_folders():
    ids = imagenet_ids()
    assert ids == sorted(ids) and len(set(ids)) == 1000
    assert all(id.startswith("n") and len(id) == 9 and id[1:].isdigit() for id in ids)


def test_names_are_unique_and_belong_to_their_ids():
    names, ids = imagenet_names(), imagenet_ids()
    assert len({name.lower() for name in names}) == len(names) == 1000
    assert not [name for name in names if name != name.strip() or name.isdigit() or "," in name]
    known = {"n01440764": "tench", "n02099601": "golden retriever", "n02012849": "crane (bird)"}
    known |= {"n03126707": "crane (machine)", "n02113186": "Cardigan Welsh corgi", "n02963159": "cardigan"}
    assert {id: names[ids.index(id)] for id in known} == known
    assert names[207] == "golden retriever"  # the number that every ImageNet classifier gives it


def test_names_agree_with_an_independent_list():
    """torchvision's classifiers carry names of the same classes in the same order, chosen by other people."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES as theirs

    ours = imagenet_names()
    same = sum(a.lower() == b.lower() for a, b in zip(ours, theirs, strict=True))
    assert same > 900
