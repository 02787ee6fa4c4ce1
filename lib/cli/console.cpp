// SPDX-License-Identifier: Apache-2.0
#include "cli/console.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/log.h"

namespace thimble::cli {
namespace {

std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

// The handler is reset by SA_RESETHAND: the second signal of a kind ends the process.
void remember(int signal) {
    int none = 0;
    first_signal.compare_exchange_strong(none, signal);
}

void install_signals() {
    struct sigaction action = {};
    action.sa_handler = remember;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigemptyset(&action.sa_mask);
    for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) {
        struct sigaction old = {};
        sigaction(signal, nullptr, &old);
        if (old.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
    }
    std::signal(SIGPIPE, SIG_IGN);
}

// A file opened later must never become descriptor 0, 1 or 2. The stand-in for a closed stdout is
// read-only, so that writing to it still fails.
void hold_standard_descriptors() {
    for (const int fd : {0, 1, 2}) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF)
            (void)!open("/dev/null", fd == 1 ? O_RDONLY : O_RDWR);
    }
}

// 0 or the errno of the failure.
int write_all(int fd, std::string_view text) noexcept {
    while (!text.empty()) {
        const ssize_t n = write(fd, text.data(), text.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        text.remove_prefix(static_cast<std::size_t>(n));
    }
    return 0;
}

bool terminal() {
    const char* term = std::getenv("TERM");
    return isatty(2) == 1 && term != nullptr && std::strcmp(term, "dumb") != 0;
}

}  // namespace

int seen_signal() noexcept { return first_signal.load(std::memory_order_relaxed); }

void end_by_sigpipe() {
    std::signal(SIGPIPE, SIG_DFL);
    std::raise(SIGPIPE);
    std::_Exit(128 + SIGPIPE);
}

Console::Console(std::string_view tool) : tool_(tool), start_(std::chrono::steady_clock::now()) {
    hold_standard_descriptors();
    install_signals();
    set_log_sink([this](LogLevel level, std::string_view message) {
        if (level == LogLevel::kDebug && !verbose_) return;
        if (level == LogLevel::kInfo && quiet_) return;
        const char* mark = level == LogLevel::kWarning ? "warning: " : "";
        err(tool_ + ": " + mark + std::string(message) + "\n");
    });
}

Console::~Console() {
    clear_bar();
    set_log_sink({});
}

void Console::configure(const CommonOptions& common) {
    stdout_is_json_ = common.json == "-";
    quiet_ = common.quiet;
    verbose_ = common.verbose;
    jsonl_ = common.progress == "jsonl";
    bar_allowed_ = common.progress == "auto" && terminal();
}

void Console::out(std::string_view text) {
    clear_bar();
    const int failure = write_all(1, text);
    if (failure == EPIPE) throw OutputClosed{};
    if (failure != 0) throw Error(Exit::kIo, "stdout", std::strerror(failure));
}

void Console::err(std::string_view text) noexcept {
    clear_bar();
    (void)write_all(2, text);
}

void Console::error(std::string_view line) noexcept {
    try {
        err(tool_ + ": " + std::string(line) + "\n");
    } catch (...) {  // out of memory for the line: the exit code still tells
    }
}

void Console::clear_bar() noexcept {
    if (bar_shown_) (void)write_all(2, "\r\x1b[K");
    bar_shown_ = false;
}

void Console::progress(std::string_view what, std::int64_t done, std::int64_t total, double rate,
                       std::string_view unit) {
    if (!jsonl_ && !bar_allowed_) return;
    const auto now = std::chrono::steady_clock::now();
    const bool due = now - last_progress_ >= std::chrono::milliseconds(jsonl_ ? 250 : 100) ||
                     done >= total || what != last_what_;
    if (!due) return;
    last_progress_ = now;
    last_what_ = what;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    if (jsonl_) {
        Json record = Json::object();
        record.set("schema", "thimble.progress/1");
        record.set("event", "progress");
        record.set("t", seconds);
        record.set("what", what);
        record.set("done", done);
        record.set("total", total);
        if (rate > 0) record.set("rate", rate), record.set("unit", unit);
        (void)write_all(2, record.dump() + "\n");
        return;
    }
    constexpr std::int64_t kWidth = 24;
    const std::int64_t filled = total > 0 ? kWidth * std::min(done, total) / total : 0;
    std::string bar(static_cast<std::size_t>(filled), '#');
    bar.append(static_cast<std::size_t>(kWidth - filled), '.');
    char tail[96];
    if (rate > 0) {
        std::snprintf(tail, sizeof(tail), " %lld/%lld %.1f %.*s", static_cast<long long>(done),
                      static_cast<long long>(total), rate, static_cast<int>(unit.size()),
                      unit.data());
    } else {
        std::snprintf(tail, sizeof(tail), " %lld/%lld", static_cast<long long>(done),
                      static_cast<long long>(total));
    }
    (void)write_all(2, "\r\x1b[K" + std::string(what) + " [" + bar + "]" + tail);
    bar_shown_ = true;
}

void Context::print(std::string_view text) {
    if (console.stdout_is_json())
        throw Error(Exit::kUsage, "--json", "stdout cannot hold both the report and text",
                    "write the report to a file");
    console.out(text);
}

bool Context::stdout_is_json() const { return console.stdout_is_json(); }

void Context::progress(std::string_view what, std::int64_t done, std::int64_t total, double rate,
                       std::string_view unit) {
    console.progress(what, done, total, rate, unit);
}

bool Context::interrupted() const noexcept { return seen_signal() != 0; }

}  // namespace thimble::cli
