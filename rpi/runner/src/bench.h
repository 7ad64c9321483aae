// Timings of one bundle in the form of schema/measurement.schema.json.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "energy.h"
#include "files.h"
#include "machine.h"

namespace edge_lab {

struct BenchConfig {
  std::vector<std::string> scenarios{"single_stream"};
  int threads = 1, warmup = 5;
  std::optional<int> rounds;  // default: 30, and 10 for offline_batch and cold_start
  std::optional<int> batch;   // inputs in one sample of offline_batch; default: one of each golden case
  std::vector<int> cpus;      // empty: not bound
  double energy_seconds = 2;  // RAPL ticks once a millisecond, a Pi is read ten times a second: long runs are exact
  fs::path sys = "/sys";
};

struct Measurement {
  std::string scenario;
  int threads = 1, batch = 1, warmup = 0;
  std::vector<double> wall, cpu;
  std::optional<double> import_ms, load_ms, first_ms;
  std::optional<double> baseline_mb, loaded_mb, peak_mb;
  Energy joules;
  std::vector<std::string> notes;

  bool by_cpu() const { return scenario != "cold_start" && threads == 1; }
  double p(double q) const;  // milliseconds, of the clock that counts
};

struct BenchResult {
  std::string json, table;
};

// `command` is recorded in the JSON.
BenchResult bench(const fs::path& path, const BenchConfig& config, const std::string& command);

// What a fresh process of cold_start does: one line on standard output.
void cold_child(const fs::path& path, int threads);

// Starts this program again `rounds` times; see the schema for what a sample is.
Measurement cold_start(const fs::path& path, const BenchConfig& config);

}  // namespace edge_lab
