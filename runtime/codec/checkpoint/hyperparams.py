"""The codec's hyper-parameters, from a CosyVoice folder's `cosyvoice.yaml`.

Sizes are read; everything that would change the computation beyond its size is checked against what is
implemented and refused otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from antiphon.codec.checkpoint.recipe import Section, read_recipe
from antiphon.errors import CheckpointError

__all__ = [
    "HOP",
    "MEL_BANDS",
    "SAMPLE_RATE_HZ",
    "UNIT_RATE_HZ",
    "CodecParams",
    "EncoderParams",
    "EstimatorParams",
    "FlowParams",
    "HiftParams",
    "read_hyperparams",
]

SAMPLE_RATE_HZ = 22050
MEL_BANDS = 80
HOP = 256
"""Samples per mel frame."""
UNIT_RATE_HZ = 25
RESBLOCK_KERNELS = (3, 7, 11)
SOURCE_RESBLOCK_KERNELS = (7, 11)
DILATIONS = (1, 3, 5)
UPSAMPLE_RATES = (8, 8)
UPSAMPLE_KERNELS = (16, 16)
ISTFT_N_FFT = 16
ISTFT_HOP = 4
NORM_GROUPS = 8
TRIM_SILENCE = "trim_silence"
NUM_LEVEL_BLOCKS = 4
"""Stages of the U-Net's two levels, down and up."""

# Bounds, well above every released model, on what is built before the weights show that they do not fit.
MAX_WIDTH = 2**16
MAX_HEADS = 1024
MAX_LAYERS = 64
MAX_TRANSFORMERS = 512
MAX_HARMONICS = 256


@dataclass(frozen=True)
class EncoderParams:
    """The unit encoder."""

    input_size: int
    output_size: int
    attention_heads: int
    linear_units: int
    num_blocks: int


@dataclass(frozen=True)
class EstimatorParams:
    """The U-Net."""

    in_channels: int
    out_channels: int
    channels: tuple[int, int]
    """Those of the upper and of the lower level."""
    attention_head_dim: int
    num_heads: int
    n_blocks: int
    """Transformers per level."""
    num_mid_blocks: int


@dataclass(frozen=True)
class FlowParams:
    """Units to mel."""

    vocab_size: int
    input_size: int
    spk_embed_dim: int
    input_frame_rate: int
    """Units per second."""
    encoder: EncoderParams
    num_regulator_convs: int
    inference_cfg_rate: float
    """r of classifier-free guidance: (1 + r) d - r d0."""
    estimator: EstimatorParams

    def mel_frames(self, num_units: int) -> int:
        """Mel frames of `num_units` units. In floats and in this order, as the checkpoint was trained: the
        exact quotient differs at some lengths (4480 units is the first)."""
        return int(num_units / self.input_frame_rate * SAMPLE_RATE_HZ / HOP)


@dataclass(frozen=True)
class HiftParams:
    """Mel to waveform."""

    base_channels: int
    nb_harmonics: int
    """Overtones; the source has one more wave, the fundamental."""
    nsf_alpha: float
    """Amplitude of the source's sines."""
    nsf_sigma: float
    """Noise under a voiced source."""
    nsf_voiced_threshold: float
    """f0 in Hz above which a frame is voiced."""
    lrelu_slope: float
    audio_limit: float
    cond_channels: int
    """Width of the f0 predictor."""

    @property
    def num_waves(self) -> int:
        return self.nb_harmonics + 1


@dataclass(frozen=True)
class CodecParams:
    flow: FlowParams
    hift: HiftParams
    trim_silence: bool = False
    """Whether the tokenizer is to be given speech without the silence around it and in it. CosyVoice's own
    recipes have no such key."""


def read_hyperparams(path: Path) -> CodecParams:
    """Reads `cosyvoice.yaml`. Raises CheckpointError naming the key, what was expected and what was found.

    Only `flow`, `hift` and what they refer to matter: a recipe also describes training and a language model.
    """
    top = read_recipe(path)
    return CodecParams(
        flow=_flow(top.section("flow", "cosyvoice.flow.flow.MaskedDiffWithXvec")),
        hift=_hift(top.section("hift", "cosyvoice.hifigan.generator.HiFTGenerator")),
        trim_silence=top.flag(TRIM_SILENCE),
    )


def _flow(node: Section) -> FlowParams:
    node.expect("output_size", MEL_BANDS)
    node.expect("output_type", "mel", required=False)
    # The recipe of the 50 Hz model differs only in this line.
    hint = "; Stream-Omni speaks with CosyVoice-300M-25Hz, not with the models of 50 units a second"
    node.expect("input_frame_rate", UNIT_RATE_HZ, hint=hint)
    node.skip("only_mask_loss")
    regulator = node.section("length_regulator", "cosyvoice.flow.length_regulator.InterpolateRegulator")
    regulator.expect("channels", MEL_BANDS)
    regulator.expect("out_channels", MEL_BANDS, required=False)
    regulator.expect("groups", 1, required=False)
    num_convs = len(regulator.integers("sampling_ratios", max_count=MAX_LAYERS))
    regulator.finish()
    cfg_rate, estimator = _decoder(node.section("decoder", "cosyvoice.flow.flow_matching.ConditionalCFM"))
    params = FlowParams(
        vocab_size=node.integer("vocab_size"),
        input_size=node.integer("input_size", MAX_WIDTH),
        spk_embed_dim=node.integer("spk_embed_dim", MAX_WIDTH),
        input_frame_rate=UNIT_RATE_HZ,
        encoder=_encoder(node.section("encoder", "cosyvoice.transformer.encoder.ConformerEncoder")),
        num_regulator_convs=num_convs,
        inference_cfg_rate=cfg_rate,
        estimator=estimator,
    )
    if params.encoder.input_size != params.input_size:
        raise CheckpointError(
            f"{node.path}: flow.encoder.input_size: expected flow.input_size = {params.input_size}, "
            f"found {params.encoder.input_size}"
        )
    node.finish()
    return params


def _encoder(node: Section) -> EncoderParams:
    node.expect("normalize_before", True)
    node.expect("input_layer", "linear")
    node.expect("pos_enc_layer_type", "rel_pos_espnet")
    node.expect("selfattention_layer_type", "rel_selfattn")
    node.expect("use_cnn_module", False)
    node.expect("macaron_style", False)
    node.expect("activation_type", "swish", required=False)
    node.expect("key_bias", True, required=False)
    # Full context only, so any other value of these keys is refused.
    node.expect("static_chunk_size", 0, required=False)
    node.expect("use_dynamic_chunk", False, required=False)
    node.skip("dropout_rate", "positional_dropout_rate", "attention_dropout_rate", "gradient_checkpointing")
    params = EncoderParams(
        input_size=node.integer("input_size", MAX_WIDTH),
        output_size=node.integer("output_size", MAX_WIDTH),
        attention_heads=node.integer("attention_heads", MAX_HEADS),
        linear_units=node.integer("linear_units", MAX_WIDTH),
        num_blocks=node.integer("num_blocks", MAX_LAYERS),
    )
    if params.output_size % (2 * params.attention_heads):
        raise CheckpointError(
            f"{node.path}: flow.encoder.output_size: expected an even multiple of attention_heads = "
            f"{params.attention_heads}, found {params.output_size}"
        )
    node.finish()
    return params


def _decoder(node: Section) -> tuple[float, EstimatorParams]:
    node.expect("n_spks", 1, required=False)
    node.expect("spk_emb_dim", MEL_BANDS)
    # x, mu and speaker, as a base class counts them; the estimator's own number is used.
    node.skip("in_channels")
    config = node.section("cfm_params", "omegaconf.DictConfig").mapping("content")
    config.expect("solver", "euler")
    config.expect("t_scheduler", "cosine")
    config.skip("sigma_min", "training_cfg_rate", "reg_loss_type")
    cfg_rate = config.number("inference_cfg_rate")
    config.finish()
    unet = node.section("estimator", "cosyvoice.flow.decoder.ConditionalDecoder")
    unet.expect("in_channels", 4 * MEL_BANDS)
    unet.expect("out_channels", MEL_BANDS)
    unet.expect("act_fn", "gelu")
    unet.expect("causal", False, required=False)
    unet.skip("dropout")
    wide, deep = unet.integers("channels", 2, high=MAX_WIDTH)
    if wide % NORM_GROUPS or deep % NORM_GROUPS:
        raise CheckpointError(
            f"{node.path}: flow.decoder.estimator.channels: expected multiples of {NORM_GROUPS}, "
            f"found {[wide, deep]}"
        )
    params = EstimatorParams(
        in_channels=4 * MEL_BANDS,
        out_channels=MEL_BANDS,
        channels=(wide, deep),
        attention_head_dim=unet.integer("attention_head_dim", MAX_HEADS),
        num_heads=unet.integer("num_heads", MAX_HEADS),
        n_blocks=unet.integer("n_blocks", MAX_LAYERS),
        num_mid_blocks=unet.integer("num_mid_blocks", MAX_LAYERS),
    )
    transformers = params.n_blocks * (params.num_mid_blocks + NUM_LEVEL_BLOCKS)
    if transformers > MAX_TRANSFORMERS:
        raise CheckpointError(
            f"{node.path}: flow.decoder.estimator: expected at most {MAX_TRANSFORMERS} transformers, "
            f"found {transformers}"
        )
    unet.finish()
    node.finish()
    return cfg_rate, params


def _hift(node: Section) -> HiftParams:
    node.expect("in_channels", MEL_BANDS)
    node.expect("sampling_rate", SAMPLE_RATE_HZ)
    node.expect("upsample_rates", list(UPSAMPLE_RATES))
    node.expect("upsample_kernel_sizes", list(UPSAMPLE_KERNELS))
    node.expect("istft_params", {"n_fft": ISTFT_N_FFT, "hop_len": ISTFT_HOP})
    node.expect("resblock_kernel_sizes", list(RESBLOCK_KERNELS))
    node.expect("resblock_dilation_sizes", [list(DILATIONS)] * len(RESBLOCK_KERNELS))
    node.expect("source_resblock_kernel_sizes", list(SOURCE_RESBLOCK_KERNELS))
    node.expect("source_resblock_dilation_sizes", [list(DILATIONS)] * len(SOURCE_RESBLOCK_KERNELS))
    f0 = node.section("f0_predictor", "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor")
    f0.expect("num_class", 1)
    f0.expect("in_channels", MEL_BANDS)
    params = HiftParams(
        base_channels=node.integer("base_channels", MAX_WIDTH),
        nb_harmonics=node.integer("nb_harmonics", MAX_HARMONICS),
        nsf_alpha=node.number("nsf_alpha"),
        nsf_sigma=node.number("nsf_sigma"),
        nsf_voiced_threshold=node.number("nsf_voiced_threshold"),
        lrelu_slope=node.number("lrelu_slope"),
        audio_limit=node.number("audio_limit"),
        cond_channels=f0.integer("cond_channels", MAX_WIDTH),
    )
    if params.base_channels % 4:
        raise CheckpointError(
            f"{node.path}: hift.base_channels: expected a multiple of 4, found {params.base_channels}"
        )
    f0.finish()
    node.finish()
    return params
