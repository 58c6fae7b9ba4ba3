"""How Lightning's trainer finds its place in a process group that the pool has started."""

import os

from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from i0t.distributed import is_distributed, rank, world_size


def pool_environment():
    """The group is up already; Lightning reads the rest where torchrun would have put it."""
    numbers = {"RANK": rank(), "LOCAL_RANK": rank(), "WORLD_SIZE": world_size(), "LOCAL_WORLD_SIZE": world_size()}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "pool"}
    return TorchElasticEnvironment()


def ddp_in_pool():
    """DDP among the pool's processes; with a world of one, in the test's own process, none."""
    return DDPStrategy(cluster_environment=pool_environment()) if is_distributed() else "auto"
