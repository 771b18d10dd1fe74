"""A decoder for test_terminal.py that never returns; here, so that its process loads no more than it needs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from acto.data.loading.decode_workers import Decoder, Request


class Hanging(Decoder):
    """A decoder whose picture never comes and that no SIGTERM ends, as where a network folder's server is gone."""

    def __getitem__(self, request: Request) -> torch.Tensor:
        assert self.desk is not None
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        spared = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        Path(request.paths[0]).write_text(f"{os.getpid()} {signal.SIGHUP in spared} {signal.SIGTERM in spared}")
        with self.desk.working_on("/net/cat.png"):
            while True:
                signal.pause()
