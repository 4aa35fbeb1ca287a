// A folder of a test's own, gone when the test ends.
#pragma once

#include <string>
#include <string_view>

namespace swiattn {

class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const;  // the path of `name` in it

 private:
  std::string path_;
};

// Writes a file the plain way.
void write_file(const std::string& path, std::string_view contents);

}  // namespace swiattn
