"""The part of a checkpoint's configuration that is about pictures.

The keys are those of LLaVA-OneVision in config.json, and of a Hugging Face SigLIP vision model in the folder
that `mm_vision_tower` names.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from antiphon.config import ModelConfig, VisionConfig
from antiphon.model.known_keys import HARMLESS_VISION_KEYS
from antiphon.model.settings import Settings, read_json

__all__ = ["take_vision", "vision_folder"]


def vision_folder(folder: Path) -> Path | None:
    """The folder that `mm_vision_tower` names, relative to the checkpoint, if there is one.

    The name may instead be one of the Hugging Face hub, whose files are then inside the checkpoint.
    """
    name = read_json(folder / "config.json").get("mm_vision_tower")
    return folder / name if isinstance(name, str) and name and (folder / name).is_dir() else None


def take_vision(settings: Settings, folder: Path, config: ModelConfig) -> ModelConfig:
    """`config` with what the checkpoint says about pictures; unchanged where it has no `mm_vision_tower`."""
    names = ("mm_hidden_size", "image_aspect_ratio", "image_grid_pinpoints", "mm_patch_merge_type")
    if settings.take("mm_vision_tower") is None:
        for name in names:
            settings.take(name)
        return config
    settings.text("mm_vision_tower")
    tower = vision_folder(folder)
    vision = _read_vision(tower)
    for place in (folder, tower):
        if place is not None and (place / "preprocessor_config.json").is_file():
            path = place / "preprocessor_config.json"
            _check_normalisation(Settings(path, read_json(path)))
    if settings.integer("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        raise settings.error("mm_hidden_size", f"the hidden_size of the vision tower ({vision.hidden_size})")
    merge = settings.text("mm_patch_merge_type", "flat")
    if merge not in ("spatial_unpad", "flat"):
        raise settings.error("mm_patch_merge_type", "'spatial_unpad' or 'flat' (nothing else is implemented)")
    ratio = settings.text("image_aspect_ratio")
    if ratio not in ("anyres", "pad") and not re.fullmatch(r"anyres_max_[1-9]\d*", ratio):
        raise settings.error(
            "image_aspect_ratio", "'anyres', 'anyres_max_N' or 'pad' (nothing else is implemented)"
        )
    config = replace(config, vision=vision, image_aspect_ratio=ratio, mm_patch_merge_type=merge)
    if ratio == "pad":
        settings.take("image_grid_pinpoints")
        return config
    return replace(config, image_grid_pinpoints=_take_pinpoints(settings, vision.image_size))


def _take_pinpoints(settings: Settings, image_size: int) -> str | tuple[tuple[int, int], ...]:
    """Grids of tiles: "(1x1),...,(6x6)", or a list (or the text of a list) of [width, height] in pixels."""
    name = "image_grid_pinpoints"
    expected = f"'(1x1),...,(6x6)' or a list of [width, height], multiples of image_size ({image_size})"
    value = settings.take(name)
    if isinstance(value, str):
        grids = [(int(i), int(j)) for i, j in re.findall(r"\((\d+)x(\d+)\)", value)]
        if grids:
            # only the two ends are read: all grids from the first to the last
            if min(grids[0]) < 1 or grids[-1][0] < grids[0][0] or grids[-1][1] < grids[0][1]:
                raise settings.error(name, expected)
            return value
        try:
            value = json.loads(value.replace("(", "[").replace(")", "]"))
        except json.JSONDecodeError:
            raise settings.error(name, expected) from None
    if not isinstance(value, list) or not value:
        raise settings.error(name, expected)
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise settings.error(name, expected)
        for side in pair:
            if not isinstance(side, int) or isinstance(side, bool) or side <= 0 or side % image_size:
                raise settings.error(name, expected)
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _read_vision(folder: Path | None) -> VisionConfig:
    """config.json of the vision tower's folder; so400m-patch14-384 for whatever it does not say."""
    default = VisionConfig()
    if folder is None or not (folder / "config.json").is_file():
        return default
    outer = Settings(folder / "config.json", read_json(folder / "config.json"))
    # the config of a whole SigLIP holds that of its vision model
    settings = outer.nested("vision_config") or outer
    settings.fixed("hidden_act", "gelu_pytorch_tanh")
    if settings.take("model_type") not in (None, "siglip_vision_model"):
        raise settings.error("model_type", "'siglip_vision_model'")
    vision = VisionConfig(
        hidden_size=settings.integer("hidden_size", default.hidden_size),
        intermediate_size=settings.integer("intermediate_size", default.intermediate_size),
        num_hidden_layers=settings.integer("num_hidden_layers", default.num_hidden_layers, low=2, high=1024),
        num_attention_heads=settings.integer("num_attention_heads", default.num_attention_heads),
        image_size=settings.integer("image_size", default.image_size, high=8192),
        patch_size=settings.integer("patch_size", default.patch_size),
        num_channels=settings.integer("num_channels", default.num_channels),
        layer_norm_eps=settings.positive("layer_norm_eps", default.layer_norm_eps),
    )
    if vision.hidden_size % vision.num_attention_heads:
        raise settings.error(
            "hidden_size", f"a multiple of num_attention_heads ({vision.num_attention_heads})"
        )
    if vision.patch_size > vision.image_size:
        raise settings.error("patch_size", f"at most image_size ({vision.image_size})")
    if vision.num_channels != 3:
        raise settings.error("num_channels", "3: pictures are RGB")
    _check_normalisation(settings)
    settings.refuse_unknown(HARMLESS_VISION_KEYS)
    return vision


def _check_normalisation(settings: Settings) -> None:
    for name in ("image_mean", "image_std"):
        value = settings.take(name)
        if value is not None and value not in (0.5, [0.5, 0.5, 0.5]):
            raise settings.error(name, "[0.5, 0.5, 0.5] (nothing else is implemented)")
