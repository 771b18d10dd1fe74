"""`acto export`: a trained model for other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence

from acto.cli.parser import Parser
from acto.core.errors import UserError
from acto.inference.export import FORMATS, export
from acto.inference.hub import hub_folder, upload_words


def export_command(tokens: Sequence[str]) -> int:
    """`acto export RUN`: write the model for use elsewhere; returns the exit code."""
    parser = Parser(
        "acto export",
        "Write the model of a finished RUN for use elsewhere, with its preprocessing and a model card. The exported "
        "model is compared with the trained one first, and nothing is written if they differ.",
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--format", metavar="NAME", help=f"{', '.join(FORMATS)} (safetensors)")
    parser.add_argument("--out", metavar="DIR", help="folder of the export (RUN/exported)")
    parser.add_argument(
        "--hub", metavar="DIR", help="a folder for a model hub: safetensors and --format, card, config; sends nothing"
    )
    parser.add_argument("--json", action="store_true", help="say what was done as JSON")
    parser.add_argument(
        "--trust-net", action="store_true", help="the run's network is code outside of acto: allow it to run"
    )
    given = vars(parser.given(tokens))
    name, trust, hub = given.get("format", "safetensors"), given.get("trust_net", False), given.get("hub")
    if hub is not None and "out" in given:
        raise UserError("--hub names the folder: leave --out away")
    if hub is not None:
        done = hub_folder(given["run"], hub, formats=[name], trust=trust)
    else:
        done = export(given["run"], given.get("out"), format=name, trust=trust)
    if given.get("json"):
        facts = {"max_difference": done.max_difference, "num_random": done.num_random, "num_real": done.num_real}
        print(json.dumps({"files": [str(path) for path in done.files], **facts}))
        return 0
    print("\n".join(str(path) for path in done.files))
    real = f"{done.num_real} of its own samples" if done.num_real else "its own samples are not there to compare"
    print(
        f"largest difference to the trained model's probabilities: {done.max_difference:.2g} "
        f"({done.num_random} random inputs; {real})"
    )
    if hub is not None:
        print(upload_words(hub))
    return 0
