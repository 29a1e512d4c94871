// What the bindings of whole networks share.
#pragma once

#include <chrono>
#include <tuple>

#include "bindings.h"
#include "kernels.h"

namespace antiphon {

// A product as Python has it: its weight, and the address of its bias or 0.
using ProductAddress = std::tuple<WeightAddress, Address>;

inline FrameProduct product_at(const ProductAddress& product) {
  return {weight_at(std::get<0>(product)), at<float>(std::get<1>(product))};
}

// Calls a Python function that may raise, but not more often than is of use: each call asks for the interpreter's lock.
class StopPoint {
 public:
  explicit StopPoint(const pybind11::function& check) : check_(check) {}

  static void call(void* self) { static_cast<StopPoint*>(self)->pass(); }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPeriod{5};

  void pass() {
    if (Clock::now() < next_) return;
    {
      pybind11::gil_scoped_acquire acquire;
      check_();
    }
    next_ = Clock::now() + kPeriod;
  }

  const pybind11::function& check_;
  Clock::time_point next_ = Clock::now() + kPeriod;
};

}  // namespace antiphon
