#include "bindings.h"
#include "sample.h"

namespace py = pybind11;

namespace antiphon {

void bind_sample(py::module_& m) {
  m.def(
      "sample",
      [](Address logits, Address temperature, Address top_k, Address top_p, Address seeds, Address positions,
         Address ids, int64_t rows, int64_t vocab, int64_t ldl) {
        py::gil_scoped_release release;
        sample({.logits = at<float>(logits),
                .temperature = at<float>(temperature),
                .top_k = at<int32_t>(top_k),
                .top_p = at<float>(top_p),
                .seeds = at<int64_t>(seeds),
                .positions = at<int64_t>(positions),
                .ids = at<int64_t>(ids),
                .rows = rows,
                .vocab = vocab,
                .ldl = ldl});
      },
      py::arg("logits"), py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("seeds"),
      py::arg("positions"), py::arg("ids"), py::arg("rows"), py::arg("vocab"), py::arg("ldl"));
}

}  // namespace antiphon
