// CTC collapse of a ragged batch in one launch, one block for each row.
//
// A row's place in the output is the number of labels kept in all rows before it. Blocks find it by looking back
// (Merrill and Garland 2016, "Single-pass parallel prefix scan with decoupled look-back"): each publishes its count as
// soon as it has one, and adds up what the blocks before it have published. Rows are handed out by ticket, so all
// blocks that a block waits for have begun, and a grid larger than the device cannot hang.
//
// Triton has neither warp ballots nor a way to publish a number and its flag in one store; there this takes three
// launches.
#pragma once

#include <cstdint>

namespace antiphon::cuda {

constexpr int kWarp = 32;
constexpr int32_t kNoLabel = -1;

struct CtcCollapseArgs {
  const int32_t* labels;      // (total)
  const int32_t* cu_seqlens;  // (batch + 1)
  const int32_t* prev;        // (batch) or null
  int32_t* ids;               // (total), of which the first cu_out[batch] are written
  int32_t* frames;            // (total), likewise
  int32_t* cu_out;            // (batch + 1)
  int32_t* last;              // (batch)
  unsigned long long* state;  // (batch + 1), zeros: the ticket, then what each row has published
  int32_t total;
  int32_t blank;
};

// What a row has published: its own count, or the count of all rows up to it. One word, so that a reader sees the
// number whenever it sees the flag.
constexpr unsigned long long kOwnCount = 1ull << 32, kCountSoFar = 2ull << 32, kFlags = 3ull << 32;

template <int THREADS>
struct CtcCollapseShared {
  int32_t row;
  int32_t offset;
  int32_t kept_of_warp[THREADS / kWarp];
};

__device__ inline int32_t clamped(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

__device__ inline bool is_kept(const CtcCollapseArgs& a, int32_t begin, int32_t end, int32_t before_row, int32_t at) {
  if (at >= end) return false;
  const int32_t label = a.labels[at];
  const int32_t before = at > begin ? a.labels[at - 1] : before_row;
  return label != before && label != a.blank;
}

// The number of labels kept in the rows before `row`, which itself has kept `own`. Called by one thread.
__device__ inline int32_t look_back(unsigned long long* published, int32_t row, int32_t own) {
  atomicExch(published + row, (row == 0 ? kCountSoFar : kOwnCount) | static_cast<unsigned long long>(own));
  if (row == 0) return 0;
  int32_t before = 0;
  for (int32_t other = row - 1; other >= 0; other--) {
    unsigned long long word;
    do word = atomicAdd(published + other, 0ull);
    while ((word & kFlags) == 0);
    before += static_cast<int32_t>(word & 0xffffffffull);
    if ((word & kFlags) == kCountSoFar) break;
  }
  atomicExch(published + row, kCountSoFar | static_cast<unsigned long long>(before + own));
  return before;
}

template <int THREADS>
__global__ void ctc_collapse_kernel(CtcCollapseArgs a) {
  CtcCollapseShared<THREADS>& shared = block_shared<CtcCollapseShared<THREADS>>();
  const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp;
  if (thread == 0) shared.row = static_cast<int32_t>(atomicAdd(a.state, 1ull));
  __syncthreads();
  const int32_t row = shared.row;
  // Stays within the labels, whatever cu_seqlens says: the host checks it later, along with the size of the result.
  const int32_t begin = clamped(a.cu_seqlens[row], 0, a.total), end = clamped(a.cu_seqlens[row + 1], begin, a.total);
  const int32_t before_row = a.prev ? a.prev[row] : kNoLabel;

  int32_t own = 0;
  for (int32_t tile = begin; tile < end; tile += THREADS)
    own += __syncthreads_count(is_kept(a, begin, end, before_row, tile + thread));
  if (thread == 0) {
    shared.offset = look_back(a.state + 1, row, own);
    if (row == 0) a.cu_out[0] = 0;
    a.cu_out[row + 1] = shared.offset + own;
    a.last[row] = end > begin ? a.labels[end - 1] : before_row;
  }
  __syncthreads();

  int32_t offset = shared.offset;
  for (int32_t tile = begin; tile < end; tile += THREADS) {
    const int32_t at = tile + thread;
    const bool kept = is_kept(a, begin, end, before_row, at);
    const unsigned votes = __ballot_sync(0xffffffffu, kept);
    if (lane == 0) shared.kept_of_warp[warp] = __popc(votes);
    __syncthreads();
    int32_t here = offset + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < THREADS / kWarp; w++) {
      if (w < warp) here += shared.kept_of_warp[w];
      offset += shared.kept_of_warp[w];
    }
    if (kept && here < a.total) {  // rows that overlap keep more than there are labels
      a.ids[here] = a.labels[at];
      a.frames[here] = at - begin;
    }
    __syncthreads();  // the counts are read before the next tile's are written
  }
}

}  // namespace antiphon::cuda
