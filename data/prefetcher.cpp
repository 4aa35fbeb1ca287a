#include "data/prefetcher.h"

#include <chrono>
#include <utility>

#include "base/check.h"

namespace swiattn {

Prefetcher::Prefetcher(BatchStream stream, int64_t first_step, size_t depth)
    : stream_(std::move(stream)), depth_(depth) {
  SWIATTN_CHECK(first_step >= 1 && depth >= 1, "step {}, depth {}", first_step, depth);
  thread_ = std::thread([this, first_step] { run(first_step); });
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Batch Prefetcher::next() {
  const auto asked = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty() || error_; });
  waited_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - asked).count();
  if (ready_.empty()) std::rethrow_exception(error_);
  Batch batch = std::move(ready_.front());
  ready_.pop_front();
  lock.unlock();
  changed_.notify_all();
  return batch;
}

void Prefetcher::run(int64_t step) {
  try {
    for (;; ++step) {
      for (int64_t index = 0; index < stream_.micro_batches(); ++index) {
        if (!put(stream_.batch(step, index))) return;
      }
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
  }
  changed_.notify_all();
}

bool Prefetcher::put(Batch batch) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ready_.size() < depth_ || stopping_; });
  if (stopping_) return false;
  ready_.push_back(std::move(batch));
  lock.unlock();
  changed_.notify_all();
  return true;
}

}  // namespace swiattn
