// Soft embeddings by the online softmax (Milakov and Gimelshein 2018), a segment of the vocabulary at a time.
//
// A segment's logits stay in L2. Its sums are taken against its own largest logit, and the segments are added up
// one after the other, in order, rescaled to the largest so far. Segments are the same whatever the threads and the
// rows, so neither changes a bit of a row's result. Each weight is read once for up to ROW_CHUNK rows.
#pragma once

#include "attention.h"
#include "linear.h"
#include "pointwise.h"
#include "scratch.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int64_t SEGMENT = 512;                // ids
constexpr int64_t SEGMENT_SUMS_BYTES = 8 << 20;  // bound on the sums that wait to be added up

constexpr float LEAST_LOGIT = -__builtin_inff();

struct SegmentRow {
  float top, total;  // the largest logit, and the sum of exp(logit - top)
  int64_t label;
};

// sums[m][0:width] = the chunk's weights (rows, SEGMENT) times `depth` rows of the embedding
static void mix_segment(const SoftEmbeddingArgs& a, const float* weights, int64_t rows, int64_t id0, int64_t depth,
                        float* sums) {
  float panel[K_BLOCK * kPanel];
  for (int64_t k0 = 0; k0 < depth; k0 += K_BLOCK) {
    const int64_t size = depth - k0 < K_BLOCK ? depth - k0 : K_BLOCK;
    const float* slice = a.embedding + (id0 + k0) * a.lde;
    for (int64_t column = 0; column < a.width; column += kPanel) {
      const int64_t width = a.width - column < kPanel ? a.width - column : kPanel;
      const float* w = slice + column;
      int64_t ldw = a.lde;
      // Rows of an embedding lie so far apart that most of them share a few sets of L1: for several blocks of rows,
      // and at the edge, they are packed first.
      if (rows > MAX_MR || width < kPanel) {
        for (int64_t k = 0; k < size; k++) {
          if (width == kPanel) {
            std::memcpy(panel + k * kPanel, w + k * a.lde, sizeof(float) * kPanel);
          } else {
            std::memset(panel + k * kPanel, 0, sizeof(float) * kPanel);
            std::memcpy(panel + k * kPanel, w + k * a.lde, sizeof(float) * width);
          }
        }
        w = panel, ldw = kPanel;
      }
      // the columns behind these lie in the same pages
      const bool has_next = column + 2 * kPanel <= a.width;
      Prefetch ahead = {slice + column + kPanel, has_next ? LINES : 0, CACHE_LINE, a.lde, 2 * a.lde};
      float edge[ROW_CHUNK * kPanel];
      for (int64_t m = 0; m < rows;) {
        const int block = rows_of_block(rows - m);
        if (width == kPanel) {
          tile_rows<MAX_MR>(block, weights + m * SEGMENT + k0, SEGMENT, w, ldw, size, sums + m * a.width + column,
                            a.width, k0 == 0, ahead);
        } else {
          tile_rows<MAX_MR>(block, weights + m * SEGMENT + k0, SEGMENT, w, ldw, size, edge + m * kPanel, kPanel, true,
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

static void soft_segment(const SoftEmbeddingArgs& a, int64_t id0, int64_t row0, int64_t row1, float* weights,
                         float* sums, SegmentRow* found) {
  const LinearArgs product = {a.x, a.head, nullptr, nullptr, a.rows, a.in, a.vocab, a.ldx, 0};
  const int64_t depth = a.vocab - id0 < SEGMENT ? a.vocab - id0 : SEGMENT, rows = row1 - row0;
  float buffer[ROW_CHUNK * kPanel];
  for (int64_t c = 0; c < depth; c += kPanel) {
    const int64_t panel = (id0 + c) / kPanel;
    const float* next = c + kPanel < depth ? panel_of(product, panel + 1) : nullptr;
    panel_sums(product, panel, next, row0, row1, buffer);
    for (int64_t m = 0; m < rows; m++)
      std::memcpy(weights + m * SEGMENT + c, buffer + m * kPanel, sizeof(float) * kPanel);
  }
  for (int64_t m = 0; m < rows; m++) {
    float* row = weights + m * SEGMENT;
    const int64_t label = argmax_row(row, depth);
    const float top = row[label];
    if (top > LEAST_LOGIT) {
      found[m] = {top, exp_normalise(row, depth), id0 + label};
    } else {  // minus infinity throughout, which has no weight, or not numbers, which spoil the sum
      float total = 0;
      for (int64_t i = 0; i < depth; i++) total += row[i] = row[i] == LEAST_LOGIT ? 0.0f : row[i];
      found[m] = {LEAST_LOGIT, total, id0 + label};
    }
  }
  mix_segment(a, weights, rows, id0, depth, sums);
}

static void soft_embedding(const SoftEmbeddingArgs& a) {
  const int64_t segments = (a.vocab + SEGMENT - 1) / SEGMENT;
  if (a.rows == 0) return;
  // even parts: 100 rows are 50 + 50, not 96 + 4
  const int64_t parts = (a.rows + ROW_CHUNK - 1) / ROW_CHUNK, chunk = (a.rows + parts - 1) / parts;
  const int64_t sums_size = chunk * a.width;
  // As many segments at a time as threads need; how many changes nothing but memory.
  int64_t wave = SEGMENT_SUMS_BYTES / static_cast<int64_t>(sizeof(float) * (sums_size + 1));
  if (wave < 2 * num_threads()) wave = 2 * num_threads();
  if (wave > segments) wave = segments;
  const Scratch<float> sums(wave * sums_size);
  const Scratch<SegmentRow> found((wave + 1) * chunk);
  SegmentRow* all = found.get() + wave * chunk;  // of the segments before

  for (int64_t row0 = 0; row0 < a.rows; row0 += chunk) {
    const int64_t row1 = row0 + chunk < a.rows ? row0 + chunk : a.rows, rows = row1 - row0;
    for (int64_t first = 0; first < segments; first += wave) {
      const int64_t count = first + wave < segments ? wave : segments - first;
      ShortMemory is_short;
      parallel_for(count, 1, a.in * a.vocab > 32768, [&](int64_t begin, int64_t end) {
        const Scratch<float> weights(rows * SEGMENT, std::nothrow);
        if (!weights) return is_short.set();
        for (int64_t i = begin; i < end; i++)
          soft_segment(a, (first + i) * SEGMENT, row0, row1, weights.get(), sums.get() + i * sums_size,
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
            const bool has_weight = top > LEAST_LOGIT;
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
