// SPDX-License-Identifier: Apache-2.0
#include "eval/suite.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace thimble::eval {

void Suite::add(std::string_view spec, std::string_view where) {
    Entry entry;
    entry.kind = spec.substr(0, spec.find(':'));
    entry.task = make_task(spec, where);
    const auto end = std::find_if(tasks_.begin(), tasks_.end(),
                                  [](const Entry& e) { return !e.task->is_text(); });
    tasks_.insert(entry.task->is_text() ? end : tasks_.end(), std::move(entry));
}

bool Suite::has_text() const {
    return std::any_of(tasks_.begin(), tasks_.end(),
                       [](const Entry& e) { return e.task->is_text(); });
}

bool Suite::has_other() const {
    return std::any_of(tasks_.begin(), tasks_.end(),
                       [](const Entry& e) { return !e.task->is_text(); });
}

bool Suite::takes_shots() const {
    return std::any_of(tasks_.begin(), tasks_.end(),
                       [](const Entry& e) { return e.task->takes_shots(); });
}

std::vector<std::string> Suite::inputs() const {
    std::vector<std::string> out;
    for (const Entry& entry : tasks_) {
        for (std::string& input : entry.task->inputs())
            if (input != "-") out.push_back(std::move(input));
    }
    return out;
}

void Suite::name_tasks() {
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
        const std::string wanted = tasks_[i].task->default_name();
        const auto taken = [&](const std::string& name) {
            return std::any_of(tasks_.begin(), tasks_.begin() + static_cast<std::ptrdiff_t>(i),
                               [&](const Entry& e) { return e.name == name; });
        };
        tasks_[i].name = wanted;
        for (int n = 2; taken(tasks_[i].name); ++n)
            tasks_[i].name = wanted + "_" + std::to_string(n);
    }
}

void Suite::open(const TaskSetting& setting) {
    name_tasks();
    for (Entry& entry : tasks_) entry.task->open(setting);
}

TaskNeeds Suite::needs() const {
    TaskNeeds all;
    for (const Entry& entry : tasks_) {
        const TaskNeeds one = entry.task->needs();
        all.sequence_tokens = std::max(all.sequence_tokens, one.sequence_tokens);
        all.logit_rows = std::max(all.logit_rows, one.logit_rows);
        all.reference |= one.reference;
        all.state_tokens = std::max(all.state_tokens, one.state_tokens);
    }
    return all;
}

void Suite::add_to_plan(Plan& plan) const {
    for (const Entry& entry : tasks_) entry.task->add_to_plan(plan);
}

double Suite::predicted_tokens() const {
    double sum = 0;
    for (const Entry& entry : tasks_) sum += entry.task->predicted_tokens();
    return sum;
}

double Suite::compared_tokens() const {
    double sum = 0;
    for (const Entry& entry : tasks_)
        sum += entry.task->needs().reference ? entry.task->predicted_tokens() : 0;
    return sum;
}

std::int64_t Suite::passes() const {
    std::int64_t sum = 0;
    for (const Entry& entry : tasks_) sum += entry.task->passes();
    return sum;
}

void Suite::declare(Record& record) const {
    constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
    record.tasks.clear();
    for (const Entry& entry : tasks_) {
        TaskResult task;
        task.name = entry.name;
        task.kind = entry.kind;
        if (entry.task->is_text()) task.perplexity.emplace();
        for (const MetricInfo& info : entry.task->metrics())
            task.metrics.push_back({info, {kUnknown, kUnknown}});
        record.tasks.push_back(std::move(task));
    }
    record.averages = text_averages(record.tasks);
}

void Suite::load() {
    for (Entry& entry : tasks_) entry.task->load();
}

Json Suite::identity() const {
    Json out = Json::array();
    for (const Entry& entry : tasks_) {
        const TaskResult facts = entry.task->facts();
        Json one = Json::object();
        one.set("name", entry.name);
        one.set("kind", entry.kind);
        one.set("options", facts.options);
        one.set("sha256", facts.sha256);
        one.set("samples", facts.samples);
        one.set("shots", facts.shots);
        out.push(std::move(one));
    }
    return out;
}

std::int64_t Suite::samples() const {
    std::int64_t sum = 0;
    for (const Entry& entry : tasks_) sum += entry.task->samples();
    return sum;
}

std::int64_t Suite::done() const {
    std::int64_t sum = 0;
    for (const Entry& entry : tasks_) sum += entry.done;
    return sum;
}

std::int64_t Suite::resume(Journal& journal) {
    return journal.replay([this](std::string_view task, std::int64_t sample, const Json& outcome,
                                 std::string_view where) { take(task, sample, outcome, where); });
}

// Samples come in the order in which run() makes them.
void Suite::take(std::string_view task, std::int64_t sample, const Json& outcome,
                 std::string_view where) {
    const auto next = std::find_if(tasks_.begin(), tasks_.end(),
                                   [](const Entry& e) { return e.done < e.task->samples(); });
    if (next == tasks_.end() || next->name != task || next->done != sample)
        throw Error(Exit::kBadData, std::string(where), "is not the sample expected here");
    next->task->add(outcome, where);
    ++next->done;
}

bool Suite::run(const TaskRun& run, Journal* journal, const Progress& progress,
                const std::function<void()>& release_reference) {
    TaskRun now = run;
    now.progress = progress;
    for (Entry& entry : tasks_) {
        if (now.reference != nullptr && !entry.task->needs().reference) {
            now.reference = nullptr;
            release_reference();
        }
        const auto start = std::chrono::steady_clock::now();
        if (!run_task(entry, now, journal, progress)) return false;
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        entry.result = entry.task->result();
        entry.result.name = entry.name;
        entry.result.kind = entry.kind;
        entry.result.seconds = took.count();
    }
    if (now.reference != nullptr) release_reference();
    return true;
}

bool Suite::run_task(Entry& entry, const TaskRun& run, Journal* journal, const Progress& progress) {
    // On every way out, exceptions included.
    const std::unique_ptr<Task, void (*)(Task*)> stop(entry.task.get(),
                                                      [](Task* task) { task->stop(); });
    for (const std::int64_t total = entry.task->samples(); entry.done < total;) {
        if (run.interrupted && run.interrupted()) return false;
        const Json outcome = entry.task->evaluate(entry.done, run);
        if (outcome.is_null()) return false;
        if (journal != nullptr) journal->append(entry.name, entry.done, outcome);
        entry.task->add(outcome, entry.name);
        ++entry.done;
        if (progress) progress(entry.name, entry.done, total);
    }
    return true;
}

void Suite::results(Record& record) {
    record.tasks.clear();
    record.seconds = 0;
    for (Entry& entry : tasks_) {
        record.seconds += entry.result.seconds;
        record.tasks.push_back(std::move(entry.result));
    }
    record.averages = text_averages(record.tasks);
    const auto text = std::find_if(record.tasks.begin(), record.tasks.end(),
                                   [](const TaskResult& t) { return t.text.has_value(); });
    if (text == record.tasks.end()) return;
    record.text = text->text;
    record.settings.windows = text->samples;
    record.perplexity = text->perplexity;
    record.divergence = text->divergence;
}

std::vector<Metric> text_averages(const std::vector<TaskResult>& tasks) {
    std::vector<const TaskResult*> texts;
    for (const TaskResult& task : tasks)
        if (task.perplexity) texts.push_back(&task);
    std::vector<Metric> out;
    if (texts.size() < 2) return out;
    const auto count = static_cast<double>(texts.size());
    for (const Metric& first : texts.front()->metrics) {
        double sum = 0, variance = 0;
        std::size_t found = 0;
        for (const TaskResult* text : texts) {
            const auto same =
                std::find_if(text->metrics.begin(), text->metrics.end(),
                             [&](const Metric& m) { return m.info.name == first.info.name; });
            if (same == text->metrics.end()) continue;
            ++found;
            sum += same->value.value;
            variance += same->value.standard_error * same->value.standard_error;
        }
        if (found < texts.size()) continue;  // buckets that only some texts have
        out.push_back({first.info, {sum / count, std::sqrt(variance) / count}});
    }
    return out;
}

}  // namespace thimble::eval
