"""How the ranks of a node share its cores."""

import os
import sys

import pytest
import torch

from i0t import launch
from i0t.config import ConfigError

SLURM = {
    **{"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"},
    **{"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "train"},
}


@pytest.fixture
def threads(environ, monkeypatch):
    """Threads and data workers of a rank on eight cores."""
    before = torch.get_num_threads()
    monkeypatch.setattr(launch, "available_cores", lambda: 8)

    def limit(variables, processes):
        environ(variables)
        for name in ("OMP_NUM_THREADS", launch.NUM_WORKERS):  # so that they are put back
            monkeypatch.setenv(name, os.environ.get(name, ""))
            if not variables.get(name):
                monkeypatch.delenv(name)
        torch.set_num_threads(7)
        launch.limit_threads(processes)
        assert "torch" in sys.modules
        return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), os.environ[launch.NUM_WORKERS]

    yield limit
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("variables", "processes", "expected"),
    [
        ({}, 1, (7, None, "8")),  # as the libraries choose
        ({}, 4, (2, "2", "2")),
        ({}, 16, (1, "1", "1")),
        ({"OMP_NUM_THREADS": "3"}, 4, (7, "3", "2")),  # torch has read it by itself
        ({"I0T_NUM_THREADS": "5", "OMP_NUM_THREADS": "3"}, 4, (5, "5", "2")),
        ({"I0T_NUM_THREADS": "5", "I0T_NUM_WORKERS": "0"}, 1, (5, "5", "0")),
        ({**SLURM, "SLURM_CPUS_PER_TASK": "6"}, 4, (6, "6", "6")),
        (SLURM, 4, (2, "2", "2")),
    ],
)
def test_ranks_share_the_cores_of_their_node(threads, variables, processes, expected):
    assert threads(variables, processes) == expected


@pytest.mark.parametrize("variables", [{"I0T_NUM_THREADS": "0"}, {"I0T_NUM_THREADS": "x"}, {"I0T_NUM_WORKERS": "-1"}])
def test_a_limit_that_is_no_number_is_refused(threads, variables):
    (name,) = variables
    with pytest.raises(ConfigError, match=rf"{name}=.* must be a whole number"):
        threads(variables, 1)
