// SPDX-License-Identifier: Apache-2.0
#include "recipe/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/sha256.h"

namespace thimble::recipe {
namespace {

namespace fs = std::filesystem;

// What changes when a file's bytes do; nothing if it cannot be told.
std::optional<std::string> identity(const std::string& path) {
    struct stat s = {};
    if (stat(path.c_str(), &s) != 0) return std::nullopt;
    const auto time = [](const timespec& t) {
        return std::to_string(t.tv_sec) + "." + std::to_string(t.tv_nsec);
    };
    return std::to_string(s.st_dev) + ":" + std::to_string(s.st_ino) + ":" +
           std::to_string(s.st_size) + ":" + time(s.st_mtim) + ":" + time(s.st_ctim);
}

// "m-00001-of-00003.gguf" -> all files that differ in the first number only; else the file alone.
std::vector<std::string> parts_of(const std::string& path) {
    const fs::path file(path);
    const std::string name = file.filename().string();
    constexpr std::size_t kTail = sizeof("-00001-of-00003.gguf") - 1;
    const auto digits = [&](std::size_t from_end) {
        return std::all_of(name.end() - static_cast<std::ptrdiff_t>(from_end),
                           name.end() - static_cast<std::ptrdiff_t>(from_end) + 5,
                           [](char c) { return c >= '0' && c <= '9'; });
    };
    if (name.size() <= kTail || !name.ends_with(".gguf") || !digits(19) || !digits(10) ||
        name.substr(name.size() - 14, 4) != "-of-")
        return {path};
    const std::string stem = name.substr(0, name.size() - 19);
    const std::string tail = name.substr(name.size() - 14);
    std::vector<std::string> parts;
    std::error_code failed;
    const fs::path parent = file.has_parent_path() ? file.parent_path() : fs::path(".");
    for (const auto& entry : fs::directory_iterator(parent, failed)) {
        const std::string other = entry.path().filename().string();
        if (other.size() == name.size() && other.starts_with(stem) && other.ends_with(tail))
            parts.push_back(entry.path().string());
    }
    std::sort(parts.begin(), parts.end());
    return parts;
}

std::vector<std::string> files_below(const std::string& directory) {
    std::vector<std::string> files;
    std::error_code failed;
    for (const auto& entry : fs::recursive_directory_iterator(directory, failed))
        if (entry.is_regular_file(failed)) files.push_back(entry.path().string());
    std::sort(files.begin(), files.end());
    return files;
}

}  // namespace

std::string file_name_of(const std::string& id) {
    std::string name = id;
    std::replace_if(
        name.begin(), name.end(), [](char c) { return c == '[' || c == ','; }, '.');
    std::erase(name, ']');
    return name;
}

DirectoryLock::DirectoryLock(const std::string& path, void (*on_wait)(), bool (*give_up)()) {
    for (;;) {
        acquire(path, on_wait, give_up);
        // While this process waited, `recipe clean` may have removed the file.
        struct stat held = {}, named = {};
        if (fstat(fd_, &held) == 0 && stat(path.c_str(), &named) == 0 &&
            held.st_ino == named.st_ino && held.st_dev == named.st_dev)
            return;
        close(fd_);
    }
}

void DirectoryLock::acquire(const std::string& path, void (*on_wait)(), bool (*give_up)()) {
    std::error_code failed;
    fs::create_directories(fs::path(path).parent_path(), failed);
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) throw Error(Exit::kCannotCreate, path, std::strerror(errno));
    if (flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
    on_wait();
    while (flock(fd_, LOCK_EX) != 0) {
        if (errno == EINTR && !give_up()) continue;
        const int reason = errno;
        close(fd_);
        throw Error(Exit::kFailure, path, std::string("cannot be locked: ") + std::strerror(reason),
                    reason == ENOLCK || reason == EOPNOTSUPP
                        ? "choose a --workdir on a file system with locks"
                        : "");
    }
}

DirectoryLock::~DirectoryLock() { close(fd_); }

Store::Store(const std::string& workdir) : directory_((fs::path(workdir) / ".thimble").string()) {
    const std::optional<Json> hashes = read(directory_ + "/hashes.json");
    if (!hashes || !hashes->is_object()) return;
    for (const auto& [path, entry] : hashes->as_members("hashes")) {
        const Json *id = entry.find("identity"), *hash = entry.find("sha256");
        if (id != nullptr && hash != nullptr && id->is_string() && hash->is_string())
            hashes_[path] = {id->as_string("identity"), hash->as_string("sha256")};
    }
}

void Store::create() const {
    for (const char* part : {"", "/records", "/last", "/output", "/reports", "/begun"}) {
        std::error_code failed;
        fs::create_directories(directory_ + part, failed);
        if (failed) throw Error(Exit::kCannotCreate, directory_ + part, failed.message());
    }
}

std::string Store::hash_file(const std::string& path) {
    const std::optional<std::string> now = identity(path);
    if (!now) throw Error(Exit::kNoInput, path, std::strerror(errno));
    const auto known = hashes_.find(path);
    if (known != hashes_.end() && known->second.first == *now) return known->second.second;
    std::string hash = sha256_of_file(path);
    hashes_[path] = {*now, hash};
    return hash;
}

std::string Store::hash(const std::string& path) {
    std::error_code failed;
    const bool directory = fs::is_directory(path, failed);
    const std::vector<std::string> files = directory ? files_below(path) : parts_of(path);
    if (files.size() == 1 && !directory) return hash_file(files.front());
    std::string all;
    for (const std::string& file : files) {
        const fs::path base = directory ? fs::path(path) : fs::path(path).parent_path();
        all += fs::path(file).lexically_relative(base).string() + " " + hash_file(file) + "\n";
    }
    return sha256_of(all);
}

void Store::save_hashes() const {
    Json hashes = Json::object();
    for (const auto& [path, entry] : hashes_) {
        Json values = Json::object();
        values.set("identity", entry.first);
        values.set("sha256", entry.second);
        hashes.set(path, values);
    }
    write_text_file(directory_ + "/hashes.json", hashes.dump(1) + "\n", IfExists::kReplace);
}

std::optional<Json> Store::read(const std::string& path) const {
    std::error_code failed;
    if (!fs::exists(path, failed)) return std::nullopt;
    try {
        return read_json_file(path);
    } catch (const Error&) {  // a damaged record is as good as none: the step runs again
        return std::nullopt;
    }
}

std::optional<Json> Store::record(const std::string& key) const {
    return read(directory_ + "/records/" + key + ".json");
}

std::optional<Json> Store::last_record(const std::string& id) const {
    const std::optional<Json> last = read(directory_ + "/last/" + file_name_of(id) + ".json");
    const Json* key = last ? last->find("key") : nullptr;
    if (key == nullptr || !key->is_string()) return std::nullopt;
    const std::string& text = key->as_string("key");
    const bool hex = text.find_first_not_of("0123456789abcdef") == std::string::npos;
    return hex ? record(text) : std::nullopt;
}

void Store::put_record(const std::string& id, const std::string& key, const Json& record) const {
    write_text_file(directory_ + "/records/" + key + ".json", record.dump(1) + "\n",
                    IfExists::kReplace);
    Json last = Json::object();
    last.set("id", id);
    last.set("key", key);
    write_text_file(directory_ + "/last/" + file_name_of(id) + ".json", last.dump() + "\n",
                    IfExists::kReplace);
}

std::string Store::begun_path(const std::string& id) const {
    return directory_ + "/begun/" + file_name_of(id) + ".json";
}

void Store::begin(const std::string& id, const std::vector<std::string>& outputs) const {
    Json list = Json::array();
    for (const std::string& output : outputs) list.push(output);
    Json begun = Json::object();
    begun.set("id", id);
    begun.set("outputs", list);
    write_text_file(begun_path(id), begun.dump() + "\n", IfExists::kReplace);
}

void Store::end(const std::string& id) const {
    std::error_code failed;
    fs::remove(begun_path(id), failed);
}

std::map<std::string, MadeFile> Store::made() const {
    std::map<std::string, MadeFile> files;
    std::error_code failed;
    for (const auto& entry : fs::directory_iterator(directory_ + "/records", failed)) {
        const std::optional<Json> record = read(entry.path().string());
        const Json* outputs = record ? record->find("outputs") : nullptr;
        if (outputs == nullptr || !outputs->is_object()) continue;
        for (const auto& [path, hash] : outputs->as_members("outputs"))
            if (hash.is_string()) files[path].hashes.push_back(hash.as_string("outputs"));
    }
    for (const auto& entry : fs::directory_iterator(directory_ + "/begun", failed)) {
        const std::optional<Json> begun = read(entry.path().string());
        const Json* outputs = begun ? begun->find("outputs") : nullptr;
        if (outputs == nullptr || !outputs->is_array()) continue;
        for (const Json& path : outputs->as_array("outputs"))
            if (path.is_string()) files[path.as_string("outputs")].unfinished = true;
    }
    return files;
}

std::string Store::stdout_path(const std::string& key) const {
    return directory_ + "/output/" + key + ".txt";
}
std::string Store::report_path(const std::string& key) const {
    return directory_ + "/reports/" + key + ".json";
}

}  // namespace thimble::recipe
