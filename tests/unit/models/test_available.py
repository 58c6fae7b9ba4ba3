import open_clip
import pytest

from i0t.config import compose, instantiate
from i0t.models.architectures import quick_gelu_of
from i0t.models.available import check_weights_exist, pretrained_models
from i0t.models.base import ClipModel
from i0t.models.long_clip import LongClip
from i0t.models.open_clip import OpenClip
from i0t.models.weights import check_activation_of_tag


def test_published_models_are_each_listed_once_under_a_name_that_builds_them():
    found = pretrained_models()
    assert len(set(found)) == len(found)
    assert set(found) < set(open_clip.list_pretrained())
    for architecture, tag in found:
        check_activation_of_tag(architecture, tag)
    lost = {tag for _, tag in open_clip.list_pretrained()} - {tag for _, tag in found}
    assert lost <= {"laion2b_s12b_b32k"}  # of roberta-ViT-B-32, whose tag and architecture disagree on the activation
    openai = [architecture for architecture, tag in found if tag == "openai"]
    assert "ViT-B-32" in openai
    assert not any(architecture.endswith("quickgelu") for architecture in openai)
    assert ("ViT-B-32-quickgelu", "metaclip_400m") in found
    assert ("ViT-B-32", "metaclip_400m") not in found
    assert quick_gelu_of("ViT-B-32-quickgelu", "metaclip_400m")


def node(**values):
    return {"architecture": "ViT-B-32", "pretrained": "openai", "load_weights": True, **values}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "ViT-B-33"}, "did you mean 'ViT-B-32'"),
        ({"pretrained": "laion2b_s34b_b79"}, "did you mean 'laion2b_s34b_b79k'"),
        ({"pretrained": "/nowhere/weights.pt"}, "neither a file nor a tag of ViT-B-32; its tags: openai"),
        ({"pretrained": "metaclip_400m"}, "set model.architecture=ViT-B-32-quickgelu"),
        ({"architecture": "/nowhere/mine.json"}, "cannot be read as JSON"),
    ],
)
@pytest.mark.parametrize("kind", [OpenClip, LongClip])
def test_a_node_that_cannot_be_built_is_refused_in_one_line(values, message, kind):
    with pytest.raises(ValueError, match=message) as error:
        kind.check_node(node(**values))
    assert "\n" not in str(error.value)


def test_a_node_that_can_be_built_passes_without_a_download(tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"")
    for values in ({}, {"pretrained": None}, {"pretrained": str(tmp_path / "mine.pt")}):
        OpenClip.check_node(node(**values))
    OpenClip.check_node(node(pretrained="gone.pt", load_weights=False))  # from a checkpoint: the file is not needed
    check_weights_exist("RN50", "yfcc15m")
    ClipModel.check_node({})


def test_what_is_checked_is_what_building_refuses():
    values = {"architecture": "ViT-B-32", "pretrained": "laion2b_s34b_b79"}
    cfg = compose(
        "eval", ["data=embeddings", "data.path=x", "model=open_clip", *(f"model.{k}={v}" for k, v in values.items())]
    )
    with pytest.raises(ValueError, match="neither") as built:
        instantiate(cfg.model)
    with pytest.raises(ValueError, match="neither") as checked:
        OpenClip.check_node(node(**values))
    assert str(checked.value) == str(built.value)
