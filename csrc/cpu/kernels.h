// The CPU kernels as one table of function pointers per instruction set. Raw pointers only: no torch, no pybind11, so
// one build serves every version of both. Arguments are structs that callers fill by name; in C++17, designated
// initialisers are an extension, which both GCC and Clang have.
//
// Every sum in these kernels is taken in an order that depends on the row alone (k ascending, key position ascending),
// never on the batch, the chunk, the block size or the number of threads. That is what makes results independent of
// batching to the last bit.
#pragma once

#include <cstdint>

#include "int8_kernel.h"

namespace antiphon {

constexpr int kPanel = 32;  // output features that are stored together in a packed weight

// A paged cache of one layer: `base + block * block_stride + offset * row_stride` is the first of
// num_kv_heads * head_dim numbers of a position. They are float32, or int8 where there are scales: then
// `scales + block * scale_stride` is the first of (num_kv_heads, block_size), and a number is the whole number times
// the scale of its head and position.
struct PagedCache {
  void* key;
  void* value;
  int64_t block_stride;
  int64_t row_stride;
  int32_t block_size;
  float* key_scales = nullptr;
  float* value_scales = nullptr;
  int64_t scale_stride = 0;
};

// What the numbers of a weight are. All but kInt8Both are widened to float32 in registers, and so a product equals, to
// the last bit, that of the widened weight. With kInt8Both the rows of x are quantized, too, see int8_rows.h.
enum class Format : int32_t { kFloat32, kBfloat16, kFloat16, kInt8, kInt8Both };

// The matrix of a product, W (out, in), zeros after its last feature.
struct PackedWeight {
  const void* data;     // (panels, in, kPanel); kInt8Both: see Int8Product
  const float* scales;  // (panels * kPanel), for int8: each finished sum is multiplied by its feature's; or null
  Format format;
  const Int8Kernel* int8 = nullptr;  // kInt8Both: what multiplies it
};

// The panels of a product that comes soon: a thread that has none left fetches the first it will take there.
struct NextProduct {
  const char* panels = nullptr;
  int64_t num_panels = 0, panel_bytes = 0;
};

struct LinearArgs {
  const float* x;  // (rows, in), row stride ldx
  PackedWeight weight;
  const float* residual;  // (rows, out) with row stride ldo, added to the product; may be out; or null
  float* out;             // (rows, out), row stride ldo
  int64_t rows, in, out_features;
  int64_t ldx, ldo;
  NextProduct after = {};
};

struct PagedAttentionArgs {
  const float* q;  // (tokens, heads * head_dim), row stride ldq, already rotated
  PagedCache cache;
  const int32_t* cu_seqlens_q;  // (seqs + 1)
  const int32_t* context_lens;  // (seqs): the number of keys of the sequence, including those of its queries
  const int32_t* block_table;   // (seqs, max_blocks)
  float* out;                   // (tokens, heads * head_dim)
  int64_t num_seqs, max_blocks, num_heads, num_kv_heads, head_dim, ldq;
  float scale;
  const int64_t* tokens;  // (num_tokens), ascending: the tokens that get a row of out; or null: all
  int64_t num_tokens;
};

struct RopeCacheArgs {
  float* qkv;                // (tokens, (heads + 2 * kv_heads) * head_dim); q is rotated in place
  const int32_t* positions;  // (tokens)
  const float* cos_sin;      // (max_positions, head_dim): cos of the first half, then sin
  const int64_t* slots;      // (tokens): block * block_size + offset, -1 writes nothing
  PagedCache cache;
  int64_t num_tokens, num_heads, num_kv_heads, head_dim;
};

struct FusionArgs {
  const float* q;    // (tokens, heads * head_dim), not rotated
  const float* key;  // (rows, window, heads, head_dim), rotated
  const float* value;
  const int64_t* rows;       // (tokens): row of key and value for each token, or null for its own index
  const int32_t* num_valid;  // (tokens)
  const int32_t* positions;  // (tokens)
  const float* cos_sin;
  float* out;  // (tokens, heads * head_dim)
  int64_t num_tokens, num_heads, head_dim;
  int64_t row_stride, entry_stride;  // in key and value, from row to row and from window entry to window entry
  float scale;
};

// Writes text tokens' fusion keys (rotated) and values of all top layers into their window slots.
struct FusionCacheArgs {
  const float* kv;           // (tokens, layers, 2, heads * head_dim)
  const int64_t* slots;      // (tokens): row * window + entry
  const int32_t* positions;  // (tokens)
  const float* cos_sin;
  float* cache;  // (rows * window, layers, 2, heads * head_dim)
  int64_t num_tokens, num_layers, num_heads, head_dim;
};

struct DecoderLayer {
  const float *input_norm, *post_norm;
  PackedWeight qkv, o, gate_up, down;
  PackedWeight fusion_q, fusion_o;  // their data is null in layers without fusion
};

// A run of Llama layers and the norm after them over a ragged batch, x in place; see decoder.h.
struct DecoderArgs {
  float* x;  // (tokens, hidden); if `wanted` is given, only the first num_wanted rows hold results
  const DecoderLayer* layers;
  const float* final_norm;
  int64_t num_layers, num_tokens, hidden, intermediate, num_heads, num_kv_heads, head_dim;
  float eps, scale;
  const int32_t* positions;
  const float* cos_sin;
  const int64_t* slots;
  PagedCache cache;  // of the first layer
  // from a layer's keys to the next layer's, and from their scales to the next
  int64_t layer_stride, layer_scale_stride;
  const int32_t *cu_seqlens_q, *context_lens, *block_table;
  int64_t num_seqs, max_blocks;
  // fusion, for the rows of x that receive it
  const float* fusion_cache;        // (rows, window, layers, 2, heads * head_dim)
  const int64_t* fusion_tokens;     // (fused): rows of x, ascending
  const int64_t* fusion_rows;       // (fused): rows of the cache
  const int32_t* fusion_valid;      // (fused)
  const int32_t* fusion_positions;  // (fused)
  int64_t num_fused, window;
  const int64_t* wanted;  // (num_wanted): tokens whose result is wanted, ascending; or null: all
  int64_t num_wanted;
};

// The likeliest ids of x * head, whose logits equal those of `linear` to the last bit and are not stored.
struct ArgmaxHeadArgs {
  const float* x;  // (rows, in), row stride ldx
  PackedWeight head;
  const int64_t* subset;  // (subset_size): ids that may be picked, in any order; or null: all
  int64_t* ids;           // (rows, top_k): likeliest first, of equals the lower
  float* logits;          // (rows, top_k)
  int64_t rows, in, out_features, ldx, top_k, subset_size;
};

// softmax(x * head) * embedding, without its probabilities in memory.
struct SoftEmbeddingArgs {
  const float* x;                 // (rows, in), row stride ldx
  PackedWeight head;              // of vocab features
  const void* embedding;          // (vocab, width), row stride lde
  Format embedding_format;        // not kInt8Both
  const float* embedding_scales;  // (vocab), for kInt8: of each row; or null
  float* out;                     // (rows, width)
  int64_t* labels;                // (rows): the first of the likeliest
  int64_t rows, in, vocab, width, ldx, lde;
};

// Rows of a table, in float32.
struct EmbedArgs {
  const void* table;    // (vocab, width)
  const float* scales;  // (vocab), for kInt8: of each row
  Format format;        // not kInt8Both
  const int64_t* ids;   // (rows)
  float* out;           // (rows, width)
  int64_t rows, width;
};

// Rows of CTC labels, row r being labels[cu_seqlens[r] .. cu_seqlens[r + 1]); row r of the result is
// ids[cu_out[r] .. cu_out[r + 1]), and frames are positions within the row.
struct CtcCollapseArgs {
  const int32_t* labels;      // (total)
  const int32_t* cu_seqlens;  // (batch + 1)
  const int32_t* prev;        // (batch): the last label of the row's previous chunk, -1 if there was none; or null
  int32_t *ids, *frames;      // room for total
  int32_t* cu_out;            // (batch + 1)
  int32_t* last;              // (batch)
  int64_t batch;
  int32_t total, blank;
};

// A product with a frame, or with neighbouring frames side by side, as a convolution has it: W (out, taps * in).
struct FrameProduct {
  PackedWeight weight;
  const float* bias;  // or null
};

// What a norm multiplies by, and then adds.
struct Affine {
  const float *weight, *bias;
};

struct UNetBlock {
  FrameProduct conv;  // of three frames
  Affine norm;
};

struct UNetTransformer {
  Affine norm1, norm3;
  FrameProduct qkv, out, project, back;
};

// How a stage leads to the next: at once, or by a convolution that keeps, halves or doubles the frames.
enum class Leave : int32_t { kAtOnce, kSame, kHalf, kDouble };

struct UNetStage {
  int64_t in, out;  // channels
  UNetBlock block1, block2;
  FrameProduct res_conv;
  const UNetTransformer* transformers;
  int64_t num_transformers;
  Leave leave;
  FrameProduct next[2];  // kDouble: of the even frames, from the frame before and this one, and of the odd ones
};

// The flow's velocity, see unet.h. Stages: two down, those in the middle, two up.
struct UNetArgs {
  const UNetStage* stages;
  UNetBlock final_block;
  FrameProduct final_proj;
  int64_t num_stages, in, out, num_heads, head_dim, num_groups;
  float eps;
  const float* x;          // (batch, in, frames)
  const float* time_bias;  // of the stages' channels, one stage after the other
  const int64_t* lengths;  // (batch): how many frames are valid, 0 < length <= frames
  float* y;                // (batch, out, frames), zeros after the valid frames
  int64_t batch, frames;
  bool is_alone;              // on the caller's thread alone
  void (*stop_point)(void*);  // called between layers; may throw; or null
  void* caller;
};

constexpr int kNumDilations = 3;  // pairs of convolutions in a vocoder's residual block

// x + sin(alpha x)^2 / alpha, alpha per channel
struct Snake {
  const float *alpha, *inverse;
};

struct HiftBlock {
  int64_t taps;
  int64_t dilations[kNumDilations];
  Snake snake1[kNumDilations], snake2[kNumDilations];
  FrameProduct conv1[kNumDilations], conv2[kNumDilations];  // the first one dilated
};

// A level of the vocoder: `rate` times as many frames as the one before, of fewer channels.
struct HiftLevel {
  int64_t rate, channels;
  FrameProduct up;           // of two frames, to `rate` frames of channels side by side
  FrameProduct source_down;  // of source_taps frames of the source's spectrum, source_stride apart
  int64_t source_taps, source_stride, source_padding;
  HiftBlock source_block;
  const HiftBlock* blocks;
  int64_t num_blocks;
};

// HiFT's trunk, see hift.h: from mel and the source's spectrum to log-magnitude and phase.
struct HiftArgs {
  const HiftLevel* levels;
  FrameProduct conv_pre, conv_post;  // of pre_taps and post_taps frames
  int64_t num_levels, mel_bands, base_channels, spectrum, pre_taps, post_taps;
  float slope, last_slope;  // of the leaky ReLUs before `up`, and before conv_post
  const float* mel;         // (batch, mel_bands, frames)
  const float* source;      // (batch, spectrum, source_frames), source_frames = frames * rates + 1
  const int64_t* lengths;   // (batch): how many frames of the mel are valid, 0 < length <= frames
  float* y;                 // (batch, spectrum, source_frames), zeros after the valid frames
  int64_t batch, frames, source_frames;
  bool is_alone;              // on the caller's thread alone
  void (*stop_point)(void*);  // called between layers; may throw; or null
  void* caller;
};

struct KernelTable {
  void (*linear)(const LinearArgs&);
  void (*paged_attention)(const PagedAttentionArgs&);
  void (*rope_cache_write)(const RopeCacheArgs&);
  void (*fusion_attention)(const FusionArgs&);
  void (*fusion_cache_write)(const FusionCacheArgs&);
  void (*decoder_layers)(DecoderArgs);
  void (*unet)(const UNetArgs&);
  void (*hift)(const HiftArgs&);
  void (*rms_norm)(const float* x, const float* weight, float* out, int64_t rows, int64_t size, float eps);
  void (*rms_norm_residual)(const float* x, const float* residual, const float* weight, float* out, float* total,
                            int64_t rows, int64_t size, float eps);
  void (*silu_mul)(const float* gate_up, float* out, int64_t rows, int64_t size);
  void (*argmax)(const float* x, int64_t* out, int64_t rows, int64_t size);
  void (*argmax_head)(const ArgmaxHeadArgs&);
  void (*soft_embedding)(const SoftEmbeddingArgs&);
  void (*embed)(const EmbedArgs&);
  // Returns the number of ids written; or -1, with nothing written, if cu_seqlens does not rise from 0 to total.
  int32_t (*ctc_collapse)(const CtcCollapseArgs&);
};

namespace plain {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

// The table of an instruction set by name, or null if this machine cannot run it; "" is the best one. "amx" and "vnni"
// are those of AVX-512 and kernels of their own for int8.
const KernelTable* kernels(const char* isa);
const char* best_isa();

}  // namespace antiphon
