#include "bindings.h"
#include "ctc_collapse.h"

namespace py = pybind11;

namespace antiphon {

void bind_ctc_collapse(py::module_& m) {
  m.def(
      "ctc_collapse",
      [](Address labels, Address cu_seqlens, std::int32_t batch, std::int32_t blank, Address prev, Address ids,
         Address cu_out, Address frames, Address last) {
        return ctc_collapse(at<const std::int32_t>(labels), at<const std::int32_t>(cu_seqlens), batch, blank,
                            at<const std::int32_t>(prev), at<std::int32_t>(ids), at<std::int32_t>(cu_out),
                            at<std::int32_t>(frames), at<std::int32_t>(last));
      },
      py::arg("labels"), py::arg("cu_seqlens"), py::arg("batch"), py::arg("blank"), py::arg("prev"), py::arg("ids"),
      py::arg("cu_out"), py::arg("frames"), py::arg("last"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace antiphon
