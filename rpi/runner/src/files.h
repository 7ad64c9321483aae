// Files: read whole with a limit, hashed in pieces, written whole or not at all.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace edge_lab {

namespace fs = std::filesystem;

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

// A regular file, open for reading. Throws Error if it is missing or something else (a pipe would hang).
File open_file(const fs::path& path);

// The file's bytes. Throws Error if it is missing, no regular file (a pipe would hang), or larger than `limit`.
std::vector<uint8_t> read_file(const fs::path& path, uint64_t limit);

std::string sha256_of(const fs::path& path);

// Writes beside `path` and renames: a reader sees the old file or the new one, never half of it.
void write_file(const fs::path& path, const std::string& text);

// First line of a file without the line end; empty if there is none.
std::string first_line(const fs::path& path);

// A path inside a bundle: relative, forward slashes, no "." or ".." part (the pattern of the published schema).
bool is_inside(const std::string& name);

}  // namespace edge_lab
