from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from antiphon.codec.checkpoint.hyperparams import (
    CodecParams,
    EncoderParams,
    EstimatorParams,
    read_hyperparams,
)
from antiphon.codec.checkpoint.tensors import match_tensors
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.hift.hift import Hift
from antiphon.errors import CheckpointError

# The whole of a released recipe in its kinds of node: functions that it would call, names, references in
# lists, a language model and training that do not matter here.
RELEASED = """\
# set random seed, so that you may reproduce your result.
__set_seed1: !apply:random.seed [1986]
__set_seed2: !apply:numpy.random.seed [1986]
__set_seed3: !apply:torch.manual_seed [1986]

sample_rate: 22050
text_encoder_input_size: 512
llm_input_size: 1024
llm_output_size: 1024
spk_embed_dim: 192

llm: !new:cosyvoice.llm.llm.TransformerLM
    text_encoder_input_size: !ref <text_encoder_input_size>
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: 0.8

flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    input_size: 512
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: 4096
    input_frame_rate: 25
    only_mask_loss: True
    encoder: !new:cosyvoice.transformer.encoder.ConformerEncoder
        output_size: 512
        attention_heads: 8
        linear_units: 2048
        num_blocks: 6
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        input_size: 512
        use_cnn_module: False
        macaron_style: False
    length_regulator: !new:cosyvoice.flow.length_regulator.InterpolateRegulator
        channels: 80
        sampling_ratios: [1, 1, 1, 1]
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
                inference_cfg_rate: 0.7
                reg_loss_type: 'l1'
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
            in_channels: 320
            out_channels: 80
            channels: [256, 256]
            dropout: 0.0
            attention_head_dim: 64
            n_blocks: 4
            num_mid_blocks: 12
            num_heads: 8
            act_fn: 'gelu'

hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: 80
    base_channels: 512
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 8]
    upsample_kernel_sizes: [16, 16]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5]]
    lrelu_slope: 0.1
    audio_limit: 0.99
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        num_class: 1
        in_channels: 80
        cond_channels: 512

get_tokenizer: !name:whisper.tokenizer.get_tokenizer
    multilingual: True
tokenize: !name:cosyvoice.dataset.processor.tokenize
    get_tokenizer: !ref <get_tokenizer>
data_pipeline: [
    !ref <tokenize>,
    !ref <get_tokenizer>,
]
"""

Read = Callable[[str], CodecParams]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read_text(text: str) -> CodecParams:
        path = tmp_path / "cosyvoice.yaml"
        path.write_text(text, encoding="utf-8")
        return read_hyperparams(path)

    return read_text


def test_released_recipe(read: Read) -> None:
    params = read(RELEASED)
    assert params.flow.encoder == EncoderParams(512, 512, 8, 2048, 6)
    assert params.flow.estimator == EstimatorParams(320, 80, (256, 256), 64, 8, 4, 12)
    assert (params.flow.spk_embed_dim, params.flow.inference_cfg_rate) == (192, 0.7)
    assert (params.hift.base_channels, params.hift.num_waves, params.hift.cond_channels) == (512, 9, 512)


@pytest.mark.slow
def test_released_size_has_the_released_names_and_shapes(
    read: Read, manifest: Callable[[str], dict[str, list[int]]]
) -> None:
    """All 1185 + 227 tensors, on the meta device: nothing is allocated."""
    params = read(RELEASED)
    with torch.device("meta"):
        flow, hift = FlowModel(params.flow), Hift(params.hift)
        stored = {
            name: {key: torch.empty(shape) for key, shape in manifest(name).items()}
            for name in ("flow", "hift")
        }
    assert (len(stored["flow"]), len(stored["hift"])) == (1185, 227)
    assert {name: list(tensor.shape) for name, tensor in flow.state_dict().items()} == manifest("flow")
    folded = match_tensors(hift.state_dict(), stored["hift"], Path("hift.pt"))
    assert {name: t.shape for name, t in folded.items()} == {n: t.shape for n, t in hift.state_dict().items()}
    assert sum(t.numel() for t in flow.state_dict().values()) == 104_874_752


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("input_frame_rate: 25", "input_frame_rate: 50", "flow.input_frame_rate: expected 25, found 50"),
        ("    input_frame_rate: 25\n", "", "flow.input_frame_rate: expected a value, found no such key"),
        ("[8, 8]", "[8, 5, 3]", r"hift.upsample_rates: expected \[8, 8\], found \[8, 5, 3\]"),
        ("n_fft: 16", "n_fft: 32", "hift.istft_params"),
        ("resblock_kernel_sizes: [3, 7, 11]", "resblock_kernel_sizes: [3, 7]", "hift.resblock_kernel_sizes"),
        ("[256, 256]", "[256, 256, 256]", "a list of 2 integers"),
        ("[256, 256]", "[256, 100]", "multiples of 8"),
        (
            "'euler'",
            "'midpoint'",
            "flow.decoder.cfm_params.content.solver: expected 'euler', found 'midpoint'",
        ),
        ("'cosine'", "'linear'", "t_scheduler"),
        ("act_fn: 'gelu'", "act_fn: 'snakebeta'", "flow.decoder.estimator.act_fn"),
        ("'rel_pos_espnet'", "'rel_pos'", "pos_enc_layer_type"),
        ("use_cnn_module: False", "use_cnn_module: True", "use_cnn_module: expected False, found True"),
        ("macaron_style: False", "macaron_style: 0", "macaron_style: expected False, found 0"),
        ("normalize_before: True", "normalize_before: False", "normalize_before"),
        ("output_size: 80", "output_size: 100", "flow.output_size: expected 80, found 100"),
        ("sample_rate: 22050", "sample_rate: 24000", "hift.sampling_rate: expected 22050, found 24000"),
        ("attention_heads: 8", "attention_heads: 7", "multiple of attention_heads = 7"),
        ("attention_heads: 8", "attention_heads: 0", "attention_heads: expected an integer >= 1, found 0"),
        ("attention_heads: 8", "attention_heads: 8.0", "attention_heads: expected an integer"),
        ("vocab_size: 4096", "vocab_size: yes", "vocab_size: expected an integer >= 1, found True"),
        ("nsf_alpha: 0.1", "nsf_alpha: loud", "nsf_alpha: expected a number >= 0, found 'loud'"),
        ("audio_limit: 0.99", "audio_limit: .nan", "audio_limit: expected a number"),
        (
            "        input_size: 512\n",
            "        input_size: 256\n",
            "expected flow.input_size = 512, found 256",
        ),
        ("base_channels: 512", "base_channels: 510", "multiple of 4, found 510"),
        (
            "only_mask_loss: True",
            "only_mask_loss: True\n    token_mel_ratio: 2",
            "flow: unknown key 'token_mel_ratio'",
        ),
        (
            "num_heads: 8",
            "num_heads: 8\n            static_chunk_size: 50",
            "unknown key 'static_chunk_size'",
        ),
        (
            "flow.flow.MaskedDiffWithXvec",
            "flow.flow.CausalMaskedDiffWithXvec",
            "expected !new:cosyvoice.flow.flow.Mask",
        ),
        ("!new:omegaconf.DictConfig", "!apply:os.system", "found !apply:os.system"),
        ("!ref <sample_rate>", "!ref <nothing>", "a reference <key> to a plain value"),
        ("!ref <sample_rate>", "!ref <sample_rate> * 1", "a reference <key>"),
        ("!ref <sample_rate>", "!ref <hift>", "a reference <key>"),
        ("sample_rate: 22050", "sample_rate: !ref <sample_rate>", "a reference <key>"),
        (
            "    istft_params:\n        n_fft: 16\n        hop_len: 4\n",
            "    istft_params: 4\n",
            "istft_params",
        ),
        ("hift: !new", "other: !new", "hift: expected a value, found no such key"),
    ],
)
def test_what_would_compute_otherwise_is_refused(read: Read, old: str, new: str, message: str) -> None:
    assert old in RELEASED
    with pytest.raises(CheckpointError, match=message) as error:
        read(RELEASED.replace(old, new))
    assert "cosyvoice.yaml" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "a: [",
        "a: \x00",
        "[" * 5000,
        "flow: 5",
        "flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec 5",
        "a: 2026-99-99",
        "#" * (2**20 + 1),
    ],
)
def test_what_is_no_recipe_is_refused(read: Read, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"cosyvoice\.yaml"):
        read(text)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cosyvoice.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(CheckpointError, match="UTF-8"):
        read_hyperparams(tmp_path / "cosyvoice.yaml")


@pytest.mark.parametrize(
    "line",
    [
        "boom: !apply:pathlib.Path.touch [{path}]",
        "boom: !new:pathlib.PosixPath [{path}]",
        "boom: !!python/object/apply:os.mkdir [{path}]",
        "boom: !!python/name:os.system",
    ],
)
def test_nothing_in_a_recipe_is_called(read: Read, tmp_path: Path, line: str) -> None:
    """Tags of the recipe's own kind are data; YAML's own tags for Python objects are refused."""
    made = tmp_path / "made"
    text = RELEASED + line.format(path=made) + "\n"
    if "!!" in line:
        with pytest.raises(CheckpointError, match="could not determine a constructor"):
            read(text)
    else:
        read(text)
    assert not made.exists()


def test_random_state_is_not_seeded(read: Read) -> None:
    before = torch.get_rng_state()
    read(RELEASED)
    assert torch.equal(before, torch.get_rng_state())
