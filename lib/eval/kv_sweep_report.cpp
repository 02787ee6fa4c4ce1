// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "core/strings.h"
#include "eval/kv_sweep.h"

namespace thimble::eval {
namespace {

std::string number(double value, const char* format) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), format, value);
    return text.data();
}

Json list_of(const std::vector<double>& values) {
    Json list = Json::array();
    for (const double value : values) list.push(value);
    return list;
}

}  // namespace

Json kv_sweep_json(const KvSweepOptions& options, const std::vector<KvSweepRow>& rows) {
    Json out = Json::object(), list = Json::array();
    out.set("prompt_tokens", options.prompt_tokens);
    out.set("answer_tokens", options.answer_tokens);
    out.set("texts", options.texts);
    out.set("needles", options.needles);
    for (const KvSweepRow& row : rows) {
        Json one = Json::object();
        one.set("policy", row.policy);
        one.set("budget", row.budget);
        if (!row.refused.empty()) {
            one.set("refused", row.refused);
            list.push(std::move(one));
            continue;
        }
        one.set("budget_tokens", row.budget_tokens);
        one.set("kld", row.kld.value);
        one.set("kld_standard_error", row.kld.standard_error);
        one.set("perplexity", row.perplexity);
        one.set("same_top", row.same_top);
        one.set("kld_by_part", list_of(row.kld_by_part));
        one.set("perplexity_by_part", list_of(row.perplexity_by_part));
        one.set("kv_bytes", row.kv_bytes);
        one.set("kv_share", row.kv_share);
        one.set("prompt_seconds", row.prompt_seconds);
        one.set("tokens_per_second", row.tokens_per_second);
        if (options.needles > 0) {
            one.set("needles_question_seen", row.needles.question_seen);
            one.set("needles_question_later", row.needles.question_later);
        }
        list.push(std::move(one));
    }
    out.set("rows", std::move(list));
    return out;
}

std::string kv_sweep_table(const KvSweepOptions& options, const std::vector<KvSweepRow>& rows) {
    std::string out =
        "| policy | budget | KLD | +- | PPL | same top | needles: question seen | later | KV | of "
        "full | prompt s | tokens/s |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    const auto hits = [&](std::int64_t found) {
        return options.needles > 0 ? std::to_string(found) + "/" + std::to_string(options.needles)
                                   : std::string("-");
    };
    for (const KvSweepRow& row : rows) {
        out += "| " + row.policy + " | " + row.budget + " | ";
        if (!row.refused.empty()) {
            out += row.refused + " |\n";
            continue;
        }
        out += number(row.kld.value, "%.4f") + " | " + number(row.kld.standard_error, "%.4f") +
               " | " + number(row.perplexity, "%.3f") + " | " + number(row.same_top, "%.3f") +
               " | " + hits(row.needles.question_seen) + " | " + hits(row.needles.question_later) +
               " | " + format_bytes(row.kv_bytes) + " | " + number(100 * row.kv_share, "%.1f %%") +
               " | " + number(row.prompt_seconds, "%.1f") + " | " +
               number(row.tokens_per_second, "%.1f") + " |\n";
    }
    return out;
}

std::string kv_sweep_svg(const std::vector<KvSweepRow>& rows, std::string_view title) {
    constexpr double kWidth = 760, kHeight = 460, kLeft = 70, kTop = 40, kPlotWidth = 470,
                     kPlotHeight = 360;
    double least = 1e300, most = 0;
    std::vector<std::string> policies;
    for (const KvSweepRow& row : rows) {
        if (!row.refused.empty() || !(row.kld.value > 0)) continue;
        least = std::min(least, row.kld.value), most = std::max(most, row.kld.value);
        if (std::find(policies.begin(), policies.end(), row.policy) == policies.end())
            policies.push_back(row.policy);
    }
    if (policies.empty()) least = 1e-3, most = 1;
    const double low = std::floor(std::log10(least)), high = std::ceil(std::log10(most) + 1e-9);
    const auto x_of = [&](double share) {
        return kLeft + kPlotWidth * std::clamp(share, 0.0, 1.0);
    };
    const auto y_of = [&](double kld) {
        const double span = std::max(high - low, 1.0);
        return kTop + kPlotHeight * (high - std::log10(kld)) / span;
    };
    const auto text = [](double x, double y, const std::string& what, const char* anchor) {
        return "<text x=\"" + number(x, "%.1f") + "\" y=\"" + number(y, "%.1f") +
               "\" text-anchor=\"" + anchor + "\">" + what + "</text>\n";
    };
    const auto line = [](double x1, double y1, double x2, double y2, const std::string& colour) {
        return "<line x1=\"" + number(x1, "%.1f") + "\" y1=\"" + number(y1, "%.1f") + "\" x2=\"" +
               number(x2, "%.1f") + "\" y2=\"" + number(y2, "%.1f") + "\" stroke=\"" + colour +
               "\"/>\n";
    };
    std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" +
                      number(kWidth, "%.0f") + "\" height=\"" + number(kHeight, "%.0f") +
                      "\" font-family=\"sans-serif\" font-size=\"12\">\n"
                      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n" +
                      text(kLeft, 22, std::string(title), "start");
    for (double exponent = low; exponent <= high; ++exponent) {
        const double y = y_of(std::pow(10, exponent));
        svg += line(kLeft, y, kLeft + kPlotWidth, y, "#ddd") +
               text(kLeft - 8, y + 4, number(std::pow(10, exponent), "%g"), "end");
    }
    for (const int percent : {0, 25, 50, 75, 100}) {
        const double x = x_of(percent / 100.0);
        svg += line(x, kTop, x, kTop + kPlotHeight, "#ddd") +
               text(x, kTop + kPlotHeight + 18, std::to_string(percent) + " %", "middle");
    }
    svg += text(kLeft + kPlotWidth / 2, kTop + kPlotHeight + 40, "bytes of the full KV cache",
                "middle");
    svg += text(kLeft, kTop - 4, "KL divergence, nats per token", "start");
    for (std::size_t p = 0; p < policies.size(); ++p) {
        const std::string colour =
            "hsl(" +
            number(360.0 * static_cast<double>(p) / static_cast<double>(policies.size()), "%.0f") +
            ",70%,40%)";
        std::string points, marks;
        for (const KvSweepRow& row : rows) {
            if (row.policy != policies[p] || !row.refused.empty() || !(row.kld.value > 0)) continue;
            const std::string x = number(x_of(row.kv_share), "%.1f"),
                              y = number(y_of(row.kld.value), "%.1f");
            points += x + "," + y + " ";
            marks +=
                "<circle cx=\"" + x + "\" cy=\"" + y + "\" r=\"3\" fill=\"" + colour + "\"/>\n";
        }
        const double y = kTop + 14 * static_cast<double>(p) + 10;
        svg += "<polyline points=\"" + points + "\" fill=\"none\" stroke=\"" + colour + "\"/>\n" +
               marks +
               line(kLeft + kPlotWidth + 16, y - 4, kLeft + kPlotWidth + 36, y - 4, colour) +
               text(kLeft + kPlotWidth + 42, y, policies[p], "start");
    }
    return svg + "</svg>\n";
}

}  // namespace thimble::eval
