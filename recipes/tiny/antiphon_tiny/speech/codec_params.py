"""Sizes of the flow and the vocoder, and the `cosyvoice.yaml` that tells them to a loader."""

from __future__ import annotations

from antiphon.codec.checkpoint.hyperparams import EncoderParams, EstimatorParams, FlowParams, HiftParams

__all__ = ["FLOW", "HIFT", "SPEAKER_DIM", "VOICE", "recipe_text"]

SPEAKER_DIM = 192
VOICE = "hibari"
"""The one voice of the codec folder, by its name there."""

FLOW = FlowParams(
    vocab_size=1000,
    input_size=192,
    spk_embed_dim=SPEAKER_DIM,
    input_frame_rate=25,
    encoder=EncoderParams(input_size=192, output_size=192, attention_heads=4, linear_units=512, num_blocks=3),
    num_regulator_convs=4,
    inference_cfg_rate=0.7,
    estimator=EstimatorParams(
        in_channels=320,
        out_channels=80,
        channels=(128, 128),
        attention_head_dim=32,
        num_heads=4,
        n_blocks=1,
        num_mid_blocks=2,
    ),
)
HIFT = HiftParams(
    base_channels=128,
    nb_harmonics=8,
    nsf_alpha=0.1,
    nsf_sigma=0.003,
    nsf_voiced_threshold=10,
    lrelu_slope=0.1,
    audio_limit=0.99,
    cond_channels=160,
)


def recipe_text() -> str:
    """`cosyvoice.yaml`, as CosyVoice writes it, and that silence is to be cut: training has little of it."""
    encoder, unet = FLOW.encoder, FLOW.estimator
    return f"""sample_rate: 22050
spk_embed_dim: {FLOW.spk_embed_dim}
trim_silence: True

flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    input_size: {FLOW.input_size}
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: {FLOW.vocab_size}
    input_frame_rate: {FLOW.input_frame_rate}
    only_mask_loss: True
    encoder: !new:cosyvoice.transformer.encoder.ConformerEncoder
        output_size: {encoder.output_size}
        attention_heads: {encoder.attention_heads}
        linear_units: {encoder.linear_units}
        num_blocks: {encoder.num_blocks}
        dropout_rate: 0.0
        positional_dropout_rate: 0.0
        attention_dropout_rate: 0.0
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        input_size: {encoder.input_size}
        use_cnn_module: False
        macaron_style: False
    length_regulator: !new:cosyvoice.flow.length_regulator.InterpolateRegulator
        channels: 80
        sampling_ratios: {[1] * FLOW.num_regulator_convs}
    decoder: !new:cosyvoice.flow.flow_matching.ConditionalCFM
        in_channels: 240
        n_spks: 1
        spk_emb_dim: 80
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: 1e-06
                solver: 'euler'
                t_scheduler: 'cosine'
                training_cfg_rate: 0.2
                inference_cfg_rate: {FLOW.inference_cfg_rate}
                reg_loss_type: 'l1'
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
            in_channels: {unet.in_channels}
            out_channels: {unet.out_channels}
            channels: {list(unet.channels)}
            dropout: 0.0
            attention_head_dim: {unet.attention_head_dim}
            n_blocks: {unet.n_blocks}
            num_mid_blocks: {unet.num_mid_blocks}
            num_heads: {unet.num_heads}
            act_fn: 'gelu'

hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: 80
    base_channels: {HIFT.base_channels}
    nb_harmonics: {HIFT.nb_harmonics}
    sampling_rate: !ref <sample_rate>
    nsf_alpha: {HIFT.nsf_alpha}
    nsf_sigma: {HIFT.nsf_sigma}
    nsf_voiced_threshold: {HIFT.nsf_voiced_threshold}
    upsample_rates: [8, 8]
    upsample_kernel_sizes: [16, 16]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5]]
    lrelu_slope: {HIFT.lrelu_slope}
    audio_limit: {HIFT.audio_limit}
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        num_class: 1
        in_channels: 80
        cond_channels: {HIFT.cond_channels}
"""
