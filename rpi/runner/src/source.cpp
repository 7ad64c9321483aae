#include "source.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.h"
#include "wav.h"

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

bool from_pipe(int fd, const StopSignals& stop, const TakeSamples& take) {
  std::vector<uint8_t> bytes(2 * kPiece);
  std::vector<float> piece(kPiece);
  for (size_t held = 0;;) {  // half a sample may wait for its other half
    if (stop.wait(fd)) return true;
    const ssize_t got = read(fd, bytes.data() + held, bytes.size() - held);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) throw Error("the samples could not be read.", std::string(std::strerror(errno)) + ".", "pipe raw samples in.");
    if (got == 0) return false;
    const size_t all = held + static_cast<size_t>(got), count = all / 2;
    for (size_t i = 0; i < count; ++i) {
      const auto value = static_cast<int16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8);
      piece[i] = static_cast<float>(value) / 32768.0f;
    }
    held = all % 2;
    if (held != 0) bytes[0] = bytes[all - 1];
    take(piece.data(), count);
  }
}

bool from_microphone(uint32_t rate, const StopSignals& stop, const TakeSamples& take) {
  Recorder recorder(rate);
  if (from_pipe(recorder.fd, stop, take)) return true;
  if (const int status = recorder.end()) {
    throw Error("arecord ended with status " + std::to_string(status) + ".", "its own words are above.",
                "arecord -l lists the microphones; choose one as ALSA's default device (~/.asoundrc).");
  }
  return false;
}

}  // namespace edge_lab
