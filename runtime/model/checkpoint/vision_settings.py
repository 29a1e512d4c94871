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
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import is_folder, is_there, read_json
from antiphon.model.checkpoint.known_keys import HARMLESS_VISION_KEYS
from antiphon.model.checkpoint.settings import Settings

__all__ = ["missing_tower", "take_vision", "vision_folder"]


MAX_TILES = 256
"""Tiles in a grid; the released model has up to 36."""
MAX_GRIDS = 1024
MAX_GRID_PIXELS = 2**26
MAX_SIDE = 128
"""Features per side of a tile: each feature attends to its whole tile."""
PINPOINTS = re.compile(r"\((\d+)x(\d+)\)")


def vision_folder(folder: Path) -> Path | None:
    """The folder of the vision tower inside the checkpoint, if there is one.

    `mm_vision_tower` may be its name in the checkpoint. If the tower was trained elsewhere, it may be an
    absolute path or a name on the Hugging Face hub: then the folder is looked for by the whole name and by
    its last part, only inside the checkpoint.

    Raises:
        CheckpointError: the name is a relative path that leaves the checkpoint.
    """
    settings = Settings(folder / "config.json", read_json(folder / "config.json"))
    name = settings.text("mm_vision_tower", "")
    parts = [part for part in re.split(r"[/\\]+", name) if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise settings.error("mm_vision_tower", "the name of a folder inside the checkpoint")
    if not parts:
        return None
    try:
        relative = Path(name).relative_to(folder.absolute()) if Path(name).is_absolute() else Path(*parts)
    except ValueError:  # a path on another machine, or elsewhere on this one
        relative = Path(*parts)
    for place in (folder / relative, folder / parts[-1]):
        if place != folder and is_folder(place):
            return place
    return None


def missing_tower(folder: Path) -> str:
    """For errors: where the vision tower is expected."""
    name = read_json(folder / "config.json").get("mm_vision_tower")
    last = re.split(r"[/\\]+", name.rstrip("/\\"))[-1] if isinstance(name, str) else ""
    place = folder / (last if 0 < len(last) <= 100 else "vision_tower")
    return f"put the vision tower that mm_vision_tower names into {place} (config.json and model.safetensors)"


def take_vision(settings: Settings, folder: Path, config: ModelConfig) -> ModelConfig:
    """`config` with what the checkpoint says about pictures; unchanged if it has no `mm_vision_tower`."""
    names = ("mm_hidden_size", "image_aspect_ratio", "image_grid_pinpoints", "mm_patch_merge_type")
    if settings.take("mm_vision_tower") is None:
        for name in names:
            settings.take(name)
        return config
    tower = vision_folder(folder)
    vision = _read_vision(tower)
    for place in (folder, tower):
        if place is not None and is_there(place / "preprocessor_config.json"):
            path = place / "preprocessor_config.json"
            _check_normalisation(Settings(path, read_json(path)))
    if settings.integer("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        error = settings.error(
            "mm_hidden_size", f"the hidden_size of the vision tower ({vision.hidden_size})"
        )
        if tower is not None:
            raise error
        raise CheckpointError(f"{error}; if it is not so400m-patch14-384, {missing_tower(folder)}")
    merge = settings.text("mm_patch_merge_type", "flat")
    if merge not in ("spatial_unpad", "flat"):
        raise settings.error("mm_patch_merge_type", "'spatial_unpad' or 'flat' (nothing else is implemented)")
    ratio = settings.text("image_aspect_ratio")
    if ratio not in ("anyres", "pad") and not re.fullmatch(r"anyres_max_[1-9][0-9]{0,5}", ratio):
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
    expected = (
        f"'(1x1),...,(6x6)' or a list of [width, height], multiples of image_size ({image_size}), "
        f"of at most {MAX_TILES} tiles and {MAX_GRID_PIXELS} pixels each"
    )

    def fits(wide: int, high: int) -> bool:
        return wide * high <= MAX_TILES and wide * high * image_size**2 <= MAX_GRID_PIXELS

    value = settings.take(name)
    if isinstance(value, str):
        value = settings.text(name)
        grids = [(int(i), int(j)) for i, j in PINPOINTS.findall(value)]
        if grids:
            # only the two ends are read: they stand for all grids from the first to the last
            if min(grids[0]) < 1 or grids[-1][0] < grids[0][0] or grids[-1][1] < grids[0][1]:
                raise settings.error(name, expected)
            if not fits(*grids[-1]):
                raise settings.error(name, expected)
            return value
        try:
            value = json.loads(value.replace("(", "[").replace(")", "]"))
        except (ValueError, RecursionError):
            raise settings.error(name, expected) from None
    if not isinstance(value, list) or not 0 < len(value) <= MAX_GRIDS:
        raise settings.error(name, expected)
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise settings.error(name, expected)
        for side in pair:
            if not isinstance(side, int) or isinstance(side, bool) or side <= 0 or side % image_size:
                raise settings.error(name, expected)
        if not fits(pair[0] // image_size, pair[1] // image_size):
            raise settings.error(name, expected)
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _read_vision(folder: Path | None) -> VisionConfig:
    """config.json of the vision tower's folder, with so400m-patch14-384 as default for missing keys."""
    default = VisionConfig()
    if folder is None or not is_there(folder / "config.json"):
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
        layer_norm_eps=settings.positive("layer_norm_eps", default.layer_norm_eps, high=1.0),
    )
    if vision.hidden_size % vision.num_attention_heads:
        raise settings.error(
            "hidden_size", f"a multiple of num_attention_heads ({vision.num_attention_heads})"
        )
    if vision.patch_size > vision.image_size:
        raise settings.error("patch_size", f"at most image_size ({vision.image_size})")
    if vision.side > MAX_SIDE:
        raise settings.error("patch_size", f"at least 1/{MAX_SIDE} of image_size ({vision.image_size})")
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
