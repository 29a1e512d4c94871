#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_argmax(py::module_& m) {
  m.def(
      "argmax",
      [](Address x, Address out, int64_t rows, int64_t size, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.argmax(at<float>(x), at<int64_t>(out), rows, size);
      },
      py::arg("x"), py::arg("out"), py::arg("rows"), py::arg("size"), py::arg("isa") = "");
}

}  // namespace antiphon
