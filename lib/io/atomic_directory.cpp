// SPDX-License-Identifier: Apache-2.0
#include "io/atomic_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

Error cannot_create(const std::string& path, const std::string& what, std::string hint = {}) {
    return {Exit::kCannotCreate, escaped(path, 1024), "cannot create: " + what, std::move(hint)};
}

std::string without_slashes(std::string path) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    return path;
}

// Files as a model's directory holds them, and no others.
bool may_be_replaced(const fs::directory_entry& entry) {
    static constexpr std::array<std::string_view, 10> kSuffixes = {
        ".safetensors", ".json",          ".jinja",   ".txt",         ".model",
        ".md",          ".gitattributes", ".partial", ".checkpoints", ".gguf"};
    std::error_code none;
    if (!entry.is_regular_file(none)) return false;
    const std::string name = entry.path().filename().string();
    return name == "LICENSE" || name == "NOTICE" ||
           std::any_of(kSuffixes.begin(), kSuffixes.end(),
                       [&](std::string_view suffix) { return name.ends_with(suffix); });
}

void check_replaceable(const std::string& path, bool any) {
    std::error_code error;
    fs::directory_iterator entries(path, error);
    if (error) throw cannot_create(path, error.message());
    for (const fs::directory_entry& entry : entries) {
        if (!any) {
            throw cannot_create(path, "the directory is not empty",
                                "give --overwrite to replace it");
        }
        if (may_be_replaced(entry)) continue;
        throw cannot_create(path,
                            "it holds '" + escaped(entry.path().filename().string(), 255) +
                                "', which is not a file of a model",
                            "choose another name");
    }
}

void sync(const std::string& directory) {
    const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;  // writable but not readable: only the time of its writing is open
    const bool failed = ::fsync(fd) != 0 && errno != EINVAL;
    ::close(fd);
    if (failed) throw Error(Exit::kIo, escaped(directory, 1024), "cannot sync the directory");
}

}  // namespace

AtomicDirectory::AtomicDirectory(const std::string& path, IfExists if_exists, const Keeps& keeps)
    : path_(without_slashes(path)),
      partial_(path_ + ".partial"),
      if_exists_(if_exists),
      kept_(keeps != nullptr) {
    if (path_.empty()) throw Error(Exit::kUsage, "output", "the path is empty");
    std::error_code error;
    const fs::file_status there = fs::status(path_, error);
    if (fs::exists(there)) {
        if (!fs::is_directory(there)) throw cannot_create(path_, "it is not a directory");
        path_ = fs::canonical(path_).string();
        partial_ = path_ + ".partial";
        check_replaceable(path_, if_exists == IfExists::kReplace);
    }
    if (fs::is_directory(fs::symlink_status(partial_, error))) check_replaceable(partial_, true);
    if (::mkdir(partial_.c_str(), 0777) != 0 && errno != EEXIST)
        throw cannot_create(path_, std::strerror(errno));
    lock_ = ::open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (lock_ < 0) throw cannot_create(path_, escaped(partial_, 1024) + " is in the way");
    if (::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        ::close(lock_);
        throw cannot_create(path_, "another process is writing it");
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(partial_)) {
        if (!keeps || !keeps(entry.path().filename().string())) fs::remove(entry.path(), error);
    }
}

AtomicDirectory::~AtomicDirectory() {
    if (lock_ < 0) return;
    std::error_code error;
    if (!kept_) fs::remove_all(partial_, error);
    ::close(lock_);
}

void AtomicDirectory::commit() {
    sync(partial_);
    std::error_code error;
    const bool replaces = if_exists_ == IfExists::kReplace && fs::exists(path_, error);
    // An empty directory gives way to the rename; a filled one changes places with the new one.
    const int failed =
        replaces ? ::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE)
                 : ::rename(partial_.c_str(), path_.c_str());
    if (failed != 0) throw cannot_create(path_, std::strerror(errno));
    if (replaces) fs::remove_all(partial_, error);
    ::close(std::exchange(lock_, -1));
    const fs::path parent = fs::path(path_).parent_path();
    sync(parent.empty() ? "." : parent.string());
}

}  // namespace thimble
