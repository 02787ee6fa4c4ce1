// SPDX-License-Identifier: Apache-2.0
// What a model is evaluated on: a task has samples (a window of a text, a question with choices, a
// prompt), each scored by itself, and figures made of all of them. A sample's outcome is a JSON
// value and figures are made of such values only, so an evaluation that was interrupted goes on
// from the outcomes on disk and ends with the same figures. One leaf file in tasks/ plus one line
// in tasks.def makes a new kind.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "core/plan.h"
#include "core/registry.h"
#include "decode/prompt_repeat.h"
#include "eval/record.h"
#include "model/runner.h"
#include "text/tokenizer.h"

namespace thimble::eval {

// What a task may know while it is planned. Outlives the task.
struct TaskSetting {
    const ModelSpec* spec = nullptr;
    const ModelFile* reference = nullptr;  // null: none
    const Tokenizer* tokenizer = nullptr;
    RunnerOptions runner;            // context_tokens: of a text's window
    std::int64_t windows_limit = 0;  // most windows of a text; 0: all
    std::int64_t samples_limit = 0;  // most samples of the other tasks; 0: all
    std::int64_t shots = 0;          // solved examples before each sample
    PromptRepeat repeat = {};        // of the other tasks' prompts
    // Windows of a text that go through a layer together; 0: none. May change until load().
    std::int64_t group_windows = 0;
};

// What the runners must provide for a task.
struct TaskNeeds {
    std::int64_t sequence_tokens = 0;  // longest sequence
    std::int64_t logit_rows = 0;       // most rows of logits asked for at once
    bool reference = false;            // compares with the reference
    std::int64_t state_tokens = 0;     // most tokens whose states are kept between layers
};

struct TaskRun {
    Runner& model;
    Runner* reference = nullptr;
    std::function<bool()> interrupted = {};  // may be empty
    // On the way to a sample's outcome; may be empty.
    std::function<void(std::string_view what, std::int64_t done, std::int64_t total)> progress = {};
};

class Task {
  public:
    virtual ~Task() = default;
    // Reads what the plan needs: sizes, or the samples themselves where they are small. `setting`
    // stays valid for as long as the task. Throws kUsage, kBadData or kNoInput.
    virtual void open(const TaskSetting& setting) = 0;
    [[nodiscard]] virtual std::vector<std::string> inputs() const = 0;  // files it reads
    // Name in results if the user gives none: of the text's file for texts, else of the kind.
    [[nodiscard]] virtual std::string default_name() const = 0;
    [[nodiscard]] virtual std::vector<MetricInfo> metrics() const = 0;  // after open()
    [[nodiscard]] virtual TaskNeeds needs() const = 0;
    // What it holds beside the runners and the tokenizer.
    virtual void add_to_plan(Plan& plan) const = 0;
    [[nodiscard]] virtual double predicted_tokens() const = 0;  // fed in all, for times
    // Passes over each model's layers, of texts only.
    [[nodiscard]] virtual std::int64_t passes() const { return 0; }

    virtual void load() {}  // what open() left on disk
    // After load(): options, file and its hash, samples and shots, without figures.
    [[nodiscard]] virtual TaskResult facts() const = 0;
    [[nodiscard]] virtual std::int64_t samples() const = 0;
    // Scores one sample; null if interrupted.
    [[nodiscard]] virtual Json evaluate(std::int64_t sample, const TaskRun& run) = 0;
    // Lets go of the runners, which do not live as long as the task.
    virtual void stop() noexcept {}
    // Adds the outcome of the next sample, 0 first. Error(kBadData) naming `where`, and nothing
    // changed, if it is not one of evaluate().
    virtual void add(const Json& outcome, std::string_view where) = 0;
    // Facts and figures of all samples, once; name and kind are the caller's to fill in.
    [[nodiscard]] virtual TaskResult result() = 0;
    // Results of several such tasks can be averaged (texts).
    [[nodiscard]] virtual bool is_text() const { return false; }
    [[nodiscard]] virtual bool takes_shots() const { return false; }
};

// A registered kind of task: makes instances from their options.
class TaskType {
  public:
    virtual ~TaskType() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual std::string_view help() const = 0;
    virtual void visit_options(OptionVisitor& v) const = 0;  // an instance with the defaults
    // `text` is "key=value,..." (may be empty).
    [[nodiscard]] virtual std::unique_ptr<Task> make(std::string_view text,
                                                     std::string_view where) const = 0;
};
[[nodiscard]] const Registry<TaskType>& task_types();
// Of all of them: what the value of --task can be.
[[nodiscard]] std::vector<InlineForm> task_forms();

// A leaf's TaskType from a description {kName, kHelp, Options with visit()} and a function that
// makes a Task of Options. Where these have a `file` it must be given.
template <class Leaf, class Make>
class TaskTypeOf final : public TaskType {
  public:
    explicit TaskTypeOf(Make make) : make_(std::move(make)) {}
    [[nodiscard]] std::string_view name() const override { return Leaf::kName; }
    [[nodiscard]] std::string_view help() const override { return Leaf::kHelp; }
    void visit_options(OptionVisitor& v) const override { typename Leaf::Options{}.visit(v); }
    [[nodiscard]] std::unique_ptr<Task> make(std::string_view text,
                                             std::string_view where) const override {
        typename Leaf::Options options;
        parse_inline_options(
            text, [&](OptionVisitor& v) { options.visit(v); },
            std::string(where) + ": " + Leaf::kName);
        if constexpr (requires { options.file; }) {
            if (options.file.empty()) {
                throw Error(Exit::kUsage, std::string(where),
                            std::string("'") + Leaf::kName + "' needs a file",
                            std::string(Leaf::kName) + ":file=FILE");
            }
        }
        return make_(options);
    }

  private:
    Make make_;
};
template <class Leaf, class Make>
[[nodiscard]] std::unique_ptr<TaskType> make_task_type(Make make) {
    return std::make_unique<TaskTypeOf<Leaf, Make>>(std::move(make));
}

// What differs from the defaults, as "key=value,...", for records: no host path is in it.
template <class Options>
[[nodiscard]] std::string options_without_files(Options options) {
    const Visitable visit = [&](OptionVisitor& v) { options.visit(v); };
    for (const OptionRecord& record : list_options(visit)) {
        if (!record.info.is_input) continue;
        const std::string none;
        set_option(visit, record.info.name, {&none, 1}, record.info.name);
    }
    Options defaults;
    return format_inline_options(visit, [&](OptionVisitor& v) { defaults.visit(v); });
}

// "hellaswag:file=val.jsonl"
[[nodiscard]] std::unique_ptr<Task> make_task(std::string_view spec, std::string_view where);

// A figure's name part made of a file name: what is no letter, digit or dot becomes '_', and the
// last extension goes.
[[nodiscard]] std::string figure_name(std::string_view file);

}  // namespace thimble::eval
