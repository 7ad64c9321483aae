// What a measurement was taken on, and whether it was fit for it: edge_lab.measure.host and .readiness in C++.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "files.h"

namespace edge_lab {

// cpu, arch, cores, memory, os, governor, load, container, board: no host name, user name or path. What the system
// does not tell is left out. `sys` is /sys, or a copy in a test.
std::vector<std::pair<std::string, std::string>> machine_facts(const fs::path& sys);

struct Gate {
  std::string state = "unknown";  // quiet, busy, hot, unknown
  std::optional<double> load_per_core, temperature_c;
  std::vector<std::string> reasons;
};

// Looks for half a second at what others do with the cores.
Gate gate(const fs::path& sys);
Gate judge(std::optional<double> load_per_core, std::optional<double> temperature_c);
// The worse state and the higher figures of both.
Gate worst(const Gate& a, const Gate& b);

struct Clocks {
  double wall, cpu;  // seconds; CPU time of the whole process
  static Clocks now();
};

// Of this process, in MB (1e6 bytes), from /proc/self/status: VmRSS now, VmHWM at its peak.
std::optional<double> resident_mb();
std::optional<double> peak_mb();

// Binds this process to these cores. Throws Error if there is no such core.
void pin(const std::vector<int>& cpus);

}  // namespace edge_lab
