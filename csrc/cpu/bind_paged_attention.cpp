#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_paged_attention(py::module_& m) {
  m.def(
      "paged_attention",
      [](Address q, int64_t ldq, const CacheAddress& cache, Address cu_seqlens_q, Address context_lens,
         Address block_table, int64_t num_seqs, int64_t max_blocks, int64_t num_heads, int64_t num_kv_heads,
         int64_t head_dim, float scale, Address out, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.paged_attention({.q = at<float>(q),
                               .cache = paged(cache),
                               .cu_seqlens_q = at<int32_t>(cu_seqlens_q),
                               .context_lens = at<int32_t>(context_lens),
                               .block_table = at<int32_t>(block_table),
                               .out = at<float>(out),
                               .num_seqs = num_seqs,
                               .max_blocks = max_blocks,
                               .num_heads = num_heads,
                               .num_kv_heads = num_kv_heads,
                               .head_dim = head_dim,
                               .ldq = ldq,
                               .scale = scale,
                               .tokens = nullptr,
                               .num_tokens = 0});
      },
      py::arg("q"), py::arg("ldq"), py::arg("cache"), py::arg("cu_seqlens_q"), py::arg("context_lens"),
      py::arg("block_table"), py::arg("num_seqs"), py::arg("max_blocks"), py::arg("num_heads"), py::arg("num_kv_heads"),
      py::arg("head_dim"), py::arg("scale"), py::arg("out"), py::arg("isa") = "");
}

}  // namespace antiphon
