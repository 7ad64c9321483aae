#include "session.h"

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>

#include <mutex>

#include "error.h"
#include "threadpool.h"

namespace edge_lab {
namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::extension::Module;

// What the engine last complained about: it says more than its error code. Its progress messages are dropped.
thread_local std::string last_log;  // NOLINT

void keep_complaint(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
                    size_t length) {
  if (level == kError || level == kFatal) last_log.assign(message, length);
}

[[maybe_unused]] const bool quiet = et::register_pal(et::PalImpl::create(keep_complaint, "edge-lab-runner"));

std::mutex pool_mutex;
int pool_users = 0, pool_threads = 0;

// Holds the process-wide thread pool at one size for as long as a session lives.
class PoolUse {
 public:
  explicit PoolUse(int threads) {
    if (threads < 1 || threads > 1024) {
      throw Error(std::to_string(threads) + " threads can't be used.", "at least one computes, and 1024 are the most.",
                  "name a number of CPU cores, such as 1 or 4.");
    }
    const std::lock_guard<std::mutex> lock(pool_mutex);
    if (pool_users > 0 && pool_threads != threads) {
      throw Error("a program with " + std::to_string(pool_threads) + " threads is open; this one asks for " +
                      std::to_string(threads) + ".",
                  "ExecuTorch has one pool of threads for the whole process.",
                  "close the other one first, or open both with the same number.");
    }
    auto* pool = executorch::extension::threadpool::get_threadpool();
    if (pool_users == 0) pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
    if (pool->get_thread_count() != static_cast<size_t>(threads)) {
      throw Error("ExecuTorch did not start " + std::to_string(threads) + " threads.", "the system refused them.",
                  "ask for fewer, at most as many as there are cores.");
    }
    pool_threads = threads;
    ++pool_users;
  }
  ~PoolUse() {
    const std::lock_guard<std::mutex> lock(pool_mutex);
    --pool_users;
  }
  PoolUse(const PoolUse&) = delete;
  PoolUse& operator=(const PoolUse&) = delete;
};

ScalarType scalar_of(DType dtype) {
  constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::Double, ScalarType::Char, ScalarType::Short,
                                   ScalarType::Int,   ScalarType::Long,   ScalarType::Byte, ScalarType::Bool};
  return kTypes[static_cast<int>(dtype)];
}

[[noreturn]] void refuse(const Bundle& bundle, const std::string& why) {
  throw Error("executorch can't run " + bundle.file(bundle.program).string() + ".", why + ".",
              "run `edge-lab-runner check` on the bundle; if all is well there, export it again.");
}

void expect_ok(const Bundle& bundle, et::Error error, const char* step) {
  if (error == et::Error::Ok) return;
  const std::string detail = last_log.empty() ? "" : " (" + last_log + ")";
  last_log.clear();
  refuse(bundle, std::string(step) + " failed: " + et::to_string(error) + detail);
}

void expect_tensor(const Bundle& bundle, const et::Result<et::TensorInfo>& found, const TensorSpec& spec) {
  if (!found.ok()) refuse(bundle, "'" + spec.name + "' is no tensor in the program");
  bool same = found->scalar_type() == scalar_of(spec.dtype) && found->sizes().size() == spec.shape.size();
  for (size_t i = 0; same && i < spec.shape.size(); ++i) same = found->sizes()[i] == spec.shape[i];
  if (!same) refuse(bundle, "'" + spec.name + "' has another shape or dtype in the program than in bundle.json");
}

}  // namespace

std::string executorch_version() { return EDGE_LAB_EXECUTORCH_VERSION; }

struct Session::Engine {
  Engine(const Bundle& from, int threads)
      : pool(threads),
        bundle(from),
        module(from.file(from.program).string(), Module::LoadMode::Mmap),
        sizes(from.input.shape.begin(), from.input.shape.end()) {
    expect_ok(bundle, module.load(et::Program::Verification::InternalConsistency), "reading the program");
    const auto meta = module.method_meta("forward");
    expect_ok(bundle, meta.error(), "finding its method forward");
    if (meta->num_inputs() != 1) refuse(bundle, "it takes " + std::to_string(meta->num_inputs()) + " inputs, not one");
    if (meta->num_outputs() != bundle.outputs.size()) refuse(bundle, "it has another number of outputs");
    expect_tensor(bundle, meta->input_tensor_meta(0), bundle.input);
    for (size_t i = 0; i < bundle.outputs.size(); ++i) {
      expect_tensor(bundle, meta->output_tensor_meta(i), bundle.outputs[i]);
    }
    expect_ok(bundle, module.load_forward(), "loading its method forward");
  }

  PoolUse pool;
  Bundle bundle;
  Module module;
  std::vector<executorch::aten::SizesType> sizes;
  std::vector<et::EValue> values;  // keeps the outputs of the last run
  std::vector<Output> outputs;
};

Session::Session(const Bundle& bundle, int threads) : engine_(std::make_unique<Engine>(bundle, threads)) {}
Session::~Session() = default;

const std::vector<Session::Output>& Session::run(const void* input) {
  Engine& e = *engine_;
  const auto x = executorch::extension::from_blob(const_cast<void*>(input), e.sizes, scalar_of(e.bundle.input.dtype));
  auto result = e.module.forward(x);
  expect_ok(e.bundle, result.error(), "running it");
  e.values = std::move(*result);
  e.outputs.clear();
  for (size_t i = 0; i < e.values.size(); ++i) {
    const auto& tensor = e.values[i].toTensor();
    if (tensor.nbytes() != e.bundle.outputs[i].bytes()) refuse(e.bundle, "an output has another size than expected");
    e.outputs.push_back({tensor.const_data_ptr(), tensor.nbytes()});
  }
  return e.outputs;
}

}  // namespace edge_lab
