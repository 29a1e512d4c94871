// Soft embeddings by the online softmax (Milakov and Gimelshein 2018), a segment of the vocabulary at a time.
//
// A segment's logits stay in L2. Its sums are taken relative to its own largest logit, and the segments are added up in
// order, rescaled to the largest so far. The segments are the same for any number of threads and rows, so neither
// changes a bit of a row's result. Each weight is read once for up to kRowChunk rows.
#pragma once

#include "attention.h"
#include "linear.h"
#include "pointwise.h"
#include "scratch.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int64_t kSegment = 512;               // ids
constexpr int64_t kSegmentSumsBytes = 8 << 20;  // bound on the sums that wait to be added up

constexpr float kLeastLogit = -__builtin_inff();

struct SegmentRow {
  float top, total;  // the largest logit, and the sum of exp(logit - top)
  int64_t label;
};

// to[0:size][0:kPanel] = `width` columns of the embedding's rows from `at` on, in float32, and zeros
template <class W>
static void pack_columns(const W* at, int64_t ldw, int64_t size, int64_t width, float* to) {
  for (int64_t k = 0; k < size; k++, at += ldw, to += kPanel) {
    if (width == kPanel) {
      for (int v = 0; v < kPanel; v += kLanes) store(to + v, widen(at + v));
    } else {
      W edge[kPanel] = {};
      std::memcpy(edge, at, sizeof(W) * width);
      for (int v = 0; v < kPanel; v += kLanes) store(to + v, widen(edge + v));
    }
  }
}

// sums[m][0:width] = the chunk's weights (rows, kSegment) times `depth` rows of the embedding
template <class W>
static void mix_segment(const SoftEmbeddingArgs& a, const W* embedding, const float* weights, int64_t rows, int64_t id0,
                        int64_t depth, float* sums) {
  constexpr bool widens = sizeof(W) < sizeof(float);
  float panel[kDepth * kPanel];
  for (int64_t k0 = 0; k0 < depth; k0 += kDepth) {
    const int64_t size = depth - k0 < kDepth ? depth - k0 : kDepth;
    const W* slice = embedding + (id0 + k0) * a.lde;
    for (int64_t column = 0; column < a.width; column += kPanel) {
      const int64_t width = a.width - column < kPanel ? a.width - column : kPanel;
      const float* w = panel;
      int64_t ldw = kPanel;
      // Rows of an embedding lie so far apart that most of them share a few sets of L1, so they are packed first if
      // several blocks of rows read them, and at the edge; and where they have to be widened.
      if constexpr (widens) {
        pack_columns(slice + column, a.lde, size, width, panel);
      } else if (rows > kTuning.tile_rows || width < kPanel) {
        pack_columns(slice + column, a.lde, size, width, panel);
      } else {
        w = slice + column, ldw = a.lde;
      }
      // the columns after these lie in the same pages
      const bool has_next = column + 2 * kPanel <= a.width;
      const int64_t stride = a.lde * static_cast<int64_t>(sizeof(W));
      Prefetch ahead = {reinterpret_cast<const char*>(slice + column + kPanel), has_next ? kPanelLines : 0, kCacheLine,
                        stride, 2 * stride};
      float edge[kRowChunk * kPanel];
      for (int64_t m = 0; m < rows;) {
        const int block = rows_of_block(rows - m);
        if (width == kPanel) {
          tile_rows<float>(block, weights + m * kSegment + k0, kSegment, w, ldw, size, sums + m * a.width + column,
                           a.width, k0 == 0, ahead);
        } else {
          tile_rows<float>(block, weights + m * kSegment + k0, kSegment, w, ldw, size, edge + m * kPanel, kPanel, true,
                           ahead);
        }
        ahead.lines = 0;
        m += block;
      }
      for (int64_t m = 0; m < rows && width < kPanel; m++)
        for (int64_t n = 0; n < width; n++) {
          float* to = sums + m * a.width + column + n;
          *to = k0 == 0 ? edge[m * kPanel + n] : *to + edge[m * kPanel + n];
        }
    }
  }
}

static void soft_segment(const SoftEmbeddingArgs& a, const LinearArgs& product, const Int8Rows& whole, int64_t id0,
                         int64_t row0, int64_t row1, float* weights, float* sums, SegmentRow* found) {
  const int64_t depth = a.vocab - id0 < kSegment ? a.vocab - id0 : kSegment, rows = row1 - row0;
  float buffer[kRowChunk * kPanel];
  for (int64_t c = 0; c < depth; c += kPanel) {
    const int64_t panel = (id0 + c) / kPanel;
    const char* next = c + kPanel < depth ? panel_of(product, panel + 1) : nullptr;
    panel_sums(product, whole, panel, next, row0, row1, buffer);
    for (int64_t m = 0; m < rows; m++)
      std::memcpy(weights + m * kSegment + c, buffer + m * kPanel, sizeof(float) * kPanel);
  }
  for (int64_t m = 0; m < rows; m++) {
    float* row = weights + m * kSegment;
    const int64_t label = argmax_row(row, depth);
    const float top = row[label];
    if (top > kLeastLogit) {
      found[m] = {top, exp_normalise(row, depth), id0 + label};
    } else {  // nothing but minus infinity, which has no weight, and NaN, which spoils the sum
      float total = 0;
      for (int64_t i = 0; i < depth; i++) total += row[i] = row[i] == kLeastLogit ? 0.0f : row[i];
      found[m] = {kLeastLogit, total, id0 + label};
    }
    if (a.embedding_scales)
      for (int64_t i = 0; i < depth; i++) row[i] *= a.embedding_scales[id0 + i];
  }
  switch (a.embedding_format) {
    case Format::kBfloat16:
      mix_segment(a, static_cast<const Bfloat16*>(a.embedding), weights, rows, id0, depth, sums);
      break;
    case Format::kFloat16:
      mix_segment(a, static_cast<const Float16*>(a.embedding), weights, rows, id0, depth, sums);
      break;
    case Format::kInt8: mix_segment(a, static_cast<const int8_t*>(a.embedding), weights, rows, id0, depth, sums); break;
    default: mix_segment(a, static_cast<const float*>(a.embedding), weights, rows, id0, depth, sums);
  }
}

static void soft_embedding(const SoftEmbeddingArgs& a) {
  const int64_t segments = (a.vocab + kSegment - 1) / kSegment;
  if (a.rows == 0) return;
  const LinearArgs product = {.x = a.x,
                              .weight = a.head,
                              .residual = nullptr,
                              .out = nullptr,
                              .rows = a.rows,
                              .in = a.in,
                              .out_features = a.vocab,
                              .ldx = a.ldx,
                              .ldo = 0};
  const Int8Rows whole = int8_rows_of(product);
  // even parts: 100 rows are 50 + 50, not 96 + 4
  const int64_t parts = (a.rows + kRowChunk - 1) / kRowChunk, chunk = (a.rows + parts - 1) / parts;
  const int64_t sums_size = chunk * a.width;
  // Enough segments at a time for all threads; their number affects only the memory used.
  int64_t wave = kSegmentSumsBytes / static_cast<int64_t>(sizeof(float) * (sums_size + 1));
  if (wave < 2 * num_threads()) wave = 2 * num_threads();
  if (wave > segments) wave = segments;
  const Scratch<float> sums(wave * sums_size);
  const Scratch<SegmentRow> found((wave + 1) * chunk);
  SegmentRow* all = found.get() + wave * chunk;  // of all segments so far

  for (int64_t row0 = 0; row0 < a.rows; row0 += chunk) {
    const int64_t row1 = row0 + chunk < a.rows ? row0 + chunk : a.rows, rows = row1 - row0;
    for (int64_t first = 0; first < segments; first += wave) {
      const int64_t count = first + wave < segments ? wave : segments - first;
      ShortMemory is_short;
      parallel_for(count, 1, a.in * a.vocab > 32768, [&](int64_t begin, int64_t end) {
        const Scratch<float> weights(rows * kSegment, std::nothrow);
        if (!weights) return is_short.set();
        for (int64_t i = begin; i < end; i++)
          soft_segment(a, product, whole, (first + i) * kSegment, row0, row1, weights.get(), sums.get() + i * sums_size,
                       found.get() + i * chunk);
      });
      is_short.rethrow();
      parallel_for(rows, 1, rows * count * a.width > 65536, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; m++) {
          float* out = a.out + (row0 + m) * a.width;
          for (int64_t i = 0; i < count; i++) {
            const SegmentRow& part = found[i * chunk + m];
            const float* from = sums.get() + i * sums_size + m * a.width;
            if (first + i == 0) {
              all[m] = part;
              std::memcpy(out, from, sizeof(float) * a.width);
              continue;
            }
            const bool larger = part.top > all[m].top;
            const float top = larger ? part.top : all[m].top;
            const bool has_weight = top > kLeastLogit;
            const float keep = has_weight ? sexp(all[m].top - top) : 1.0f;
            const float take = has_weight ? sexp(part.top - top) : 1.0f;
            for (int64_t n = 0; n < a.width; n++) out[n] = out[n] * keep + from[n] * take;
            all[m] = {top, all[m].total * keep + part.total * take, larger ? part.label : all[m].label};
          }
          if (first + count < segments) continue;
          const float inverse = 1.0f / all[m].total;
          for (int64_t n = 0; n < a.width; n++) out[n] *= inverse;
          a.labels[row0 + m] = all[m].label;
        }
      });
    }
  }
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
