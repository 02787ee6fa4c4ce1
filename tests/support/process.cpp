// SPDX-License-Identifier: Apache-2.0
#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace thimble::test {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
    int read_end = -1, write_end = -1;
    Pipe() {
        std::array<int, 2> ends{};
        if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
        read_end = ends[0], write_end = ends[1];
    }
    ~Pipe() { close_read(), close_write(); }
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;
    void close_read() { close_end(read_end); }
    void close_write() { close_end(write_end); }

  private:
    static void close_end(int& fd) {
        if (fd >= 0) close(fd);
        fd = -1;
    }
};

void limit(int resource, std::uint64_t bytes) {
    if (bytes == 0) return;
    const rlimit value{bytes, bytes};
    setrlimit(static_cast<__rlimit_resource>(resource), &value);
}

// Between fork and exec: everything it touches was prepared by the parent.
[[noreturn]] void become(const ProcessOptions& o, char* const* argv, char* const* environment,
                         const Pipe& in, const Pipe& out, const Pipe& err) {
    dup2(in.read_end, 0);
    dup2(out.write_end, 1);
    dup2(err.write_end, 2);
    if (!o.stdout_path.empty()) {
        const int fd = open(o.stdout_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 1);
        close(fd);
    }
    if (o.close_stdin) close(0);
    if (o.close_stdout) close(1);
    if (!o.directory.empty() && chdir(o.directory.c_str()) != 0) _exit(126);
    limit(RLIMIT_DATA, o.data_limit_bytes);
    limit(RLIMIT_FSIZE, o.file_limit_bytes);
    std::signal(SIGPIPE, SIG_DFL);
    if (o.file_limit_bytes != 0) std::signal(SIGXFSZ, SIG_IGN);  // a write then fails with EFBIG
    execve(argv[0], argv, environment);
    _exit(127);
}

// False at the end of the stream.
bool read_some(int fd, std::string& into) {
    std::array<char, 65536> buffer;
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n > 0) into.append(buffer.data(), static_cast<std::size_t>(n));
    return n > 0 || (n < 0 && errno == EINTR);
}

void exchange(pid_t child, const ProcessOptions& o, Pipe& in, Pipe& out, Pipe& err,
              ProcessResult& result) {
    const auto end = Clock::now() + std::chrono::duration<double>(o.timeout_seconds);
    std::string_view input = o.input;
    bool signalled = o.send_signal == 0;
    fcntl(in.write_end, F_SETFL, O_NONBLOCK);
    while (out.read_end >= 0 || err.read_end >= 0) {
        if (Clock::now() > end) {
            result.timed_out = true;
            kill(child, SIGKILL);
            return;
        }
        if (input.empty()) in.close_write();
        std::array<pollfd, 3> waits = {pollfd{out.read_end, POLLIN, 0},
                                       pollfd{err.read_end, POLLIN, 0},
                                       pollfd{in.write_end, POLLOUT, 0}};
        poll(waits.data(), waits.size(), 50);
        if (waits[0].revents != 0 && !read_some(out.read_end, result.out)) out.close_read();
        if (result.out.size() >= o.read_at_most) out.close_read();
        if (waits[1].revents != 0 && !read_some(err.read_end, result.err)) err.close_read();
        if (waits[2].revents != 0) {
            const ssize_t n = write(in.write_end, input.data(), input.size());
            if (n > 0) input.remove_prefix(static_cast<std::size_t>(n));
            if (n < 0 && errno != EAGAIN && errno != EINTR) input = {};
        }
        if (!signalled && result.err.find(o.signal_after) != std::string::npos) {
            kill(child, o.send_signal);
            signalled = true;
        }
    }
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& command, const ProcessOptions& options) {
    std::signal(SIGPIPE, SIG_IGN);  // a child that does not read its stdin must not end the test
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    std::vector<std::string> variables;
    for (const auto& [name, value] : options.environment) variables.push_back(name + "=" + value);
    std::vector<char*> environment;
    for (std::string& variable : variables) environment.push_back(variable.data());
    for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
    environment.push_back(nullptr);

    Pipe in, out, err;
    const pid_t child = fork();
    if (child < 0) throw std::runtime_error("fork");
    if (child == 0) become(options, argv.data(), environment.data(), in, out, err);
    in.close_read();
    out.close_write();
    err.close_write();

    ProcessResult result;
    exchange(child, options, in, out, err, result);
    int status = 0;
    rusage usage{};
    while (wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status)) result.exit = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
    result.peak_resident_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
    return result;
}

std::string tool_path(std::string_view name) {
    return std::string(THIMBLE_BIN_DIR) + "/" + std::string(name);
}

TemporaryDirectory::TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "thimble-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::write(std::string_view name, std::string_view text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    write_file(file(name), text);
    return file(name);
}

std::string read_file(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

void write_file(const std::string& path, std::string_view text) {
    std::ofstream stream(path, std::ios::binary);
    stream << text;
    if (!stream.flush()) throw std::runtime_error(path);
}

}  // namespace thimble::test
