// SPDX-License-Identifier: Apache-2.0
#include "model/config_reader.h"

#include <cmath>
#include <utility>

#include "core/error.h"

namespace thimble {

std::string ConfigReader::where(const ConfigKey& key) const {
    return escaped(file_.path(), 1024) + ": key '" + (hf_ ? std::string(key.hf) : gguf_key(key)) +
           "'";
}

void ConfigReader::fail(const ConfigKey& key, const std::string& what) const {
    throw Error(Exit::kBadData, escaped(file_.path(), 1024),
                "key '" + (hf_ ? std::string(key.hf) : gguf_key(key)) + "' " + what);
}

const Json* ConfigReader::json(std::string_view key) const {
    const Json* value = hf_ && !key.empty() ? file_.config().find(key) : nullptr;
    return value != nullptr && !value->is_null() ? value : nullptr;
}

const MetaValue* ConfigReader::meta(std::string_view key) const {
    return hf_ || key.empty() ? nullptr : file_.metadata().find(gguf_key({key, {}}));
}

bool ConfigReader::has(const ConfigKey& key) const {
    return hf_ ? json(key.hf) != nullptr : meta(key.gguf) != nullptr;
}

std::optional<std::int64_t> ConfigReader::find_int(const ConfigKey& key, std::int64_t least,
                                                   std::int64_t most) const {
    if (!has(key)) return std::nullopt;
    const std::int64_t value =
        hf_ ? json(key.hf)->as_int(where(key)) : file_.metadata().find_int(gguf_key(key)).value();
    check_range(key, value, least, most);
    return value;
}

void ConfigReader::check_range(const ConfigKey& key, std::int64_t value, std::int64_t least,
                               std::int64_t most) const {
    if (value >= least && value <= most) return;
    fail(key, "is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " +
                  std::to_string(most));
}

std::optional<std::vector<std::int64_t>> ConfigReader::find_ints(const ConfigKey& key,
                                                                 std::int64_t least,
                                                                 std::int64_t most) const {
    const MetaValue* value = meta(key.gguf);
    const auto* array = value ? std::get_if<std::shared_ptr<const MetaArray>>(value) : nullptr;
    if (array == nullptr) return std::nullopt;
    std::vector<std::int64_t> out;
    std::visit(
        [&](const auto& elements) {
            using Element = std::decay_t<decltype(elements[0])>;
            if constexpr (std::is_integral_v<Element>) {
                for (const Element x : elements) {
                    if (!std::in_range<std::int64_t>(x)) check_range(key, most + 1, least, most);
                    check_range(key, static_cast<std::int64_t>(x), least, most);
                    out.push_back(static_cast<std::int64_t>(x));
                }
            }
        },
        (*array)->elements);
    if ((*array)->is_bool || out.empty()) fail(key, "must be an integer or an array of integers");
    return out;
}

std::optional<double> ConfigReader::find_number(const ConfigKey& key, double least,
                                                double most) const {
    if (!has(key)) return std::nullopt;
    const double value = hf_ ? json(key.hf)->as_double(where(key))
                             : file_.metadata().find_number(gguf_key(key)).value();
    if (!(value >= least && value <= most)) {
        fail(key, "is " + Json(value).dump() + ", expected " + Json(least).dump() + " to " +
                      Json(most).dump());
    }
    return value;
}

std::optional<bool> ConfigReader::find_bool(const ConfigKey& key) const {
    if (!has(key)) return std::nullopt;
    return hf_ ? json(key.hf)->as_bool(where(key)) : file_.metadata().find_bool(gguf_key(key));
}

std::optional<std::string> ConfigReader::find_string(const ConfigKey& key) const {
    if (!has(key)) return std::nullopt;
    if (hf_) return json(key.hf)->as_string(where(key));
    return std::string(file_.metadata().find_string(gguf_key(key)).value());
}

}  // namespace thimble
