"""Pictures' features, kept from one request to the next that shows the same."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from antiphon.config import ModelConfig
from antiphon.kernels.threads import openmp_threads
from antiphon.model.batch import to_device
from antiphon.model.vision import image_features, merge_features
from antiphon.model.weights import OmniWeights
from antiphon.prompt import PreparedImage

__all__ = ["KeptImages"]

MAX_KEPT_IMAGE_POSITIONS = 1 << 15


class KeptImages:
    """Those that were seen last, up to `MAX_KEPT_IMAGE_POSITIONS`."""

    def __init__(self, weights: OmniWeights, config: ModelConfig, num_threads: int | None) -> None:
        """num_threads: of the tower on a CPU, where kernels have threads of their own; None: torch's."""
        self._weights, self._config, self._num_threads = weights, config, num_threads
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def features(self, image: PreparedImage) -> Tensor:
        """(num_positions, hidden): those kept from before, or computed by the tower"""
        features = self._kept.pop(image.digest, None)
        if features is None:
            tiles = to_device(image.tiles, self._weights.norm.device)
            with openmp_threads(self._num_threads):
                tower = image_features(self._weights, self._config, tiles)
            features = merge_features(tower, image, self._weights.image_newline)
        self._kept[image.digest] = features
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > MAX_KEPT_IMAGE_POSITIONS:
            self._kept.popitem(last=False)
        return features
