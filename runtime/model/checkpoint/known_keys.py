"""Keys of a checkpoint's JSON files whose values do not affect what is computed here."""

from __future__ import annotations

__all__ = ["HARMLESS_CONFIG_KEYS", "HARMLESS_VISION_KEYS"]

# fmt: off
# What Hugging Face records about a model's file and origin, and settings of its Python objects.
BOOKKEEPING = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_flash_attn_2_enabled", "_from_model_config", "_name_or_path", "architectures", "attn_implementation",
    "auto_map", "chunk_size_feed_forward", "dtype", "finetuning_task", "gradient_checkpointing", "id2label",
    "ignore_index", "image_token_id", "image_token_index", "label2id", "output_attentions",
    "output_hidden_states", "prefix", "problem_type", "pruned_heads", "return_dict", "task_specific_params",
    "tf_legacy_loss", "tokenizer_class", "torch_dtype", "torchscript", "transformers_version",
    "use_bfloat16", "use_cache",
})

# Used only in training.
TRAINING = frozenset({
    "attention_dropout", "delay_load", "freeze_backbone", "freeze_mm_mlp_adapter",
    "freeze_mm_vision_resampler", "initializer_factor", "initializer_range", "max_sequence_length",
    "mm_projector_lr", "mm_tunable_parts", "mm_vision_tower_lr", "model_max_length", "pos_skipping_range",
    "tokenizer_padding_side", "tune_mm_mlp_adapter", "tune_mm_vision_resampler", "unfreeze_language_model",
    "unfreeze_mm_vision_tower", "use_mm_proj", "use_pos_skipping", "vision_tower_pretrained",
})

# Defaults of Hugging Face's generate(): a request has sampling parameters of its own. The stop ids among
# them are read elsewhere.
GENERATION = frozenset({
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "diversity_penalty",
    "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id", "length_penalty",
    "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_scores", "pad_token_id", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "temperature", "top_k", "top_p",
    "typical_p", "unk_token_id",
})

# For LLaVA's video input, for ways to cut pictures that are refused elsewhere, and for sliding-window
# attention, which is refused if it is on.
UNREACHED = frozenset({
    "add_faster_video", "add_time_instruction", "faster_token_stride", "force_sample",
    "image_crop_resolution", "image_split_resolution", "max_window_layers", "mm_pooling_position",
    "mm_spatial_pool_mode", "mm_spatial_pool_out_channels", "mm_spatial_pool_stride", "s2_scales",
})

# What SigLIP does after the encoder layer whose output is used.
VISION_HEAD = frozenset({"projection_dim", "vision_use_head"})
# fmt: on

HARMLESS_CONFIG_KEYS = BOOKKEEPING | TRAINING | GENERATION | UNREACHED
HARMLESS_VISION_KEYS = BOOKKEEPING | TRAINING | VISION_HEAD
