// What does the runner add to the engine's own call? Bare Module::forward, the same again in a second Module (the
// noise floor), and Session::run, in turn and in changing order; ratios are paired round by round.
//
//   bench_overhead BUNDLE [ROUNDS]
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "error.h"
#include "machine.h"
#include "session.h"
#include "stats.h"

namespace {

using edge_lab::Clocks;
using executorch::extension::Module;

int measure(const char* path, int rounds) {
  const auto bundle = edge_lab::load_bundle(path, edge_lab::executorch_version());
  auto x = bundle.golden.empty() ? std::vector<uint8_t>(bundle.input.bytes())
                                 : bundle.tensor(bundle.golden[0].tensor, bundle.input);
  edge_lab::Session session(bundle, 1);
  const std::string program = bundle.file(bundle.program).string();
  Module bare(program, Module::LoadMode::Mmap), again(program, Module::LoadMode::Mmap);
  const std::vector<executorch::aten::SizesType> sizes(bundle.input.shape.begin(), bundle.input.shape.end());
  const auto tensor = executorch::extension::from_blob(x.data(), sizes);
  bool good = true;
  const auto call = [&](size_t which) {
    if (which == 0) good = good && bare.forward(tensor).ok();
    if (which == 1) good = good && again.forward(tensor).ok();
    if (which == 2) good = good && session.run(x.data())[0].data != nullptr;
  };
  std::array<std::vector<double>, 3> times;
  std::array<size_t, 3> order = {0, 1, 2};
  std::mt19937 random(0);
  for (int round = -5; round < rounds; ++round) {  // the first five warm up
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t which : order) {
      const double before = Clocks::now().cpu;
      call(which);
      if (round >= 0) times[which].push_back(Clocks::now().cpu - before);
    }
  }
  if (!good) throw edge_lab::Error("a bare call failed.", "executorch says so.", "run edge-lab-runner check.");
  const auto noise = edge_lab::paired_ratio(times[1], times[0]), ours = edge_lab::paired_ratio(times[2], times[0]);
  std::printf("%s: bare forward p50 %.3f ms, session %.3f ms, %d rounds, CPU time, 1 thread\n", bundle.name().c_str(),
              1e3 * edge_lab::percentile(times[0], 50), 1e3 * edge_lab::percentile(times[2], 50), rounds);
  std::printf("  session / bare      %.4f [%.4f, %.4f]\n", ours.value, ours.low, ours.high);
  std::printf("  bare again / bare   %.4f [%.4f, %.4f]\n", noise.value, noise.low, noise.high);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 2) throw edge_lab::Error("no bundle is named.", "it times one.", "bench_overhead BUNDLE [ROUNDS]");
    return measure(argv[1], argc > 2 ? std::max(6, std::atoi(argv[2])) : 200);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_overhead: %s\n", error.what());
  }
  return 2;
}
