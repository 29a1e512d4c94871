// The CUDA kernel on threads of the CPU, behind the C function of csrc/cuda/ctc_collapse.cu.
// clang-format off: the kernel is written in what simt.h declares
#include "simt.h"
// clang-format on

#include "ctc_collapse.cuh"

extern "C" int antiphon_ctc_collapse(const int32_t* labels, const int32_t* cu_seqlens, const int32_t* prev,
                                     int32_t* ids, int32_t* frames, int32_t* cu_out, int32_t* last,
                                     unsigned long long* state, int32_t batch, int32_t total, int32_t blank, void*) {
  for (int32_t i = 0; i <= batch; i++) state[i] = 0;
  if (batch == 0) cu_out[0] = 0;
  constexpr int kThreads = 64;  // two warps
  simt::launch(batch, kThreads, [&] {
    antiphon::cuda::ctc_collapse_kernel<kThreads>(
        {labels, cu_seqlens, prev, ids, frames, cu_out, last, state, total, blank});
  });
  return 0;
}
