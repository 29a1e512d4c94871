// CTC collapse: a label that equals the one of the frame before is dropped, then blanks are.
//
// What is kept is as good as random, so a branch per label would be mispredicted half the time. Instead a vector
// of labels is compared with itself one frame earlier, and what stays is moved together and stored whole; the
// numbers behind it are overwritten by the next store.
#pragma once

#include "kernels.h"
#include "pool.h"
#include "vec.h"

namespace antiphon {
namespace ANTIPHON_ISA {

constexpr int64_t PARALLEL_LABELS = 1 << 17;  // below, waking threads takes longer than the work

// The kept ones of VL labels, moved to the front, and their frames. `keep` has one bit for each.
#if ANTIPHON_VL == 16
static inline uint32_t kept_bits(const int32_t* labels, int32_t blank) {
  const __m512i here = _mm512_loadu_si512(labels), before = _mm512_loadu_si512(labels - 1);
  return _mm512_mask_cmpneq_epi32_mask(_mm512_cmpneq_epi32_mask(here, before), here, _mm512_set1_epi32(blank));
}
static inline void compress(const int32_t* labels, int32_t frame, uint32_t keep, int32_t* ids, int32_t* frames) {
  const __m512i order = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __mmask16 mask = static_cast<__mmask16>(keep);
  _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(mask, _mm512_loadu_si512(labels)));
  const __m512i all = _mm512_add_epi32(order, _mm512_set1_epi32(frame));
  _mm512_storeu_si512(frames, _mm512_maskz_compress_epi32(mask, all));
}
#elif ANTIPHON_VL == 8
struct Orders {
  uint8_t of[256][8];
};
static constexpr Orders all_orders() {
  Orders table = {};
  for (int mask = 0; mask < 256; mask++)
    for (int bit = 0, n = 0; bit < 8; bit++)
      if (mask >> bit & 1) table.of[mask][n++] = static_cast<uint8_t>(bit);
  return table;
}
static constexpr Orders ORDERS = all_orders();

static inline uint32_t kept_bits(const int32_t* labels, int32_t blank) {
  const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels));
  const __m256i before = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels - 1));
  const __m256i drop =
      _mm256_or_si256(_mm256_cmpeq_epi32(here, before), _mm256_cmpeq_epi32(here, _mm256_set1_epi32(blank)));
  return ~static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(drop))) & 0xffu;
}
static inline void compress(const int32_t* labels, int32_t frame, uint32_t keep, int32_t* ids, int32_t* frames) {
  const __m256i order =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(ORDERS.of[keep])));
  const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), _mm256_permutevar8x32_epi32(here, order));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(frames), _mm256_add_epi32(order, _mm256_set1_epi32(frame)));
}
#else
static inline uint32_t kept_bits(const int32_t* labels, int32_t blank) {
  uint32_t keep = 0;
  for (int i = 0; i < VL; i++)
    keep |= static_cast<uint32_t>((labels[i] != labels[i - 1]) & (labels[i] != blank)) << i;
  return keep;
}
static inline void compress(const int32_t* labels, int32_t frame, uint32_t keep, int32_t* ids, int32_t* frames) {
  int n = 0;
  for (int i = 0; i < VL; i++) {
    ids[n] = labels[i], frames[n] = frame + i;
    n += keep >> i & 1;
  }
}
#endif

// Calls of(frame, bits, size) for `size` labels at a time, one bit for each that stays.
template <class F>
static inline void for_kept_bits(const CtcCollapseArgs& a, int64_t row, const F& of) {
  const int32_t* labels = a.labels + a.cu_seqlens[row];
  const int64_t length = a.cu_seqlens[row + 1] - a.cu_seqlens[row];
  if (length == 0) return;
  const int32_t before = a.prev ? a.prev[row] : -1;
  of(0, static_cast<uint32_t>((labels[0] != before) & (labels[0] != a.blank)), 1);
  int64_t frame = 1;  // 64 bits: with a vector more it may leave 32
  for (; frame + VL <= length; frame += VL) of(static_cast<int32_t>(frame), kept_bits(labels + frame, a.blank), VL);
  for (; frame < length; frame++)
    of(static_cast<int32_t>(frame),
       static_cast<uint32_t>((labels[frame] != labels[frame - 1]) & (labels[frame] != a.blank)), 1);
}

static int32_t count_kept(const CtcCollapseArgs& a, int64_t row) {
  int32_t count = 0;
  for_kept_bits(a, row, [&](int32_t, uint32_t keep, int) { count += __builtin_popcount(keep); });
  return count;
}

// Writes the row's ids and frames from `at` on; returns where they end. What lies at `limit` is not the row's to
// write: where a whole vector does not fit before it, the kept ones are copied.
static int32_t write_kept(const CtcCollapseArgs& a, int64_t row, int64_t at, int64_t limit) {
  const int32_t* labels = a.labels + a.cu_seqlens[row];
  for_kept_bits(a, row, [&](int32_t frame, uint32_t keep, int size) {
    const int32_t count = __builtin_popcount(keep);
    if (at + size <= limit) {
      if (size == 1) {
        a.ids[at] = labels[frame], a.frames[at] = frame;
      } else {
        compress(labels + frame, frame, keep, a.ids + at, a.frames + at);
      }
    } else if (size > 1) {
      int32_t ids[VL], frames[VL];
      compress(labels + frame, frame, keep, ids, frames);
      std::memcpy(a.ids + at, ids, sizeof(int32_t) * static_cast<size_t>(count));
      std::memcpy(a.frames + at, frames, sizeof(int32_t) * static_cast<size_t>(count));
    }
    at += count;
  });
  return static_cast<int32_t>(at);
}

static int32_t ctc_collapse(const CtcCollapseArgs& a) {
  if (a.cu_seqlens[0] != 0 || a.cu_seqlens[a.batch] != a.total) return -1;
  for (int64_t r = 0; r < a.batch; r++)
    if (a.cu_seqlens[r + 1] < a.cu_seqlens[r]) return -1;
  for (int64_t r = 0; r < a.batch; r++) {
    const int32_t end = a.cu_seqlens[r + 1];
    a.last[r] = end > a.cu_seqlens[r] ? a.labels[end - 1] : (a.prev ? a.prev[r] : -1);
  }
  a.cu_out[0] = 0;
  if (a.batch < 2 || a.total < PARALLEL_LABELS || num_threads() < 2) {
    // no more is ever written than was read, so whole vectors fit
    for (int64_t r = 0; r < a.batch; r++) a.cu_out[r + 1] = write_kept(a, r, a.cu_out[r], a.total);
    return a.cu_out[a.batch];
  }
  // Rows are counted first, so that each knows where it writes and all of them can write at a time.
  const int64_t grain = a.batch / 64 + 1;
  parallel_for(a.batch, grain, true, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) a.cu_out[r + 1] = count_kept(a, r);
  });
  for (int64_t r = 0; r < a.batch; r++) a.cu_out[r + 1] += a.cu_out[r];
  parallel_for(a.batch, grain, true, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) write_kept(a, r, a.cu_out[r], a.cu_out[r + 1]);
  });
  return a.cu_out[a.batch];
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
