// antiphon.kernels._C: the CPU kernels. Each is a raw-pointer core, a binding in bind_<name>.cpp and a Python wrapper in
// kernels/<op>.py that owns checks and allocation.

#include "bindings.h"
#include "pool.h"

PYBIND11_MODULE(_C, m) {
  antiphon::prepare_to_throw();
  antiphon::bind_checks(m);
  antiphon::bind_ctc_collapse(m);
  antiphon::bind_heads(m);
  antiphon::bind_kernels(m);
}
