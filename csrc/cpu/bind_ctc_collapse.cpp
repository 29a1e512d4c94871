#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_ctc_collapse(py::module_& m) {
  m.def(
      "ctc_collapse",
      [](Address labels, Address cu_seqlens, Address prev, Address ids, Address frames, Address cu_out, Address last,
         int64_t batch, int32_t total, int32_t blank, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        return table.ctc_collapse({.labels = at<const int32_t>(labels),
                                   .cu_seqlens = at<const int32_t>(cu_seqlens),
                                   .prev = at<const int32_t>(prev),
                                   .ids = at<int32_t>(ids),
                                   .frames = at<int32_t>(frames),
                                   .cu_out = at<int32_t>(cu_out),
                                   .last = at<int32_t>(last),
                                   .batch = batch,
                                   .total = total,
                                   .blank = blank});
      },
      py::arg("labels"), py::arg("cu_seqlens"), py::arg("prev"), py::arg("ids"), py::arg("frames"), py::arg("cu_out"),
      py::arg("last"), py::arg("batch"), py::arg("total"), py::arg("blank"), py::arg("isa") = "");
}

}  // namespace antiphon
