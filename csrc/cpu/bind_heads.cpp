// What reads a whole vocabulary: heads, soft embeddings, sampling.
#include <string>

#include "bindings.h"
#include "kernels.h"
#include "sample.h"

namespace py = pybind11;

namespace antiphon {

void bind_heads(py::module_& m) {
  m.def(
      "argmax_head",
      [](Address x, Address head, Address subset, Address ids, Address logits, int64_t rows, int64_t in,
         int64_t out_features, int64_t ldx, int64_t top_k, int64_t subset_size, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.argmax_head({at<float>(x), at<float>(head), at<int64_t>(subset), at<int64_t>(ids), at<float>(logits),
                           rows, in, out_features, ldx, top_k, subset_size});
      },
      py::arg("x"), py::arg("head"), py::arg("subset"), py::arg("ids"), py::arg("logits"), py::arg("rows"),
      py::arg("in_features"), py::arg("out_features"), py::arg("ldx"), py::arg("top_k"), py::arg("subset_size"),
      py::arg("isa") = "");

  m.def(
      "soft_embedding",
      [](Address x, Address head, Address embedding, Address out, Address labels, int64_t rows, int64_t in,
         int64_t vocab, int64_t width, int64_t ldx, int64_t lde, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.soft_embedding({at<float>(x), at<float>(head), at<float>(embedding), at<float>(out),
                              at<int64_t>(labels), rows, in, vocab, width, ldx, lde});
      },
      py::arg("x"), py::arg("head"), py::arg("embedding"), py::arg("out"), py::arg("labels"), py::arg("rows"),
      py::arg("in_features"), py::arg("vocab"), py::arg("width"), py::arg("ldx"), py::arg("lde"),
      py::arg("isa") = "");

  m.def(
      "sample",
      [](Address logits, Address temperature, Address top_k, Address top_p, Address seeds, Address positions,
         Address ids, int64_t rows, int64_t vocab, int64_t ldl) {
        py::gil_scoped_release release;
        sample({at<float>(logits), at<float>(temperature), at<int32_t>(top_k), at<float>(top_p), at<int64_t>(seeds),
                at<int64_t>(positions), at<int64_t>(ids), rows, vocab, ldl});
      },
      py::arg("logits"), py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("seeds"),
      py::arg("positions"), py::arg("ids"), py::arg("rows"), py::arg("vocab"), py::arg("ldl"));
}

}  // namespace antiphon
