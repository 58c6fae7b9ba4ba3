"""What Hydra loads by itself: the sweeper of searches and the launcher of processes. Nothing heavy is imported."""
