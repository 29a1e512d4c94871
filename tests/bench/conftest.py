from codec_fixtures import codec, folder, manifest, odd_flow_params, odd_hift_params

__all__ = ["codec", "folder", "manifest", "odd_flow_params", "odd_hift_params"]
