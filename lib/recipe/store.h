// SPDX-License-Identifier: Apache-2.0
// What a work directory remembers in .thimble/: results by cache key, the last key of each step,
// hashes of files, captured stdout. One process at a time.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "io/json.h"

namespace thimble::recipe {

// Exclusive for this object's life. Waits while another process holds it.
class DirectoryLock {
  public:
    // `on_wait` is called once before waiting; `give_up` is asked when a signal arrives.
    DirectoryLock(const std::string& path, void (*on_wait)(), bool (*give_up)());
    ~DirectoryLock();
    DirectoryLock(const DirectoryLock&) = delete;
    DirectoryLock& operator=(const DirectoryLock&) = delete;

  private:
    int fd_ = -1;
};

class Store {
  public:
    explicit Store(const std::string& workdir);

    [[nodiscard]] const std::string& directory() const noexcept { return directory_; }
    // Creates the directory; before the first write.
    void create() const;

    // SHA-256 of a file, of a split model's parts, or of a directory's files; remembered by the
    // file's identity (inode, size, times). Error(kNoInput) if it is missing.
    [[nodiscard]] std::string hash(const std::string& path);
    void save_hashes() const;

    // A finished step, or nothing (also when the record cannot be read).
    [[nodiscard]] std::optional<Json> record(const std::string& key) const;
    [[nodiscard]] std::optional<Json> last_record(const std::string& id) const;
    void put_record(const std::string& id, const std::string& key, const Json& record) const;

    [[nodiscard]] std::string stdout_path(const std::string& key) const;
    [[nodiscard]] std::string report_path(const std::string& key) const;

  private:
    [[nodiscard]] std::string hash_file(const std::string& path);
    [[nodiscard]] std::optional<Json> read(const std::string& path) const;
    std::string directory_;
    std::map<std::string, std::pair<std::string, std::string>> hashes_;  // path -> identity, hash
};

}  // namespace thimble::recipe
