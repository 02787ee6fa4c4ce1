// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "recipe/child.h"
#include "recipe/export.h"

namespace thimble::recipe {
namespace {

// Steps that one array job runs: of one matrix, and none waits for another.
struct Stage {
    std::string base;
    std::vector<std::size_t> steps;
    std::vector<std::size_t> needs;  // stages
    std::uint64_t mib = 0;           // 0: not known
};

std::vector<Stage> stages_of(const std::vector<ShellStep>& steps) {
    std::vector<std::size_t> depth(steps.size(), 0), stage_of(steps.size());
    std::map<std::pair<std::size_t, std::string>, std::vector<std::size_t>> groups;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        for (const std::size_t need : steps[i].needs)
            depth[i] = std::max(depth[i], depth[need] + 1);
        groups[{depth[i], steps[i].base}].push_back(i);
    }
    std::vector<Stage> stages;
    for (const auto& [name, members] : groups) {
        Stage stage;
        stage.base = name.second;
        stage.steps = members;
        bool known = true;
        for (const std::size_t i : members) {
            stage_of[i] = stages.size();
            known &= steps[i].ram_bytes > 0;
            stage.mib = std::max(stage.mib, requested_mib(steps[i].ram_bytes));
            for (const std::size_t need : steps[i].needs) stage.needs.push_back(stage_of[need]);
        }
        if (!known) stage.mib = 0;
        std::sort(stage.needs.begin(), stage.needs.end());
        stage.needs.erase(std::unique(stage.needs.begin(), stage.needs.end()), stage.needs.end());
        stages.push_back(std::move(stage));
    }
    return stages;
}

// A recipe's or step's name as Slurm takes it.
std::string job_name(const std::string& text) {
    std::string name;
    for (const char c : text) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
        name += plain ? c : '_';
    }
    return name.empty() ? "recipe" : name;
}

std::string memory_of(std::uint64_t mib, const BatchOptions& options) {
    return mib > 0 ? std::to_string(mib) + "M" : options.memory;
}

constexpr const char* kRunner = R"(
# Runs one command. The warning before the time limit is handed on to it, so that it can save its state.
task() {
  local signal= code
  "$@" &
  local child=$!
  trap 'signal=1; kill -USR1 "$child" 2>/dev/null' USR1
  trap 'signal=1; kill -TERM "$child" 2>/dev/null' TERM
  while :; do
    wait "$child"
    code=$?
    [ -n "$signal" ] || break
    signal=
  done
  trap - USR1 TERM
  if [ "$code" -eq 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then  # checkpointed: run again
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$code"
}

# What this job, by its id, has done already: a requeued job goes on behind it.
run_step() {
  local mark=$marks/$SLURM_JOB_ID/$1
  [ ! -e "$mark" ] || return 0
  "step_$1" || exit
  mkdir -p "$marks/$SLURM_JOB_ID" && : > "$mark"
}
)";

class Batch {
  public:
    Batch(const std::vector<ShellStep>& steps, const BatchOptions& options)
        : steps_(steps), stages_(stages_of(steps)), options_(options) {}

    std::string run(const std::string& source, const std::string& stamps) {
        const std::string name = job_name(std::filesystem::path(source).stem().string());
        return head(source, name) + "\nset -u\nmarks=" + shell_quoted(stamps) +
               "\n"
               "budget=()  # the job's memory is the tools' budget\n"
               "[ -z \"${SLURM_MEM_PER_NODE:-}\" ] || "
               "budget=(--max-memory \"ram=${SLURM_MEM_PER_NODE}M\")\n" +
               kRunner + functions() + stage_lists() + submit(name);
    }

  private:
    [[nodiscard]] std::string head(const std::string& source, const std::string& name) const {
        std::uint64_t most = 0;
        bool known = true;
        for (const Stage& stage : stages_) {
            most = std::max(most, stage.mib);
            known &= stage.mib > 0;
        }
        const std::string memory = known ? std::to_string(most) + "M" : options_.memory;
        std::string out =
            "#!/bin/bash\n"
            "# Made by recipe export --slurm from " +
            escaped(source) +
            ".\n"
            "#   bash THIS        submits one array job per stage, each after those it needs\n"
            "#   sbatch THIS      runs everything in one job\n"
            "# Both from the directory in which it was made.\n"
            "#SBATCH --job-name=" +
            name + "\n#SBATCH --cpus-per-task=" + std::to_string(options_.cpus) +
            "\n#SBATCH --time=" + options_.time +
            "\n#SBATCH --signal=B:USR1@120\n#SBATCH --requeue\n#SBATCH --open-mode=append\n";
        if (memory.empty()) return out + "# --mem: not known before the first stages have run\n";
        return out + "#SBATCH --mem=" + memory + "\n";
    }

    [[nodiscard]] std::string functions() const {
        std::string out;
        for (std::size_t i = 0; i < steps_.size(); ++i) {
            const ShellStep& step = steps_[i];
            const auto& words = step.command;
            const bool own = std::any_of(words.begin(), words.end(), [](const std::string& w) {
                return w.starts_with("--max-memory");
            });
            out += "\nstep_" + std::to_string(i) + "() {  # " + step.id + "\n";
            for (const std::string& directory : step.directories)
                out += "  mkdir -p " + shell_quoted(directory) + " &&\n";
            out += "  task " + shell_line(words) + (own ? "" : " \"${budget[@]}\"");
            if (!step.gate.empty()) out += " &&\n  task " + shell_line(step.gate);
            out += "\n}\n";
        }
        return out;
    }

    [[nodiscard]] std::string stage_lists() const {
        std::string out = "\n";
        for (std::size_t s = 0; s < stages_.size(); ++s) {
            out += "stage_" + std::to_string(s) + "=(";
            for (const std::size_t i : stages_[s].steps)
                out += (out.back() == '(' ? "" : " ") + std::to_string(i);
            out += ")  # " + stages_[s].base + "\n";
        }
        return out;
    }

    [[nodiscard]] std::string submit(const std::string& name) const {
        std::string out =
            "\nif [ -n \"${SLURM_JOB_ID:-}\" ]; then\n"
            "  if [ $# -eq 0 ]; then\n"
            "    for i in {0.." +
            std::to_string(steps_.size() - 1) +
            "}; do run_step \"$i\"; done\n"
            "  else\n"
            "    declare -n stage=stage_$1\n"
            "    run_step \"${stage[${SLURM_ARRAY_TASK_ID:-0}]}\"\n"
            "  fi\n"
            "  exit\n"
            "fi\n\n";
        for (std::size_t s = 0; s < stages_.size(); ++s) {
            const Stage& stage = stages_[s];
            const std::string number = std::to_string(s), memory = memory_of(stage.mib, options_);
            out += "job_" + number + "=$(sbatch --parsable --job-name=" + name + "." +
                   job_name(stage.base);
            if (stage.steps.size() > 1)
                out += " --array=0-" + std::to_string(stage.steps.size() - 1);
            if (!memory.empty()) out += " --mem=" + memory;
            if (!stage.needs.empty()) {
                out += " --kill-on-invalid-dep=yes --dependency=\"afterok";
                for (const std::size_t need : stage.needs)
                    out += ":${job_" + std::to_string(need) + "%%;*}";
                out += "\"";
            }
            out += " \"$0\" " + number + ") || exit\n";
            out += "echo \"" + job_name(stage.base) + ": job ${job_" + number + "%%;*}\"\n";
        }
        return out;
    }

    const std::vector<ShellStep>& steps_;
    std::vector<Stage> stages_;
    BatchOptions options_;
};

}  // namespace

std::uint64_t requested_mib(std::uint64_t predicted_bytes) {
    constexpr std::uint64_t kMiB = 1 << 20;
    return (predicted_bytes + predicted_bytes / 10) / kMiB + 64;
}

std::string batch_script(const std::vector<ShellStep>& steps, const std::string& source,
                         const std::string& stamps, const BatchOptions& options) {
    return Batch(steps, options).run(source, stamps);
}

}  // namespace thimble::recipe
