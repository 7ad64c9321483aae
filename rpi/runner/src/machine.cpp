#include "machine.h"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "error.h"

namespace edge_lab {
namespace {

constexpr double kBusyShare = 0.15;  // of all cores taken by others; see edge_lab/measure/gate.py
constexpr double kHotC = 80.0;       // a Raspberry Pi begins to slow down here

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\"");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\"") - first + 1);
}

// "key<separator>value" lines; the first line of a key counts.
std::map<std::string, std::string> pairs_of(const fs::path& path, char separator) {
  std::map<std::string, std::string> found;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t at = line.find(separator);
    if (at != std::string::npos) found.emplace(trimmed(line.substr(0, at)), trimmed(line.substr(at + 1)));
  }
  return found;
}

std::string printed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string cpu_name(const std::string& arch) {
  auto info = pairs_of("/proc/cpuinfo", ':');
  for (const char* key : {"model name", "Hardware"}) {
    if (info[key].empty()) continue;
    std::string name = info[key];
    if (!info["cpu family"].empty()) name += " (family " + info["cpu family"] + ", model " + info["model"] + ")";
    return name;
  }
  if (!info["CPU part"].empty()) return "implementer " + info["CPU implementer"] + ", part " + info["CPU part"];
  return arch;
}

std::string core_counts(const fs::path& sys) {
  std::set<std::string> physical;
  const long logical = sysconf(_SC_NPROCESSORS_ONLN);
  for (long i = 0; i < logical; ++i) {
    const fs::path topology = sys / "devices/system/cpu" / ("cpu" + std::to_string(i)) / "topology";
    const std::string line = first_line(topology / "core_cpus_list");
    physical.insert(line.empty() ? first_line(topology / "thread_siblings_list") : line);
  }
  const std::string known = physical.count("") != 0 ? "?" : std::to_string(physical.size());
  return known + " physical, " + std::to_string(logical) + " logical";
}

std::string system_name(const utsname& kernel) {
  std::string name = pairs_of("/etc/os-release", '=')["PRETTY_NAME"];
  const std::string release = kernel.release;
  return (name.empty() ? kernel.sysname : name) + ", kernel " + release.substr(0, release.find('-'));
}

std::optional<double> status_mb(const char* key) {
  const auto found = pairs_of("/proc/self/status", ':');
  const auto line = found.find(key);
  if (line == found.end()) return std::nullopt;
  return std::strtod(line->second.c_str(), nullptr) * 1024 / 1e6;  // "1234 kB"
}

// Seconds that all cores idled or waited for a disk, since the machine started.
std::optional<double> idle_seconds() {
  std::istringstream line(first_line("/proc/stat"));
  std::string name;
  double user, nice, system, idle, wait;
  if (!(line >> name >> user >> nice >> system >> idle >> wait)) return std::nullopt;
  return (idle + wait) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::optional<double> temperature(const fs::path& sys) {
  std::optional<double> highest;
  std::error_code none;
  for (const auto& zone : fs::directory_iterator(sys / "class/thermal", none)) {
    if (zone.path().filename().string().rfind("thermal_zone", 0) != 0) continue;
    const double celsius = std::strtod(first_line(zone.path() / "temp").c_str(), nullptr) / 1000;
    if (celsius > 0 && celsius < 150) highest = std::max(highest.value_or(0), celsius);
  }
  return highest;
}

std::optional<double> higher(std::optional<double> a, std::optional<double> b) { return !a ? b : !b ? a : std::max(*a, *b); }

}  // namespace

std::vector<std::pair<std::string, std::string>> machine_facts(const fs::path& sys) {
  utsname kernel{};
  uname(&kernel);
  double load[1] = {0};
  const bool loaded = getloadavg(load, 1) == 1;
  const double memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  std::error_code none;
  const std::vector<std::pair<std::string, std::string>> all = {
      {"cpu", cpu_name(kernel.machine)},
      {"arch", kernel.machine},
      {"cores", core_counts(sys)},
      {"memory", printed("%.1f GB", memory / 1e9)},
      {"os", system_name(kernel)},
      {"governor", first_line(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor")},
      {"load", loaded ? printed("%.1f", load[0]) : ""},
      {"container", fs::exists("/.dockerenv", none)          ? "in a container"
                    : fs::exists("/run/.containerenv", none) ? "in a container (podman)"
                                                             : ""},
      {"board", first_line("/proc/device-tree/model")},
  };
  std::vector<std::pair<std::string, std::string>> known;
  for (const auto& fact : all) {
    if (!fact.second.empty()) known.push_back(fact);
  }
  return known;
}

Gate gate(const fs::path& sys) {
  const auto idle = idle_seconds();
  const Clocks before = Clocks::now();
  usleep(500'000);
  const Clocks after = Clocks::now();
  const auto still = idle_seconds();
  std::optional<double> others;
  if (idle && still) {
    const double whole = (after.wall - before.wall) * static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
    others = std::clamp((whole - (*still - *idle) - (after.cpu - before.cpu)) / whole, 0.0, 1.0);
  }
  return judge(others, temperature(sys));
}

Gate judge(std::optional<double> load_per_core, std::optional<double> temperature_c) {
  Gate found{"quiet", load_per_core, temperature_c, {}};
  if (temperature_c && *temperature_c >= kHotC) {
    found.state = "hot";
    found.reasons.push_back(printed("%.0f degrees C: from ", *temperature_c) +
                            printed("%.0f on, clocks are lowered to cool the chip.", kHotC));
  } else if (!load_per_core) {
    found.state = "unknown";
    found.reasons.push_back("the load of other processes can't be seen here.");
  } else if (*load_per_core > kBusyShare) {
    found.state = "busy";
    found.reasons.push_back(printed("other processes use over %.0f %% of the cores.", 100 * kBusyShare));
  }
  return found;
}

Gate worst(const Gate& a, const Gate& b) {
  const std::vector<std::string> order = {"quiet", "unknown", "busy", "hot"};
  const auto rank = [&](const Gate& one) { return std::find(order.begin(), order.end(), one.state); };
  Gate found = rank(a) < rank(b) ? b : a;
  found.load_per_core = higher(a.load_per_core, b.load_per_core);
  found.temperature_c = higher(a.temperature_c, b.temperature_c);
  found.reasons = a.reasons;
  for (const std::string& reason : b.reasons) {
    if (std::find(a.reasons.begin(), a.reasons.end(), reason) == a.reasons.end()) found.reasons.push_back(reason);
  }
  return found;
}

Clocks Clocks::now() {
  timespec wall{}, cpu{};
  clock_gettime(CLOCK_MONOTONIC, &wall);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
  const auto seconds = [](const timespec& t) { return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec); };
  return {seconds(wall), seconds(cpu)};
}

std::optional<double> resident_mb() { return status_mb("VmRSS"); }
std::optional<double> peak_mb() { return status_mb("VmHWM"); }

void pin(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(static_cast<size_t>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    throw Error("this process could not be bound to the cores of --pin.", std::string(std::strerror(errno)) + ".",
                "name cores of this machine: 0 to " + std::to_string(sysconf(_SC_NPROCESSORS_ONLN) - 1) + ".");
  }
}

}  // namespace edge_lab
