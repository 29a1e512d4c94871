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

using SnakeAddress = std::tuple<Address, Address>;
// dilation; snake1, snake2; conv1, conv2
using PairAddress = std::tuple<int64_t, SnakeAddress, SnakeAddress, ProductAddress, ProductAddress>;
// taps, and the pairs
using ResBlockAddress = std::tuple<int64_t, std::array<PairAddress, kNumDilations>>;
// rate, channels; up; source_down with its taps, stride and padding; the source's block, and the others
using LevelAddress = std::tuple<int64_t, int64_t, ProductAddress, ProductAddress, std::array<int64_t, 3>,
                                ResBlockAddress, std::vector<ResBlockAddress>>;

Snake snake_at(const SnakeAddress& snake) { return {at<float>(std::get<0>(snake)), at<float>(std::get<1>(snake))}; }

HiftBlock res_block_at(const ResBlockAddress& block) {
  HiftBlock to = {};
  to.taps = std::get<0>(block);
  for (int i = 0; i < kNumDilations; i++) {
    const auto& [dilation, snake1, snake2, conv1, conv2] = std::get<1>(block)[i];
    to.dilations[i] = dilation;
    to.snake1[i] = snake_at(snake1), to.snake2[i] = snake_at(snake2);
    to.conv1[i] = product_at(conv1), to.conv2[i] = product_at(conv2);
  }
  return to;
}

struct Hift {
  const KernelTable& table;
  std::vector<std::vector<HiftBlock>> blocks;
  std::vector<HiftLevel> levels;
  HiftArgs args;  // what does not change between calls
};

}  // namespace

void bind_hift(py::module_& m) {
  py::class_<Hift>(m, "Hift", "The vocoder's trunk; its weights stay where they are.")
      .def(py::init([](const std::vector<LevelAddress>& levels, const ProductAddress& conv_pre, int64_t pre_taps,
                       const ProductAddress& conv_post, int64_t post_taps, int64_t mel_bands, int64_t base_channels,
                       int64_t spectrum, float slope, float last_slope, const std::string& isa) {
             auto hift = std::make_unique<Hift>(Hift{pick(isa), {}, {}, {}});
             for (const auto& [rate, channels, up, source_down, geometry, source_block, blocks] : levels) {
               auto& own = hift->blocks.emplace_back();
               for (const ResBlockAddress& block : blocks) own.push_back(res_block_at(block));
               hift->levels.push_back({.rate = rate,
                                       .channels = channels,
                                       .up = product_at(up),
                                       .source_down = product_at(source_down),
                                       .source_taps = geometry[0],
                                       .source_stride = geometry[1],
                                       .source_padding = geometry[2],
                                       .source_block = res_block_at(source_block),
                                       .blocks = nullptr,
                                       .num_blocks = static_cast<int64_t>(own.size())});
             }
             for (size_t i = 0; i < hift->levels.size(); i++) hift->levels[i].blocks = hift->blocks[i].data();
             HiftArgs& a = hift->args;
             a.levels = hift->levels.data(), a.num_levels = static_cast<int64_t>(hift->levels.size());
             a.conv_pre = product_at(conv_pre), a.conv_post = product_at(conv_post);
             a.pre_taps = pre_taps, a.post_taps = post_taps;
             a.mel_bands = mel_bands, a.base_channels = base_channels, a.spectrum = spectrum;
             a.slope = slope, a.last_slope = last_slope;
             return hift;
           }),
           py::arg("levels"), py::arg("conv_pre"), py::arg("pre_taps"), py::arg("conv_post"), py::arg("post_taps"),
           py::arg("mel_bands"), py::arg("base_channels"), py::arg("spectrum"), py::arg("slope"), py::arg("last_slope"),
           py::arg("isa") = "")
      .def(
          "run",
          [](const Hift& hift, Address mel, Address source, const std::vector<int64_t>& lengths, int64_t frames,
             int64_t source_frames, Address y, bool is_alone, const std::optional<py::function>& stop_point) {
            HiftArgs a = hift.args;
            a.mel = at<float>(mel), a.source = at<float>(source), a.y = at<float>(y);
            a.lengths = lengths.data(), a.batch = static_cast<int64_t>(lengths.size());
            a.frames = frames, a.source_frames = source_frames;
            a.is_alone = is_alone;
            std::optional<StopPoint> stop;
            if (stop_point) {
              stop.emplace(*stop_point);
              a.stop_point = &StopPoint::call, a.caller = &*stop;
            }
            py::gil_scoped_release release;
            hift.table.hift(a);
          },
          py::arg("mel"), py::arg("source"), py::arg("lengths"), py::arg("frames"), py::arg("source_frames"),
          py::arg("y"), py::arg("is_alone") = false, py::arg("stop_point") = py::none());
}

}  // namespace antiphon
