#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace antiphon {
namespace {

constexpr int kSpins = 12000;       // some hundred microseconds: the gap between two passes of a step
constexpr int kSpinsToYield = 200;  // a caller that waits for a helper's last chunk lets others run

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

int cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const unsigned count = std::thread::hardware_concurrency();
  return count ? static_cast<int>(count) : 1;
}

struct Pool {
  std::mutex owner;  // held by the caller whose job is on
  // What is left to begin: job number in the high half, chunks in the low half. A helper that takes a
  // chunk by compare-and-swap knows that this job is still on, since its caller waits for that chunk;
  // one that comes late finds another number or no chunk, and has touched nothing.
  std::atomic<uint64_t> left{0};
  std::atomic<int64_t> num_done{0};
  std::atomic<ChunkBody> body{nullptr};
  std::atomic<void*> context{nullptr};

  std::mutex sleeping;
  std::condition_variable wake;
  std::atomic<int> num_sleeping{0};
  int num_helpers = 0;  // threads there are
  std::atomic<int> num_wanted{cores()};
};

Pool* pool = new Pool;  // never destroyed: helpers may outlive static destruction

constexpr uint64_t kChunks = 0xffffffffu;

bool take_chunk(Pool& p, int64_t* chunk, ChunkBody* body, void** context) {
  uint64_t left = p.left.load(std::memory_order_acquire);
  while (left & kChunks) {
    *body = p.body.load(std::memory_order_relaxed);
    *context = p.context.load(std::memory_order_relaxed);
    if (p.left.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel)) {
      *chunk = static_cast<int64_t>(left & kChunks) - 1;
      return true;
    }
  }
  return false;
}

bool work(Pool& p) {
  int64_t chunk;
  ChunkBody body;
  void* context;
  bool any = false;
  while (take_chunk(p, &chunk, &body, &context)) {
    body(context, chunk);
    p.num_done.fetch_add(1, std::memory_order_release);
    any = true;
  }
  return any;
}

void help(Pool* p, int index) {
  for (int spins = 0;;) {
    if (index < p->num_wanted.load(std::memory_order_relaxed) - 1 && work(*p)) spins = 0;
    if (++spins < kSpins) {
      pause();
      continue;
    }
    std::unique_lock<std::mutex> lock(p->sleeping);
    p->num_sleeping.fetch_add(1);
    const uint64_t seen = p->left.load();
    if (!(seen & kChunks) || index >= p->num_wanted.load() - 1)
      p->wake.wait(lock, [&] { return p->left.load() != seen; });
    p->num_sleeping.fetch_sub(1);
    spins = 0;
  }
}

void start_helpers(Pool& p) {
  for (; p.num_helpers < p.num_wanted.load() - 1; p.num_helpers++) std::thread(help, &p, p.num_helpers).detach();
}

// A forked child has none of its parent's threads, and perhaps a lock that one of them held.
void after_fork() {
  const int wanted = pool->num_wanted.load();
  pool = new Pool;
  pool->num_wanted = wanted;
}

const int registered = pthread_atfork(nullptr, nullptr, after_fork);

}  // namespace

void run_chunks(int64_t num_chunks, void* context, ChunkBody body) {
  Pool& p = *pool;
  std::unique_lock<std::mutex> owner(p.owner, std::try_to_lock);
  if (!owner || p.num_wanted.load(std::memory_order_relaxed) < 2) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++) body(context, chunk);
    return;
  }
  start_helpers(p);
  p.body.store(body, std::memory_order_relaxed);
  p.context.store(context, std::memory_order_relaxed);
  p.num_done.store(0, std::memory_order_relaxed);
  const uint64_t job = (p.left.load(std::memory_order_relaxed) >> 32) + 1;
  p.left.store(job << 32 | static_cast<uint64_t>(num_chunks));  // sequentially before the look at the sleepers
  if (p.num_sleeping.load()) {
    { std::lock_guard<std::mutex> lock(p.sleeping); }  // a helper between its look and its wait
    p.wake.notify_all();
  }
  work(p);
  for (int spins = 0; p.num_done.load(std::memory_order_acquire) < num_chunks; spins++) {
    if (spins < kSpinsToYield) pause();
    else sched_yield();
  }
}

void set_num_threads(int count) { pool->num_wanted = count < 1 ? 1 : count; }

int num_threads() { return pool->num_wanted; }

}  // namespace antiphon
