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
    one_thread,
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
    "one_thread",
    "randomized",
    "relative_error",
]
