#include "source.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.h"
#include "signature.h"

extern char** environ;  // NOLINT: what POSIX calls it

namespace edge_lab {
namespace {

constexpr size_t kPiece = 1 << 13;  // samples

sigset_t stop_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

[[noreturn]] void no_microphone(const std::string& why) {
  throw Error("arecord could not be started, so there is no microphone.", why + ".",
              "sudo apt install alsa-utils, or pipe raw samples into `edge-lab-runner listen BUNDLE -`.");
}

// arecord, whose samples come out of `fd`. It ends when this does.
class Recorder {
 public:
  explicit Recorder(uint32_t rate) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) no_microphone(std::strerror(errno));
    const std::string hz = std::to_string(rate);
    const char* const words[] = {"arecord", "-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", hz.c_str(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    const int failed = posix_spawnp(&child_, words[0], &actions, &attributes, const_cast<char**>(words), environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(ends[1]);
    fd = ends[0];
    if (failed != 0) {
      close(fd);
      no_microphone(std::strerror(failed));
    }
  }
  ~Recorder() {
    close(fd);
    if (child_ > 0) kill(child_, SIGTERM), end();
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // Waits for its end; its exit status, 128 and more after a signal.
  int end() {
    int status = 0;
    while (waitpid(child_, &status, 0) < 0 && errno == EINTR) {
    }
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  int fd = -1;

 private:
  pid_t child_ = -1;
};

}  // namespace

StopSignals::StopSignals() {
  const sigset_t set = stop_set();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd_ < 0) throw Error("signals can't be waited for.", std::string(std::strerror(errno)) + ".", "close other programs.");
}

StopSignals::~StopSignals() { close(fd_); }

bool StopSignals::wait(int fd, int milliseconds) const {
  pollfd both[2] = {{fd_, POLLIN, 0}, {fd, POLLIN, 0}};  // a negative fd is passed over
  while (poll(both, 2, milliseconds) < 0 && errno == EINTR) {
  }
  return (both[0].revents & POLLIN) != 0;
}

bool from_wav(WavReader& wav, const StopSignals& stop, const TakeSamples& take) {
  std::vector<float> piece(kPiece);
  while (const size_t got = wav.read(piece.data(), piece.size())) {
    if (stop.came()) return true;
    take(piece.data(), got);
  }
  return false;
}

size_t PipeReader::more(const StopSignals& stop, bool* stopped) {
  const size_t before = held_.size();
  held_.resize(before + 2 * kPiece);
  for (;;) {
    if ((*stopped = stop.wait(fd_))) return held_.resize(before), 0;
    const ssize_t got = ::read(fd_, held_.data() + before, 2 * kPiece);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) throw Error("the samples could not be read.", std::string(std::strerror(errno)) + ".", "pipe raw samples in.");
    held_.resize(before + static_cast<size_t>(got));
    return static_cast<size_t>(got);
  }
}

bool PipeReader::open(const StopSignals& stop) {
  bool stopped = false;
  while (held_.size() < kStart && more(stop, &stopped) != 0) {
  }
  if (stopped) return true;
  if (held_.size() < 12 || std::memcmp(held_.data(), "RIFF", 4) != 0 || std::memcmp(&held_[8], "WAVE", 4) != 0) {
    const std::string kind = sound_in_pipe(held_.data(), held_.size());
    if (kind.empty()) return false;
    throw Error("standard input is " + kind + ".", "WAV, or raw 16-bit mono samples, can be heard.",
                "pipe raw samples: ffmpeg -i INPUT -f s16le -ar 16000 -ac 1 - | edge-lab-runner listen BUNDLE -");
  }
  wav_.emplace("standard input");
  std::vector<float> none;  // in front of the samples there are none
  for (size_t at = 0; !wav_->begun(); ++at) {
    if (at == held_.size()) {
      held_.clear(), at = 0;
      if (more(stop, &stopped) == 0) return stopped ? true : (wav_->finish(), false);
    }
    wav_->push(&held_[at], 1, none);
    if (wav_->begun()) held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(at + 1));
  }
  return false;
}

void PipeReader::take(std::vector<float>& out) {
  if (wav_) {
    wav_->push(held_.data(), held_.size(), out);
    held_.clear();
    return;
  }
  out.resize(held_.size() / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(static_cast<int16_t>(held_[2 * i] | held_[2 * i + 1] << 8)) / 32768.0f;
  }
  held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(2 * out.size()));  // half a sample may wait
}

bool PipeReader::read(const StopSignals& stop, std::vector<float>& out) {
  out.clear();
  bool stopped = false;
  for (bool first = true; out.empty(); first = false) {
    if ((!first || held_.size() < 2) && more(stop, &stopped) == 0) {
      if (!stopped && wav_) wav_->finish();
      return stopped;
    }
    take(out);
  }
  return false;
}

bool from_pipe(PipeReader& pipe, const StopSignals& stop, const TakeSamples& take) {
  std::vector<float> piece;
  for (;;) {
    if (pipe.read(stop, piece)) return true;
    if (piece.empty()) return false;
    take(piece.data(), piece.size());
  }
}

bool from_microphone(uint32_t rate, const StopSignals& stop, const TakeSamples& take) {
  Recorder recorder(rate);
  PipeReader samples(recorder.fd);  // arecord gives raw ones: there is nothing to open
  if (from_pipe(samples, stop, take)) return true;
  if (const int status = recorder.end()) {
    throw Error("arecord ended with status " + std::to_string(status) + ".", "its own words are above.",
                "arecord -l lists the microphones; choose one as ALSA's default device (~/.asoundrc).");
  }
  return false;
}

}  // namespace edge_lab
