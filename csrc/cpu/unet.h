// The flow's velocity in one call: a U-Net of convolutions over frames and transformers, of two levels (CosyVoice's
// `ConditionalDecoder`, after Matcha-TTS, arXiv 2309.03199). Operators of a small model take less time than what lies
// between them, above all if each waits for the interpreter's lock.
//
// Block(x) = mish(group_norm(conv3(x))). Stage: x = Block2(Block1(x) + time) + res_conv(x); and for each transformer
// x += out(attention(norm1(x))); x += back(gelu(project(norm3(x)))). The first stage works on all frames and leads to
// half as many; the last one gets what the first had, beside its own input, and the one before it likewise.
#pragma once

#include <algorithm>

#include "frame_attention.h"
#include "frames.h"

namespace antiphon {
namespace ANTIPHON_ISA {

class UNetRun {
 public:
  explicit UNetRun(const UNetArgs& a)
      : a_(a), whole_(a.lengths, a.batch, 1), half_(a.lengths, a.batch, 2), memory_(size()) {
    float* next = memory_.get();
    const auto take = [&](int64_t rows, int64_t width) {
      float* begin = next;
      next += rows * width;
      return begin;
    };
    input_ = take(whole_.rows, widest_in());
    for (float** each : {&x_[0], &x_[1], &hidden_, &skips_[0], &skips_[1]}) *each = take(whole_.rows, widest_out());
    qkv_ = take(whole_.rows, 3 * width()), mixed_ = take(whole_.rows, width());
    normed_ = take(kRowChunk, widest_out()), active_ = take(kRowChunk, kFeedForward * widest_out());
  }

  void run() {
    read_input();
    const float* time = a_.time_bias;
    const float* x = input_;
    for (int64_t i = 0; i < a_.num_stages; i++) {
      const UNetStage& stage = a_.stages[i];
      const bool is_down = i < 2, is_up = i + 2 >= a_.num_stages;
      const Frames& frames = i == 0 || i + 1 == a_.num_stages ? whole_ : half_;
      if (is_up) x = join(frames, x, stage, skips_[a_.num_stages - 1 - i]);
      float* out = x == x_[0] ? x_[1] : x_[0];
      run_stage(stage, frames, x, time, out);
      time += stage.out;
      if (is_down) std::memcpy(skips_[i], out, sizeof(float) * frames.rows * stage.out);
      x = leave(stage, frames, out, i + 2 == a_.num_stages ? whole_ : half_);
    }
    finish(x);
  }

 private:
  static constexpr int64_t kFeedForward = 4;  // times as wide as the stage

  const UNetArgs& a_;
  const Frames whole_, half_;
  const Scratch<float> memory_;
  float *input_, *x_[2], *hidden_, *skips_[2], *qkv_, *mixed_;
  float *normed_, *active_;  // of a chunk of rows

  int64_t width() const { return a_.num_heads * a_.head_dim; }
  int64_t widest_in() const {
    int64_t most = a_.in;
    for (int64_t i = 0; i < a_.num_stages; i++) most = std::max(most, a_.stages[i].in);
    return most;
  }
  int64_t widest_out() const {
    int64_t most = a_.out;
    for (int64_t i = 0; i < a_.num_stages; i++) most = std::max(most, a_.stages[i].out);
    return most;
  }
  int64_t size() const {
    const int64_t out = widest_out();
    return whole_.rows * (widest_in() + 5 * out + 4 * width()) + kRowChunk * (1 + kFeedForward) * out;
  }
  void stop_point() const {
    if (a_.stop_point) a_.stop_point(a_.caller);
  }

  void read_input() {
    for (int64_t b = 0; b < a_.batch; b++)
      to_rows(a_.x + b * a_.in * a_.frames, a_.frames, a_.in, whole_.lengths[b], input_ + whole_.first[b] * a_.in);
    clear_empty(whole_, input_, a_.in);
  }

  // The stage's input: x and the skip, side by side
  const float* join(const Frames& frames, const float* x, const UNetStage& stage, const float* skip) {
    const int64_t other = a_.stages[&stage == a_.stages + a_.num_stages - 1 ? 0 : 1].out, own = stage.in - other;
    for (int64_t row = 0; row < frames.rows; row++) {
      float* to = input_ + row * stage.in;
      std::memcpy(to, x + row * own, sizeof(float) * own);
      std::memcpy(to + own, skip + row * other, sizeof(float) * other);
    }
    clear_empty(frames, input_, stage.in);
    return input_;
  }

  // out = conv3(x), where no frame is lost
  void convolve(const Frames& frames, const float* x, int64_t in, const FrameProduct& conv, int64_t width, float* out) {
    frame_product(x, in, frames.inner_rows(), 3 * in, conv, width, out + width, width, AsItIs{});
  }

  void run_stage(const UNetStage& stage, const Frames& frames, const float* x, const float* time, float* out) {
    const int64_t rows = frames.inner_rows(), width = stage.out;
    convolve(frames, x, stage.in, stage.block1.conv, width, hidden_);
    group_norm_mish(frames, hidden_, width, stage.block1.norm, a_.num_groups, a_.eps, time);
    clear_empty(frames, hidden_, width);
    convolve(frames, hidden_, width, stage.block2.conv, width, out);
    group_norm_mish(frames, out, width, stage.block2.norm, a_.num_groups, a_.eps, nullptr);
    frame_product(x + stage.in, stage.in, rows, stage.in, stage.res_conv, width, out + width, width, Added{});
    for (int64_t i = 0; i < stage.num_transformers; i++) {
      stop_point();
      transform(stage.transformers[i], frames, out + width, rows, width);
    }
    clear_empty(frames, out, width);
  }

  // In place, for `rows` rows from the second on
  void transform(const UNetTransformer& layer, const Frames& frames, float* x, int64_t rows, int64_t channels) {
    const int64_t inner = width();
    for (int64_t row = 0; row < rows; row += kRowChunk) {
      const int64_t n = std::min(kRowChunk, rows - row);
      layer_norm(x + row * channels, layer.norm1, normed_, n, channels, a_.eps);
      frame_product(normed_, channels, n, channels, layer.qkv, 3 * inner, qkv_ + (1 + row) * 3 * inner, 3 * inner,
                    AsItIs{});
    }
    FrameAttention{frames, qkv_, mixed_, a_.num_heads, a_.head_dim}.run();
    clear_empty(frames, mixed_, inner);
    for (int64_t row = 0; row < rows; row += kRowChunk) {
      const int64_t n = std::min(kRowChunk, rows - row), hidden = kFeedForward * channels;
      float* to = x + row * channels;
      frame_product(mixed_ + (1 + row) * inner, inner, n, inner, layer.out, channels, to, channels, Added{});
      layer_norm(to, layer.norm3, normed_, n, channels, a_.eps);
      frame_product(normed_, channels, n, channels, layer.project, hidden, active_, hidden, ThroughGelu{});
      frame_product(active_, hidden, n, hidden, layer.back, channels, to, channels, Added{});
    }
  }

  // Leads from a stage's result to the next one's input; `to` has the frames of that.
  const float* leave(const UNetStage& stage, const Frames& from, const float* x, const Frames& to) {
    const int64_t channels = stage.out;
    if (stage.leave == Leave::kAtOnce) return x;
    float* out = x == x_[0] ? x_[1] : x_[0];
    if (stage.leave == Leave::kSame) convolve(from, x, channels, stage.next[0], channels, out);
    for (int64_t b = 0; b < from.batch && stage.leave == Leave::kHalf; b++)
      frame_product(x + (from.first[b] - 1) * channels, 2 * channels, to.lengths[b], 3 * channels, stage.next[0],
                    channels, out + to.first[b] * channels, channels, AsItIs{});
    // Of an odd number of frames, the last has no odd one beside it.
    for (int64_t b = 0; b < from.batch && stage.leave == Leave::kDouble; b++)
      for (int64_t odd = 0; odd < 2; odd++)
        frame_product(x + (from.first[b] - 1 + odd) * channels, channels, (to.lengths[b] + 1 - odd) / 2, 2 * channels,
                      stage.next[odd], channels, out + (to.first[b] + odd) * channels, 2 * channels, AsItIs{});
    clear_empty(stage.leave == Leave::kSame ? from : to, out, channels);
    return out;
  }

  // The last block and projection, to (out, frames)
  void finish(const float* x) {
    const int64_t channels = a_.stages[a_.num_stages - 1].out;
    convolve(whole_, x, channels, a_.final_block.conv, channels, hidden_);
    group_norm_mish(whole_, hidden_, channels, a_.final_block.norm, a_.num_groups, a_.eps, nullptr);
    frame_product(hidden_ + channels, channels, whole_.inner_rows(), channels, a_.final_proj, a_.out,
                  skips_[0] + a_.out, a_.out, AsItIs{});
    for (int64_t b = 0; b < a_.batch; b++) {
      const int64_t length = whole_.lengths[b];
      const float* from = skips_[0] + whole_.first[b] * a_.out;
      for (int64_t c = 0; c < a_.out; c++) {
        float* to = a_.y + (b * a_.out + c) * a_.frames;
        for (int64_t t = 0; t < length; t++) to[t] = from[t * a_.out + c];
        std::fill(to + length, to + a_.frames, 0.0f);
      }
    }
  }
};

static void unet(const UNetArgs& a) {
  const Alone alone(a.is_alone);
  UNetRun(a).run();
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
