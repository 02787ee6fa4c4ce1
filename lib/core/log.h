// SPDX-License-Identifier: Apache-2.0
// Where the library's notes go. The library never prints: the tool installs a sink.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace thimble {

enum class LogLevel { kDebug, kInfo, kWarning };
using LogSink = std::function<void(LogLevel, std::string_view)>;

void set_log_sink(LogSink sink);  // not thread-safe: once, at start
void log(LogLevel level, std::string_view message);
inline void log_info(std::string_view m) { log(LogLevel::kInfo, m); }
inline void log_warning(std::string_view m) { log(LogLevel::kWarning, m); }

}  // namespace thimble
