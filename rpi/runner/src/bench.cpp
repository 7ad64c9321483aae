#include "bench.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "error.h"
#include "json.h"
#include "session.h"
#include "stats.h"

namespace edge_lab {
namespace {

using Inputs = std::vector<std::vector<uint8_t>>;

Inputs inputs_of(const Bundle& bundle) {
  Inputs found;
  for (const GoldenCase& one : bundle.golden) found.push_back(bundle.tensor(one.tensor, bundle.input));
  if (found.empty()) found.emplace_back(bundle.input.bytes());  // zeros
  return found;
}

// Times of a call, after `warmup` calls that don't count.
void sample(Measurement& into, int rounds, const std::function<void()>& call) {
  for (int i = 0; i < into.warmup; ++i) call();
  for (int i = 0; i < rounds; ++i) {
    const Clocks before = Clocks::now();
    call();
    const Clocks after = Clocks::now();
    into.wall.push_back(after.wall - before.wall);
    into.cpu.push_back(after.cpu - before.cpu);
  }
}

void label(Measurement& found) {
  const double wall = percentile(found.wall, 50), cpu = percentile(found.cpu, 50);
  if (found.by_cpu() && wall > 1.3 * cpu) {
    found.notes.push_back("machine busy or call waiting: wall time is over 1.3x CPU time");
  }
}

// The scenarios that run in this process. It is fresh, so its own start and memory are the program's.
std::vector<Measurement> warm(const Bundle& bundle, const BenchConfig& config) {
  const auto baseline = resident_mb();
  const Inputs inputs = inputs_of(bundle);
  const Clocks before = Clocks::now();
  Session session(bundle, config.threads);
  const Clocks loaded = Clocks::now();
  const auto resident = resident_mb();
  session.run(inputs[0].data());
  const Clocks first = Clocks::now();
  std::vector<Measurement> all;
  for (const std::string& scenario : config.scenarios) {
    if (scenario == "cold_start") continue;
    const bool single = scenario == "single_stream";
    Measurement found;
    found.scenario = scenario;
    found.threads = config.threads;
    found.warmup = config.warmup;
    found.batch = single ? 1 : config.batch.value_or(static_cast<int>(inputs.size()));
    const bool by_cpu = found.by_cpu();
    found.load_ms = 1e3 * (by_cpu ? loaded.cpu - before.cpu : loaded.wall - before.wall);
    found.first_ms = 1e3 * (by_cpu ? first.cpu - loaded.cpu : first.wall - loaded.wall);
    const auto call = [&] {
      for (int i = 0; i < found.batch; ++i) session.run(inputs[static_cast<size_t>(i) % inputs.size()].data());
    };
    sample(found, config.rounds.value_or(single ? 30 : 10), call);
    found.baseline_mb = baseline, found.loaded_mb = resident, found.peak_mb = peak_mb();
    found.joules = energy(call, config.sys, config.energy_seconds);
    if (found.joules.joules) *found.joules.joules /= found.batch;
    label(found);
    all.push_back(std::move(found));
  }
  return all;
}

void put_optional(Json& json, const char* key, std::optional<double> value) {
  value ? json.put(key, *value) : json.null(key);
}

void put_energy(Json& json, const Energy& energy) {
  json.object("energy").put("tier", energy.tier);
  json.put("source", energy.source).put("reason", energy.reason);
  put_optional(json, "joules", energy.joules);
  put_optional(json, "watts", energy.watts);
  json.end();
}

void put_measurement(Json& json, const Measurement& m, const Bundle& bundle, const BenchConfig& config) {
  json.object().put("name", bundle.name()).put("model", bundle.model).put("target", bundle.target);
  json.put("format", bundle.format).put("precision", bundle.scheme);
  json.object("engine").put("name", bundle.package).put("version", executorch_version()).end();
  json.put("scenario", m.scenario).put("threads", m.threads).put("batch", m.batch).put("warmup", m.warmup);
  config.cpus.empty() ? json.null("pinned_cpus") : json.all("pinned_cpus", config.cpus);
  json.put("clock", m.by_cpu() ? "cpu" : "wall").all("wall_s", m.wall).all("cpu_s", m.cpu);
  json.object("summary").put("p50_ms", m.p(50)).put("p90_ms", m.p(90)).put("p99_ms", m.p(99)).end();
  json.put("size_bytes", bundle.files.at(bundle.program).bytes);
  put_optional(json, "delegated", bundle.delegated);
  json.object("start");
  put_optional(json, "import_ms", m.import_ms);
  put_optional(json, "load_ms", m.load_ms);
  put_optional(json, "first_ms", m.first_ms);
  json.end();
  if (m.peak_mb) {
    json.object("memory");
    put_optional(json, "baseline_mb", m.baseline_mb);
    put_optional(json, "loaded_mb", m.loaded_mb);
    put_optional(json, "peak_mb", m.peak_mb);
    if (m.baseline_mb) json.put("delta_mb", std::max(0.0, *m.peak_mb - *m.baseline_mb));
    json.end();
  } else {
    json.null("memory");
  }
  put_energy(json, m.joules);
  json.all("notes", m.notes).end();
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

void put_gate(Json& json, const Gate& gate) {
  json.object("gate").put("state", gate.state);
  put_optional(json, "load_per_core", gate.load_per_core);
  put_optional(json, "temperature_c", gate.temperature_c);
  json.all("reasons", gate.reasons).end();
}

std::string table_of(const std::vector<Measurement>& all, const Bundle& bundle, const Gate& gate) {
  char line[256];
  std::string text = bundle.name() + ", executorch " + executorch_version() + ", machine " + gate.state + "\n";
  for (const std::string& reason : gate.reasons) text += "  " + reason + "\n";
  text += "  scenario       threads  batch    p50 ms    p90 ms    p99 ms  clock  load ms  first ms  peak MB\n";
  for (const Measurement& m : all) {
    std::snprintf(line, sizeof line, "  %-13s %8d %6d %9.3f %9.3f %9.3f  %-5s %8.1f %9.1f %8.1f\n", m.scenario.c_str(),
                  m.threads, m.batch, m.p(50), m.p(90), m.p(99), m.by_cpu() ? "cpu" : "wall", m.load_ms.value_or(0),
                  m.first_ms.value_or(0), m.peak_mb.value_or(0));
    text += line;
    for (const std::string& note : m.notes) text += "    " + note + "\n";
    if (m.joules.joules) {
      std::snprintf(line, sizeof line, "    energy: %.3g mJ an input (%s)\n", 1e3 * *m.joules.joules, m.joules.source.c_str());
      text += line;
    }
  }
  if (!all.back().joules.joules) text += "  energy: not available: " + all.back().joules.reason + "\n";
  return text;
}

}  // namespace

double Measurement::p(double q) const { return 1e3 * percentile(by_cpu() ? cpu : wall, q); }

BenchResult bench(const fs::path& path, const BenchConfig& config, const std::string& command) {
  const Bundle bundle = load_bundle(path, executorch_version());
  if (!config.cpus.empty()) pin(config.cpus);
  const Gate before = gate(config.sys);
  const std::string date = utc_now();
  std::vector<Measurement> all;
  for (const std::string& scenario : config.scenarios) {
    if (scenario == "cold_start") all.push_back(cold_start(path, config));
  }
  if (all.size() < config.scenarios.size()) {
    for (auto& found : warm(bundle, config)) all.push_back(std::move(found));
  }
  const Gate state = worst(before, gate(config.sys));

  Json json;
  json.object().put("schema_version", 1).put("tool", "edge-lab-runner").put("command", command).put("date", date);
  json.object("device");
  for (const auto& [key, value] : machine_facts(config.sys)) json.put(key.c_str(), value);
  json.end().object("versions").put("executorch", executorch_version()).end();
  put_gate(json, state);
  json.null("recorded").list("measurements");
  for (const Measurement& one : all) put_measurement(json, one, bundle, config);
  json.end().end();
  return {json.text() + "\n", table_of(all, bundle, state)};
}

}  // namespace edge_lab
