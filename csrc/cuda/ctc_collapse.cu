#include <cuda_runtime.h>

namespace antiphon::cuda {

// The block's one shared T. A function of its own, so that the tests can put the block's memory elsewhere.
template <class T>
__device__ T& block_shared() {
  __shared__ T shared;
  return shared;
}

}  // namespace antiphon::cuda

#include "ctc_collapse.cuh"

namespace {
constexpr int kThreads = 256;
}

// Whether the kernel can run on the current device: cudaSuccess, or why not, such as cudaErrorInsufficientDriver
// where the driver is older than the CUDA that compiled it. Launches nothing.
extern "C" int antiphon_ctc_collapse_status() {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, antiphon::cuda::ctc_collapse_kernel<kThreads>);
  if (status != cudaSuccess) cudaGetLastError();  // so that nobody else finds it
  return status;
}

// Returns a cudaError_t. `state` holds batch + 1 words, which are cleared here.
extern "C" int antiphon_ctc_collapse(const int32_t* labels, const int32_t* cu_seqlens, const int32_t* prev,
                                     int32_t* ids, int32_t* frames, int32_t* cu_out, int32_t* last,
                                     unsigned long long* state, int32_t batch, int32_t total, int32_t blank,
                                     void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const cudaError_t cleared = cudaMemsetAsync(state, 0, sizeof(*state) * (batch + 1), queue);
  if (cleared != cudaSuccess) return cleared;
  if (batch == 0) return cudaMemsetAsync(cu_out, 0, sizeof(*cu_out), queue);
  antiphon::cuda::ctc_collapse_kernel<kThreads>
      <<<batch, kThreads, 0, queue>>>({labels, cu_seqlens, prev, ids, frames, cu_out, last, state, total, blank});
  return cudaGetLastError();
}
