// SPDX-License-Identifier: Apache-2.0
#include "io/atomic_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "core/error.h"
#include "io/file.h"
#include "io/gguf_writer.h"
#include "io/sha256.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}

// The exit code of the error that `fn` ends with; kDone when none.
Exit exit_of(const std::function<void()>& fn) {
    try {
        fn();
    } catch (const Error& e) {
        CAPTURE(e.what());
        CHECK(std::string_view(e.what()).find('\n') == std::string_view::npos);
        return e.exit();
    }
    return Exit::kDone;
}

// Runs `fn` as an unprivileged user when this is root; its exit code.
int exit_as_nobody(const std::function<void()>& fn) {
    const pid_t child = ::fork();
    if (child == 0) {
        if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) ::_exit(99);
        Exit code = Exit::kDone;
        try {
            fn();
        } catch (const Error& e) {
            code = e.exit();
        } catch (...) {
            ::_exit(98);
        }
        ::_exit(static_cast<int>(code));
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

const std::vector<TensorSpec> kTensors = {{"w", TensorType::kI8, {2 << 20}}};

}  // namespace

TEST_CASE("atomic file: appears whole, replaces only when asked") {
    const TempDir dir;
    const std::string path = dir / "out";
    {
        AtomicFile file(path, 6, IfExists::kRefuse);
        file.write(3, bytes_of("def"));
        file.write(0, bytes_of("abc"));
        CHECK(::access(path.c_str(), F_OK) != 0);
        file.commit();
    }
    CHECK(slurp(path) == "abcdef");
    CHECK(exit_of([&] { AtomicFile(path, 0, IfExists::kRefuse); }) == Exit::kCannotCreate);
    {
        AtomicFile dropped(path, 0, IfExists::kReplace);
        dropped.write(0, bytes_of("lost"));
    }
    CHECK(slurp(path) == "abcdef");
    write_text_file(path, "new", IfExists::kReplace);
    CHECK(slurp(path) == "new");
    CHECK(dir.entries() == 1);

    // Created by someone else after the check at opening.
    AtomicFile late(dir / "late", 0, IfExists::kRefuse);
    spew(dir / "late", "theirs");
    CHECK(exit_of([&] { late.commit(); }) == Exit::kCannotCreate);
    CHECK(slurp(dir / "late") == "theirs");
}

TEST_CASE("atomic file: the rest of a killed writer is reused, a living writer is respected") {
    const TempDir dir;
    spew(dir / "out.partial", "left over by a killed run, longer than the new contents");
    {
        AtomicFile file(dir / "out", 0, IfExists::kRefuse);
        CHECK(exit_of([&] { AtomicFile(dir / "out", 0, IfExists::kRefuse); }) ==
              Exit::kCannotCreate);
        file.write(0, bytes_of("short"));
        file.commit();
    }
    CHECK(slurp(dir / "out") == "short");
    CHECK(dir.entries() == 1);

    // A link under the partial's name must not be followed.
    spew(dir / "precious", "keep");
    REQUIRE(::symlink((dir / "precious").c_str(), (dir / "x.partial").c_str()) == 0);
    CHECK(exit_of([&] { AtomicFile(dir / "x", 0, IfExists::kRefuse); }) == Exit::kCannotCreate);
    REQUIRE(::link((dir / "precious").c_str(), (dir / "y.partial").c_str()) == 0);
    CHECK(exit_of([&] { AtomicFile(dir / "y", 0, IfExists::kRefuse); }) == Exit::kCannotCreate);
    CHECK(slurp(dir / "precious") == "keep");
}

TEST_CASE("atomic file: links, directories and devices as targets") {
    const TempDir dir;
    spew(dir / "real", "old");
    REQUIRE(::symlink((dir / "real").c_str(), (dir / "link").c_str()) == 0);
    write_text_file(dir / "link", "new", IfExists::kReplace);
    CHECK(slurp(dir / "real") == "new");
    for (const auto mode : {IfExists::kRefuse, IfExists::kReplace}) {
        CHECK(exit_of([&] { write_text_file(dir.path(), "x", mode); }) == Exit::kCannotCreate);
        CHECK(exit_of([&] { write_text_file(dir / "no/file", "x", mode); }) == Exit::kCannotCreate);
        CHECK(exit_of([&] { write_text_file("/dev/null", "x", mode); }) == Exit::kDone);
        CHECK(exit_of([&] { AtomicFile("/dev/null", 0, mode); }) == Exit::kCannotCreate);
    }
    struct stat info {};
    CHECK(::stat("/dev/null", &info) == 0);
    CHECK(S_ISCHR(info.st_mode));
    CHECK(exit_of([&] { write_text_file("", "x", IfExists::kRefuse); }) == Exit::kUsage);
    CHECK(exit_of([] { write_text_file("/dev/full", "x", IfExists::kReplace); }) == Exit::kIo);
}

TEST_CASE("atomic file: an unwritable directory is 73 for an unprivileged user") {
    const TempDir dir;
    const std::string locked = dir / "locked";
    REQUIRE(::mkdir(locked.c_str(), 0555) == 0);
    REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
    CHECK(exit_as_nobody([&] { write_text_file(locked + "/a", "x", IfExists::kReplace); }) == 73);
    CHECK(exit_as_nobody([&] {
              GgufWriter(locked + "/a.gguf", Metadata(), kTensors, IfExists::kReplace);
          }) == 73);
    CHECK(exit_as_nobody([] { (void)File("/proc/1/mem"); }) == 66);  // unreadable input
}

TEST_CASE("atomic file: a full disk is 74 and leaves nothing") {
    const TempDir dir;
    if (::geteuid() != 0 || ::mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
        MESSAGE("SKIPPED: needs root to mount a small tmpfs");
        return;
    }
    struct Unmount {
        const TempDir& dir;
        ~Unmount() { ::umount2(dir.path().c_str(), MNT_DETACH); }
    } unmount{dir};
    // Known beforehand.
    CHECK(exit_of([&] { GgufWriter(dir / "a.gguf", Metadata(), kTensors, IfExists::kReplace); }) ==
          Exit::kIo);
    CHECK(dir.entries() == 0);
    // Met while writing.
    const std::string megabytes(2 << 20, 'x');
    CHECK(exit_of([&] {
              AtomicFile file(dir / "a", 0, IfExists::kReplace);
              file.write(0, bytes_of(megabytes));
          }) == Exit::kIo);
    CHECK(dir.entries() == 0);
    // Reserved: another file cannot take the space away.
    const std::vector<TensorSpec> half = {{"w", TensorType::kI8, {600 << 10}}};
    GgufWriter writer(dir / "a.gguf", Metadata(), half, IfExists::kReplace);
    CHECK(exit_of([&] {
              write_text_file(dir / "b", megabytes.substr(0, 600 << 10), IfExists::kReplace);
          }) == Exit::kIo);
    writer.write(0, 0, bytes_of(megabytes).first(600 << 10));
    writer.finish();
    CHECK(dir.entries() == 1);
}

TEST_CASE("output = input is refused by name and by inode") {
    const TempDir dir;
    spew(dir / "in", "x");
    spew(dir / "other", "x");
    REQUIRE(::link((dir / "in").c_str(), (dir / "hard").c_str()) == 0);
    REQUIRE(::symlink("in", (dir / "soft").c_str()) == 0);
    const std::vector<std::string> inputs = {dir / "other", dir / "in"};
    for (const char* same : {"in", "hard", "soft", "./in"})
        CHECK(exit_of([&] { refuse_overwriting_inputs(dir / same, inputs); }) == Exit::kUsage);
    CHECK(exit_of([&] { refuse_overwriting_inputs(dir / "new", inputs); }) == Exit::kDone);
}

TEST_CASE("text input: whole, bounded, from pipes too") {
    const TempDir dir;
    const std::string text = std::string(200'000, 'a') + "z";
    spew(dir / "t", text);
    CHECK(read_text_file(dir / "t", text.size()) == text);
    CHECK(exit_of([&] { (void)read_text_file(dir / "t", text.size() - 1); }) == Exit::kBadData);
    CHECK(exit_of([&] { (void)read_text_file(dir / "absent", 10); }) == Exit::kNoInput);
    CHECK(exit_of([&] { (void)read_text_file(dir.path(), 10); }) == Exit::kIo);
    CHECK(exit_of([] { (void)read_text_file("/dev/zero", 100'000); }) == Exit::kBadData);
    CHECK(read_text_file("/dev/null", 0).empty());
    int ends[2] = {};
    REQUIRE(::pipe(ends) == 0);
    REQUIRE(::write(ends[1], "piped", 5) == 5);
    ::close(ends[1]);
    CHECK(read_text_file("/dev/fd/" + std::to_string(ends[0]), 100) == "piped");
    ::close(ends[0]);
}

TEST_CASE("sha256: the standard's examples, and files") {
    CHECK(sha256_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(sha256_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const TempDir dir;
    const std::string million(1'000'000, 'a');
    spew(dir / "a", million + million);
    CHECK(sha256_of(million) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    CHECK(sha256_of_file(dir / "a") == sha256_of(million + million));
}
