// Is this bundle fit for this device? Intact, runs here, sees pictures and answers as recorded.
#pragma once

#include <string>
#include <vector>

#include "files.h"

namespace edge_lab {

struct CheckLine {
  std::string name;
  bool ok;
  std::string detail;
};

// Throws Error only if there is no bundle at this path.
std::vector<CheckLine> check(const fs::path& path, int threads);

}  // namespace edge_lab
