// SPDX-License-Identifier: Apache-2.0
#include "error_report.h"

namespace thimble {

Json tensor_json(const TensorReport& report) {
    const TensorChoice& choice = *report.choice;
    Json json = Json::object(), shape = Json::array();
    std::uint64_t elements = 1;
    for (const std::uint64_t extent : choice.tensor->dims) {
        shape.push(extent);
        elements *= extent;
    }
    json.set("name", choice.tensor->name);
    json.set("from", layout_info(choice.tensor->layout()).name);
    json.set("to", choice.format_name());
    json.set("shape", std::move(shape));
    json.set("source_bytes", report.bytes_in);
    json.set("bytes", report.bytes_out);
    json.set("bits_per_weight",
             8 * static_cast<double>(report.bytes_out) / static_cast<double>(elements));
    if (choice.copied) json.set("copied", true);
    if (choice.requantized) json.set("requantized", true);
    if (choice.merged) json.set("merged", true);
    if (report.change) json.set("relative_change", report.change->relative_rmse());
    if (!choice.reason.empty()) json.set("reason", choice.reason);
    if (!choice.importance.empty()) json.set("importance", true);
    if (!choice.no_importance.empty()) json.set("no_importance", choice.no_importance);
    if (report.error) report.error->describe(json);
    return json;
}

}  // namespace thimble
