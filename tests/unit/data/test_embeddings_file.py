import numpy as np
import pytest

from i0t.data.embeddings import EmbeddingsFile


def test_a_file_is_one_test_split_and_nothing_can_be_fitted_on_another(tmp_path):
    path = tmp_path / "pairs.npz"
    np.savez(path, image=np.eye(3), text=np.eye(3), text_image_index=np.arange(3))
    source = EmbeddingsFile(path=str(path))
    assert source.load("test").num_images == 3
    with pytest.raises(ValueError, match="nothing can be fitted on 'train'; fit_split=test gives the transductive"):
        source.load("train")
