"""Searches over hyperparameters that go on after a kill, and jobs of a multirun in several processes."""
