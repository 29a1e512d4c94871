// The machine's instruction sets, the kernels' threads and memory.
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "huge_pages.h"
#include "kernels.h"
#include "pool.h"

namespace py = pybind11;

namespace antiphon {

const KernelTable& pick(const std::string& isa) {
  const KernelTable* table = kernels(isa.c_str());
  if (!table) throw std::invalid_argument("isa: this machine cannot run '" + isa + "'");
  return *table;
}

PackedWeight weight_at(const WeightAddress& weight) {
  const auto [data, scales, format] = weight;
  if (format < 0 || format > static_cast<int32_t>(Format::kInt8))
    throw std::invalid_argument("weight: no format has the number " + std::to_string(format));
  return {at<void>(data), at<float>(scales), static_cast<Format>(format)};
}

void bind_machine(py::module_& m) {
  m.def("best_isa", &best_isa, "The best instruction set of this machine: avx512, avx2 or plain.");

  m.def("set_num_threads", &set_num_threads, py::arg("count"), "Threads of later kernels, the caller included.");
  m.def("num_threads", &num_threads);

  m.def(
      "advise_huge_pages", [](Address begin, int64_t size) { advise_huge_pages(at<void>(begin), size); },
      py::arg("begin"), py::arg("size"),
      "Asks for huge pages for memory that has not been written to; a hint, which may do nothing.");
}

}  // namespace antiphon
