// SPDX-License-Identifier: Apache-2.0
#include "recipe/child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "core/error.h"

namespace thimble::recipe {
namespace {

// Ends and reaps the child when an exception leaves early.
class Child {
  public:
    Child(pid_t pid, int out) : pid_(pid), out_(out) {}
    ~Child() {
        if (out_ >= 0) close(out_);
        if (pid_ <= 0) return;
        kill(pid_, SIGTERM);
        (void)wait();
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    [[nodiscard]] pid_t pid() const noexcept { return pid_; }
    [[nodiscard]] int out() const noexcept { return out_; }
    int wait() noexcept {
        int status = 0;
        while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = 0;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }

  private:
    pid_t pid_;
    int out_;
};

// Between fork and exec only calls that are safe there.
[[noreturn]] void become(char* const* argv, int out, bool quiet_stderr) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    const int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(out, 1);
    if (quiet_stderr) dup2(null, 2);
    if (null > 2) close(null);
    std::signal(SIGPIPE, SIG_DFL);  // run_tool ignores it, and exec keeps what is ignored
    execv(argv[0], argv);
    _exit(127);
}

}  // namespace

int run_child(const std::vector<std::string>& command, const ChildOptions& options) {
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0)
        throw Error(Exit::kFailure, command[0], std::string("pipe: ") + std::strerror(errno));
    const pid_t pid = fork();
    if (pid == 0) become(argv.data(), ends[1], options.quiet_stderr);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        throw Error(Exit::kFailure, command[0], std::string("fork: ") + std::strerror(errno));
    }
    Child child(pid, ends[0]);
    std::array<char, 16384> buffer;
    for (int handed_on = 0;;) {
        if (options.pending_signal) {
            // Ctrl-C reaches the child by itself: it is in the terminal's process group.
            const int signal = options.pending_signal();
            if (signal != 0 && signal != handed_on && signal != SIGINT) kill(child.pid(), signal);
            handed_on = signal;
        }
        pollfd readable{child.out(), POLLIN, 0};
        if (poll(&readable, 1, 100) <= 0) continue;
        const ssize_t n = read(child.out(), buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        if (options.on_stdout)
            options.on_stdout(std::string_view(buffer.data(), static_cast<std::size_t>(n)));
    }
    return child.wait();
}

std::string shell_quoted(std::string_view word) {
    static constexpr std::string_view kPlain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%";
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos)
        return std::string(word);
    std::string out = "'";
    for (const char c : word) {
        if (c == '\'') {
            out += "'\\''";
        } else {
            out += c;
        }
    }
    return out + "'";
}

std::string shell_line(const std::vector<std::string>& command) {
    std::string line;
    for (const std::string& word : command) line += (line.empty() ? "" : " ") + shell_quoted(word);
    return line;
}

}  // namespace thimble::recipe
