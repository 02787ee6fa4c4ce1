// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

namespace thimble {
namespace {
LogSink& sink() {
    static LogSink instance;
    return instance;
}
}  // namespace

void set_log_sink(LogSink s) { sink() = std::move(s); }

void log(LogLevel level, std::string_view message) {
    if (sink()) sink()(level, message);
}

}  // namespace thimble
