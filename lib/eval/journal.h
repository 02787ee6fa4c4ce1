// SPDX-License-Identifier: Apache-2.0
// Finished samples of an evaluation on disk, one JSON line each, synced before the next one is
// begun: after a kill at any moment the evaluation goes on from them. The first line holds a key,
// the hash of everything that the samples depend on; a journal with another key is not used.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "io/json.h"

namespace thimble::eval {

inline constexpr std::string_view kSamplesSchema = "thimble.samples.v1";

class Journal {
  public:
    // `about`: what the samples depend on. Opens or creates the file and locks it. Throws
    // kCannotCreate, also when another process writes it.
    Journal(std::string path, const Json& about);
    ~Journal();  // one without samples goes
    Journal(const Journal&) = delete;
    Journal& operator=(const Journal&) = delete;

    // Hands over the samples of an earlier run in order, until `take` throws Error(kBadData) or a
    // line is cut short; what follows is dropped. Returns how many were taken. A journal of another
    // evaluation is begun anew, with a warning.
    using Take = std::function<void(std::string_view task, std::int64_t sample, const Json& outcome,
                                    std::string_view where)>;
    std::int64_t replay(const Take& take);

    void append(std::string_view task, std::int64_t sample, const Json& outcome);

    // When the results are safe: the journal becomes the file `path`, or goes.
    void keep_as(const std::string& path);
    void remove();

    [[nodiscard]] const std::string& path() const noexcept { return path_; }

  private:
    void write(std::string_view line);
    void cut(std::uint64_t bytes);
    void start_anew();

    std::string path_, header_;
    int fd_ = -1;
    std::int64_t samples_ = 0;
    bool settled_ = false;  // kept or removed on purpose
};

}  // namespace thimble::eval
