// Defines this translation unit's kernel table. Included last by each isa_*.cpp.
#pragma once

#include "argmax_head.h"
#include "ctc_collapse.h"
#include "decoder.h"
#include "fusion_attention.h"
#include "linear.h"
#include "paged_attention.h"
#include "pointwise.h"
#include "rope.h"
#include "soft_embedding.h"

namespace antiphon {
namespace ANTIPHON_ISA {
const KernelTable table = {
    linear,   paged_attention, rope_cache_write, fusion_attention, fusion_cache_write, decoder_layers, rms_norm, rms_norm_residual,
    silu_mul, argmax,          argmax_head,      soft_embedding,   ctc_collapse,
};
}  // namespace ANTIPHON_ISA
}  // namespace antiphon
