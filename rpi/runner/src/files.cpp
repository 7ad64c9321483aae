#include "files.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "error.h"
#include "sha256.h"

namespace edge_lab {
namespace {

[[noreturn]] void unreadable(const fs::path& path, const std::string& why) {
  throw Error(path.string() + " can't be read.", why, "check the path, and that this user may read it.");
}

}  // namespace

File open_file(const fs::path& path) {
  std::error_code none;
  const auto status = fs::status(path, none);
  if (none == std::errc::too_many_symbolic_link_levels) unreadable(path, "it is a link that leads back to itself.");
  if (!fs::exists(status)) unreadable(path, "there is no such file.");
  if (!fs::is_regular_file(status)) unreadable(path, "it is no regular file.");
  File file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) unreadable(path, std::string(std::strerror(errno)) + ".");
  return file;
}

std::vector<uint8_t> read_file(const fs::path& path, uint64_t limit) {
  const File file = open_file(path);
  std::error_code none;
  const uint64_t size = fs::file_size(path, none);
  if (none || size > limit) {
    unreadable(path, "it has " + std::to_string(size) + " bytes; at most " + std::to_string(limit) + " are read.");
  }
  std::vector<uint8_t> bytes(size);
  if (std::fread(bytes.data(), 1, size, file.get()) != size) unreadable(path, "it ended early.");
  return bytes;
}

std::string sha256_of(const fs::path& path) {
  const File file = open_file(path);
  Sha256 digest;
  std::vector<uint8_t> piece(1 << 16);
  while (const size_t got = std::fread(piece.data(), 1, piece.size(), file.get())) digest.update(piece.data(), got);
  if (std::ferror(file.get())) unreadable(path, "reading failed.");
  return digest.hex();
}

void write_file(const fs::path& path, const std::string& text) {
  const fs::path part = path.string() + ".part-" + std::to_string(getpid());
  bool good = false;
  {
    std::ofstream out(part, std::ios::binary);
    out << text;
    out.flush();
    good = out.good();
  }
  std::error_code failed;
  if (good) fs::rename(part, path, failed);
  if (!good || failed) {
    std::error_code none;
    fs::remove(part, none);
    throw Error(path.string() + " could not be written.",
                failed ? failed.message() + "." : "the folder is missing, not writable, or the disk is full.",
                "name a file in a folder that exists and has room.");
  }
}

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  while (!line.empty() && (line.back() == '\0' || line.back() == '\r' || line.back() == ' ')) line.pop_back();
  return line;
}

bool is_inside(const std::string& name) {
  if (name.empty() || name.find_first_of(std::string("\\:\0\n", 4)) != std::string::npos) return false;
  size_t start = 0;
  while (true) {
    const size_t end = name.find('/', start);
    const std::string part = name.substr(start, end == std::string::npos ? end : end - start);
    if (part.empty() || part == "." || part == "..") return false;
    if (end == std::string::npos) return true;
    start = end + 1;
  }
}

}  // namespace edge_lab
