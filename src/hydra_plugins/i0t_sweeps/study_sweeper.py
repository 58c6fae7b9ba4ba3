"""``hydra/sweeper=study``: a search with Optuna that goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class StudySweeper(Sweeper):
    """Searches the space that ``params`` and the command line span, for the numbers that are to be large or small.

    Args:
        maximize: Names of numbers of the jobs.
        minimize: Likewise. Several numbers make a search for the Pareto front.
        n_trials: Of all starts together, those that failed included.
        trials_at_once: How many are suggested and launched together.
        storage: URL of the database that keeps the trials.
        study_name: In the database.
        seed: Of what is suggested.
        algorithm: Makes Optuna's sampler from a ``seed``.
        params: Space as overrides, which the command line goes before.
    """

    def __init__(
        self,
        maximize: Sequence[str],
        minimize: Sequence[str],
        n_trials: int,
        trials_at_once: int,
        storage: str,
        study_name: str,
        seed: int,
        algorithm: Callable[..., Any],
        params: Mapping[str, Any],
    ) -> None:
        self.maximize = maximize
        self.minimize = minimize
        self.n_trials = n_trials
        self.trials_at_once = trials_at_once
        self.storage = storage
        self.study_name = study_name
        self.seed = seed
        self.algorithm = algorithm
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Builds the launcher."""
        self.given = config
        self.config_loader = hydra_context.config_loader
        self.jobs = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs what is missing, writes ``best.yaml`` and says what was found."""
        from i0t.cli import one_line_errors
        from i0t.sweeps.objectives import read_directions
        from i0t.sweeps.space import read_space
        from i0t.sweeps.study import Search, run_search, write_best

        parser = OverridesParser.create(config_loader=self.config_loader)
        overrides = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        folder = Path(str(self.given.hydra.sweep.dir))
        with one_line_errors():
            search = Search(
                space=read_space(parser.parse_overrides(overrides)),
                directions=read_directions(self.maximize, self.minimize),
                n_trials=self.n_trials,
                trials_at_once=self.trials_at_once,
                storage=self.storage,
                study_name=self.study_name,
                sampler=self.algorithm,
                seed=self.seed,
                config=self._shared_config(),
                folder=folder,
            )
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.given, folder / "multirun.yaml")
            study = run_search(search, self.jobs.launch)
        print(write_best(search, study))  # noqa: T201

    def _shared_config(self) -> dict[str, Any]:
        """What all jobs have in common, without what belongs to a folder."""
        kept = [str(key) for key in self.given if key not in ("hydra", "paths")]
        config = OmegaConf.masked_copy(self.given, [*kept, "paths"])
        config.paths.output_dir = ""
        container = OmegaConf.to_container(config, resolve=True)
        assert isinstance(container, dict)
        return {key: container[key] for key in kept}
