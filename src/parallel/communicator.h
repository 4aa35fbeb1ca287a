// What ranks say to each other. One process drives one device; all ranks call the same operations
// in the same order. Implementations: one process, MPI (CPU ranks) and NCCL (one GPU a rank).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <vector>

namespace swiattn {

// Collective operations on tensors of this rank's device and on small host values. Every call
// returns when the result may be used by work queued after it (host values: when it is there).
// Failures throw Error{kCommunication}.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // The sum over all ranks, in place: contiguous float32, float64 or int64. All ranks get the same
  // bits.
  virtual void all_reduce(at::Tensor& tensor) = 0;
  // In place, any type, from `root` to all.
  virtual void broadcast(at::Tensor& tensor, int root) = 0;
  // A host value of any length from `root` to all.
  virtual std::string broadcast_text(const std::string& text, int root) = 0;
  // Every rank's text, in rank order, on every rank.
  virtual std::vector<std::string> all_gather_text(const std::string& text) = 0;

  bool is_root() const { return rank() == 0; }
};

std::unique_ptr<Communicator> make_single_communicator();

}  // namespace swiattn
