// SPDX-License-Identifier: Apache-2.0
// What a work directory remembers in .thimble/: results by cache key, the last key of each step,
// hashes of files, captured stdout. One process at a time: flock, which Linux carries over NFS too
// (NFSv4, or NFSv3 with lockd), so jobs on several nodes take turns as well.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace thimble::recipe {

// Exclusive for this object's life. Waits while another process holds it. Whoever holds the lock
// may remove its file.
class DirectoryLock {
  public:
    // `on_wait` is called once before waiting; `give_up` is asked when a signal arrives.
    DirectoryLock(const std::string& path, void (*on_wait)(), bool (*give_up)());
    ~DirectoryLock();
    DirectoryLock(const DirectoryLock&) = delete;
    DirectoryLock& operator=(const DirectoryLock&) = delete;

  private:
    void acquire(const std::string& path, void (*on_wait)(), bool (*give_up)());
    int fd_ = -1;
};

// Files that steps have written, by path relative to the work directory (absolute outside it).
struct MadeFile {
    std::vector<std::string> hashes;  // of finished steps
    bool unfinished = false;          // a step that would write it was begun and has not ended
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

    // Between these two, a killed step's outputs are known to be its own.
    void begin(const std::string& id, const std::vector<std::string>& outputs) const;
    void end(const std::string& id) const;
    [[nodiscard]] std::map<std::string, MadeFile> made() const;

    [[nodiscard]] std::string stdout_path(const std::string& key) const;
    [[nodiscard]] std::string report_path(const std::string& key) const;

  private:
    [[nodiscard]] std::string hash_file(const std::string& path);
    [[nodiscard]] std::optional<Json> read(const std::string& path) const;
    [[nodiscard]] std::string begun_path(const std::string& id) const;
    std::string directory_;
    std::map<std::string, std::pair<std::string, std::string>> hashes_;  // path -> identity, hash
};

// A step's id as a file name: brackets and commas of matrix ids would only invite quoting.
[[nodiscard]] std::string file_name_of(const std::string& id);

}  // namespace thimble::recipe
