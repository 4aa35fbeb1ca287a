#include "parallel/watched_communicator.h"

#include <utility>

namespace swiattn {
namespace {

class WatchedCommunicator final : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> inner, Watchdog& watchdog)
      : inner_(std::move(inner)), watchdog_(watchdog) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void all_reduce(at::Tensor& tensor) override {
    const Watchdog::Watch watch(watchdog_, "an all-reduce");
    inner_->all_reduce(tensor);
  }
  void broadcast(at::Tensor& tensor, int root) override {
    const Watchdog::Watch watch(watchdog_, "a broadcast");
    inner_->broadcast(tensor, root);
  }
  std::string broadcast_text(const std::string& text, int root) override {
    const Watchdog::Watch watch(watchdog_, "a broadcast");
    return inner_->broadcast_text(text, root);
  }
  std::vector<std::string> all_gather_text(const std::string& text) override {
    const Watchdog::Watch watch(watchdog_, "the other ranks' reports");
    return inner_->all_gather_text(text);
  }

 private:
  std::unique_ptr<Communicator> inner_;
  Watchdog& watchdog_;
};

}  // namespace

std::unique_ptr<Communicator> watch(std::unique_ptr<Communicator> communicator,
                                    Watchdog& watchdog) {
  return std::make_unique<WatchedCommunicator>(std::move(communicator), watchdog);
}

}  // namespace swiattn
