// cold_start: this program again, as a fresh process, from its start to its first answer.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "bench.h"
#include "error.h"
#include "session.h"
#include "stats.h"

extern char** environ;  // NOLINT

namespace edge_lab {
namespace {

constexpr int kNumbers = 10;
using Answer = std::array<double, kNumbers>;

[[noreturn]] void failed(const fs::path& path, const std::string& why) {
  throw Error(path.string() + " could not be run in a fresh process.", why + ".",
              "run `edge-lab-runner run` on it to see everything.");
}

std::string output_of(const fs::path& path, int threads, double* started) {
  int ends[2];
  if (pipe(ends) != 0) failed(path, std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  posix_spawn_file_actions_addclose(&actions, ends[1]);
  std::string program = "/proc/self/exe", command = "_cold", bundle = path.string(), count = std::to_string(threads);
  char* arguments[] = {program.data(), command.data(), bundle.data(), count.data(), nullptr};
  pid_t child = 0;
  *started = Clocks::now().wall;
  const int error = posix_spawn(&child, program.c_str(), &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string text;
  char piece[512];
  for (ssize_t got = 0; error == 0 && (got = read(ends[0], piece, sizeof piece)) > 0;) {
    text.append(piece, static_cast<size_t>(got));
  }
  close(ends[0]);
  if (error != 0) failed(path, std::string("it can't be started: ") + std::strerror(error));
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) failed(path, "the process was ended by signal " + std::to_string(WTERMSIG(status)));
  if (WEXITSTATUS(status) == 127) failed(path, "the system refused to start this program anew, as it does under an emulator");
  if (status != 0) failed(path, "the process ended with exit code " + std::to_string(WEXITSTATUS(status)));
  return text;
}

Answer parsed(const fs::path& path, const std::string& text) {
  Answer found{};
  const char* at = text.c_str();
  for (double& number : found) {
    char* end = nullptr;
    number = std::strtod(at, &end);
    if (end == at) failed(path, "the process ended without an answer");
    at = end;
  }
  return found;
}

}  // namespace

void cold_child(const fs::path& path, int threads) {
  const Clocks start = Clocks::now();
  const double baseline = resident_mb().value_or(0);
  const Bundle bundle = load_bundle(path, executorch_version(), false);  // its parent has compared the checksums
  std::vector<uint8_t> x(bundle.input.bytes());
  if (!bundle.golden.empty()) x = bundle.tensor(bundle.golden[0].tensor, bundle.input);
  const Clocks before = Clocks::now();
  Session session(bundle, threads);
  const Clocks loaded = Clocks::now();
  const double resident = resident_mb().value_or(0);
  session.run(x.data());
  const Clocks done = Clocks::now();
  std::printf("%.9f %.9f %.9f %.9f %.9f %.9f %.9f %.3f %.3f %.3f\n", start.wall, start.cpu, loaded.wall - before.wall,
              loaded.cpu - before.cpu, done.wall - loaded.wall, done.wall, done.cpu, baseline, resident,
              peak_mb().value_or(0));
}

Measurement cold_start(const fs::path& path, const BenchConfig& config) {
  Measurement found;
  found.scenario = "cold_start";
  found.threads = config.threads;
  std::array<std::vector<double>, 6> steps;  // import, load, first in ms; baseline, loaded, peak in MB
  const int rounds = config.rounds.value_or(10);
  output_of(path, config.threads, &steps[0].emplace_back());  // the files are in the page cache from here on
  steps[0].clear();
  for (int i = 0; i < rounds; ++i) {
    double started = 0;
    const Answer a = parsed(path, output_of(path, config.threads, &started));
    found.wall.push_back(a[5] - started);
    found.cpu.push_back(a[6]);
    const double row[] = {1e3 * (a[0] - started), 1e3 * a[2], 1e3 * a[4], a[7], a[8], a[9]};
    for (size_t k = 0; k < steps.size(); ++k) steps[k].push_back(row[k]);
  }
  std::optional<double>* const fields[] = {&found.import_ms,   &found.load_ms,   &found.first_ms,
                                           &found.baseline_mb, &found.loaded_mb, &found.peak_mb};
  for (size_t k = 0; k < steps.size(); ++k) *fields[k] = percentile(steps[k], 50);
  found.joules.reason = "a start is too short for the counters";
  found.notes.push_back("import_ms: from the start of the process to its main function (dynamic linking)");
  return found;
}

}  // namespace edge_lab
