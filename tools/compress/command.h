// SPDX-License-Identifier: Apache-2.0
// A command from a class that has visit(), plan() and run().
#pragma once

#include <memory>
#include <string>

#include "cli/tool.h"

namespace thimble {

// The name, led by two dashes, names it anywhere among the arguments, too.
template <class Work>
cli::Command command(const std::string& name, const char* help) {
    const auto work = std::make_shared<Work>();
    cli::Command c;
    c.name = name;
    if (!name.empty()) c.flag = "--" + name;
    c.help = help;
    c.options = [work](OptionVisitor& v) { work->visit(v); };
    c.plan = [work](const cli::CommonOptions&) { return work->plan(); };
    c.run = [work](cli::Context& context) { work->run(context); };
    return c;
}

}  // namespace thimble
