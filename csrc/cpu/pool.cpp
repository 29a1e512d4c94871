#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

namespace antiphon {
namespace {

constexpr int kSpins = 12000;  // about a hundred microseconds: the gap between two passes of a step
constexpr int kMostThreads = 256;
constexpr int kSpinsToYield = 200;  // a caller that waits for a helper's last chunk lets others run

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

int cores() {
  cpu_set_t set;
  int count = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
  return count < 1 ? 1 : count < kMostThreads ? count : kMostThreads;
}

// The chunks of a thread's share that have not begun: the job's number in the high half, then begin and end. A thread
// that takes a chunk by compare-and-swap knows that the job is still running, since its caller waits for that chunk. A
// thread that comes late finds another number or no chunk, and has touched nothing.
struct alignas(64) Share {
  std::atomic<uint64_t> left{0};
};

struct Pool {
  std::mutex owner;              // held by the caller whose job is running
  std::atomic<uint64_t> job{0};  // its number
  Share shares[kMostThreads];    // the caller's is the first
  std::atomic<int> num_shares{0};
  std::atomic<int64_t> num_done{0};
  std::atomic<ChunkBody> body{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<bool> has_failed{false};
  std::exception_ptr error;  // of the first chunk that threw, for the caller once all are done

  std::mutex sleeping;
  std::condition_variable wake;
  std::atomic<int> num_sleeping{0};
  int num_helpers = 0;  // threads that have been started
  std::atomic<int> num_wanted{cores()};
};

Pool* pool = new Pool;  // never destroyed: helpers may outlive static destruction

thread_local bool is_alone = false;

uint64_t range(uint64_t job, int64_t begin, int64_t end) {
  return job << 32 | static_cast<uint64_t>(begin) << 16 | static_cast<uint64_t>(end);
}

// What a chunk throws is kept for the caller, since no exception may leave a helper's thread. Chunks begun after that
// are skipped: the caller gets no result anyway.
void run_chunk(Pool& p, ChunkBody body, void* context, int64_t chunk, bool goes_on) {
  if (p.has_failed.load(std::memory_order_relaxed)) return;
  try {
    body(context, chunk, goes_on);
  } catch (...) {
    if (!p.has_failed.exchange(true)) p.error = std::current_exception();
  }
}

// Takes the first chunk of the thread's own share, or the last of another's; false if there is none left. After the
// first chunk of its own share, a thread goes on with the next one.
bool take_chunk(Pool& p, Share& share, bool is_own) {
  uint64_t left = share.left.load(std::memory_order_acquire);
  for (;;) {
    const int64_t begin = left >> 16 & kMostChunks, end = left & kMostChunks;
    if (begin == end) return false;
    const ChunkBody body = p.body.load(std::memory_order_relaxed);
    void* context = p.context.load(std::memory_order_relaxed);
    const uint64_t less = is_own ? range(left >> 32, begin + 1, end) : range(left >> 32, begin, end - 1);
    if (!share.left.compare_exchange_weak(left, less, std::memory_order_acq_rel)) continue;
    run_chunk(p, body, context, is_own ? begin : end - 1, is_own && begin + 1 < end);
    p.num_done.fetch_add(1, std::memory_order_release);
    return true;
  }
}

void work(Pool& p, int self) {
  const int count = p.num_shares.load(std::memory_order_relaxed);
  for (int i = 0; i < count; i++) {
    Share& share = p.shares[(self + i) % count];
    while (take_chunk(p, share, i == 0)) {}
  }
}

void help(Pool* p, int self) {
  uint64_t seen = 0;
  for (int spins = 0;;) {
    const uint64_t job = p->job.load(std::memory_order_acquire);
    if (job != seen && self < p->num_wanted.load(std::memory_order_relaxed)) {
      seen = job;
      work(*p, self);
      spins = 0;
    }
    if (++spins < kSpins) {
      pause();
      continue;
    }
    std::unique_lock<std::mutex> lock(p->sleeping);
    p->num_sleeping.fetch_add(1);
    if (self >= p->num_wanted.load()) seen = p->job.load();
    p->wake.wait(lock, [&] { return p->job.load() != seen; });
    p->num_sleeping.fetch_sub(1);
    spins = 0;
  }
}

// If the system grants no more threads, the existing ones have to do until another number is asked for.
void start_helpers(Pool& p) {
  try {
    for (; p.num_helpers < p.num_wanted.load() - 1; p.num_helpers++) std::thread(help, &p, p.num_helpers + 1).detach();
  } catch (const std::exception&) { p.num_wanted = p.num_helpers + 1; }
}

// A forked child has none of its parent's threads, but may have a lock that one of them held.
void after_fork() {
  const int wanted = pool->num_wanted.load();
  pool = new Pool;
  pool->num_wanted = wanted;
}

const int registered = pthread_atfork(nullptr, nullptr, after_fork);

}  // namespace

void prepare_to_throw() {
  try {
    throw std::bad_alloc();
  } catch (const std::bad_alloc&) {}
}

void run_chunks(int64_t num_chunks, void* context, ChunkBody body) {
  Pool& p = *pool;
  std::unique_lock<std::mutex> owner(p.owner, std::defer_lock);
  if (!is_alone && owner.try_lock()) start_helpers(p);
  const int count = p.num_wanted.load(std::memory_order_relaxed);
  if (!owner || count < 2) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++) body(context, chunk, chunk + 1 < num_chunks);
    return;
  }
  p.body.store(body, std::memory_order_relaxed);
  p.context.store(context, std::memory_order_relaxed);
  p.num_done.store(0, std::memory_order_relaxed);
  p.has_failed.store(false, std::memory_order_relaxed);
  p.num_shares.store(count, std::memory_order_relaxed);
  const uint64_t job = p.job.load(std::memory_order_relaxed) + 1;
  for (int i = 0; i < count; i++)
    p.shares[i].left.store(range(job, num_chunks * i / count, num_chunks * (i + 1) / count), std::memory_order_release);
  p.job.store(job);  // sequentially consistent, before the sleepers are counted
  if (p.num_sleeping.load()) {
    { std::lock_guard<std::mutex> lock(p.sleeping); }  // lets a helper get from its last check to its wait
    p.wake.notify_all();
  }
  work(p, 0);
  for (int spins = 0; p.num_done.load(std::memory_order_acquire) < num_chunks; spins++) {
    if (spins < kSpinsToYield) pause();
    else sched_yield();
  }
  if (p.has_failed.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(p.error, nullptr));
}

Alone::Alone(bool is_wanted) : before_(is_alone) { is_alone = is_alone || is_wanted; }

Alone::~Alone() { is_alone = before_; }

void set_num_threads(int count) { pool->num_wanted = count < 1 ? 1 : count < kMostThreads ? count : kMostThreads; }

int num_threads() { return pool->num_wanted; }

}  // namespace antiphon
