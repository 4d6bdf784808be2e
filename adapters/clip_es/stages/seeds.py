"""Stage ``seeds``: photos -> text CAMs -> pixel features with their seeds, a file per photo."""

from __future__ import annotations

import numpy as np

from vpl_plugin.adapters.clip_es.drawn_pixels import draw_pixels
from vpl_plugin.adapters.clip_es.estimate import Costs
from vpl_plugin.adapters.clip_es.settings import TEXT_PROTOTYPES, Settings
from vpl_plugin.adapters.clip_es.stage_files import StoredSeeds, write_seeds
from vpl_plugin.adapters.clip_es.stages.photo_batches import localisation_facts, localised_photos
from vpl_plugin.adapters.pipeline.run import Estimate, Run, Stage
from vpl_plugin.clip.prompts import class_prototypes
from vpl_plugin.localization.seeds import seed_classes
from vpl_plugin.results import Results, photo_digest

__all__ = ["Seeds"]


class Seeds(Stage):
    """Text CAMs, and what of their pixels the prototypes are learned from."""

    name = "seeds"
    needs_model = True

    def run(self, run: Run[Settings]) -> None:
        """Writes the seeds of every photo whose file is not there yet."""
        settings = run.settings
        facts = localisation_facts(run, "threshold", "pixels_per_photo", "seed")
        results = Results.claim(settings.seeds, facts, alone=run.ranks.alone)
        text = class_prototypes(run.encoder, run.photos.names)
        if not (settings.seeds / TEXT_PROTOTYPES).exists():
            text.save(settings.seeds / TEXT_PROTOTYPES)
        for item in localised_photos(
            run,
            text,
            stage=self.name,
            is_done=lambda item: results.is_made(item.name, photo_digest(item.photo, item.classes)),
        ):
            claimed = seed_classes(item.cams.refined, item.photo.classes, settings.threshold)
            seeds = claimed.cpu().numpy()
            drawn = draw_pixels(
                len(seeds), item.photo.name, settings.pixels_per_photo, settings.seed
            )
            height, width = item.cams.raw.shape[1:]
            stored = StoredSeeds(
                features=item.features.half().cpu().numpy()[drawn],
                seeds=seeds[drawn].astype(np.int16),
                pixels=drawn.astype(np.int32),
                grid=(height, width),
            )
            path = results.new_file(item.photo.name)
            write_seeds(path, stored, photo_digest(item.photo.photo, item.photo.classes))

    def estimate(self, run: Run[Settings], costs: Costs) -> Estimate:
        """Photos without seeds."""
        results = Results(run.settings.seeds)
        left = [item for item in run.photos.photos if not results.file(item.name).exists()]
        size = costs.kept_pixels * (2 * run.encoder.embed_dim + 6)
        tokens, seconds = costs.localisation(left)
        return Estimate(self.name, len(left), len(left) * size + tokens, seconds)
