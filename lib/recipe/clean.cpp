// SPDX-License-Identifier: Apache-2.0
#include "recipe/clean.h"

#include <algorithm>
#include <filesystem>

#include "cli/console.h"
#include "core/error.h"
#include "core/log.h"
#include "recipe/store.h"

namespace thimble::recipe {
namespace {

namespace fs = std::filesystem;

class Cleaner {
  public:
    Cleaner(Store& store, const std::string& workdir, const CleanOptions& options)
        : store_(store), options_(options), root_(fs::canonical(workdir)) {}

    Json run() {
        for (const auto& [path, file] : store_.made()) output(path, file);
        cache();
        Json result = Json::object();
        result.set("removed", removed_);
        result.set("kept", kept_);
        return result;
    }

  private:
    void keep(const std::string& path, const std::string& why) {
        Json entry = Json::object();
        entry.set("path", path);
        entry.set("why", why);
        kept_.push(entry);
    }
    // Where a path really leads, its last part not followed.
    [[nodiscard]] bool inside(const fs::path& path) const {
        std::error_code failed;
        const fs::path parent = fs::canonical(path.parent_path(), failed);
        if (failed) return false;
        const fs::path relative = parent.lexically_relative(root_);
        return !relative.empty() && *relative.begin() != "..";
    }

    void output(const std::string& shown, const MadeFile& file) {
        const fs::path path = root_ / shown;  // an absolute `shown` replaces the root
        std::error_code failed;
        const fs::file_status status = fs::symlink_status(path, failed);
        if (!fs::exists(status)) return;
        if (!inside(path)) return keep(shown, "lies outside the work directory");
        if (!fs::is_regular_file(status)) return keep(shown, "is not a regular file");
        const std::string hash = store_.hash(path.string());
        const bool same =
            std::find(file.hashes.begin(), file.hashes.end(), hash) != file.hashes.end();
        if (!same && !file.unfinished && !options_.force)
            return keep(shown, "was changed since a step wrote it (--force removes it)");
        removed_.push(shown);
        if (options_.dry) return;
        if (!fs::remove(path, failed) || failed)
            throw Error(Exit::kIo, path.string(), "cannot be removed: " + failed.message());
        for (fs::path parent = path.parent_path(); parent != root_; parent = parent.parent_path())
            if (!fs::remove(parent, failed) || failed) break;  // not empty
    }

    void cache() {
        const fs::path directory = store_.directory();
        std::error_code failed;
        const fs::file_status status = fs::symlink_status(directory, failed);
        if (!fs::is_directory(status)) return;
        removed_.push(".thimble");
        if (!options_.dry) fs::remove_all(directory);
    }

    Store& store_;
    CleanOptions options_;
    fs::path root_;
    Json removed_ = Json::array(), kept_ = Json::array();
};

}  // namespace

Json clean(const std::string& workdir, const CleanOptions& options) {
    Store store(workdir);
    std::error_code failed;
    if (!fs::is_directory(fs::symlink_status(store.directory(), failed))) {
        Json nothing = Json::object();
        nothing.set("removed", Json::array());
        nothing.set("kept", Json::array());
        return nothing;
    }
    const DirectoryLock lock(
        store.directory() + "/lock",
        [] { log_info("another run holds this work directory; waiting"); },
        [] { return cli::seen_signal() != 0; });
    return Cleaner(store, workdir, options).run();
}

}  // namespace thimble::recipe
