// SPDX-License-Identifier: Apache-2.0
#include "eval/task.h"

#include <utility>

namespace thimble::eval {

#define THIMBLE_EVAL_TASK(id) std::unique_ptr<TaskType> make_##id##_task();
#include "eval/tasks.def"
#undef THIMBLE_EVAL_TASK

const Registry<TaskType>& task_types() {
    static const Registry<TaskType> registry = [] {
        std::vector<std::unique_ptr<TaskType>> items;
#define THIMBLE_EVAL_TASK(id) items.push_back(make_##id##_task());
#include "eval/tasks.def"
#undef THIMBLE_EVAL_TASK
        return Registry<TaskType>("task", std::move(items));
    }();
    return registry;
}

std::vector<InlineForm> task_forms() {
    std::vector<InlineForm> out;
    for (const auto& type : task_types().items()) {
        out.push_back({std::string(type->name()),
                       list_options([&](OptionVisitor& v) { type->visit_options(v); })});
    }
    return out;
}

std::unique_ptr<Task> make_task(std::string_view spec, std::string_view where) {
    const std::size_t colon = spec.find(':');
    const std::string_view options =
        colon == std::string_view::npos ? std::string_view{} : spec.substr(colon + 1);
    return task_types().get(spec.substr(0, colon), where).make(options, where);
}

std::string figure_name(std::string_view file) {
    const std::size_t dot = file.rfind('.');
    std::string name(dot == 0 ? file : file.substr(0, dot));
    for (char& c : name) {
        const bool kept =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.';
        if (!kept) c = '_';
    }
    if (name.empty() || (name[0] >= '0' && name[0] <= '9') || name[0] == '.') name = "_" + name;
    return name;
}

}  // namespace thimble::eval
