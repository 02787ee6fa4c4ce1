// SPDX-License-Identifier: Apache-2.0
#include "eval/shots.h"

#include "core/error.h"

namespace thimble::eval {

ShotText::ShotText(ShotSource source) : source_(std::move(source)) {
    if (source_.count > 0 && source_.file.empty()) {
        throw Error(Exit::kUsage, "--num-fewshot",
                    "task '" + source_.kind + "' has no file to take examples from",
                    source_.kind + ":fewshot=FILE, other items than the ones that are asked");
    }
    if (source_.count == 0 && !source_.file.empty()) {
        throw Error(Exit::kUsage, "--task", source_.kind + ": fewshot=FILE is idle",
                    "give --num-fewshot N");
    }
}

bool ShotText::add(const std::string& solved) {
    text_ += solved + "\n\n";
    return ++held_ < source_.count;
}

std::string ShotText::finish() const {
    if (held_ < source_.count) {
        throw Error(Exit::kUsage, escaped(source_.file, 1024),
                    "holds " + std::to_string(held_) + " examples, fewer than --num-fewshot " +
                        std::to_string(source_.count));
    }
    return text_;
}

}  // namespace thimble::eval
