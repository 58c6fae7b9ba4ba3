"""One process of the distributed metric test: python metrics_ddp_worker.py RANK FOLDER.

Reads ``data.pt`` from the folder, updates a collection with this rank's shard, writes ``result_RANK.pt``.
"""

import sys
from pathlib import Path

import torch
import torch.distributed
from torchmetrics import MetricCollection

from i0t.metrics import LogitEntropy, ObjectBias, RelativeModalityGap, RetrievalRecall, Uniformity


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    data = torch.load(folder / "data.pt", weights_only=True)
    results = {}
    for name, shards in data["shards"].items():
        metrics = MetricCollection([RelativeModalityGap(), Uniformity(), RetrievalRecall(k=(1, 2)), LogitEntropy()])
        metrics.add_metrics(ObjectBias())
        for images in shards[rank]:  # (B,) sample numbers of a batch, maybe none
            batch = [(image, text) for image in images.tolist() for text in data["texts_of_image"][image].tolist()]
            rows = {image: row for row, image in enumerate(images.tolist())}
            metrics.update(
                image_features=data["image"][images],
                text_features=data["text"][[text for _, text in batch]],
                text_image_index=torch.tensor([rows[image] for image, _ in batch], dtype=torch.int64),
                sample_id=images,
                logit_scale=torch.tensor(20.0),
                object_labels=images % 2,
                attribute_labels=images % 3,
            )
        results[name] = metrics.compute()
    torch.save(results, folder / f"result_{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
