// SPDX-License-Identifier: Apache-2.0
// Any bytes as an evaluation result: an Error, or a record that is written and read back the same,
// and reports in every form without a control character or markup of the file's.
#include "eval/record.h"

#include <cstdlib>

#include "core/error.h"
#include "eval/compare.h"
#include "eval/gate.h"
#include "eval/report.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        const eval::Record record = eval::record_from_json(parse_json(text, "fuzz"), "fuzz");
        const std::string once = eval::to_json(record).dump();
        if (eval::to_json(eval::record_from_json(parse_json(once, "again"), "again")).dump() !=
            once) {
            std::abort();
        }
        const eval::Record records[] = {record, record};
        for (const char* form : {"a.txt", "a.md", "a.csv", "a.html"}) {
            for (const char c : eval::report_for(form, records)) {
                const auto byte = static_cast<unsigned char>(c);
                if ((byte < 0x20 && c != '\n') || byte == 0x7f) std::abort();
            }
        }
        const std::string page = eval::report_html(records);
        if (page.find("<script") != std::string::npos) std::abort();
        (void)eval::figures_of(record, &record);
        try {
            (void)eval::comparison_text(eval::compare(record, record, "a", "b"), record, record);
        } catch (const Error& e) {
            if (e.exit() != Exit::kUsage) std::abort();
        }
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
