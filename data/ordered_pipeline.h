// Many workers, one order: items are made one after the other, worked on in parallel, and handed on
// in the order in which they were made.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace swiattn {

// Calls `make()` (which returns std::optional<Item>, nothing at the end) on a thread of its own,
// `work(Item)` on `workers` threads, and `hand_on(Result)` on the calling thread. At most
// 4 * workers + 4 items are under way at once. An exception in any of them stops all and is thrown
// again here once everything before it has been handed on, so that which one is thrown does not
// depend on timing.
template <class Item, class Result>
class OrderedPipeline {
 public:
  explicit OrderedPipeline(int workers) : workers_(workers) {}

  template <class Make, class Work, class HandOn>
  void run(const Make& make, const Work& work, const HandOn& hand_on) {
    std::vector<std::jthread> threads;  // joined last, after stop()
    const Stopper stopper{*this};
    threads.reserve(workers_ + 1);
    threads.emplace_back([&] { make_all(make); });
    for (int i = 0; i < workers_; ++i) threads.emplace_back([&] { work_on(work); });
    while (std::optional<Result> result = next_result()) hand_on(std::move(*result));
  }

 private:
  struct Outcome {
    std::optional<Result> result;
    std::exception_ptr error;
  };
  struct Stopper {
    OrderedPipeline& pipeline;
    ~Stopper() { pipeline.stop(); }
  };

  template <class Make>
  void make_all(const Make& make) {
    for (;;) {
      std::optional<Item> item;
      std::exception_ptr error;
      try {
        item = make();
      } catch (...) {
        error = std::current_exception();
      }
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || made_ - handed_on_ < room(); });
      if (stopped_) return;
      if (item) {
        waiting_.emplace_back(made_++, std::move(*item));
      } else {
        outcomes_[made_] = {std::nullopt, error};
      }
      changed_.notify_all();
      if (!item) return;
    }
  }

  template <class Work>
  void work_on(const Work& work) {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || !waiting_.empty(); });
      if (stopped_) return;
      auto [index, item] = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      Outcome outcome;
      try {
        outcome.result = work(std::move(item));
      } catch (...) {
        outcome.error = std::current_exception();
      }
      lock.lock();
      outcomes_[index] = std::move(outcome);
      changed_.notify_all();
    }
  }

  // Nothing at the end.
  std::optional<Result> next_result() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return outcomes_.count(handed_on_) > 0; });
    Outcome outcome = std::move(outcomes_.extract(handed_on_).mapped());
    if (outcome.error) std::rethrow_exception(outcome.error);
    ++handed_on_;
    changed_.notify_all();
    return std::move(outcome.result);
  }

  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  uint64_t room() const { return 4 * static_cast<uint64_t>(workers_) + 4; }

  int workers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // All below are guarded by mutex_.
  std::deque<std::pair<uint64_t, Item>> waiting_;
  std::map<uint64_t, Outcome> outcomes_;  // by index; neither result nor error: the end
  uint64_t made_ = 0;
  uint64_t handed_on_ = 0;
  bool stopped_ = false;
};

}  // namespace swiattn
