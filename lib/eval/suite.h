// SPDX-License-Identifier: Apache-2.0
// The tasks of one evaluation: named, planned together, run one after the other, resumed from a
// journal.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "eval/journal.h"
#include "eval/task.h"

namespace thimble::eval {

class Suite {
  public:
    // "hellaswag:file=val.jsonl". Texts come before all others, as only they need the reference.
    void add(std::string_view spec, std::string_view where);
    [[nodiscard]] bool empty() const noexcept { return tasks_.empty(); }
    [[nodiscard]] bool has_text() const;
    [[nodiscard]] bool has_other() const;    // than texts
    [[nodiscard]] bool takes_shots() const;  // any of them
    [[nodiscard]] std::vector<std::string> inputs() const;

    void open(const TaskSetting& setting);
    [[nodiscard]] TaskNeeds needs() const;
    void add_to_plan(Plan& plan) const;
    [[nodiscard]] double predicted_tokens() const;
    [[nodiscard]] double compared_tokens() const;  // of these, through the reference too
    [[nodiscard]] std::int64_t passes() const;     // over each model's layers, for the texts
    // Every figure that results() will hold, its value not a number.
    void declare(Record& record) const;

    void load();
    [[nodiscard]] Json identity() const;  // what the samples are and how they are scored
    std::int64_t resume(Journal& journal);
    // After each sample: of which task, samples done and in all.
    using Progress =
        std::function<void(std::string_view task, std::int64_t done, std::int64_t total)>;
    // False if interrupted. `release_reference` is called once no more task needs it.
    [[nodiscard]] bool run(const TaskRun& run, Journal* journal, const Progress& progress,
                           const std::function<void()>& release_reference);
    void results(Record& record);

    [[nodiscard]] std::int64_t samples() const;
    [[nodiscard]] std::int64_t done() const;

  private:
    struct Entry {
        std::string name, kind;
        std::unique_ptr<Task> task;
        std::int64_t done = 0;
        TaskResult result = {};
    };
    void name_tasks();
    void take(std::string_view task, std::int64_t sample, const Json& outcome,
              std::string_view where);
    [[nodiscard]] bool run_task(Entry& entry, const TaskRun& run, Journal* journal,
                                const Progress& progress);

    std::vector<Entry> tasks_;
};

// Means over the texts' figures, each text counting the same, with their standard errors; none for
// fewer than two texts.
[[nodiscard]] std::vector<Metric> text_averages(const std::vector<TaskResult>& tasks);

}  // namespace thimble::eval
