"""Plain files of everything that is a table."""

import pytest

from i0t.config import compose, instantiate
from i0t.loggers.dashboard import Table


@pytest.fixture
def csv_logger(tmp_path):
    return instantiate(compose("train", ["logger=csv", f"paths.output_dir={tmp_path}"]).logger.csv)


def test_csv_files_are_named_by_what_and_when(csv_logger, tmp_path):
    csv_logger.log_table("test/none/cosine", Table(("a",), [(1,)]), step=42)
    assert (tmp_path / "csv/version_0/test/none/cosine_0000042.csv").read_text() == "a\n1\n"
    assert csv_logger.where() is None
