// SPDX-License-Identifier: Apache-2.0
#include "ranks.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <span>
#include <thread>

#include "core/error.h"

namespace thimble::train {

std::unique_ptr<dist::Communicator> join_ranks() {
    try {
        return dist::join();
    } catch (const Error& error) {
        std::fprintf(stderr, "%s: %s\n", kTool, error.what());
        return nullptr;
    }
}

std::vector<char*> arguments_of(const dist::Communicator& ranks, int argc, char** argv) {
    std::vector<char*> arguments(argv, argv + argc);
    if (ranks.rank() == 0) return arguments;
    static char silent[][16] = {"--quiet", "--progress", "none", "--json", "", "--metrics", ""};
    for (char* word : silent) arguments.push_back(word);
    const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere >= 0) ::dup2(nowhere, STDOUT_FILENO);
    return arguments;
}

void tell_rank(const dist::Communicator& ranks, std::string& line) {
    if (ranks.size() == 1) return;
    // What all ranks find wrong the first one tells, and ends the others while they wait.
    if (ranks.rank() > 0) {
        std::signal(SIGTERM, SIG_DFL);  // which is how
        std::this_thread::sleep_for(std::chrono::seconds(1));
    }
    line = "rank " + std::to_string(ranks.rank()) + " of " + std::to_string(ranks.size()) + ": " +
           line;
}

int leave_together(dist::Communicator& ranks, int code) {
    if (ranks.size() == 1) return code;
    // A signal stops all after the same step; so does the first rank's "run again".
    const bool agreed =
        code == 0 || code > 128 || (ranks.rank() == 0 && code == static_cast<int>(Exit::kAgain));
    if (!agreed) ranks.abort(code);
    ranks.broadcast(std::as_writable_bytes(std::span(&code, 1)));
    return code;
}

}  // namespace thimble::train
