// antiphon.kernels._C: the CPU kernels. Each has a core on raw pointers, a binding in bind_<name>.cpp, and a Python
// wrapper in kernels/<op>.py that checks and allocates.

#include "bindings.h"
#include "pool.h"

// All in one translation unit: reading pybind11 takes the compiler longer than any of these.
#include "bind_argmax.cpp"
#include "bind_argmax_head.cpp"
#include "bind_checks.cpp"
#include "bind_ctc_collapse.cpp"
#include "bind_decoder_layers.cpp"
// and after what it is made of
#include "bind_decode_step.cpp"
#include "bind_fusion_attention.cpp"
#include "bind_hift.cpp"
#include "bind_linear.cpp"
#include "bind_machine.cpp"
#include "bind_paged_attention.cpp"
#include "bind_rms_norm.cpp"
#include "bind_rope_cache_write.cpp"
#include "bind_sample.cpp"
#include "bind_silu_mul.cpp"
#include "bind_soft_embedding.cpp"
#include "bind_unet.cpp"

PYBIND11_MODULE(_C, m) {
  antiphon::prepare_to_throw();
  antiphon::bind_argmax(m);
  antiphon::bind_argmax_head(m);
  antiphon::bind_checks(m);
  antiphon::bind_ctc_collapse(m);
  antiphon::bind_decoder_layers(m);
  antiphon::bind_decode_step(m);
  antiphon::bind_fusion_attention(m);
  antiphon::bind_hift(m);
  antiphon::bind_linear(m);
  antiphon::bind_machine(m);
  antiphon::bind_paged_attention(m);
  antiphon::bind_rms_norm(m);
  antiphon::bind_rope_cache_write(m);
  antiphon::bind_sample(m);
  antiphon::bind_silu_mul(m);
  antiphon::bind_soft_embedding(m);
  antiphon::bind_unet(m);
}
