// SPDX-License-Identifier: Apache-2.0
// `${vars.x}`, `${matrix.x}` and `${steps.id.key}` in a recipe's texts. The text is untrusted:
// depth and length of the result are limited. `$${` stands for a plain `${`.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::recipe {

// The value of a dotted name, or nothing to leave the reference as it is for a later pass. Throws
// for a name that is wrong.
using Lookup = std::function<std::optional<std::string>(const std::string& name)>;

// Replaces references, innermost first: `${steps.q[${matrix.m}].output}` works. Error(kUsage)
// naming `where` for a malformed or too long text.
[[nodiscard]] std::string expand(std::string_view text, const Lookup& lookup,
                                 std::string_view where);
// After the last pass: `$${` becomes `${`.
[[nodiscard]] std::string unescape_references(std::string_view text);

// The names of the references in `text`, outermost only.
[[nodiscard]] std::vector<std::string> references(std::string_view text, std::string_view where);
// Whether a reference at `at` (npos: none) stands in no other one.
[[nodiscard]] bool is_outermost(std::string_view text, std::size_t at);

}  // namespace thimble::recipe
