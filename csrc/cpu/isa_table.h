// Defines this translation unit's kernel table, and its kernel for int8. Included last by each isa_*.cpp.
#pragma once

#include "argmax_head.h"
#include "ctc_collapse.h"
#include "decoder.h"
#include "embed.h"
#include "fusion_attention.h"
#include "hift.h"
#include "int8_sums.h"
#include "linear.h"
#include "paged_attention.h"
#include "pointwise.h"
#include "rope.h"
#include "soft_embedding.h"
#include "unet.h"

namespace antiphon {
namespace ANTIPHON_ISA {
const KernelTable table = {
    .linear = linear,
    .paged_attention = paged_attention,
    .rope_cache_write = rope_cache_write,
    .fusion_attention = fusion_attention,
    .fusion_cache_write = fusion_cache_write,
    .decoder_layers = decoder_layers,
    .unet = unet,
    .hift = hift,
    .rms_norm = rms_norm,
    .rms_norm_residual = rms_norm_residual,
    .silu_mul = silu_mul,
    .argmax = argmax,
    .argmax_head = argmax_head,
    .soft_embedding = soft_embedding,
    .embed = embed,
    .ctc_collapse = ctc_collapse,
};
const Int8Kernel int8 = {.name = ANTIPHON_NAME, .takes_int16 = true, .sums = int8_sums};
}  // namespace ANTIPHON_ISA
}  // namespace antiphon
