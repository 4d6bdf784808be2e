"""The state of a training on disk, for it to go on after it was killed."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from vpl_plugin.atomic_files import whole_file
from vpl_plugin.errors import InputError
from vpl_plugin.segmentation.decoder import Decoder
from vpl_plugin.segmentation.settings import TrainingSettings

__all__ = ["TrainingState"]

logger = logging.getLogger(__name__)

# Where SGD has a kernel that skips a step by itself. The version compares as one, not as text.
_FUSED = ("cuda", "cpu") if torch.__version__ >= "2.4" else ("cuda",)


class TrainingState:
    """What changes from iteration to iteration, and nothing else: what resuming needs."""

    def __init__(self, decoder: Decoder, settings: TrainingSettings, device: torch.device) -> None:
        self.decoder = decoder
        scaled = settings.precision == "float16"
        # Without that kernel the scaler waits for the device at each step, to learn whether it is
        # to be skipped.
        fused = scaled and device.type in _FUSED
        self.optimizer = torch.optim.SGD(
            decoder.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=fused or None,
        )
        if fused and settings.momentum:
            # A first step that is skipped, as the scale is too large, would leave what
            # torch.empty found; from 0 the first step is the same.
            for parameter in decoder.parameters():
                momentum = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.settings = settings
        self.iteration = 0
        # Loss, cross-entropy and RSC, summed since the last row of the metrics, and over how many
        # iterations that is: a training may go on with another distance between rows.
        self.sums = torch.zeros(3, device=device)
        self.summed = 0

    def check_finite(self) -> None:
        """Refuse losses and weights that are not numbers any more; waits for the device.

        Raises:
            FloatingPointError: the message says which settings to lower.
        """
        values = [self.sums, *(value.detach() for value in self.decoder.parameters())]
        if not torch.stack([value.isfinite().all() for value in values]).all():
            raise FloatingPointError(
                f"the loss is {self.sums[0].item()} at iteration {self.iteration}, or a weight is"
                f" not finite: lower learning_rate ({self.settings.learning_rate}) or clip_norm"
                f" ({self.settings.clip_norm})"
            )

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all."""
        state = {
            "iteration": self.iteration,
            "decoder": self.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sums": self.sums,
            "summed": self.summed,
        }
        with whole_file(path) as part:
            torch.save(state, part)

    def load(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote; from the start where there is no file.

        Raises:
            InputError: the file is broken, or of another decoder.
        """
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.sums.device, weights_only=True)
            self.decoder.load_state_dict(state["decoder"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.sums.copy_(state["sums"])
            self.summed = int(state["summed"])
            self.iteration = int(state["iteration"])
        # torch.load raises many kinds of errors for broken files.
        except Exception as error:
            raise InputError(
                f"{path} is no readable state of this training: {error}; delete it to start anew"
            ) from error
        logger.info("resumed after iteration %d", self.iteration)
