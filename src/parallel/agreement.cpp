#include "parallel/agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "parallel/torch_errors.h"

namespace swiattn {
namespace {

std::optional<Error> attempt(const std::function<void()>& work) {
  try {
    work();
    return std::nullopt;
  } catch (const std::exception& exception) {
    return as_error(exception);
  }
}

enum class Doers { kAll, kRoot };

void agree_among(Doers doers, Communicator& communicator, const std::function<void()>& work) {
  const bool works = doers == Doers::kAll || communicator.is_root();
  const std::optional<Error> mine = works ? attempt(work) : std::nullopt;
  if (communicator.size() == 1) {
    if (mine) throw *mine;
    return;
  }
  const std::string report =
      mine ? fmt::format("{}:{}", static_cast<int>(mine->code()), mine->what()) : "";
  const std::vector<std::string> reports = communicator.all_gather_text(report);
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    if (reports[rank].empty()) continue;
    const size_t colon = reports[rank].find(':');
    const auto code = static_cast<ExitCode>(std::atoi(reports[rank].c_str()));
    const std::string sentence = reports[rank].substr(colon + 1);
    // Most failures are the same everywhere; a rank is only worth naming when it stands alone.
    const bool alone =
        doers == Doers::kAll && std::count(reports.begin(), reports.end(), reports[rank]) !=
                                    static_cast<std::ptrdiff_t>(reports.size());
    throw AgreedError(code, alone ? fmt::format("Rank {}: {}", rank, sentence) : sentence);
  }
}

}  // namespace

void agree(Communicator& communicator, const std::function<void()>& work) {
  agree_among(Doers::kAll, communicator, work);
}

void agree_on_root(Communicator& communicator, const std::function<void()>& work) {
  agree_among(Doers::kRoot, communicator, work);
}

}  // namespace swiattn
