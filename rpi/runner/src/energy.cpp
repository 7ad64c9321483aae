#include "energy.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>
#include <thread>
#include <vector>

#include "machine.h"

namespace edge_lab {
namespace {

std::optional<double> number_in(const fs::path& path) {
  const std::string line = first_line(path);
  char* end = nullptr;
  const double value = std::strtod(line.c_str(), &end);
  return line.empty() || end == line.c_str() ? std::nullopt : std::optional<double>(value);
}

// Calls for so long; how many, and how long it took.
std::pair<double, double> loop(const std::function<void()>& call, double seconds) {
  const double start = Clocks::now().wall;
  double calls = 0, spent = 0;
  while (spent < seconds) {
    call();
    ++calls;
    spent = Clocks::now().wall - start;
  }
  return {calls, spent};
}

// Packages (intel-rapl:0), not the parts inside them (intel-rapl:0:1). AMD uses the same names.
std::vector<fs::path> packages(const fs::path& root) {
  std::vector<fs::path> found;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(root, none)) {
    const std::string name = entry.path().filename().string();
    const bool package = name.rfind("intel-rapl:", 0) == 0 && name.find(':', 11) == std::string::npos;
    if (package && fs::exists(entry.path() / "energy_uj", none)) found.push_back(entry.path());
  }
  return found;
}

std::optional<Energy> rapl(const std::function<void()>& call, const std::vector<fs::path>& domains, double wanted) {
  std::vector<double> before;
  for (const fs::path& domain : domains) {
    const auto value = number_in(domain / "energy_uj");
    if (!value) return std::nullopt;
    before.push_back(*value);
  }
  const auto [calls, seconds] = loop(call, wanted);
  double joules = 0;
  for (size_t i = 0; i < domains.size(); ++i) {
    double used = number_in(domains[i] / "energy_uj").value_or(before[i]) - before[i];
    if (used < 0) used += number_in(domains[i] / "max_energy_range_uj").value_or(0) + 1;  // the counter began anew
    joules += used / 1e6;
  }
  return Energy{"measured", "RAPL", "", joules / calls, joules / seconds};
}

std::optional<double> pmic() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen("vcgencmd pmic_read_adc 2>/dev/null", "r"), pclose);
  if (!pipe) return std::nullopt;
  std::string text;
  char piece[512];
  while (text.size() < 65536 && std::fgets(piece, sizeof piece, pipe.get()) != nullptr) text += piece;
  return pmic_watts(text);
}

Energy pi(const std::function<void()>& call, double first, double wanted) {
  std::vector<double> readings{first};
  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!done) {
      if (const auto now = pmic()) readings.push_back(*now);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  });
  const auto [calls, seconds] = loop(call, wanted);
  done = true;
  watcher.join();
  double watts = 0;
  for (const double reading : readings) watts += reading / static_cast<double>(readings.size());
  return {"measured", "Pi PMIC", std::to_string(readings.size()) + " readings, mean", watts * seconds / calls, watts};
}

}  // namespace

// A line of it: "   VDD_CORE_V volt(15)=0.72276440V" or "   VDD_CORE_A current(7)=0.45100000A".
std::optional<double> pmic_watts(const std::string& text) {
  std::map<std::string, double> volts, amperes;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    char rail[64], unit = 0, rest = 0;
    double value = 0;
    if (std::sscanf(line.c_str(), " %63s %*[a-z](%*d)=%lf%c %c", rail, &value, &unit, &rest) != 3) continue;
    const std::string name = rail;
    if (name.size() < 3 || name.substr(name.size() - 2) != std::string("_") + unit) continue;
    if (unit == 'V' || unit == 'A') (unit == 'V' ? volts : amperes)[name.substr(0, name.size() - 2)] = value;
  }
  std::optional<double> watts;
  for (const auto& [rail, current] : amperes) {
    if (volts.count(rail) != 0) watts = watts.value_or(0) + volts[rail] * current;
  }
  return watts;
}

Energy energy(const std::function<void()>& call, const fs::path& sys, double seconds) {
  Energy none;
  const fs::path root = sys / "class/powercap";
  if (const auto domains = packages(root); !domains.empty()) {
    if (const auto found = rapl(call, domains, seconds)) return *found;
    none.reason = "RAPL counters are readable by root only: sudo chmod a+r energy_uj";
    return none;
  }
  if (const auto first = pmic()) return pi(call, *first, seconds);
  none.reason = "no RAPL counters and no PMIC of a Raspberry Pi 5 (virtual machine, or another board)";
  return none;
}

}  // namespace edge_lab
