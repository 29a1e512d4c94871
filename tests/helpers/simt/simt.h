// CUDA's execution model on threads of the CPU, for testing kernels without a GPU: every CUDA thread is a thread,
// all blocks of a grid run at the same time, and a thread that waits for others really waits.
#pragma once

#include <atomic>
#include <barrier>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__

namespace simt {

struct Block {
  explicit Block(int threads) : all(threads), count(0) {
    for (int w = 0; w < threads / 32; w++) warps.push_back(std::make_unique<std::barrier<>>(32));
    votes = std::vector<std::atomic<unsigned>>(threads / 32);
  }
  std::barrier<> all;
  std::atomic<int> count;
  std::vector<std::unique_ptr<std::barrier<>>> warps;
  std::vector<std::atomic<unsigned>> votes;
  alignas(64) char memory[48 * 1024];
};

inline thread_local Block* block = nullptr;

struct Index {
  int x;
};

// kernel() on `blocks` blocks of `threads` threads.
template <class Kernel>
void launch(int blocks, int threads, const Kernel& kernel);

}  // namespace simt

inline thread_local simt::Index threadIdx{0};

namespace simt {

template <class Kernel>
void launch(int blocks, int threads, const Kernel& kernel) {
  std::vector<std::unique_ptr<Block>> grid;
  std::vector<std::thread> running;
  for (int b = 0; b < blocks; b++) {
    grid.push_back(std::make_unique<Block>(threads));
    for (int t = 0; t < threads; t++)
      running.emplace_back([&kernel, own = grid.back().get(), t] {
        block = own;
        threadIdx.x = t;
        kernel();
      });
  }
  for (std::thread& thread : running) thread.join();
}

}  // namespace simt

inline void __syncthreads() { simt::block->all.arrive_and_wait(); }

inline int __syncthreads_count(bool vote) {
  simt::Block& b = *simt::block;
  if (vote) b.count.fetch_add(1);
  b.all.arrive_and_wait();
  const int total = b.count.load();
  b.all.arrive_and_wait();
  if (threadIdx.x == 0) b.count.store(0);
  b.all.arrive_and_wait();
  return total;
}

inline unsigned __ballot_sync(unsigned, bool vote) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  simt::Block& b = *simt::block;
  if (vote) b.votes[warp].fetch_or(1u << lane);
  b.warps[warp]->arrive_and_wait();
  const unsigned votes = b.votes[warp].load();
  b.warps[warp]->arrive_and_wait();
  if (lane == 0) b.votes[warp].store(0);
  b.warps[warp]->arrive_and_wait();
  return votes;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }

inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long value) {
  std::this_thread::yield();  // a thread that spins for another lets it run
  return std::atomic_ref<unsigned long long>(*p).fetch_add(value);
}
inline unsigned long long atomicExch(unsigned long long* p, unsigned long long value) {
  return std::atomic_ref<unsigned long long>(*p).exchange(value);
}

namespace antiphon::cuda {
template <class T>
T& block_shared() {
  static_assert(sizeof(T) <= sizeof(simt::Block::memory));
  return *reinterpret_cast<T*>(simt::block->memory);
}
}  // namespace antiphon::cuda
