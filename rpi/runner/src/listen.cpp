#include "listen.h"

#include <unistd.h>

#include <memory>

#include "audio.h"
#include "error.h"
#include "machine.h"
#include "predict.h"
#include "source.h"

namespace edge_lab {

Recognizer recognizer_of(const Bundle& bundle, Session& session) {
  if (!bundle.audio) {
    throw Error(bundle.name() + " does not hear.",
                "its task is '" + bundle.task + "', and its bundle says nothing about sound.",
                "use a bundle of a model such as speechnet.");
  }
  const auto network = [&bundle, &session](const float* x) {
    return values_of(session.run(x)[0].data, bundle.outputs[0]);
  };
  return Recognizer(*bundle.audio, bundle.label_names, network);
}

Heard listen(const fs::path& path, const ListenConfig& config, const std::function<void(const Word&)>& tell) {
  const StopSignals stop;
  const Bundle bundle = load_bundle(path, executorch_version());
  warn_of_difference(bundle);
  Session session(bundle, config.threads);
  Recognizer recognizer = recognizer_of(bundle, session);
  std::unique_ptr<WavReader> wav;
  if (!config.microphone && config.source != "-") wav = std::make_unique<WavReader>(fs::path(config.source));
  PipeReader pipe(STDIN_FILENO);
  const bool piped = !wav && !config.microphone;
  if (piped && pipe.open(stop)) return {};
  const uint32_t told = wav ? wav->rate() : pipe.rate();
  if (told != 0 && config.rate != 0) {
    throw Error("--rate does not go with a WAV file.", "the file says its own rate.", "leave --rate out.");
  }
  const uint32_t wanted = bundle.audio->sample_rate;
  const uint32_t rate = told != 0 ? told : config.rate != 0 ? static_cast<uint32_t>(config.rate) : wanted;
  Resampler resampler(rate, wanted);
  uint64_t count = 0;
  std::vector<float> ready;
  const auto look = [&] {
    for (const Word& word : recognizer.push(ready.data(), ready.size())) tell(word);
    ready.clear();
  };
  const auto take = [&](const float* samples, size_t more) {
    count += more;
    resampler.push(samples, more, ready);
    look();
  };
  const double begin = Clocks::now().cpu;
  if (wav) {
    from_wav(*wav, stop, take);
  } else if (piped) {
    from_pipe(pipe, stop, take);
  } else {
    from_microphone(rate, stop, take);
  }
  resampler.finish(ready);
  look();
  return {static_cast<double>(count) / rate, Clocks::now().cpu - begin, recognizer.windows(), recognizer.calls()};
}

}  // namespace edge_lab
