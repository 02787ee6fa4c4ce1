// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/strings.h"
#include "kv/policy.h"

namespace thimble {

KvBudget KvBudget::parse(std::string_view text, std::string_view where) {
    KvBudget budget;
    const auto refuse = [&] {
        throw Error(Exit::kUsage, std::string(where),
                    "'" + escaped(text) + "' is not a budget of the KV cache",
                    "tokens of a head: 512; a share of the tokens seen: 25%; bytes: 64MiB");
    };
    const auto number = [&](std::string_view digits) {
        double value = 0;
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), value);
        if (error != std::errc{} || end != digits.data() + digits.size() || !(value > 0)) refuse();
        return value;
    };
    if (text.ends_with('%')) {
        budget.unit_ = Unit::kShare;
        budget.value_ = number(text.substr(0, text.size() - 1)) / 100;
        if (budget.value_ > 1) refuse();
    } else if (!text.empty() && (text.back() < '0' || text.back() > '9')) {
        budget.unit_ = Unit::kBytes;
        budget.value_ = static_cast<double>(parse_bytes(text, where));
        if (budget.value_ <= 0) refuse();
    } else {
        budget.value_ = number(text);
        if (budget.value_ != std::floor(budget.value_)) refuse();
    }
    return budget;
}

std::int64_t KvBudget::tokens(std::int64_t seen, std::uint64_t token_bytes) const {
    double tokens = value_;
    if (unit_ == Unit::kShare) tokens = std::floor(value_ * static_cast<double>(seen));
    if (unit_ == Unit::kBytes)
        tokens = std::floor(value_ / static_cast<double>(std::max<std::uint64_t>(token_bytes, 1)));
    return std::max<std::int64_t>(static_cast<std::int64_t>(tokens), 1);
}

}  // namespace thimble
