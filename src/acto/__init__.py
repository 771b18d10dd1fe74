"""Train classifiers on data whose labels are partly wrong, and find out which labels are wrong.

The public names are loaded when they are first used, so that `import acto` alone does not load torch. Importing it sets
one environment variable, see acto.core.resources.share_cores.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from acto.core.errors import missing_package
from acto.core.resources import share_cores

if TYPE_CHECKING:
    from acto import losses as losses
    from acto import selection as selection
    from acto.core.errors import UserError as UserError
    from acto.data.in_memory import as_dataset as as_dataset
    from acto.data.noise import NoiseSpec as NoiseSpec
    from acto.data.samples import DataSpec as DataSpec
    from acto.data.sources import load_data as load_data
    from acto.estimator import NoisyLabelClassifier as NoisyLabelClassifier
    from acto.fitting import Fitted as Fitted
    from acto.fitting import fit as fit
    from acto.labels.audit import audit as audit
    from acto.labels.consensus import consensus as consensus
    from acto.labels.consensus_report import ConsensusReport as ConsensusReport
    from acto.labels.report import LabelReport as LabelReport
    from acto.labels.report import read_report as read_report
    from acto.labels.run_audit import audit_run as audit_run
    from acto.methods import METHODS as METHODS
    from acto.run_folder.reading import read_run as read_run
    from acto.run_folder.writing import RunFolder as RunFolder
    from acto.runs.execute import train_run as train_run
    from acto.runs.recipes.by_data import setting_for as setting_for
    from acto.runs.recipes.recipe import recipe as recipe
    from acto.runs.run import Run as Run
    from acto.runs.trained_model import TrainedModel as TrainedModel
    from acto.runs.trained_model import load_model as load_model
    from acto.training.plans import Plan as Plan
    from acto.training.protocol import Protocol as Protocol

_PUBLIC = {
    "ConsensusReport": ("acto.labels.consensus_report", "ConsensusReport"),
    "DataSpec": ("acto.data.samples", "DataSpec"),
    "Fitted": ("acto.fitting", "Fitted"),
    "LabelReport": ("acto.labels.report", "LabelReport"),
    "METHODS": ("acto.methods", "METHODS"),
    "NoiseSpec": ("acto.data.noise", "NoiseSpec"),
    "NoisyLabelClassifier": ("acto.estimator", "NoisyLabelClassifier"),
    "Plan": ("acto.training.plans", "Plan"),
    "Protocol": ("acto.training.protocol", "Protocol"),
    "Run": ("acto.runs.run", "Run"),
    "RunFolder": ("acto.run_folder.writing", "RunFolder"),
    "TrainedModel": ("acto.runs.trained_model", "TrainedModel"),
    "UserError": ("acto.core.errors", "UserError"),
    "as_dataset": ("acto.data.in_memory", "as_dataset"),
    "audit": ("acto.labels.audit", "audit"),
    "audit_run": ("acto.labels.run_audit", "audit_run"),
    "consensus": ("acto.labels.consensus", "consensus"),
    "fit": ("acto.fitting", "fit"),
    "load_data": ("acto.data.sources", "load_data"),
    "load_model": ("acto.runs.trained_model", "load_model"),
    "losses": ("acto.losses", ""),
    "read_report": ("acto.labels.report", "read_report"),
    "read_run": ("acto.run_folder.reading", "read_run"),
    "recipe": ("acto.runs.recipes.recipe", "recipe"),
    "selection": ("acto.selection", ""),
    "setting_for": ("acto.runs.recipes.by_data", "setting_for"),
    "train_run": ("acto.runs.execute", "train_run"),
}

__all__ = [  # noqa: RUF022 - written out for type checkers, checked against _PUBLIC in the tests
    "ConsensusReport", "DataSpec", "Fitted", "LabelReport", "METHODS", "NoiseSpec", "NoisyLabelClassifier", "Plan",
    "Protocol", "Run", "RunFolder", "TrainedModel", "UserError", "as_dataset", "audit", "audit_run", "consensus", "fit",
    "load_data", "load_model", "losses", "read_report", "read_run", "recipe", "selection", "setting_for", "train_run",
]  # fmt: skip

share_cores()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'acto' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    try:
        found = import_module(module)
        value = globals()[name] = getattr(found, attribute) if attribute else found
    except ModuleNotFoundError as error:
        raise missing_package(error, f"acto.{name}") or error from error
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
