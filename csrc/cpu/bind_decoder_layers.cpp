#include <pybind11/stl.h>

#include <array>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {
namespace {

struct Decoder {
  const KernelTable& table;
  std::vector<DecoderLayer> layers;
  DecoderArgs args;  // what does not change between calls
};

// The norms before attention and before the MLP; qkv, o, gate_up, down, fusion_q, fusion_o.
using LayerAddresses = std::tuple<Address, Address, std::array<WeightAddress, 6>>;

}  // namespace

void bind_decoder_layers(py::module_& m) {
  py::class_<Decoder>(m, "Decoder", "A run of decoder layers whose weights stay where they are.")
      .def(py::init([](const std::vector<LayerAddresses>& layers, int64_t hidden, int64_t intermediate,
                       int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, float eps, Address cos_sin,
                       Address final_norm, const std::string& isa) {
             Decoder decoder{pick(isa), {}, {}};
             for (const auto& [input_norm, post_norm, weights] : layers)
               decoder.layers.push_back({.input_norm = at<float>(input_norm),
                                         .post_norm = at<float>(post_norm),
                                         .qkv = weight_at(weights[0], isa),
                                         .o = weight_at(weights[1], isa),
                                         .gate_up = weight_at(weights[2], isa),
                                         .down = weight_at(weights[3], isa),
                                         .fusion_q = weight_at(weights[4], isa),
                                         .fusion_o = weight_at(weights[5], isa)});
             DecoderArgs& a = decoder.args;
             a.hidden = hidden, a.intermediate = intermediate;
             a.num_heads = num_heads, a.num_kv_heads = num_kv_heads, a.head_dim = head_dim;
             a.eps = eps, a.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
             a.cos_sin = at<float>(cos_sin), a.final_norm = at<float>(final_norm);
             return decoder;
           }),
           py::arg("layers"), py::arg("hidden"), py::arg("intermediate"), py::arg("num_heads"), py::arg("num_kv_heads"),
           py::arg("head_dim"), py::arg("eps"), py::arg("cos_sin"), py::arg("final_norm"), py::arg("isa") = "")
      .def(
          "run",
          [](const Decoder& decoder, Address x, int64_t num_tokens, Address positions, Address slots,
             const CacheAddress& cache, int64_t layer_stride, int64_t layer_scale_stride, Address cu_seqlens_q,
             Address context_lens, Address block_table, int64_t num_seqs, int64_t max_blocks, Address fusion_cache,
             Address fusion_tokens, Address fusion_rows, Address fusion_valid, Address fusion_positions,
             int64_t num_fused, int64_t window, Address wanted, int64_t num_wanted) {
            DecoderArgs a = decoder.args;
            a.layers = decoder.layers.data(), a.num_layers = static_cast<int64_t>(decoder.layers.size());
            a.x = at<float>(x), a.num_tokens = num_tokens;
            a.positions = at<int32_t>(positions), a.slots = at<int64_t>(slots);
            a.cache = paged(cache);
            a.layer_stride = layer_stride, a.layer_scale_stride = layer_scale_stride;
            a.cu_seqlens_q = at<int32_t>(cu_seqlens_q), a.context_lens = at<int32_t>(context_lens);
            a.block_table = at<int32_t>(block_table), a.num_seqs = num_seqs, a.max_blocks = max_blocks;
            a.fusion_cache = at<float>(fusion_cache), a.fusion_tokens = at<int64_t>(fusion_tokens);
            a.fusion_rows = at<int64_t>(fusion_rows), a.fusion_valid = at<int32_t>(fusion_valid);
            a.fusion_positions = at<int32_t>(fusion_positions), a.num_fused = num_fused, a.window = window;
            a.wanted = at<int64_t>(wanted), a.num_wanted = num_wanted;
            py::gil_scoped_release release;
            decoder.table.decoder_layers(a);
          },
          py::arg("x"), py::arg("num_tokens"), py::arg("positions"), py::arg("slots"), py::arg("cache"),
          py::arg("layer_stride"), py::arg("layer_scale_stride"), py::arg("cu_seqlens_q"), py::arg("context_lens"),
          py::arg("block_table"), py::arg("num_seqs"), py::arg("max_blocks"), py::arg("fusion_cache") = 0,
          py::arg("fusion_tokens") = 0, py::arg("fusion_rows") = 0, py::arg("fusion_valid") = 0,
          py::arg("fusion_positions") = 0, py::arg("num_fused") = 0, py::arg("window") = 0, py::arg("wanted") = 0,
          py::arg("num_wanted") = 0);
}

}  // namespace antiphon
