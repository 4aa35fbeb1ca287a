#include "parallel/mpi_communicator.h"

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <algorithm>

#include "base/check.h"

namespace swiattn {
namespace {

// MPI counts are ints: longer buffers go in pieces of this many elements.
constexpr int64_t kPiece = int64_t{1} << 28;

MPI_Datatype mpi_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kLong:
      return MPI_INT64_T;
    default:
      fail(ExitCode::kInternal, "Internal error: no reduction over this element type.");
  }
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator() {
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(at::Tensor& tensor) override {
    check_host(tensor);
    const MPI_Datatype type = mpi_type(tensor.scalar_type());
    auto* bytes = static_cast<char*>(tensor.data_ptr());
    for (int64_t begin = 0; begin < tensor.numel(); begin += kPiece) {
      const auto count = static_cast<int>(std::min(kPiece, tensor.numel() - begin));
      check_mpi(MPI_Allreduce(MPI_IN_PLACE, bytes + begin * tensor.element_size(), count, type,
                              MPI_SUM, MPI_COMM_WORLD),
                "MPI_Allreduce");
    }
  }

  void broadcast(at::Tensor& tensor, int root) override {
    check_host(tensor);
    auto* bytes = static_cast<char*>(tensor.data_ptr());
    const auto total = static_cast<int64_t>(tensor.nbytes());
    for (int64_t begin = 0; begin < total; begin += kPiece) {
      const auto count = static_cast<int>(std::min(kPiece, total - begin));
      check_mpi(MPI_Bcast(bytes + begin, count, MPI_BYTE, root, MPI_COMM_WORLD), "MPI_Bcast");
    }
  }

  std::string broadcast_text(const std::string& text, int root) override {
    int64_t length = static_cast<int64_t>(text.size());
    check_mpi(MPI_Bcast(&length, 1, MPI_INT64_T, root, MPI_COMM_WORLD), "MPI_Bcast");
    std::string result = rank_ == root ? text : std::string(static_cast<size_t>(length), '\0');
    check_mpi(MPI_Bcast(result.data(), static_cast<int>(length), MPI_BYTE, root, MPI_COMM_WORLD),
              "MPI_Bcast");
    return result;
  }

  std::vector<std::string> all_gather_text(const std::string& text) override {
    std::vector<std::string> all;
    for (int root = 0; root < size_; ++root) all.push_back(broadcast_text(text, root));
    return all;
  }

 private:
  static void check_host(const at::Tensor& tensor) {
    SWIATTN_CHECK(tensor.device().is_cpu() && tensor.is_contiguous(),
                  "MPI takes contiguous tensors in host memory");
  }

  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

void check_mpi(int status, const char* operation) {
  if (status == MPI_SUCCESS) return;
  char reason[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, reason, &length);
  fail(ExitCode::kCommunication, "{} failed: {}.", operation, reason);
}

std::unique_ptr<Communicator> make_mpi_communicator() {
  return std::make_unique<MpiCommunicator>();
}

}  // namespace swiattn
