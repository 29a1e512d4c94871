#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "kernels.h"
#include "stop_point.h"

namespace py = pybind11;

namespace antiphon {
namespace {

using NormAddress = std::tuple<Address, Address>;
using BlockAddress = std::tuple<ProductAddress, NormAddress>;
// norm1, norm3; qkv, out, project, back
using TransformerAddress = std::tuple<NormAddress, NormAddress, std::array<ProductAddress, 4>>;
// in, out; the blocks; res_conv; transformers; how it leads on, and by what
using StageAddress = std::tuple<int64_t, int64_t, BlockAddress, BlockAddress, ProductAddress,
                                std::vector<TransformerAddress>, int32_t, std::vector<ProductAddress>>;

Affine norm_at(const NormAddress& norm) { return {at<float>(std::get<0>(norm)), at<float>(std::get<1>(norm))}; }

UNetBlock block_at(const BlockAddress& block) { return {product_at(std::get<0>(block)), norm_at(std::get<1>(block))}; }

struct UNet {
  const KernelTable& table;
  std::vector<std::vector<UNetTransformer>> transformers;
  std::vector<UNetStage> stages;
  UNetArgs args;  // what does not change between calls
};

}  // namespace

void bind_unet(py::module_& m) {
  py::class_<UNet>(m, "UNet", "The flow's velocity estimator; its weights stay where they are.")
      .def(py::init([](const std::vector<StageAddress>& stages, const BlockAddress& final_block,
                       const ProductAddress& final_proj, int64_t in, int64_t out, int64_t num_heads, int64_t head_dim,
                       int64_t num_groups, float eps, const std::string& isa) {
             auto unet = std::make_unique<UNet>(UNet{pick(isa), {}, {}, {}});
             for (const auto& [in_channels, channels, block1, block2, res_conv, transformers, leave, next] : stages) {
               auto& layers = unet->transformers.emplace_back();
               for (const auto& [norm1, norm3, products] : transformers)
                 layers.push_back({.norm1 = norm_at(norm1),
                                   .norm3 = norm_at(norm3),
                                   .qkv = product_at(products[0]),
                                   .out = product_at(products[1]),
                                   .project = product_at(products[2]),
                                   .back = product_at(products[3])});
               UNetStage stage = {};
               stage.in = in_channels, stage.out = channels;
               stage.block1 = block_at(block1), stage.block2 = block_at(block2);
               stage.res_conv = product_at(res_conv);
               stage.leave = static_cast<Leave>(leave);
               for (size_t i = 0; i < next.size() && i < 2; i++) stage.next[i] = product_at(next[i]);
               unet->stages.push_back(stage);
             }
             for (size_t i = 0; i < unet->stages.size(); i++) {
               unet->stages[i].transformers = unet->transformers[i].data();
               unet->stages[i].num_transformers = static_cast<int64_t>(unet->transformers[i].size());
             }
             UNetArgs& a = unet->args;
             a.stages = unet->stages.data(), a.num_stages = static_cast<int64_t>(unet->stages.size());
             a.final_block = block_at(final_block), a.final_proj = product_at(final_proj);
             a.in = in, a.out = out, a.num_heads = num_heads, a.head_dim = head_dim;
             a.num_groups = num_groups, a.eps = eps;
             return unet;
           }),
           py::arg("stages"), py::arg("final_block"), py::arg("final_proj"), py::arg("in_channels"),
           py::arg("out_channels"), py::arg("num_heads"), py::arg("head_dim"), py::arg("num_groups"), py::arg("eps"),
           py::arg("isa") = "")
      .def(
          "run",
          [](const UNet& unet, Address x, Address time_bias, const std::vector<int64_t>& lengths, int64_t frames,
             Address y, bool is_alone, const std::optional<py::function>& stop_point) {
            UNetArgs a = unet.args;
            a.x = at<float>(x), a.time_bias = at<float>(time_bias), a.y = at<float>(y);
            a.lengths = lengths.data(), a.batch = static_cast<int64_t>(lengths.size()), a.frames = frames;
            a.is_alone = is_alone;
            std::optional<StopPoint> stop;
            if (stop_point) {
              stop.emplace(*stop_point);
              a.stop_point = &StopPoint::call, a.caller = &*stop;
            }
            py::gil_scoped_release release;
            unet.table.unet(a);
          },
          py::arg("x"), py::arg("time_bias"), py::arg("lengths"), py::arg("frames"), py::arg("y"),
          py::arg("is_alone") = false, py::arg("stop_point") = py::none());
}

}  // namespace antiphon
