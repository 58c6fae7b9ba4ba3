import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection

from i0t import metrics as classes
from i0t.metrics import functional as F

PLAIN = [
    (classes.CentroidDistance, lambda x, y, _: F.centroid_distance(x, y)),
    (classes.UnbiasedCentroidDistance, F.unbiased_centroid_distance),
    (classes.InstanceDistance, F.instance_distance),
    (classes.RelativeModalityGap, F.relative_modality_gap),
    (classes.LinearSeparability, F.linear_separability),
    (classes.Alignment, F.alignment),
    (classes.LogitEntropy, lambda x, y, _: F.logit_entropy(x, y, 30.0)),
]


def batches(image, text, index, sample_ids, size):
    """Batches of the samples in the given order, each with all of its captions in their order."""
    for start in range(0, len(sample_ids), size):
        ids = sample_ids[start : start + size]
        captions = [(row, k) for row, i in enumerate(ids.tolist()) for k in (index == i).nonzero().flatten().tolist()]
        yield {
            "image_features": image[ids],
            "text_features": text[[k for _, k in captions]],
            "text_image_index": torch.tensor([row for row, _ in captions]),
            "sample_id": ids,
        }


@pytest.fixture
def data(paired_set):
    image, text, index = paired_set(30, 3, gap=0.2, noise=1.5)
    order = torch.argsort(index, stable=True)
    return image, text[order], index[order]


SHUFFLED = torch.randperm(30, generator=torch.Generator().manual_seed(0))
PADDED = torch.cat([SHUFFLED, SHUFFLED[:4], SHUFFLED[-2:]])


@pytest.mark.parametrize(("metric_class", "function"), PLAIN)
@pytest.mark.parametrize("size", [7, 100])
def test_order_batches_and_duplicates_change_nothing(data, metric_class, function, size):
    metric = metric_class()
    for batch in batches(*data, PADDED, size):
        metric.update(**batch, logit_scale=30.0)
    assert torch.equal(metric.compute(), function(*data))


def test_dictionary_metrics(data):
    retrieval, uniformity = classes.RetrievalRecall(k=[1, 4]), classes.Uniformity()
    for batch in batches(*data, PADDED, 8):
        retrieval.update(**batch)
        uniformity.update(**batch)
    assert retrieval.compute() == F.retrieval_recall(*data, k=(1, 4))
    assert uniformity.compute() == {
        "image_uniformity": F.uniformity(data[0]),
        "text_uniformity": F.uniformity(data[1]),
    }


def test_options_reach_the_function(data):
    for metric, expected in (
        (classes.RelativeModalityGap(include_diagonal=True), F.relative_modality_gap(*data, include_diagonal=True)),
        (
            classes.LinearSeparability(method="ols", test_fraction=0.4, seed=5),
            F.linear_separability(*data, method="ols", test_fraction=0.4, seed=5),
        ),
    ):
        metric.update(*data)
        assert torch.equal(metric.compute(), expected)


def test_samples_without_ids_are_all_kept_in_order(data):
    image, text, index = data
    metric = classes.LinearSeparability()
    metric.update(image[:10], text[:30], index[:30])
    metric.update(image[10:], text[30:], index[30:] - 10)
    assert torch.equal(metric.compute(), F.linear_separability(*data))
    assert len(metric.collected().image_features) == 30


def test_a_collection_keeps_the_features_once_and_resets(data):
    collection = MetricCollection([metric_class() for metric_class, _ in PLAIN] + [classes.RetrievalRecall()])
    for scale in (10.0, 30.0):  # the last scale counts
        for batch in batches(*data, SHUFFLED, 8):
            collection.update(**batch, logit_scale=scale)
    assert [len(group) for group in collection.compute_groups.values()] == [8]
    result = collection.compute()
    for metric_class, function in PLAIN:
        assert torch.equal(result[metric_class.__name__], function(*data))
    assert result["t2i_r1"] == F.retrieval_recall(*data)["t2i_r1"]
    stored = {id(rows) for metric in collection.values(copy_state=False) for rows in metric.image_features}
    assert len(stored) == 8  # batches, not batches times metrics
    collection.reset()
    collection.update(data[0][:6], data[1][:18], data[2][:18], logit_scale=30.0)
    expected = F.centroid_distance(data[0][:6], data[1][:18])
    assert torch.equal(collection.compute()["CentroidDistance"], expected)


def test_object_bias_keeps_labels_with_their_samples(data):
    image, text, index = data
    objects, attributes = torch.arange(30) % 4, torch.stack([torch.arange(30) % 3, torch.arange(30) // 6], 1)
    metric = classes.ObjectBias()
    for batch in batches(*data, PADDED, 8):
        ids = batch["sample_id"]
        metric.update(**batch, object_labels=objects[ids], attribute_labels=attributes[ids])
    assert metric.compute() == {
        "image_object_bias": F.object_bias(image, objects, attributes),
        "text_object_bias": F.object_bias(text, objects[index], attributes[index]),
    }
    as_published = classes.ObjectBias(cross="upper_triangle")
    for batch in batches(*data, PADDED, 8):
        ids = batch["sample_id"]
        as_published.update(**batch, object_labels=objects[ids], attribute_labels=attributes[ids])
    values = as_published.compute()
    assert values["image_object_bias"] == F.object_bias(image, objects, attributes, cross="upper_triangle")
    assert values["image_object_bias"] != metric.compute()["image_object_bias"]
    with pytest.raises(ValueError, match="needs labels"):
        metric.update(*data)
    with pytest.raises(ValueError, match="every one of the 30 images needs labels, got 29"):
        metric.update(*data, object_labels=objects[1:], attribute_labels=attributes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_image_index": None}, "2 images and 3 texts need a text_image_index"),
        ({"text_image_index": torch.tensor([0, 1, 2])}, "must lie in 0 … 1"),
        ({"text_image_index": torch.tensor([0, 1])}, r"integers of shape \(3,\)"),
        ({"sample_id": torch.tensor([0, -1])}, "must not be negative, got -1"),
        ({"sample_id": torch.tensor([0])}, r"sample_id must be integers of shape \(2,\)"),
        ({"image_features": 2 * torch.eye(3)[:2]}, "image_features: row 0 has norm 2, not 1"),
        ({"image_features": torch.eye(2)}, "matrices of one width"),
    ],
)
def test_bad_batches(changes, message):
    batch = {
        "image_features": torch.eye(3)[:2],
        "text_features": torch.eye(3),
        "text_image_index": torch.tensor([0, 1, 1]),
        "sample_id": torch.tensor([4, 9]),
    }
    with pytest.raises(ValueError, match=message):
        classes.CentroidDistance().update(**(batch | changes))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_missing_data_and_scale_are_errors(data):
    with pytest.raises(ValueError, match="CentroidDistance has no data"):
        classes.CentroidDistance().compute()
    entropy = classes.LogitEntropy()
    entropy.update(*data)
    with pytest.raises(ValueError, match="logit_scale="):
        entropy.compute()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_with_uneven_shards(data, tmp_path):
    image, text, index = data
    texts_of_image = torch.stack([(index == i).nonzero().flatten() for i in range(30)])
    shards = {
        # Rank 1 repeats samples of rank 0, as a padding sampler does; shards and batches are of different sizes.
        "uneven": [
            [SHUFFLED[:9], SHUFFLED[9:17], SHUFFLED[17:18]],
            [torch.cat([SHUFFLED[18:], SHUFFLED[:2]]), SHUFFLED[2:3]],
        ],
        "empty": [[SHUFFLED[:20], SHUFFLED[20:]], [SHUFFLED[:0]]],
    }
    torch.save({"image": image, "text": text, "texts_of_image": texts_of_image, "shards": shards}, tmp_path / "data.pt")
    worker = Path(__file__).with_name("metrics_ddp_worker.py")
    processes = [subprocess.Popen([sys.executable, str(worker), str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    labels = torch.arange(30)
    expected = {
        "RelativeModalityGap": F.relative_modality_gap(*data),
        "image_uniformity": F.uniformity(image),
        "text_uniformity": F.uniformity(text),
        "LogitEntropy": F.logit_entropy(image, text, 20.0),
        "image_object_bias": F.object_bias(image, labels % 2, labels % 3),
        "text_object_bias": F.object_bias(text, index % 2, index % 3),
        **F.retrieval_recall(*data, k=(1, 2)),
    }
    for rank in range(2):
        assert torch.load(tmp_path / f"result_{rank}.pt", weights_only=True) == dict.fromkeys(shards, expected)
