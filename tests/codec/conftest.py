from codec_fixtures import (
    cases,
    codec,
    folder,
    folder_copy,
    full_units,
    golden,
    manifest,
    odd_flow_params,
    odd_hift_params,
    randomized,
    relative_error,
)

__all__ = [
    "cases",
    "codec",
    "folder",
    "folder_copy",
    "full_units",
    "golden",
    "manifest",
    "odd_flow_params",
    "odd_hift_params",
    "randomized",
    "relative_error",
]
