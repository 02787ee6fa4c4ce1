// SPDX-License-Identifier: Apache-2.0
// recipe.lock.json: what a run was made of and what it gave, so that another run can be held to it.
// Hashes, canonical options, tool versions and the instruction set; no dates, machines or paths of
// the machine. What a measuring step wrote, and what is made from it, differs each time: its hashes
// are left out.
#pragma once

#include <map>
#include <string>

#include "io/json.h"
#include "recipe/recipe.h"

namespace thimble::recipe {

class LockFile {
  public:
    LockFile() = default;
    // Error(kNoInput), or Error(kBadData) when it is not a lock file.
    [[nodiscard]] static LockFile read(const std::string& path);

    // What is known before a step runs: Error(kUsage) for options, version or instruction set,
    // Error(kBadData) for other bytes in an input. `parts`: of the cache key; without
    // `all_inputs` those that steps make are not among them.
    void check(const Step& step, const Json& parts, const std::string& version,
               bool all_inputs) const;
    // The recipe's steps are those of the file. Error(kUsage).
    void check_steps(const Recipe& recipe) const;
    // Error(kBadData) when a finished step gave other bytes. `outputs`: path -> hash.
    void check_outputs(const Step& step, const Json& outputs) const;

    // Adds or replaces a finished step.
    void put(const Step& step, const Json& parts, const Json& outputs, const std::string& version);
    // Leaves only steps of `recipe`, in its order.
    void write(const std::string& path, const Recipe& recipe) const;

  private:
    [[nodiscard]] const Json& entry(const Step& step) const;
    std::string path_;
    std::map<std::string, Json> steps_;
};

}  // namespace thimble::recipe
