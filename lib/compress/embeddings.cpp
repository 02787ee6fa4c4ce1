// SPDX-License-Identifier: Apache-2.0
#include "compress/embeddings.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "compress/embedding_state.h"
#include "core/error.h"
#include "core/strings.h"
#include "io/provenance.h"
#include "io/safetensors_writer.h"

namespace thimble {
namespace {

constexpr const char* kUsualFormat = "e4m3";
constexpr const char* kUsualRatios = "0.9,0.75,0.5,0.25";  // of a frontier, besides all

std::uint64_t bytes_of(const Judgements& judgements) {
    std::uint64_t out = judgements.size() * sizeof(Judgements::value_type);
    for (const auto& of_query : judgements) out += of_query.capacity() * sizeof(Judged);
    return out;
}

// "0.5": that part of the dimensions, rounded up; "256": so many.
std::int64_t kept_dims(const std::string& text, std::int64_t dims) {
    const char* const end = text.data() + text.size();
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    const bool ratio = text.find('.') != std::string::npos;
    const double kept = ratio ? std::ceil(value * static_cast<double>(dims)) : value;
    if (error != std::errc{} || stop != end || !(kept >= 1 && kept <= static_cast<double>(dims)) ||
        kept != std::floor(kept)) {
        throw Error(Exit::kUsage, "--pca",
                    "'" + escaped(text) + "' is neither a part, as 0.5, nor a count of the " +
                        std::to_string(dims) + " dimensions");
    }
    return static_cast<std::int64_t>(kept);
}

VectorCode code_of(const std::string& name) {
    std::vector<std::string> names;
    for (const EmbeddingFormat& format : embedding_formats()) {
        if (format.name == name) return format.code;
        names.emplace_back(format.name);
    }
    throw Error(Exit::kUsage, "--format", "'" + escaped(name) + "' is no format of embeddings",
                did_you_mean(name, names));
}

}  // namespace

EmbeddingJob::EmbeddingJob(const EmbeddingOptions& options, std::string version)
    : state_(std::make_unique<State>()) {
    state_->options = options;
    state_->version = std::move(version);
    state_->open();
}

EmbeddingJob::~EmbeddingJob() = default;

void EmbeddingJob::State::open() {
    const EmbeddingOptions& o = options;
    if (o.output.empty() && !o.frontier)
        throw Error(Exit::kUsage, "--output", "is needed", "or --frontier, to look only");
    if (!o.budget.empty()) {
        if (!o.frontier || o.output.empty())
            throw Error(Exit::kUsage, "--budget", "goes with --frontier and --output");
        budget = parse_bytes(o.budget, "--budget");
    } else if (o.frontier && !o.output.empty()) {
        throw Error(Exit::kUsage, "--output", "goes with --frontier only where --budget chooses");
    }
    if (!o.output.empty() && !o.output.ends_with(".safetensors"))
        throw Error(Exit::kUsage, escaped(o.output, 1024), "a store's name ends in .safetensors");
    if (!o.judgements.empty() && o.queries.empty())
        throw Error(Exit::kUsage, "--qrels", "goes with --queries");
    input = std::make_unique<VectorFile>(o.input, o.tensor);
    similarity = o.similarity == "dot" ? Similarity::kDot : Similarity::kCosine;
    report.input_bytes = File(o.input).bytes();
    const auto open_beside = [&](const std::string& path) {
        auto file = std::make_unique<VectorFile>(path, o.tensor);
        if (file->dims() != input->dims()) {
            throw Error(Exit::kBadData, escaped(path, 1024),
                        "has vectors of " + std::to_string(file->dims()) + " numbers, the input " +
                            std::to_string(input->dims()));
        }
        return file;
    };
    if (!o.train.empty()) train = open_beside(o.train);
    if (!o.queries.empty()) queries = open_beside(o.queries);
    choose_candidates();
    open_queries();
}

void EmbeddingJob::State::choose_candidates() {
    const EmbeddingOptions& o = options;
    std::vector<VectorCode> codes;
    std::vector<std::int64_t> kept;
    if (o.frontier && o.format.empty()) {
        for (const EmbeddingFormat& format : embedding_formats()) codes.push_back(format.code);
    } else {
        for (const std::string& name : split(o.format.empty() ? kUsualFormat : o.format, ','))
            codes.push_back(code_of(name));
    }
    if (o.frontier) kept.push_back(0);
    if (o.frontier || !o.pca.empty()) {
        for (const std::string& part : split(o.pca.empty() ? kUsualRatios : o.pca, ','))
            kept.push_back(kept_dims(part, input->dims()));
    } else {
        kept.push_back(0);
    }
    std::vector<std::int64_t> seen;
    for (const std::int64_t k : kept) {
        if (std::find(seen.begin(), seen.end(), k) != seen.end()) continue;
        seen.push_back(k);
        for (const VectorCode code : codes) candidates.push_back({code, k});
    }
    if (!o.frontier && candidates.size() > 1)
        throw Error(Exit::kUsage, "--format, --pca", "take one value each without --frontier");
}

void EmbeddingJob::State::open_queries() {
    if (options.frontier && !queries) {
        if (options.held_out + kHits > input->rows()) {
            throw Error(Exit::kUsage, "--held-out",
                        std::to_string(options.held_out) + " of " + std::to_string(input->rows()) +
                            " vectors would leave fewer than ten to search",
                        "give fewer");
        }
        held_out = spread_rows(input->rows(), options.held_out);
    }
    if (options.judgements.empty()) return;
    judgements = read_judgements(options.judgements, queries->rows(), input->rows());
    judgement_memory = Charge(Tier::kRam, Purpose::kOther, bytes_of(judgements));
    const bool any = std::any_of(judgements.begin(), judgements.end(), [](const auto& judged) {
        return std::any_of(judged.begin(), judged.end(),
                           [](const Judged& j) { return j.relevance > 0; });
    });
    if (!any)
        throw Error(Exit::kBadData, escaped(options.judgements, 1024),
                    "names no relevant document");
}

StoreFacts EmbeddingJob::State::facts(const Candidate& candidate) const {
    StoreFacts out;
    out.code = candidate.code;
    out.rows = input->rows();
    out.source_dims = input->dims();
    out.dims = candidate.kept > 0 ? candidate.kept : input->dims();
    out.similarity = similarity;
    if (takes_prescale(candidate.code)) out.prescale = static_cast<int>(options.prescale);
    out.projected = candidate.kept > 0;
    return out;
}

SafetensorsOptions EmbeddingJob::State::file_options(const StoreFacts& facts, bool hash) const {
    EmbeddingOptions recorded = options;
    std::vector<std::string> inputs = {options.input};
    if (train) inputs.push_back(options.train);
    if (budget && queries) inputs.push_back(options.queries);
    if (budget && !judgements.empty()) inputs.push_back(options.judgements);
    Metadata metadata;
    append_step(metadata,
                {.tool = "compress embeddings",
                 .version = version,
                 .options = [&](OptionVisitor& v) { recorded.visit(v); },
                 .input_files = inputs},
                hash);
    SafetensorsOptions out;
    out.metadata = {{std::string(kEmbeddingsKey), Json(store_description(facts))},
                    {std::string(kStepsKey), Json(steps_text(metadata))}};
    out.max_shard_bytes = UINT64_MAX;
    out.if_exists = options.overwrite ? IfExists::kReplace : IfExists::kRefuse;
    return out;
}

std::uint64_t EmbeddingJob::State::file_bytes(const StoreFacts& facts) const {
    return SafetensorsWriter::predict("store.safetensors", store_specs(facts),
                                      file_options(facts, false))
        .file_bytes;
}

TrialSetting EmbeddingJob::State::trial_setting() const {
    TrialSetting out;
    out.vectors = input.get(), out.queries = queries.get(), out.calibration = train.get();
    out.held_out = held_out;
    out.judgements = judgements.empty() ? nullptr : &judgements;
    out.similarity = similarity;
    out.prescale = static_cast<int>(options.prescale);
    out.hamming = options.binary_scores == "hamming";
    return out;
}

std::int64_t EmbeddingJob::State::total_rows() const {
    const std::int64_t training = projects() ? 2 * calibration().rows() : 0;
    std::int64_t rows = training;
    if (tries()) rows += EmbeddingTrial(trial_setting(), candidates).passes_rows();
    if (!options.output.empty()) {
        rows += store_rows(facts(candidates.front()), *input, calibration());
        if (options.frontier) rows += training;
    }
    return rows;
}

Plan EmbeddingJob::plan() {
    State& s = *state_;
    const std::int64_t dims = s.input->dims(), rows = VectorSpace::usual_rows(*s.input);
    std::int64_t kept = 0, most = 0;
    bool plain = false;
    std::uint64_t output = 0;
    for (const Candidate& c : s.candidates) {
        kept = std::max(kept, c.kept), plain = plain || c.kept == 0;
        most = std::max(most, vector_bytes(c.code, s.facts(c).dims));
        output = std::max(output, s.file_bytes(s.facts(c)));
    }
    const auto piece = static_cast<std::size_t>(rows * most);
    const std::uint64_t pass = VectorSpace::bytes(dims, rows, kept, plain);
    std::uint64_t training = 0, resident = 0;
    if (s.projects()) {
        training = PrincipalComponents::training_bytes(dims, rows) +
                   VectorSpace::bytes(dims, rows, 0, false);
        resident = PrincipalComponents::resident_bytes(dims, dims);
    }
    std::uint64_t trial = 0;
    if (s.tries()) trial = EmbeddingTrial(s.trial_setting(), s.candidates).bytes();
    Plan plan;
    plan.at(Tier::kRam, Purpose::kIo) = pass + Buffer::charged_bytes(piece);
    const std::uint64_t io = plan.at(Tier::kRam, Purpose::kIo);
    const std::uint64_t peak = std::max({training, resident + trial, resident + io});
    plan.at(Tier::kRam, Purpose::kOther) = peak - std::min(peak, io) + bytes_of(s.judgements);
    if (!s.options.output.empty()) {
        plan.output_bytes = s.budget ? std::min(output, *s.budget) : output;
        plan.at(Tier::kDisk, Purpose::kWeights) = plan.output_bytes;
        if (s.budget) plan.notes.emplace_back("the output is at most as large as the budget");
    }
    return plan;
}

}  // namespace thimble
