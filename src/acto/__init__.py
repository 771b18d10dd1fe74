"""Train classifiers on data whose labels are partly wrong, and find out which labels are wrong.

The public names are loaded when they are first used, so that `import acto` alone does not load torch. Importing it sets
one environment variable, see acto.usable.share_cores.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from acto.usable import share_cores

if TYPE_CHECKING:
    from acto.api import Fitted as Fitted
    from acto.api import fit as fit
    from acto.arrays import as_dataset as as_dataset
    from acto.data.noise import NoiseSpec as NoiseSpec
    from acto.data.sources import DataSpec as DataSpec
    from acto.data.sources import load as load_data
    from acto.data_settings import setting_for as setting_for
    from acto.errors import UserError as UserError
    from acto.estimator import NoisyLabelClassifier as NoisyLabelClassifier
    from acto.label_audit import audit as audit
    from acto.label_report import LabelReport as LabelReport
    from acto.label_report import read_report as read_report
    from acto.methods import METHODS as METHODS
    from acto.plans import Plan as Plan
    from acto.recipes import recipe as recipe
    from acto.record import RunFolder as RunFolder
    from acto.record import read_run as read_run
    from acto.run import Run as Run
    from acto.run_audit import audit_run as audit_run
    from acto.train import Protocol as Protocol
    from acto.trained import TrainedModel as TrainedModel
    from acto.trained import load as load_model

_PUBLIC = {
    "DataSpec": ("acto.data.sources", "DataSpec"),
    "Fitted": ("acto.api", "Fitted"),
    "LabelReport": ("acto.label_report", "LabelReport"),
    "METHODS": ("acto.methods", "METHODS"),
    "NoiseSpec": ("acto.data.noise", "NoiseSpec"),
    "NoisyLabelClassifier": ("acto.estimator", "NoisyLabelClassifier"),
    "Plan": ("acto.plans", "Plan"),
    "Protocol": ("acto.train", "Protocol"),
    "Run": ("acto.run", "Run"),
    "RunFolder": ("acto.record", "RunFolder"),
    "TrainedModel": ("acto.trained", "TrainedModel"),
    "UserError": ("acto.errors", "UserError"),
    "as_dataset": ("acto.arrays", "as_dataset"),
    "audit": ("acto.label_audit", "audit"),
    "audit_run": ("acto.run_audit", "audit_run"),
    "fit": ("acto.api", "fit"),
    "load_data": ("acto.data.sources", "load"),
    "load_model": ("acto.trained", "load"),
    "read_report": ("acto.label_report", "read_report"),
    "read_run": ("acto.record", "read_run"),
    "recipe": ("acto.recipes", "recipe"),
    "setting_for": ("acto.data_settings", "setting_for"),
}

__all__ = [  # noqa: RUF022 - written out for type checkers, checked against _PUBLIC in the tests
    "DataSpec", "Fitted", "LabelReport", "METHODS", "NoiseSpec", "NoisyLabelClassifier", "Plan", "Protocol",
    "Run", "RunFolder", "TrainedModel", "UserError", "as_dataset", "audit", "audit_run", "fit", "load_data",
    "load_model", "read_report", "read_run", "recipe", "setting_for",
]  # fmt: skip

share_cores()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'acto' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
